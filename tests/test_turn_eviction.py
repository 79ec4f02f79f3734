"""A window that begins with a turn: what it hides, by hand; the graphs against the oracle; what a chat makes of it."""

import dataclasses

import numpy as np
import pytest

import edgesink
from edgesink.errors import BadOption
from edgesink.ring import Ring
from edgesink.runtime.chat import Chat
from edgesink.runtime.sessions import Session
from edgesink.spec import StreamSpec

SPEC = StreamSpec(3, 29, 16, 8)
MARKS = [3, 12, 19, 26, 33, 39, 52, 90, 95, 99, 104, 113]
IDS = [2 + (i * 37) % 250 for i in range(120)]


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    """A toy that sees 32 tokens."""
    return toy.bundle(tmp_path_factory.mktemp("turns") / "bundle", SPEC)


@pytest.mark.parametrize(
    ("token", "begin"),
    [
        (0, 0), (1, 1), (2, 2), (11, 2),  # nothing is evicted: 2 sinks, then all
        (12, 5), (14, 5), (15, 6),  # 12 sees 3 … 12 at most, and begins with the mark at 5; 15 cannot
        (17, 8), (18, 11), (20, 11), (21, 12),  # 11 is three tokens ahead of 8 + 1, not of 8
        (40, 31),  # no mark at all
    ],
)  # fmt: skip
def test_a_window_begins_with_a_mark_that_is_near(token, begin):
    assert Ring(sinks=2, capacity=12).window_begin(token, [2, 5, 11], most_hidden=2) == begin


def test_a_window_without_marks_begins_as_the_ring_says():
    ring = Ring(sinks=2, capacity=12)
    for token in range(2, 60):
        assert ring.window_begin(token) == ring.visible(token)[min(2, token)]


def oracle_logits(model, stream):
    """What every token of IDS gives, by the oracle's own cache, from which hidden tokens are taken."""
    from edgesink.reference import Reference
    from edgesink.slow_ring import Phases

    reference = Reference(model, stream.sinks, stream.window)
    layers = [layer for layer in reference._ring.layers if not layer.is_sliding]  # with a window of its own
    phases = Phases(layers[0]._phases._rotary, original=True)  # with a gap behind the sinks, which hidden tokens leave
    for layer in layers:
        layer._phases = phases
    first, logits = 0, []
    for token, id_ in enumerate(IDS):
        begin = stream._ring.window_begin(token, MARKS, stream.most_hidden)
        for layer in layers:
            if token < stream.capacity:
                continue
            hide = begin - max(first, stream.sinks)
            kept = stream.sinks + token - max(first, stream.sinks)  # rows before this token
            hide -= hide == 1 and kept == stream.capacity  # a full one drops a token by itself
            rows = [*range(stream.sinks), *range(stream.sinks + hide, kept)]
            layer.keys, layer.values = layer.keys[..., rows, :], layer.values[..., rows, :]
            drops = len(rows) == stream.capacity
            seen = len(rows) + (not drops)
            layer._evicted = stream.capacity - seen - drops
        first = begin
        logits.append(reference.step(id_))
    return np.array(logits)


@pytest.mark.parametrize("kind", ["toy", "two_views"])
def test_the_graph_is_the_oracle_with_hidden_tokens_taken_from_its_cache(kind, request, tmp_path):
    model = request.getfixturevalue(kind)
    bundle = model.bundle(tmp_path / "bundle", SPEC)
    stream = edgesink.load(bundle)
    stream.marks = list(MARKS)
    expected = oracle_logits(model.model, stream)
    got = np.array([stream.step(id_) for id_ in IDS])
    differences = np.abs(got - expected).max(axis=1)
    assert differences.max() < 1e-3, f"token {differences.argmax()}: {differences.max()}"
    plain = edgesink.load(bundle)
    assert np.abs(got - [plain.step(id_) for id_ in IDS])[32:].max() > 0.01, "marks must matter"


@pytest.mark.parametrize("sizes", [[8], [5, 1, 7], [120]], ids=str)
def test_any_chunking_gives_the_same(bundle, sizes):
    whole, parts = edgesink.load(bundle), edgesink.load(bundle)
    whole.marks, parts.marks = list(MARKS), list(MARKS)
    start, turn = 0, 0
    while start < len(IDS):
        size = sizes[turn % len(sizes)]
        got = parts.prefill(IDS[start : start + size])
        start, turn = start + size, turn + 1
    expected = [whole.step(id_) for id_ in IDS][-1]
    assert np.abs(got - expected).max() < 1e-3
    assert parts.evicted == whole.evicted > 0


def test_the_kernels_hide_the_same_tokens(toy, tmp_path, instructions):
    bundle = toy.bundle(tmp_path / "int8", SPEC, "int8")
    plain, fast = edgesink.load(bundle, kernels=False), edgesink.load(bundle, kernels=True)
    blind = edgesink.load(bundle, kernels=True)
    plain.marks, fast.marks = list(MARKS), list(MARKS)
    for start in range(0, 120, 8):
        expected, got = plain.prefill(IDS[start : start + 8]), fast.prefill(IDS[start : start + 8])
        other = blind.prefill(IDS[start : start + 8])
    near, far = (float(np.abs(got - one).mean() / expected.std()) for one in (expected, other))
    assert near < 0.1 < far, f"rounding moves logits by {near}, marks by {far}"


def test_a_pass_in_which_the_window_jumps_has_the_bits_of_single_steps(toy, tmp_path, instructions):
    """Its first tokens see twice as many rows as its last, and more threads may share them."""
    bundle = toy.bundle(tmp_path / "int8", StreamSpec(4, 508, 16, 8), "int8")
    ids = [2 + (i * 37) % 250 for i in range(712)]
    together, alone = edgesink.load(bundle, kernels=True), edgesink.load(bundle, kernels=True)
    for stream in (together, alone):
        stream.marks = [200, 450]  # token 707 still sees the first, token 708 begins with the second
        stream.prefill(ids[:704])
    begins = [alone._ring.window_begin(token, alone.marks, alone.most_hidden) for token in (707, 708)]
    assert begins == [200, 450]
    assert np.array_equal(together.feed_all(ids[704:], 8), np.stack([alone.step(id_) for id_ in ids[704:]]))


def test_old_bundles_are_refused_by_name(bundle, monkeypatch):
    stream = edgesink.load(bundle)
    assert Chat(stream).evict == "turns"
    monkeypatch.setattr(stream._backend, "can_hide", False)
    assert Chat(stream).evict == "plain"
    with pytest.raises(BadOption, match="export it again"):
        Chat(stream, evict="turns")
    with pytest.raises(BadOption, match="'turns' or 'plain'"):
        Chat(stream, evict="tokens")


def fed(stream):
    """Every id that the stream takes in from now on."""
    ids, feed = [], stream._backend.feed

    def record(part, *arguments):
        ids.extend(part.tolist())
        feed(part, *arguments)

    stream._backend.feed = record
    return ids


def test_what_is_seen_is_always_a_conversation(toy, tmp_path):
    """Of the toy, a token a byte: what is pinned, and from a message of the user on."""
    stream = edgesink.load(toy.bundle(tmp_path / "bundle", StreamSpec(3, 157, 64, 8)))
    chat = Chat(stream, "Be brief")
    ids = fed(stream)
    head = "<begin>system: Be brief<end><begin>user: "
    seen = []
    for i in range(12):
        for _ in chat.answer(f"({i}) and so on", 9):
            if stream.evicted:
                visible = ids[: stream.sinks] + ids[stream.window_begin :]
                seen.append("".join(stream.tokenizer.text_of(id_) for id_ in visible).replace("\u0120", " "))
    assert len(seen) > 30
    assert all(text.startswith(f"{head}(") for text in seen)
    assert stream.capacity // 2 < min(map(len, map(stream.tokenizer.encode, seen)))
    plain = Chat(edgesink.load(stream.bundle), "Be brief", evict="plain")
    for i in range(12):
        list(plain.answer(f"({i}) and so on", 9))
    assert plain.stream.evicted == plain.stream.position - plain.stream.capacity


def test_the_script_for_long_talks_sees_broken_turns_where_they_are_broken(toy, tmp_path):
    import long_talks as script

    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(3, 697, 160, 8))
    turns, plain = (script.talk(bundle, way, turns=12, tokens=9, threads=1) for way in ("turns", "plain"))
    assert turns["forgotten"] > plain["forgotten"] > 0
    assert turns["broken"] == 0
    assert plain["broken"] > 0.5
    assert script.repetition("a b c d e a b c d") == pytest.approx(1 / 6)
    assert script.echo(["a b c d", "x a b c d"]) == 0.5
    assert script.reference_perplexity(bundle, "turns", ["hm", "aha"], threads=1) > 1


def test_undo_and_a_session_keep_where_the_window_begins(bundle, tmp_path):
    chats = [Chat(edgesink.load(bundle)) for _ in range(2)]
    for chat in chats:
        for i in range(6):
            list(chat.answer(f"{i}", 4))
    begin = chats[0].stream.window_begin
    list(chats[0].answer("something longer", 20))
    chats[0].undo()
    wanted = [[mark for mark in chat.stream.marks if mark >= begin] for chat in chats]  # older ones go sooner or later
    assert (wanted[0], chats[0].stream.window_begin) == (wanted[1], begin)
    with Session.open(tmp_path / "session") as session:
        session.save(chats[0])
    resumed = Chat(edgesink.load(bundle), evict="plain")
    with Session.open(tmp_path / "session") as session:
        session.resume(resumed)
    assert (resumed.evict, resumed.stream.marks) == ("turns", chats[0].stream.marks)
    answers = [[token.id for token in chat.answer("and?", 9)] for chat in (*chats, resumed)]
    assert answers[0] == answers[1] == answers[2]


def test_marks_do_not_grow_without_end(bundle):
    stream = edgesink.load(bundle)
    chat = Chat(stream)
    for i in range(60):
        list(chat.answer(f"{i}", 2))
    assert len(stream.marks) < 8
    assert dataclasses.astuple(stream._ring)[:2] == (stream.sinks, 32)
