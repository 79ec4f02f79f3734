"""Where files may be, and where text goes: nothing but an ordinary file is replaced, and every refusal is one line."""

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from edgesink import bundles
from edgesink.callbacks import Talk
from edgesink.cli import keeping, output
from edgesink.errors import BadCheckpoint, BadPlace, NoSpace
from edgesink.files import atomic_write, check_file_goal, place_errors, whole_folder
from edgesink.locks import exclusive
from edgesink.manifest import Manifest
from edgesink.model_name import understand
from edgesink.paths import cache_folder, expanded
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec

SPEC = StreamSpec(3, 13, 8, 5)
posix = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and permissions of POSIX")


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("places") / "bundle", SPEC)


def put(path, text="new"):
    with atomic_write(path) as aside:
        aside.write_text(text)


@posix
def test_what_is_no_ordinary_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "..", tmp_path / "circle", tmp_path / "a\0b"):
        with pytest.raises(BadPlace):
            put(path)
    for device in ("/dev/null", "/dev/full"):
        with pytest.raises(BadPlace, match="no ordinary file"):
            check_file_goal(expanded(device))
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@posix
def test_a_link_stays_a_link_and_permissions_stay_too(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    put(link)
    assert link.is_symlink()
    assert (real.read_text(), stat.S_IMODE(real.stat().st_mode)) == ("new", 0o640)
    real.chmod(0o440)
    with pytest.raises(BadPlace, match="read-only"):
        put(link, "newer")
    assert real.read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("place", ["/dev/null/x/y", "/proc/nothing/x", "x" * 300])
@posix
def test_places_that_cannot_be_are_one_kind_of_error(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    for use in (put, check_file_goal):
        with pytest.raises(BadPlace):
            use(expanded(place))
    with pytest.raises(BadPlace), whole_folder(expanded(place)):
        pass


def test_a_full_disk_is_named_as_one(tmp_path):
    with pytest.raises(NoSpace, match="full"), atomic_write(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(BadPlace, match=r"b: No such device; choose another place"), place_errors(tmp_path / "b"):
        raise OSError(errno.ENODEV, "No such device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cache", ["/dev/null", "/proc/nothing", "~nosuchuser/x", "x" * 300])
@posix
def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(toy, tmp_path, monkeypatch, command, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESINK_CACHE", cache)
    code, _, err = command("chat", toy.path, "-m", "hi")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "EDGESINK_CACHE" in err


def test_without_a_home_folder_the_cache_says_so(monkeypatch):
    for name in ("EDGESINK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(BadPlace, match="EDGESINK_CACHE"):
        cache_folder("bundles")


@pytest.mark.parametrize("text", ["a\0b", "x" * 5000, "./" + "y" * 300])
def test_a_model_that_no_system_can_open_is_refused_by_name(text):
    with pytest.raises(BadCheckpoint):
        understand(text)


def test_a_folder_with_only_a_gguf_says_which_file_to_name(tmp_path):
    (tmp_path / "model-Q4.GGUF").write_bytes(b"GGUF")
    with pytest.raises(BadCheckpoint, match=r"name the file: .*model-Q4\.GGUF"):
        understand(str(tmp_path))


def test_the_loser_of_two_first_runs_takes_the_winners_bundle(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path))
    exports, said, found = [], [], []
    export = bundles._export

    def slow(*arguments):
        exports.append(arguments)
        time.sleep(0.5)
        export(*arguments)

    def run():
        found.append(bundles.find_bundle(str(toy.path), SPEC, "fp32", Talk(said.append)))

    monkeypatch.setattr(bundles, "_export", slow)
    runs = [threading.Thread(target=run) for _ in range(3)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()
    assert len(exports) == 1
    assert len(set(found)) == 1
    assert sum("waiting for another" in line for line in said) == 2
    Manifest.read(found[0]).check_files(found[0])
    assert [path.name for path in found[0].parent.iterdir()] == [found[0].name], "no lock is left"


@posix
def test_a_lock_of_a_process_that_was_killed_keeps_nobody_waiting(tmp_path):
    holder = (
        "import os, signal, sys; from pathlib import Path; from edgesink.locks import exclusive\n"
        "with exclusive(Path(sys.argv[1]), print): os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", holder, tmp_path / "goal"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / ".goal.lock").exists()
    waited = []
    with exclusive(tmp_path / "goal", lambda: waited.append(True)):
        pass
    assert not waited


def test_a_read_only_bundle_runs(bundle, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "nothing is written here")

    for name in ("mkdir", "rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    stream = load(bundles.find_bundle(str(bundle)))
    assert stream.step(5).shape == (258,)


@pytest.mark.parametrize(
    "line", ["/save .", "/save /", "/save a\0b", "/save /dev/null", "/load /dev/zero", "/save ~no/x"]
)
def test_no_command_ends_the_conversation(bundle, monkeypatch, command, line):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\n/stats\n"))
    code, _, err = command("chat", bundle)
    assert code == 0
    assert err.splitlines()[1].startswith("model ")  # behind one line that says what is wrong
    assert "0 of 16 tokens held" in err


def test_an_unknown_command_is_named_and_a_space_sends_it(bundle, monkeypatch, command):
    monkeypatch.setattr("sys.stdin", io.StringIO("/etc/passwd is a file\n /etc/passwd is a file\n/stats\n"))
    code, _, err = command("chat", bundle, "--max-new-tokens", 2)
    unknown, _, *stats = err.splitlines()  # between them, that the message is longer than the window
    assert code == 0
    assert "/etc/passwd is no command" in unknown
    assert not any("0 of 16 tokens" in line for line in stats)


def test_a_session_that_cannot_be_written_is_refused_before_the_talk(bundle, command, tmp_path):
    code, _, err = command("chat", bundle, "-m", "hi", "--session", tmp_path)
    assert (code, "is a folder" in err) == (1, True)


@pytest.mark.parametrize("number", keeping.ENDS)
def test_a_signal_ends_the_talk_with_its_session_saved(bundle, monkeypatch, tmp_path, number):
    import edgesink
    from edgesink.runtime.chat import Chat

    chat, path, before = Chat(edgesink.load(bundle)), tmp_path / "session", signal.getsignal(number)

    def talk():
        with keeping.kept(chat, path):
            list(chat.answer("hi", 2))
            signal.raise_signal(number)

    with pytest.raises(SystemExit) as leaving:
        talk()
    assert leaving.value.code == 128 + number
    assert path.is_file()
    assert signal.getsignal(number) is before


def test_without_stdin_a_talk_is_over_and_a_prompt_is_missing(bundle, monkeypatch, command):
    monkeypatch.setattr("sys.stdin", None)
    assert command("chat", bundle) == (0, "", "")
    code, _, err = command("generate", bundle)
    assert (code, "empty prompt" in err) == (1, True)


def test_bytes_that_are_no_text_are_replaced_and_said(bundle, monkeypatch, command):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    code, _, err = command("generate", bundle, "--max-new-tokens", 2)
    assert (code, "are read as \ufffd" in err) == (0, True)


def test_characters_that_a_terminal_has_not_are_replaced(monkeypatch):
    latin = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr("sys.stdout", latin)
    output.take_any_encoding()
    print("caf\xe9 \U0001f600", flush=True)
    output.print_json({"text": "\U0001f600"})
    latin.flush()
    assert latin.buffer.getvalue() == b'caf\xe9 ?\n{\n  "text": "\\ud83d\\ude00"\n}\n'


@posix
@pytest.mark.parametrize(
    ("redirection", "code", "line"), [(">/dev/full", 1, "disk is full"), ("| true", 0, ""), (">&-", 0, "")]
)
def test_an_output_that_nobody_takes_ends_in_one_line_or_none(tmp_path, redirection, code, line):
    script = f"{sys.executable} -P -c 'from edgesink.cli import main; main()' models {redirection}"
    done = subprocess.run(script, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == bool(line)
