"""The command line as its user meets it: results on stdout, one clear line and exit code 1 for what can be mended."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from edgesink.cli import app, main
from edgesink.models import MODELS
from edgesink.spec import StreamSpec

RUNNER = CliRunner()


def run(*arguments: str, stdin: str | None = None):
    return RUNNER.invoke(app, [str(a) for a in arguments], input=stdin)


@pytest.fixture(scope="module")
def bundle(toy, tmp_path_factory):
    return toy.bundle(tmp_path_factory.mktemp("cli") / "bundle", StreamSpec(3, 61, 32, 8))


def test_models_lists_every_alias():
    assert all(name in run("models").stdout for name in MODELS)
    assert json.loads(run("models", "--json").stdout)["mistral-7b"]["hub_id"].startswith("mistralai/")


def test_inspect_says_what_is_remembered_and_what_it_weighs(bundle):
    text = run("inspect", bundle).stdout
    assert "remembers 64 tokens: 3 first ones and the last 61" in text
    assert "not verified" in text
    data = json.loads(run("inspect", bundle, "--json").stdout)
    assert data["state_bytes"] == 2 * 3 * 2 * 16 * (64 + 8 - 1) * 4
    assert data["stream"]["max_sinks"] == 32


def test_generate_gives_the_same_text_from_an_argument_and_from_stdin(bundle):
    options = ["--max-new-tokens", "8", "--json"]
    first = json.loads(run("generate", bundle, "hello", *options).stdout)
    second = json.loads(run("generate", bundle, *options, stdin="hello").stdout)
    assert first == second
    assert len(first["ids"]) <= 8
    assert first["prompt_ids"]


def test_a_sampled_answer_repeats_with_its_seed(bundle):
    options = ["--temperature", "1", "--seed", "5", "--max-new-tokens", "12", "--json"]
    assert run("generate", bundle, "hello", *options).stdout == run("generate", bundle, "hello", *options).stdout


def test_chat_answers_once_and_keeps_a_session(bundle, tmp_path):
    session = tmp_path / "session"
    options = ["--max-new-tokens", "5", "--seed", "1", "--session", session]
    assert run("chat", bundle, "-m", "hello", *options).exit_code == 0
    size = session.stat().st_size
    assert run("chat", bundle, "-m", "again", *options).exit_code == 0
    assert session.stat().st_size > size


def test_a_session_says_which_options_it_overrules(bundle, tmp_path):
    session = tmp_path / "session"

    def said(*options):
        result = run("chat", bundle, "-m", "hi", "--max-new-tokens", "2", "--session", session, *options)
        assert result.exit_code == 0
        return [line for line in result.stderr.splitlines() if "the session keeps" in line]

    assert said("--system", "A", "--sinks", "2") == []
    assert said("--sinks", "2") == []
    assert said("--system", "B", "--sinks", "0") == [
        "(the system prompt 'B' is ignored: the session keeps 'A')",
        "(the session keeps the 2 sinks that it began with, not 0)",
    ]


def test_a_message_longer_than_the_window_is_said_to_be_forgotten_in_part(bundle):
    result = run("chat", bundle, "--no-pin-system", "--max-new-tokens", "1", stdin="a\n" + "b" * 100 + "\nc\n")
    said = [line for line in result.stderr.splitlines() if line.startswith("(the message is")]
    behind = len("E") + len("B") + len("assistant: ")
    first = 100 + behind - 61
    assert said == [f"(the message is 100 tokens and the window 61: the answer does not see the first {first})"]


def test_chat_reads_messages_and_commands_from_a_pipe(bundle, tmp_path):
    saved = tmp_path / "saved"
    lines = f"hello\n/save {saved}\n/status\n/nonsense\n/load no\nbye\n"
    result = run("chat", bundle, "--max-new-tokens", "4", "--no-pin-system", stdin=lines)
    assert result.exit_code == 0
    assert saved.is_file()
    assert "of 64 tokens held (3 pinned)" in result.stderr
    assert "/nonsense is no command; /help lists them" in result.stderr
    assert "no session file no" in result.stderr


def test_export_writes_a_bundle_and_prints_where(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("export", toy.path, "--window", "28", "--precision", "fp32")
    assert result.exit_code == 0
    assert result.stdout.strip() == f"{toy.path.name}-onnx-fp32"
    assert (tmp_path / result.stdout.strip() / "manifest.json").is_file()


BAD = {
    "missing bundle": (["inspect", "nowhere"], "no manifest.json in nowhere"),
    "unknown model": (["chat", "no-such-model", "-m", "x"], "no model 'no-such-model'"),
    "window below chunk": (["export", "TOY", "--window", "8", "--chunk", "16"], "at least one chunk, 16 tokens"),
    "sinks above max": (["export", "TOY", "--sinks", "9", "--max-sinks", "8"], "raise --max-sinks"),
    "sinks above bundle": (["generate", "BUNDLE", "x", "--sinks", "33"], "0 to 32"),
    "empty prompt": (["generate", "BUNDLE", ""], "an empty prompt"),
    "bad temperature": (["generate", "BUNDLE", "x", "--temperature", "-1"], "temperature = -1"),
    "no gpu": (["generate", "BUNDLE", "x", "--provider", "cuda"], "CUDAExecutionProvider"),
    "goal is not a bundle": (["export", "TOY", "--out", "TOY"], "is not a bundle"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_user_can_mend_is_one_line_and_exit_code_1(case, toy, bundle, capsys, monkeypatch, tmp_path):
    arguments, message = BAD[case]
    places = {"TOY": str(toy.path), "BUNDLE": str(bundle)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["edgesink", *(places.get(a, a) for a in arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    printed = capsys.readouterr()
    assert exit_.value.code == 1
    assert message in printed.err
    assert printed.err.startswith("edgesink: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_exit_code_2():
    assert run("export", "x", "--precision", "int3").exit_code == 2
    assert run("nonsense").exit_code == 2


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(toy_maker, tmp_path):
    """A real terminal: an endless answer is interrupted, and the next message is answered."""
    endless = toy_maker(tmp_path / "toy", eos_token_id=None)  # no id ends an answer, however late the signal comes
    template = "{% for m in messages %}<begin>{{ m.role }}: {{ m.content }}{% endfor %}"  # nor does the template
    (endless.path / "chat_template.jinja").write_text(template)
    bundle = endless.bundle(tmp_path / "bundle", StreamSpec(3, 61, 32, 8))
    leader, follower = pty.openpty()
    code = "from edgesink.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, "chat", str(bundle), "--temperature", "0"]
    process = subprocess.Popen(command, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        os.write(leader, b"hello\n")
        begun = process.stdout.read(3)  # the beginning of an answer; the prompt is for people, on stderr
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        os.write(leader, b"/status\n/quit\n")
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        os.close(leader)
        os.close(follower)
    assert b"> " not in begun
    assert process.returncode == 0, err
    assert err.startswith(b"toy; 0 of 64 tokens held")
    assert " …" in out.decode(errors="replace")
    assert b"tokens held" in err


def test_help_imports_nothing_heavy():
    """`edgesink --help` and `import edgesink` stay instant: no torch, no runtime, no converters."""
    code = (
        "import sys; from edgesink.cli import app; import edgesink;"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'onnx', 'coremltools', 'optimum', 'matplotlib', 'jinja2',"
        " 'tokenizers'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_loaded_stream_never_imports_torch(bundle):
    code = (
        "import sys, edgesink; stream = edgesink.load(sys.argv[1]); list(stream.generate([5, 6], max_new_tokens=3));"
        "print(sorted({'torch', 'transformers', 'edgesink.export', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(bundle)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
