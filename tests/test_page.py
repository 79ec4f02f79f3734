"""The web page of `edgesink serve` in a real browser, with the real server and SmolLM2-135M behind it."""

import re
from pathlib import Path

import pytest

from edgesink.spec import StreamSpec

web_page = pytest.importorskip("web_page", reason="playwright is not installed: pip install 'edgesink[test]'")

pytestmark = pytest.mark.skipif(web_page.CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

STREAM = StreamSpec(4, 508, 64, 64)  # a long message and two short turns fill it
SCRIPT = "<script>document.title = 'taken'</script>"
ATTRIBUTES = '<img src=x onerror="alert(1)"> **bold** [link](javascript:alert(1))'
LONG = "Write a very long story about a lighthouse, with many chapters."


@pytest.fixture(scope="module")
def browser():
    with web_page.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(smollm2_bundles):
    with web_page.serving(smollm2_bundles("int4", STREAM)) as address:
        yield address


@pytest.fixture
def context(browser):
    """A browser that has never been here: no conversations, no choices."""
    context = browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def person(context, address):
    person = web_page.Person(context.new_page(), address)
    person.shorten_answers(30)
    yield person
    assert person.complaints == []


def test_a_conversation_goes_on_past_the_window_and_the_page_says_what_is_forgotten(person):
    assert person.numbers == {"Pinned": 0, "Seen": 0, "Forgotten": 0}
    opening = (Path(__file__).parent / "data" / "persuasion_opening.txt").read_text(encoding="utf-8")
    person.talk(f"Read this: {opening[:2200]}", f"And this: {opening[2200:4400]}", "What is the capital of Italy?")
    numbers = person.numbers
    ring = person.page.request.get(f"{person.address}edgesink/ring/{person.page.evaluate(CONVERSATION)}").json()
    assert ring["capacity"] == 512
    assert ring["position"] > 512
    assert numbers["Forgotten"] == ring["evicted"] == ring["position"] - numbers["Seen"] - numbers["Pinned"]
    assert numbers["Seen"] + numbers["Pinned"] <= 512
    assert person.fates == ["forgotten", "partly", "seen"]
    words = f"the newest {numbers['Seen']}; {numbers['Forgotten']} are forgotten."
    assert person.page.get_by_role("img", name=words).is_visible()  # the ring, as a screen reader has it
    assert words in person.page.locator("#memory-words").inner_text()


CONVERSATION = """async () => {
    const { Store } = await import("/store.js");
    const store = await Store.open(() => {});
    const [{ id }] = await store.conversations();
    return (await store.turns(id)).at(-1).ring.conversation;
}"""


def test_a_message_of_markup_is_shown_as_text(person):
    person.talk(f"{SCRIPT} {ATTRIBUTES}")
    assert person.questions == [f"{SCRIPT} {ATTRIBUTES}"]
    assert person.page.title().startswith("<script>document.title")  # and not "taken"
    assert person.conversations[0].startswith("<script>document.title")
    person.page.get_by_role("button", name="Add a system prompt").click()
    person.page.get_by_label("System prompt", exact=True).fill(SCRIPT)
    person.page.get_by_role("button", name="Keep").click()
    assert SCRIPT in person.page.locator("#system").inner_text()
    assert person.page.locator("main script, main img, main a, #list script, #list img").count() == 0


def test_an_answer_of_markup_is_shown_as_text_and_its_markdown_as_markdown(person):
    person.talk("Hello")
    person.page.evaluate(
        """async (answer) => {
            const { Store } = await import("/store.js");
            const store = await Store.open(() => {});
            const [{ id }] = await store.conversations();
            const [turn] = await store.turns(id);
            await store.saveTurn({ ...turn, answer });
        }""",
        f"{SCRIPT}\n\n{ATTRIBUTES}\n\n[good](https://example.org/) <b onclick='alert(1)'>b</b>",
    )
    person.reload()
    person.page.locator(".answer a").wait_for()
    answer = person.page.locator(".answer")
    assert answer.locator("p").all_text_contents() == [
        SCRIPT,
        '<img src=x onerror="alert(1)"> bold [link](javascript:alert(1))',
        "good <b onclick='alert(1)'>b</b>",
    ]
    assert answer.locator("strong").all_text_contents() == ["bold"]
    assert [link.get_attribute("href") for link in answer.locator("a").all()] == ["https://example.org/"]
    assert answer.locator("script, img, b").count() == 0


def test_stop_keeps_what_was_written_and_the_conversation_goes_on(person):
    person.page.unroute("**/v1/chat/completions")
    person.ask(LONG)
    person.wait_for_text()
    person.page.keyboard.press("Escape")
    person.wait()
    [stopped] = person.answers
    assert len(stopped) > 20
    assert person.page.get_by_text("Stopped.").first.is_visible()
    person.shorten_answers(20)
    person.talk("Thank you.")
    assert person.answers[0] == stopped
    assert len(person.answers) == 2


def test_the_stop_button_stops_too_and_a_next_message_can_be_typed_meanwhile(person):
    person.page.unroute("**/v1/chat/completions")
    person.ask(LONG)
    person.page.get_by_label("Message", exact=True).fill("the next one")
    person.page.keyboard.press("Enter")  # is not sent while an answer is written
    person.wait_for_text()
    person.page.locator("#numbers", has_text=re.compile("Seen[1-9]")).wait_for()  # the ring fills while it is written
    person.page.get_by_role("button", name="Stop").click()
    person.wait()
    assert person.questions == [LONG]
    assert person.page.get_by_label("Message", exact=True).input_value() == "the next one"


def test_retry_answers_the_last_question_again(person):
    person.talk("What is the capital of France?", "Tell me a joke.")
    assert person.page.get_by_role("button", name="Retry").count() == 1
    person.page.get_by_role("button", name="Retry").click()
    person.wait()
    assert person.questions == ["What is the capital of France?", "Tell me a joke."]
    assert all(person.answers)


def test_a_reload_keeps_the_conversation_and_the_next_turn_reads_only_what_is_new(person):
    person.talk("What is the capital of France?", "Name three colours.")
    before = person.questions, person.answers, person.fates, person.numbers, person.conversations
    person.reload()
    person.page.locator(".turn").nth(1).wait_for()
    assert (person.questions, person.answers, person.fates, person.numbers, person.conversations) == before
    person.talk("And three animals.")
    cost = person.page.locator(".turn:last-child .tools").inner_text()
    read, known = re.search(r"read (\d+) tokens · (\d+) read before", cost).groups()
    assert int(known) > 40
    assert int(read) < 30


def test_a_reload_in_the_middle_of_an_answer_keeps_its_beginning(person):
    person.page.unroute("**/v1/chat/completions")
    person.ask(LONG)
    person.wait_for_text()
    person.page.wait_for_timeout(700)  # it is saved twice a second
    person.reload()
    person.page.locator(".turn").wait_for()
    assert person.questions == [LONG]
    assert len(person.answers[0]) > 20
    assert person.page.get_by_text("Stopped.").first.is_visible()


def test_a_question_that_fails_can_be_asked_again(context, address):
    person = web_page.Person(context.new_page(), address)
    person.page.route("**/v1/chat/completions", lambda route: route.abort())
    person.page.get_by_label("Message", exact=True).fill("Hello")
    person.page.keyboard.press("Enter")
    person.page.get_by_text("The server cannot be reached.").first.wait_for()
    assert person.page.get_by_text("Without an answer this is not part of the conversation.").is_visible()
    person.page.unroute("**/v1/chat/completions")
    person.shorten_answers(20)
    person.page.get_by_role("button", name="Retry").click()
    person.wait()
    assert person.questions == ["Hello"]
    assert person.answers[0] != ""


def test_conversations_are_made_renamed_chosen_and_deleted(person):
    page = person.page
    person.talk("First question")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("heading", name="New conversation", level=1).wait_for()
    assert person.questions == []
    person.talk("Second question")
    assert person.conversations == ["Second question", "First question"]
    page.get_by_role("button", name="Rename First question").click()
    page.get_by_label("Title").fill("Paris")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Paris", exact=True).click()
    page.get_by_role("heading", name="Paris").wait_for()
    assert person.questions == ["First question"]
    page.get_by_role("button", name="Delete Paris").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert person.conversations == ["Second question", "Paris"]
    page.get_by_role("button", name="Delete Paris").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("heading", name="Second question", level=1).wait_for()
    assert person.conversations == ["Second question"]


def test_another_tab_shows_what_happened_in_this_one(person, context):
    other = web_page.Person(context.new_page(), person.address)
    person.talk("Hello")
    other.page.get_by_role("button", name="Hello", exact=True).click()
    other.page.locator(".turn .tools").wait_for()
    assert other.answers == person.answers
    person.talk("And now?")
    other.page.locator(".turn").nth(1).locator(".tools").wait_for()
    assert other.answers == person.answers


def test_everything_can_be_done_with_the_keyboard(person):
    keys, page = person.page.keyboard, person.page
    keys.press("Tab")
    assert person.focus == "Skip to the message box"
    keys.press("Enter")
    keys.type("One line")
    keys.press("Shift+Enter")
    keys.type("and another")
    keys.press("Enter")
    person.wait()
    assert person.questions == ["One line\nand another"]
    assert person.focus == "Message"
    order = []
    page.locator(".skip").focus()
    for _ in range(12):
        keys.press("Tab")
        order.append(person.focus)
    title = person.conversations[0]
    assert order[:2] == ["Switch to dark colours", "New conversation"]
    assert order[2:5] == [title, f"Rename {title}", f"Delete {title}"]
    assert order[5:7] == ["Add a system prompt", "Transcript"]
    assert order.index("Transcript") < order.index("Retry") < order.index("Message") < order.index("Send")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_the_colours_follow_the_system_until_one_chooses(person):
    page = person.page

    def ground() -> str:
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    light, dark = "rgb(246, 245, 241)", "rgb(18, 21, 23)"
    assert ground() == light
    page.emulate_media(color_scheme="dark")
    assert ground() == dark
    page.get_by_role("button", name="Switch to light colours").click()
    assert ground() == light
    person.reload()
    assert ground() == light
    page.get_by_role("button", name="Switch to dark colours").click()
    page.emulate_media(color_scheme="light")
    assert ground() == dark


def test_a_narrow_screen_shows_everything_without_scrolling_sideways(browser, address):
    context = browser.new_context(viewport={"width": 360, "height": 740})
    person = web_page.Person(context.new_page(), address)
    page = person.page
    person.shorten_answers(20)
    person.talk("a" * 300)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("document.getElementById('transcript').scrollWidth") == 360
    assert not page.get_by_role("button", name="New conversation").is_visible()
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("button", name="New conversation").wait_for()
    assert person.focus == "New conversation"
    page.keyboard.press("Escape")
    assert person.focus == "Conversations"
    page.get_by_text("What the model remembers").click()
    assert page.get_by_text("The model has read").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_a_screen_reader_hears_each_finished_paragraph_once(person):
    person.page.evaluate(
        """() => { window.heard = [];
                   new MutationObserver((all) => all.forEach(({ addedNodes }) =>
                       addedNodes.forEach((node) => window.heard.push(node.textContent))))
                   .observe(document.getElementById("announcer"), { childList: true }) }"""
    )
    person.talk("What is the capital of France?")
    heard, shown = person.page.evaluate("window.heard"), person.page.locator(".answer > *").all_text_contents()
    assert "".join("".join(heard).split()).startswith("".join("".join(shown).split()))  # then: why it ended, if early
    assert len(heard) in (len(shown), len(shown) + 1)
    assert person.page.locator("#announcer").get_attribute("aria-live") == "polite"


def test_axe_finds_nothing_that_shuts_people_out(browser, address):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = browser.new_context(color_scheme="light", bypass_csp=True)  # axe is put into the page
    person = web_page.Person(context.new_page(), address)
    person.shorten_answers(20)
    person.talk("What is the capital of France?")
    wide = axe.Axe().run(person.page).response
    person.page.emulate_media(color_scheme="dark")
    person.page.set_viewport_size({"width": 360, "height": 740})
    person.page.get_by_text("What the model remembers").click()
    narrow = axe.Axe().run(person.page).response
    for found in wide, narrow:
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
        assert {"color-contrast", "label", "button-name", "svg-img-alt"} <= {rule["id"] for rule in found["passes"]}
    context.close()


BICYCLE = f"My sister Ilse keeps her bicycle in the bakery, {SCRIPT}"
WHERE = "Where does my sister Ilse keep her bicycle?"


@pytest.fixture(scope="module")
def remembering(smollm2_bundles, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    with web_page.serving(smollm2_bundles("int4", STREAM), "--memory", EDGESINK_CACHE=cache) as address:
        yield address


def fill_the_window(person):
    """So much that what was said before is forgotten."""
    opening = (Path(__file__).parent / "data" / "persuasion_opening.txt").read_text(encoding="utf-8")
    person.talk(f"Read this: {opening[:2400]}")


def test_what_comes_back_is_shown_above_the_answer_as_text_and_in_the_ring(context, remembering):
    person = web_page.Person(context.new_page(), remembering)
    person.shorten_answers(8)
    brought = person.page.get_by_role("group", name="Brought back from earlier")
    person.talk(BICYCLE)
    fill_the_window(person)
    assert brought.count() == 0  # what is hidden is in nobody's way
    heard = person.page.locator("#announcer")
    person.talk(WHERE)
    assert brought.locator("q").all_text_contents()[0] == BICYCLE
    assert brought.locator("li").first.inner_text().startswith("You, ")
    assert brought.locator("script").count() == 0
    assert person.page.title() != "taken"
    recalled = person.numbers["Recalled"]
    assert recalled == brought.locator("li").count() == person.page.locator("#ring .recalled").count()
    assert "came back for the last answer." in person.page.locator("#memory-words").inner_text()
    assert heard.inner_text().count(f"Brought back from earlier: {BICYCLE}") == 1
    above, below = (person.page.locator(f".turn:last-child {one}").bounding_box() for one in (".brought", ".answer"))
    assert above["y"] + above["height"] <= below["y"]
    person.reload()
    brought.wait_for()
    assert brought.locator("q").all_text_contents()[0] == BICYCLE
    assert person.numbers["Recalled"] == recalled
    person.talk("Thanks.")
    assert brought.count() == 1  # for that answer alone
    assert "Recalled" not in person.numbers
    assert person.complaints == []


def test_axe_finds_nothing_in_what_came_back_either(browser, remembering):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = browser.new_context(color_scheme="light", bypass_csp=True)  # axe is put into the page
    person = web_page.Person(context.new_page(), remembering)
    person.shorten_answers(4)
    person.talk(BICYCLE)
    fill_the_window(person)
    person.talk(WHERE)
    assert person.page.locator(".brought:visible").count() == 1
    for scheme in ("light", "dark"):
        person.page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(person.page).response["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
    context.close()


def test_the_switch_keeps_earlier_passages_away_for_one_conversation(context, remembering):
    person = web_page.Person(context.new_page(), remembering)
    person.shorten_answers(4)
    switch = person.page.get_by_role("switch", name="Bring back what was said earlier")
    assert switch.is_checked()
    person.talk(BICYCLE)
    fill_the_window(person)
    switch.press("Space")
    person.talk(WHERE)
    assert person.page.locator(".brought:visible").count() == 0
    person.reload()
    assert not switch.is_checked()
    switch.check()
    person.talk(WHERE)
    assert person.page.locator(".turn:last-child .brought q").first.inner_text() == BICYCLE
    person.page.get_by_role("button", name="New conversation").click()
    person.page.get_by_role("heading", name="New conversation", level=1).wait_for()
    assert switch.is_checked()
    assert person.complaints == []


def test_there_is_no_switch_without_a_memory(person):
    assert not person.page.get_by_role("switch").is_visible()


def test_an_api_key_is_asked_for_and_kept_in_the_tab(browser, smollm2_bundles):
    key = "correct horse"
    with web_page.serving(smollm2_bundles("int4", STREAM), "--api-key", key) as address:
        page = browser.new_context().new_page()
        page.goto(address)
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_label("Key").fill("wrong")
        page.keyboard.press("Enter")
        dialog.get_by_text("The server did not accept that key.").wait_for()
        dialog.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_text("Nothing read yet.").wait_for()
        assert page.evaluate("Object.values(sessionStorage)") == [key]
        assert key not in page.evaluate("Object.values(localStorage)")
        page.reload()
        page.get_by_text("Nothing read yet.").wait_for()
        assert not dialog.is_visible()
        page.context.close()
