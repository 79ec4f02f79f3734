"""Sessions: what is kept is the conversation as it stood, to the last bit, and nobody else's."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import kill_sessions
import numpy as np
import pytest

import edgesink
from edgesink.errors import BadOption, BadSession, NoSpace
from edgesink.runtime.chat import Chat
from edgesink.runtime.sampling import SamplingSpec
from edgesink.runtime.saved_chat import read_header
from edgesink.runtime.sessions import Session, list_sessions, remove_session, session_path
from edgesink.spec import StreamSpec

DRAWN = SamplingSpec(temperature=1.0, top_p=0.95, repetition_penalty=1.1, seed=3)
posix = pytest.mark.skipif(os.name != "posix", reason="kills are POSIX")


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    """A toy that speaks in one token a byte, and sees 128 of them."""
    return toy.bundle(tmp_path_factory.mktemp("kept") / "bundle", StreamSpec(3, 125, 64, 8))


@pytest.fixture(autouse=True)
def state_folder(tmp_path, monkeypatch):
    """Names lead into an empty folder."""
    monkeypatch.setenv("EDGESINK_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "sessions"


def talk(bundle, **options):
    return Chat(edgesink.load(bundle), **options)


def said(chat, message, tokens=12):
    return [token.id for token in chat.answer(message, tokens)]


def cut_in_an_answer(chat):
    tokens = chat.answer("and then?")
    next(tokens)
    next(tokens)
    tokens.close()


def cut_in_a_message(chat):
    feed, left = chat.stream._backend.feed, [3]

    def interrupted(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        feed(*arguments)

    chat.stream._backend.feed = interrupted
    with pytest.raises(KeyboardInterrupt):
        said(chat, "x" * 90)
    chat.stream._backend.feed = feed


def whole(chat):
    said(chat, "nothing is cut")


@pytest.mark.parametrize("sampling", [SamplingSpec(), DRAWN, SamplingSpec(temperature=1.0)], ids=["greedy", "3", "any"])
@pytest.mark.parametrize("exchanges", [0, 1, 7])
@pytest.mark.parametrize("last", [whole, cut_in_an_answer, cut_in_a_message])
def test_a_resumed_session_goes_on_token_for_token(bundle, sampling, exchanges, last):
    chat = talk(bundle, system="Be brief", sampling=sampling)
    for i in range(exchanges):
        said(chat, f"message {i}")
    last(chat)
    with Session.open("talk") as session:
        assert session.resume(chat) == []
        session.save(chat)
    other = talk(bundle, system="Be brief")
    with Session.open("talk") as session:
        assert session.resume(other) == []
    assert (other.turns, other.stream.position, other.sampling) == (chat.turns, chat.stream.position, sampling)
    for message in ("one more", "and another"):
        assert said(other, message) == said(chat, message)
    assert np.array_equal(*(one.stream.prefill([5, 6]) for one in (chat, other)))
    assert other.turns == chat.turns


def test_the_real_model_resumes_token_for_token_with_its_state_in_16_bits(smollm2_bundles, tmp_path):
    bundle = smollm2_bundles("int4", StreamSpec(4, 508, 64, 64))
    sampling = SamplingSpec(temperature=0.8, seed=5)
    chat = talk(bundle, system="You are a poet.", sampling=sampling)
    for message in ("Tell me of the sea.", "And of the wind.", "And of the rain."):
        said(chat, message, 40)
    with Session.open(tmp_path / "poet.session") as session:
        session.save(chat)
    other = talk(bundle)
    with Session.open(tmp_path / "poet.session") as session:
        start = time.perf_counter()
        assert session.resume(other) == []
        assert time.perf_counter() - start < 1
    assert other.system == "You are a poet."
    assert said(other, "And of the snow.", 40) == said(chat, "And of the snow.", 40)
    size = (tmp_path / "poet.session").stat().st_size
    rows = chat.stream.written()["key_0"].shape[2]
    assert size < 1.01 * chat.stream.state_bytes * rows / chat.stream._backend.state()["key_0"].shape[2] + 20_000


def test_what_is_undone_is_undone_in_the_session_too(bundle):
    chat = talk(bundle)
    said(chat, "one")
    with Session.open("talk") as session:
        session.save(chat)
        said(chat, "two")
        session.save(chat)
        chat.undo()
        session.save(chat)
    other = talk(bundle)
    with Session.open("talk") as session:
        session.resume(other)
    assert [turn.text for turn in other.turns if turn.role == "user"] == ["one"]
    assert said(other, "three") == said(chat, "three")


def test_a_session_is_private_and_leaves_nothing_beside_it(bundle, state_folder):
    with Session.open("talk") as session:
        session.save(talk(bundle))
    assert [path.name for path in state_folder.iterdir()] == ["talk.session"]
    assert (state_folder / "talk.session").stat().st_mode & 0o077 == 0
    assert state_folder.stat().st_mode & 0o077 == 0


def test_what_a_killed_process_was_writing_is_removed_and_what_a_library_wrote_beside_it_too(bundle, state_folder):
    with Session.open("talk") as session:
        session.save(talk(bundle))
    code = (
        "import os; from edgesink.files import durable_write; from edgesink.runtime.sessions import session_path\n"
        "with durable_write(session_path('talk')) as aside: "
        "aside.with_name('.tmpOfALibrary').write_bytes(b'half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 9
    assert len(list(state_folder.iterdir())) == 2
    with Session.open("talk") as session:
        assert not session.is_new
    assert [path.name for path in state_folder.iterdir()] == ["talk.session"]


def test_a_session_is_open_in_one_place_at_a_time(bundle):
    with Session.open("talk"):
        with pytest.raises(BadSession, match=f"is open in process {os.getpid()}"):
            Session.open("talk")
        with pytest.raises(BadSession, match="is open"):
            remove_session_that_exists(bundle)
    Session.open("talk").close()


def remove_session_that_exists(bundle):
    session_path("talk").write_bytes(b"something")
    remove_session("talk")


@posix
def test_another_process_is_refused_until_the_first_has_ended(bundle):
    code = "from edgesink.runtime.sessions import Session; s = Session.open('talk'); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "open\n"
        with pytest.raises(BadSession, match=f"is open in process {child.pid}"):
            Session.open("talk")
        child.kill()
    Session.open("talk").close()


@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.6, 0.9, 0.999])
def test_a_session_that_is_damaged_anywhere_is_refused_and_the_chat_kept(bundle, place):
    chat = talk(bundle)
    said(chat, "hello")
    with Session.open("talk") as session:
        session.save(chat)
    path = session_path("talk")
    damaged = bytearray(path.read_bytes())
    damaged[int(place * len(damaged))] ^= 1
    path.write_bytes(damaged)
    before = chat.turns, chat.stream.position
    with Session.open("talk") as session, pytest.raises(BadSession, match=r"damaged|no session"):
        session.resume(chat)
    assert (chat.turns, chat.stream.position) == before
    assert said(chat, "still here?")


def test_a_session_that_ends_early_is_refused(bundle):
    with Session.open("talk") as session:
        session.save(talk(bundle))
    path = session_path("talk")
    path.write_bytes(path.read_bytes()[:-1])
    with Session.open("talk") as session, pytest.raises(BadSession, match=r"damaged|no session"):
        session.resume(talk(bundle))


def test_a_session_of_another_bundle_is_refused_by_its_name(bundle, toy_maker, tmp_path):
    other = toy_maker(tmp_path / "other", seed=1).bundle(tmp_path / "bundle", StreamSpec(3, 125, 64, 8))
    with Session.open("talk") as session:
        session.save(talk(other))
        with pytest.raises(BadSession, match="belongs to another bundle, of other"):
            session.resume(talk(bundle))


def test_options_that_differ_are_said(bundle):
    with Session.open("talk") as session:
        chat = talk(bundle, system="Be brief", sampling=DRAWN)
        said(chat, "hello")
        session.settings["max_new_tokens"] = 12
        session.save(chat)
    other = talk(bundle, system="Be long", sampling=SamplingSpec(temperature=0.5, top_k=9))
    with Session.open("talk") as session:
        remarks = session.resume(other, given={"temperature": 0.5})
        assert session.settings == {"max_new_tokens": 12}
    assert remarks == [
        "temperature is 0.5 now, and was 1.0 before",
        "the system prompt 'Be long' is ignored: the session keeps 'Be brief'",
    ]
    assert (other.sampling.temperature, other.sampling.top_k, other.sampling.seed) == (0.5, 0, 3)
    with Session.open("talk") as session:
        chat = talk(bundle, pin="none")
        assert session.resume(chat, {"sinks": 3}) == [
            f"the session keeps the {other.stream.sinks} sinks that it began with, not 3"
        ]


def test_a_file_with_a_state_only_is_taken_up_and_becomes_a_session(bundle, tmp_path):
    chat, path = talk(bundle), tmp_path / "old"
    said(chat, "hello")
    chat.save(path)
    other = talk(bundle)
    with Session.open(path) as session:
        assert session.resume(other) == []
        assert said(other, "again") == said(chat, "again")
        session.save(other)
    assert [turn.text for turn in read_header(path).chat.turns if turn.role == "user"] == ["again"]


def test_a_full_disk_leaves_the_last_session_and_no_rest(bundle, state_folder, full_disk):
    chat = talk(bundle)
    said(chat, "hello")
    with Session.open("talk") as session:
        session.save(chat)
        before = session.path.read_bytes()
        said(chat, "again")
        with full_disk(), pytest.raises(NoSpace):
            session.save(chat)
        assert session.path.read_bytes() == before
        session.save(chat)
        assert session.path.read_bytes() != before
    assert [path.name for path in state_folder.iterdir()] == ["talk.session"]


def test_a_save_that_changes_nothing_writes_nothing(bundle):
    chat = talk(bundle)
    with Session.open("talk") as session:
        session.save(chat)
        before = session.path.stat().st_mtime_ns
        session.save(chat)
        assert session.path.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "-x", "x" * 81, "a\0b"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(BadOption, match="a session named"):
        session_path(name)


def test_a_name_leads_to_the_state_folder_and_a_path_where_it_says(state_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert session_path("diary") == state_folder / "diary.session"
    assert session_path("./diary") == Path("diary")
    (tmp_path / "diary").write_bytes(b"")
    assert session_path("diary") == Path("diary")


def test_sessions_are_listed_shown_exported_and_removed(bundle, command, state_folder):
    assert command("sessions", "list")[:2] == (0, "")
    chat = talk(bundle, system="Be brief")
    said(chat, "hello there", 3)
    with Session.open("talk") as session:
        session.save(chat)
    (state_folder / "bad.session").write_bytes(b"x")
    assert {one.name for one in list_sessions()} == {"talk", "bad"}
    code, out, _ = command("sessions", "list")
    assert code == 0
    assert "1 messages" in out
    assert "hello there" in out
    assert "is damaged" in out
    listed = json.loads(command("sessions", "list", "--json")[1])
    assert next(one for one in listed if one["name"] == "talk")["messages"] == 1
    assert "## User\n\nhello there" in command("sessions", "show", "talk")[1]
    out = command("sessions", "show", "talk", "--last", "0")[1]
    assert "(3 earlier turns are not shown)" in out
    assert "hello there" not in out
    out = command("sessions", "export", "talk")[1]
    assert out.startswith("# hello there\n")
    assert "## System\n\nBe brief\n" in out
    goal = state_folder / "talk.json"
    assert command("sessions", "export", "talk", "--format", "json", "--out", goal)[0] == 0
    assert [turn["role"] for turn in json.loads(goal.read_text())["turns"]] == ["system", "user", "assistant"]
    assert command("sessions", "rm", "talk", "bad")[0] == 0
    assert list(list_sessions()) == []
    code, _, err = command("sessions", "rm", "talk")
    assert (code, "no session talk" in err) == (1, True)
    code, _, err = command("sessions", "show", "talk")
    assert (code, "no session file" in err) == (1, True)


def test_a_half_character_in_a_message_is_kept_as_a_replacement(bundle):
    chat = talk(bundle)
    said(chat, "a lone \ud83d surrogate", 2)
    with Session.open("talk") as session:
        session.save(chat)
        assert read_header(session.path).chat.turns[0].text == "a lone \ufffd surrogate"


def test_the_example_of_the_docs_runs(bundle, tmp_path, monkeypatch, state_folder):
    text = (Path(__file__).parent.parent / "docs" / "sessions.md").read_text(encoding="utf-8")
    (tmp_path / "smollm2").symlink_to(bundle)
    monkeypatch.chdir(tmp_path)
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert (state_folder / "diary.session").is_file()


@posix
def test_a_chat_that_is_killed_loses_the_running_turn_at_most(bundle, tmp_path):
    assert "3 kills" in kill_sessions.check(bundle, tmp_path, kills=3, tokens=12, longest_seconds=0.3)


@posix
@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_of_a_real_model(smollm2_bundles, tmp_path):
    bundle = smollm2_bundles("int4", StreamSpec(4, 508, 64, 64))
    assert "100 kills" in kill_sessions.check(bundle, tmp_path, kills=100, tokens=30, longest_seconds=1.5)
