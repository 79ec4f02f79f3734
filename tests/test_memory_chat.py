"""A conversation with a memory: the evicted comes back, pinned rows are put back, and trouble ends the memory only."""

import dataclasses
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import edgesink
from edgesink import load
from edgesink.errors import BadMemory, BadOption
from edgesink.manifest import Manifest
from edgesink.memory import calibration
from edgesink.memory.archive import NewPassage
from edgesink.memory.calibration import Calibration, Numbers
from edgesink.memory.context import leans
from edgesink.memory.memory import Memory
from edgesink.memory.recalling import PinnedFor
from edgesink.spec import StreamSpec
from edgesink.turn_encoder import TurnEncoder

SPEC = StreamSpec(sinks=4, window=600, max_sinks=164, chunk=32)  # tokens of the toy are bytes
SHED = "The code of the garden shed is 4471."


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("memory") / "bundle", SPEC)


@pytest.fixture
def talk(bundle, tmp_path):
    """talk(way, **options) -> a new conversation with a memory; pin none, for a toy's turns begin at once."""

    def make(way="quoted", name="talk.memory", **options):
        memory = Memory(tmp_path / name, way, **options)
        return edgesink.Chat(load(bundle), pin="none", memory=memory), memory

    return make


def said(chat, message, tokens=3):
    return "".join(token.text for token in chat.answer(message, tokens))


def small_talk(chat, messages=12):
    """Enough of it that what was said before is evicted."""
    for number in range(messages):
        said(chat, f"Sentence {number} is about the weather, which was pleasant and mild today.", 0)


def fed(chat, message):
    """The text that is fed for a message."""
    with chat.memory.around(chat, message) as written:
        return written


def test_what_is_still_seen_is_not_brought_back(talk):
    chat, memory = talk()
    said(chat, SHED)
    assert fed(chat, "What is the code of the garden shed?") == "What is the code of the garden shed?"
    assert memory.recalled is None


def test_what_was_evicted_comes_back_as_a_quotation_which_is_not_kept_again(talk):
    chat, memory = talk()
    said(chat, SHED)
    small_talk(chat)
    question = "What is the code of the garden shed?"
    assert fed(chat, question) == f"{question} (I told you: {SHED})"
    said(chat, question)
    assert chat.turns[-2].text == question, "the transcript has what was said, without the quotation"
    assert [one.passage.text for one in memory.recalled.found] == [SHED]
    assert memory.recalled.way == "quoted"
    assert [p.text for p in memory.archive.export() if "4471" in p.text and p.role == "user"] == [SHED]
    assert fed(chat, question) == question, "the quotation is still seen"


def test_passages_stand_where_the_stream_has_their_tokens(talk):
    chat, memory = talk()
    text = "Anna lives in Oslo. " * 10
    said(chat, text, 0)
    for passage in memory.archive.export():
        assert passage.text in text
    first = memory.archive.get([1])[1]
    assert first.first == len("<begin>user: ") - len("<begin>") + 1, "one control token, and letters"
    assert first.last - first.first == len(first.text)


def test_pinned_rows_are_others_for_one_answer_and_then_as_they_were(talk):
    chat, memory = talk("pinned")
    said(chat, SHED)
    assert chat.stream.sinks == 4 + 128
    small_talk(chat)
    before = chat.stream.pinned_rows().rows
    seen = []
    for _ in chat.answer("What is the code of the garden shed?", 3):
        seen.append(chat.stream.pinned_rows().rows)
    after = chat.stream.pinned_rows().rows
    assert memory.recalled.way == "pinned"
    assert all(np.array_equal(after[name], before[name]) for name in before)
    changed = [name for name in before if not np.array_equal(seen[0][name][:, :, 4:], before[name][:, :, 4:])]
    assert changed == list(before)
    first_layer = [name for name in before if name.endswith("_0")]
    assert all(np.array_equal(seen[0][name][:, :, :4], before[name][:, :, :4]) for name in first_layer)


@pytest.mark.parametrize("how", ["another message", "saved in the middle", "taken back"])
def test_they_are_put_back_however_an_answer_ends(talk, tmp_path, how):
    chat, _ = talk("pinned")
    said(chat, SHED)
    small_talk(chat)
    before = chat.stream.pinned_rows().rows
    answer = chat.answer("What is the code of the garden shed?", 9)
    next(answer)
    assert not all(np.array_equal(array, before[name]) for name, array in chat.stream.pinned_rows().rows.items())
    if how == "another message":
        said(chat, "Fine weather, is it not, and the sun is out?", 1)
    elif how == "saved in the middle":
        chat.save(tmp_path / "saved")
    else:
        chat.undo()
    assert all(np.array_equal(array, before[name]) for name, array in chat.stream.pinned_rows().rows.items())


def test_a_bundle_that_cannot_pin_enough_quotes(toy, tmp_path):
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(4, 600, 8, 32))
    memory = Memory(tmp_path / "talk.memory", "pinned")
    chat = edgesink.Chat(load(bundle), pin="none", memory=memory)
    said(chat, SHED)
    assert chat.stream.sinks == 4
    small_talk(chat)
    said(chat, "What is the code of the garden shed?")
    assert memory.recalled.way == "quoted"


def test_a_resumed_stream_whose_first_tokens_nobody_knows_quotes(talk, tmp_path, monkeypatch):
    """Its model's own sink token must stay the first of them."""
    monkeypatch.setattr(Manifest, "prefix", (7,))
    chat, _ = talk("pinned")
    said(chat, "Hello.")
    small_talk(chat)
    chat.save(tmp_path / "saved")
    chat, memory = talk("pinned", "other.memory")
    memory.archive.add(memory.archive.begin_stream("another bundle"), "user", [NewPassage(0, 9, SHED)])
    chat.restore(tmp_path / "saved")
    said(chat, "What is the code of the garden shed?")
    assert memory.trouble == ""
    assert memory.recalled.way == "quoted"


def fake_calibration(chat, passes=True, layer=1):
    """One that lets everything through, or nothing; the toy's values mean nothing but tell letters apart."""
    d = 32
    numbers = Numbers(layer, 0, *((-9.0, -9.0) if passes else (9.0, 9.0)), -1.0, 0.5, 0.5)
    zeros, ones = np.zeros(d, np.float32), np.ones(d, np.float32)
    return Calibration("toy", numbers, zeros, ones, zeros, np.zeros((2, d), np.float32), np.zeros(2, np.float32))


def changed(manifest, *, tensors=None, name=None, numbers=(), text=None):
    """Write the calibration of the toy with something changed in it, and read it."""
    made = fake_calibration(None)
    arrays = {one: getattr(made, one) for one in calibration.ARRAYS} | (tensors or {})
    kept = text or json.dumps(dataclasses.asdict(made.numbers) | dict(numbers))
    path = calibration.place_of(manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "edgesink_memory": calibration.FORMAT,
        "name": name or calibration.name_of(manifest, "0"),
        "numbers": kept,
    }
    save_file(arrays, path, header)
    return calibration.read(manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": {"more": np.zeros(3, np.float32)}}, "the unknown tensor 'more'"),
        ({"tensors": {"mean": np.zeros(31, np.float32)}}, "mean has shape (31,), not (32,)"),
        ({"tensors": {"gate_mean": np.zeros(31, np.float32)}}, "gate_mean has shape (31,), not (32,)"),
        ({"tensors": {"gate": np.zeros((2, 31), np.float32)}}, "gate has shape (2, 31), not (2, 32)"),
        ({"name": "another:0"}, "it is of another bundle: 'another:0'"),
        ({"numbers": {"layer": 1.0}}, "layer is 1.0, not a whole number"),
        ({"numbers": {"layer": True}}, "layer is True, not a whole number"),
        ({"numbers": {"asks": True}}, "asks is True, not a number"),
        ({"numbers": {"least": float("nan")}}, "least is nan"),
        ({"numbers": {"layer": 9}}, "layer 9 is no layer of the model"),
        ({"numbers": {"gate_layer": 9}}, "gate_layer 9 is no layer of the model"),
        ({"numbers": {"more": 1}}, "the unknown number 'more'"),
        ({"text": '{"layer": 1}'}, "no number 'asks'"),
        ({"text": '{"layer": 1, "layer": 0}'}, "'layer' stands in it twice"),
        ({"text": "[]"}, "its numbers are no object"),
    ],
)
def test_a_calibration_that_is_not_understood_is_refused_by_name(bundle, tmp_path, monkeypatch, change, message):
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path))
    manifest = Manifest.read(bundle)
    assert changed(manifest).numbers == fake_calibration(None).numbers
    with pytest.raises(BadMemory, match=re.escape(message)):
        changed(manifest, **change)


def test_looking_for_meanings_leaves_the_stream_as_it_was(talk, bundle):
    plain = edgesink.Chat(load(bundle), pin="none")
    chat, memory = talk(compare=fake_calibration(plain, passes=False))
    for message in ["Hello there.", SHED, *(f"Sentence {i} about the weather of today." for i in range(30))]:
        assert said(chat, message, 5) == said(plain, message, 5)
    assert chat.stream.position == plain.stream.position
    assert np.array_equal(chat.stream.step(7), plain.stream.step(7))
    assert memory.trouble == ""
    with memory.archive.reading() as connection:
        passages, vectors = (
            connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("passage", "vectors")
        )
    assert 0 < vectors <= passages


def test_the_same_words_have_the_same_values_and_are_found_by_them(talk):
    chat, memory = talk(compare=fake_calibration(None, layer=0))
    said(chat, "Zanzibar xylophone quartz.", 0)
    small_talk(chat)
    recalled = []
    memory.on_recall = recalled.append
    fed(chat, "Zanzibarxylophonequartz?")  # no word of the archive: found by the values of its letters
    assert [(one.passage.text, one.way) for one in recalled[0].found[:1]] == [("Zanzibar xylophone quartz.", "meaning")]


def test_a_newer_telling_takes_the_place_of_an_older(talk):
    chat, memory = talk()
    said(chat, "My cousin Ilse lives in Bergen.", 0)
    small_talk(chat, 6)
    said(chat, "My cousin Ilse has moved to Porto by now.", 0)
    small_talk(chat)
    fed(chat, "Where does my cousin Ilse live?")
    assert [one.passage.text for one in memory.recalled.found] == ["My cousin Ilse has moved to Porto by now."]
    small_talk(chat)
    assert "Bergen" not in fed(chat, "Where does my cousin Ilse live?"), "what is over is not brought back"


@pytest.mark.parametrize("asked", ["red", "blue"])
def test_a_newer_telling_about_another_thing_of_the_name_takes_no_place(talk, asked):
    told = {"red": "The red clock belongs to Emma.", "blue": "The blue clock belongs to Jack."}
    chat, memory = talk()
    for text in told.values():
        said(chat, text, 0)
        small_talk(chat, 6)
    small_talk(chat)
    fed(chat, f"Who does the {asked} clock belong to?")
    assert memory.recalled.found[0].passage.text == told[asked]


ILSE = "My cousin Ilse brought both of her large dogs along. "  # tokens of the toy are bytes
LIVES = "She has a house with a blue door in the old harbour."


@pytest.mark.parametrize(("text", "question", "comes"), [
    (ILSE + LIVES, "What about my cousin Ilse and her dogs?", ILSE + LIVES),
    (ILSE + LIVES, "Who has a house with a blue door?", ILSE + LIVES),
    (ILSE + LIVES.replace("She", "Marta"), "What about my cousin Ilse and her dogs?", ILSE.rstrip()),
    (LIVES, "Who has a house with a blue door?", LIVES),
])  # fmt: skip
def test_a_passage_that_begins_with_a_pronoun_and_the_one_before_come_back_together(talk, text, question, comes):
    chat, memory = talk(budget=300)
    said(chat, "Nothing of this has to do with anybody at all. It is over.", 0)
    said(chat, text, 0)
    small_talk(chat)
    assert fed(chat, question) == f"{question} (I told you: {comes})"
    assert memory.trouble == ""


def test_a_standing_instruction_does_not_come_along_as_a_neighbour_too(talk):
    wish = "From now on, answer in one word, as Ilse does."
    chat, memory = talk(budget=400)
    said(chat, f"{wish} {LIVES}", 0)
    for _ in range(12):
        chat.read("It was a mild and pleasant day, and nothing happened.", "Good.")  # with which no wish comes along
    assert fed(chat, "Who has a house with a blue door?").count(wish) == 1
    assert [one.passage.text for one in memory.recalled.found] == [LIVES]
    assert [one.text for one in memory.recalled.wishes] == [wish]


@pytest.mark.parametrize(("text", "does"), [
    ("She lives there.", True), ("“It is here.”", True), ("THEIR house", True), ("", False), ("Ilse has it.", False),
    ("Sheep are here.", False), ("…", False),
])  # fmt: skip
def test_which_passages_lean_on_what_was_said_before(text, does):
    assert leans(text) == does


def test_what_is_over_is_not_brought_back_while_what_replaced_it_is_seen(talk):
    chat, memory = talk()
    said(chat, "My cousin Ilse lives in Bergen.", 0)
    small_talk(chat)
    said(chat, "My cousin Ilse lives in Porto.", 0)
    memory.recalled = None
    fed(chat, "Where does my cousin Ilse live?")
    assert memory.recalled is None


def test_questions_that_were_asked_before_are_not_brought_back(talk):
    chat, memory = talk()
    said(chat, "What is the code of the garden shed?", 0)
    small_talk(chat)
    fed(chat, "What is the code of the garden shed?")
    assert memory.recalled is None


def test_a_standing_instruction_comes_back_whatever_is_talked_about(talk):
    chat, memory = talk()
    said(chat, "From now on, answer in Latin.", 0)
    assert fed(chat, "Hello again.") == "Hello again.", "it is still seen"
    small_talk(chat)
    assert fed(chat, "Hello again.") == "What I want from now on: “From now on, answer in Latin.”\n\nHello again."
    assert [p.text for p in memory.recalled.wishes] == ["From now on, answer in Latin."]
    memory.archive.forget([memory.recalled.wishes[0].id])
    small_talk(chat)
    assert fed(chat, "Hello again.") == "Hello again."


def test_told_in_one_session_and_asked_in_the_next(talk, tmp_path):
    chat, memory = talk()
    said(chat, SHED)
    chat.save(tmp_path / "monday")
    said(chat, "Lost with the process: the attic has mice.")  # said after the session was saved
    memory.close()
    chat, memory = talk()
    chat.restore(tmp_path / "monday")
    question = "Does the attic have mice?"
    assert "the attic has mice" in fed(chat, question)
    assert fed(chat, "What is the code of the garden shed?") == "What is the code of the garden shed?", "still seen"
    memory.close()
    chat, memory = talk()  # a new conversation with the same memory
    assert SHED in fed(chat, "What is the code of the garden shed?")


def test_what_is_taken_back_is_not_remembered(talk):
    chat, memory = talk()
    said(chat, "Hello.")
    said(chat, SHED)
    chat.undo()
    assert [p.text for p in memory.archive.export() if p.role == "user"] == ["Hello."]


def test_trouble_with_the_archive_ends_the_memory_and_not_the_conversation(talk, bundle):
    chat, memory = talk("pinned")
    said(chat, SHED)
    memory.archive.close()
    plain = edgesink.Chat(load(bundle, sinks=132), pin="none")
    said(plain, SHED)
    assert said(chat, "Hello.", 5) == said(plain, "Hello.", 5)
    assert memory.is_off
    assert "the memory is off" in memory.trouble
    assert said(chat, "Hello again.", 5) == said(plain, "Hello again.", 5)


@pytest.mark.parametrize("way", ["answer", "read"])
def test_a_message_that_the_tokenizer_cannot_hold_is_refused_and_leaves_the_memory_on(talk, monkeypatch, way):
    chat, memory = talk()
    said(chat, SHED)
    small_talk(chat)
    encode = TurnEncoder.encode

    def encoded(self, pieces, *args, **kwargs):
        if any("unspeakable" in piece for piece in pieces if isinstance(piece, str)):
            raise BadOption("a control token in a message")
        return encode(self, pieces, *args, **kwargs)

    monkeypatch.setattr(TurnEncoder, "encode", encoded)
    position = chat.stream.position
    with pytest.raises(BadOption, match="control token"):
        list(chat.answer("unspeakable", 3)) if way == "answer" else chat.read("unspeakable", "Good.")
    assert not memory.is_off
    said(chat, "What is the code of the garden shed?")
    assert [one.passage.text for one in memory.recalled.found] == [SHED]
    assert chat.stream.position > position


def test_another_version_is_refused_and_not_set_aside_whatever_its_name(tmp_path):
    path = tmp_path / "damaged"
    made = Memory(path)
    with made.archive.reading() as connection:
        connection.execute("PRAGMA user_version = 9")
    made.close()
    with pytest.raises(BadMemory, match="version 9"):
        Memory(path)
    assert [file.name for file in tmp_path.iterdir()] == ["damaged"]


def test_nonsense_in_the_database_ends_the_memory_and_not_the_conversation(talk, tmp_path):
    chat, memory = talk()
    said(chat, SHED)
    chat.save(tmp_path / "monday")
    with memory.archive.reading() as connection:
        connection.execute("UPDATE stream SET prefix = '[1, 1'")
    memory.close()
    chat, memory = talk()
    chat.restore(tmp_path / "monday")
    said(chat, "Hello.")
    assert memory.is_off
    assert "the first ids of a stream are no ids" in memory.trouble


def test_a_damaged_file_is_set_aside_and_a_new_memory_begins(tmp_path):
    path = tmp_path / "talk.memory"
    path.write_bytes(b"not a database" * 100)
    memory = Memory(path)
    assert "talk.memory.damaged-1" in memory.trouble
    assert not memory.is_off
    assert memory.archive.count == 0
    path.with_name("other").write_bytes(b"SQLite format 3\0")
    with pytest.raises(BadOption, match="'quoted' or 'pinned'"):
        Memory(tmp_path / "x", "shouted")
    memory.close()
    with pytest.raises(BadMemory):
        memory.archive.count  # noqa: B018


def test_a_control_token_that_is_spelled_in_a_passage_is_never_pinned_as_one(talk, monkeypatch):
    pinned, pin = [], PinnedFor.pin
    monkeypatch.setattr(PinnedFor, "pin", lambda self, ids: (pinned.append(list(ids)), pin(self, ids)))
    chat, memory = talk("pinned")
    text = "The code of the garden shed is <begin>4471."
    said(chat, text)
    small_talk(chat)
    control = chat.stream.tokenizer.inner.token_to_id("<begin>")
    assert control in chat.stream.tokenizer.encode(text)
    said(chat, "What is the code of the garden shed?")
    assert memory.recalled.way == "pinned"
    (ids,) = pinned
    assert "<begin>4471" in chat.stream.tokenizer.decode(ids[4:]), "it was pinned, as letters"
    assert control not in ids[4:]


def test_what_had_no_room_did_not_come_back_and_comes_later(talk):
    told = ["Uncle Robert changed the garden shed code.", "Yellow kayak paddles hang inside the garden shed."]
    chat, memory = talk(budget=len(f" (I told you: {told[1]})"))
    for text in told:
        said(chat, text)
    small_talk(chat)
    question, came = "What about the garden shed?", []
    for _ in told:
        written = fed(chat, question)
        came += [one.passage.text for one in memory.recalled.found]
        assert written == f"{question} (I told you: {came[-1]})"
    assert sorted(came) == sorted(told)


@pytest.mark.parametrize("way", ["quoted", "pinned"])
@pytest.mark.parametrize("first", [True, False])
def test_an_exchange_that_was_had_elsewhere_is_remembered_as_any_other(talk, way, first):
    chat, memory = talk(way)
    if not first:
        said(chat, "Good morning to you, and a good day.")
    position = chat.stream.position
    chat.read(SHED, "A good number to know.")
    kept = [one for one in memory.archive.export() if one.text == SHED]
    assert [(one.role, one.first is not None and one.first > position) for one in kept] == [("user", True)]
    small_talk(chat)
    said(chat, "What is the code of the garden shed?")
    assert [one.passage.text for one in memory.recalled.found] == [SHED]
    assert memory.recalled.way == way
