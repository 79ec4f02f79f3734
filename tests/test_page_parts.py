"""The modules of the web page one by one, in a real browser: Markdown, the ring's arithmetic, the server's events.

They are served as plain files: what the whole page does with a model is in test_page.py.
"""

import functools
import http.server
import threading
from pathlib import Path

import pytest

web_page = pytest.importorskip("web_page", reason="playwright is not installed: pip install 'edgesink[test]'")

pytestmark = pytest.mark.skipif(web_page.CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

PAGE = Path(__file__).parent.parent / "edgesink" / "serve" / "page"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def page():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(PAGE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with web_page.chromium() as browser:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        yield page
    server.shutdown()
    server.server_close()


def html(page, text: str) -> str:
    """The markup of the nodes that a text becomes."""
    return page.evaluate(
        """async (text) => {
            const { showMarkdown } = await import("/markdown.js");
            const place = document.createElement("div");
            showMarkdown(place, text);
            return place.innerHTML;
        }""",
        text,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One #\ntext", "<h4>One</h4><p>text</p>"),
        ("### About C#", "<h6>About C#</h6>"),
        ("**b** __B__ _i_ *I* ~~s~~", "<p><strong>b</strong> <strong>B</strong> <em>i</em> <em>I</em> <s>s</s></p>"),
        (
            "***both*** **bold *it* bold**",
            "<p><strong><em>both</em></strong> <strong>bold <em>it</em> bold</strong></p>",
        ),
        ("snake_case_name, 2*3*4, \\*no\\*", "<p>snake_case_name, 2*3*4, *no*</p>"),
        ("`c<d>` and `` ` ``", "<p><code>c&lt;d&gt;</code> and <code>`</code></p>"),
        ("a  \nb\\\nc\nd", "<p>a<br>b<br>c\nd</p>"),
        ("- a\n- b\n  - c\n\n  d", "<ul><li>a</li><li>b<ul><li>c</li></ul><p>d</p></li></ul>"),
        ("line\n- item", "<p>line</p><ul><li>item</li></ul>"),
        ("3. x\n4. y\n\n5. z", '<ol start="3"><li>x</li><li>y</li><li>z</li></ol>'),
        ("in\n1986. A year", "<p>in\n1986. A year</p>"),
        ("> q\n> > r\n\ns", "<blockquote><p>q</p><blockquote><p>r</p></blockquote></blockquote><p>s</p>"),
        ("a\n\n---\n\n* * *", "<p>a</p><hr><hr>"),
    ],
)
def test_markdown_becomes_elements(page, text, expected):
    assert html(page, text) == expected


def test_code_is_shown_as_it_is_even_before_its_fence_is_closed(page):
    shown = '<pre tabindex="0" role="group" aria-label="js code"><code>let a = `**b**`;\n# no</code></pre>'
    assert html(page, "```js\nlet a = `**b**`;\n# no\n```\nend") == shown + "<p>end</p>"
    assert html(page, "```js\nlet a = `**b**`;\n# no") == shown


def test_a_table_has_a_head_and_its_cells_may_hold_bars(page):
    assert html(page, "| a | b |\n|---|:-:|\n| 1 | x\\|y |\nafter").endswith(
        '<table><thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>'
        "<tbody><tr><td>1</td><td>x|y</td></tr></tbody></table></div><p>after</p>"
    )


LINK = 'target="_blank" rel="noopener noreferrer"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"),
        ("<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
        ("[a](JaVaScRiPt:alert(1))", "<p>[a](JaVaScRiPt:alert(1))</p>"),
        ("[a](data:text/html,x)", "<p>[a](data:text/html,x)</p>"),
        ("[a](//e.org/)", "<p>[a](//e.org/)</p>"),
        ('[a](https://e.org/x_(y) "t")', f'<p><a href="https://e.org/x_(y)" {LINK}>a</a></p>'),
        ("![p](https://e.org/p.png)", f'<p><a href="https://e.org/p.png" {LINK}>p</a></p>'),
        ("see https://e.org/a.", f'<p>see <a href="https://e.org/a" {LINK}>https://e.org/a</a>.</p>'),
        ("[<b>](https://e.org)", f'<p><a href="https://e.org" {LINK}>&lt;b&gt;</a></p>'),
    ],
)
def test_markup_is_text_and_links_go_only_to_the_web_or_a_mailbox(page, text, expected):
    assert html(page, text) == expected


@pytest.mark.parametrize(
    "mark", ["*a ", "**a ", "`a ", "[a](", "[", ">", "- ", "_a", "#", "# ", " ", "```", "|-", "~~a"]
)
@pytest.mark.parametrize("between", ["", "\n"], ids=["one line", "many lines"])
def test_a_mark_that_is_repeated_ten_thousand_times_does_not_stop_the_page(page, mark, between):
    milliseconds = page.evaluate(
        """async (text) => {
            const { showMarkdown } = await import("/markdown.js");
            const start = performance.now();
            showMarkdown(document.createElement("div"), text);
            return performance.now() - start;
        }""",
        between.join([mark] * 10_000),
    )
    assert milliseconds < 3000  # a pattern that backtracks takes minutes


def test_the_blocks_that_are_finished_keep_their_elements_while_an_answer_grows(page):
    assert page.evaluate(
        """async () => {
            const { showMarkdown } = await import("/markdown.js");
            const place = document.createElement("div");
            showMarkdown(place, "one\\n\\ntw");
            const [one, two] = place.children;
            showMarkdown(place, "one\\n\\ntwo\\n\\n- three");
            return [place.children[0] === one, place.children[1] === two, place.textContent];
        }"""
    ) == [True, False, "onetwothree"]


def memory(page, call: str):
    """The value of an expression of the functions of memory.js."""
    return page.evaluate(f'async () => {{ const m = await import("/memory.js"); return m.{call}; }}')


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("{capacity: 128}", [0, 0, 0, 128]),
        ("{position: 3, capacity: 128, sinks: 4}", [3, 0, 0, 125]),
        ("{position: 128, capacity: 128, sinks: 4}", [4, 124, 0, 0]),
        ("{position: 129, capacity: 128, sinks: 4, evicted: 1}", [4, 124, 1, 0]),
        ("{position: 1000, capacity: 128, sinks: 24, evicted: 872}", [24, 104, 872, 0]),
        ("{position: 1000, capacity: 128, sinks: 0, evicted: 900}", [0, 100, 900, 28]),  # whole turns were evicted
    ],
)
def test_the_parts_of_a_stream(page, state, expected):
    parts = memory(page, f"parts({state})")
    assert [parts[name] for name in ("pinned", "seen", "forgotten", "free")] == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 4, "pinned"), (0, 50, "forgotten"), (0, 104, "forgotten"), (90, 105, "partly"), (104, 110, "seen")],
)
def test_the_fate_of_tokens_when_the_first_four_are_pinned_and_a_hundred_forgotten(page, start, end, expected):
    assert memory(page, f"fate({start}, {end}, {{pinned: 4, forgotten: 100}})") == expected


def test_nothing_is_forgotten_while_the_ring_is_not_full(page):
    assert memory(page, "fate(0, 50, {pinned: 4, forgotten: 0})") == "seen"


def test_the_fate_of_turns_is_unknown_where_their_place_is_and_forgotten_before_one_that_is(page):
    ring = "ring: {capacity: 64, sinks: 4, position: %d, evicted: %d}"
    turns = [
        f"{{system: 'old', {ring % (40, 0)}}}",
        f"{{system: '', {ring % (30, 0)}}}",
        "{system: ''}",
        f"{{system: '', {ring % (90, 26)}}}",
        f"{{system: '', {ring % (120, 56)}}}",
        "{system: ''}",
    ]
    fates = memory(page, f"fates([{', '.join(turns)}])")
    assert fates == ["forgotten", "forgotten", "unknown", "partly", "seen", "unknown"]


def test_the_arcs_of_the_window_go_back_from_the_newest_token_and_round_the_ring(page):
    state = "{position: 14, capacity: 10, pinned: 2, seen: 8}"  # the next token goes to row 2 + (14 - 2) mod 8 = 6
    assert memory(page, f"arcs({state}, 4)") == [[4, 2, 0], [2, 2, 1 / 3], [8, 2, 2 / 3], [6, 2, 1]]
    odd = "{position: 13, capacity: 10, pinned: 2, seen: 8}"  # row 5: the second arc passes the end of the ring
    assert memory(page, f"arcs({odd}, 4)") == [[3, 2, 0], [9, 1, 1 / 3], [2, 1, 1 / 3], [7, 2, 2 / 3], [5, 2, 1]]
    assert memory(page, "arcs({position: 0, capacity: 10, pinned: 0, seen: 0}, 4)") == []


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("{capacity: 128}", "Nothing read yet. The model sees 128 tokens at a time."),
        (
            "{position: 1, capacity: 128, sinks: 4}",
            "The model has read 1 token and sees all of them; 127 more fit before it starts to forget.",
        ),
        (
            "{position: 2000, capacity: 128, sinks: 24, evicted: 1872, recalled: ['a', 'b']}",
            "The model has read 2,000 tokens. It sees the first 24, which are pinned, and the newest 104; "
            "1,872 are forgotten. 2 earlier passages came back for the last answer.",
        ),
    ],
)
def test_the_sentence_below_the_ring(page, state, expected):
    assert memory(page, f"sentence(m.parts({state}))") == expected
    assert memory(page, f"sentence(m.parts({state}), 24969216)") == (
        f"{expected} Its memory is 25 MB, however long you talk."
    )


@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["byte by byte", "in pieces", "at once"])
def test_an_answer_is_read_from_events_however_they_are_cut(page, size):
    events = (
        'data: {"choices":[{"delta":{"role":"assistant","content":"Zü"}}]}\n\n'
        ': a comment\n\ndata: {"choices":[{"delta":{"content":"rich"},"finish_reason":"stop"}]}\r\n\r\n'
        'data: {"choices":[],"edgesink":{"position":9}}\n\ndata: [DONE]\n\n'
    )
    found = page.evaluate(ANSWER, [list(events.encode()), size])
    assert found == ["Zü|undefined|", "rich|stop|", "|undefined|9"]


def test_an_answer_that_breaks_off_or_ends_with_an_error_is_not_taken_for_a_whole_one(page):
    half = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    error = half + b'data: {"error":{"message":"out of room"}}\n\n'
    assert page.evaluate(ANSWER, [list(half), 99]) == [
        "a|undefined|", "ServerError: The connection ended in the middle of the answer.",
    ]  # fmt: skip
    assert page.evaluate(ANSWER, [list(error), 99]) == ["a|undefined|", "ServerError: out of room"]


ANSWER = """async ([bytes, size]) => {
    const { Client, ServerError } = await import("/client.js");
    const pieces = [];
    for (let i = 0; i < bytes.length; i += size) pieces.push(new Uint8Array(bytes.slice(i, i + size)));
    const body = new ReadableStream({ pull(out) { pieces.length ? out.enqueue(pieces.shift()) : out.close(); } });
    const real = window.fetch;
    window.fetch = async () => new Response(body);
    const found = [];
    try {
        for await (const piece of new Client().answer([])) {
            found.push(`${piece.text}|${piece.finish}|${piece.ring?.position ?? ""}`);
        }
    } catch (error) {
        found.push(`${error instanceof ServerError ? "ServerError" : error.name}: ${error.message}`);
    } finally {
        window.fetch = real;
    }
    return found;
}"""


def test_a_block_is_announced_once_when_two_more_have_begun_and_all_of_them_at_the_end(page):
    assert page.evaluate(
        """async () => {
            const { showMarkdown } = await import("/markdown.js");
            const { Announcer } = await import("/announcer.js");
            const place = document.createElement("div");
            const announcer = new Announcer();
            const heard = () => [...document.getElementById("announcer").children].map((line) => line.textContent);
            const found = [];
            announcer.begin();
            const more = ["1. one", "\\n\\n2", ". two\\n\\nthree", "\\n\\nfour"];
            for (const text of more.map((_, i) => more.slice(0, i + 1).join(""))) {
                showMarkdown(place, text);
                announcer.hear(place.children, false);
                found.push(heard());
            }
            announcer.hear(place.children, true);
            return [...found, heard()];
        }"""
    ) == [[], [], [], ["one two "], ["one two ", "three ", "four "]]
