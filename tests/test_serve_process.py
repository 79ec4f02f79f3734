"""`edgesink serve` as a process: it starts, ends on a signal with nothing half done, and goes on where it was."""

import json
import os
import signal
import subprocess
import threading

import httpx
import pytest
from serving import COMMAND, assistant, start_process, user

from edgesink.spec import StreamSpec


@pytest.fixture(scope="module")
def bundle(smollm2_bundles):
    return smollm2_bundles("int4", StreamSpec(4, 508, 64, 64))


def start(bundle, tmp_path):
    return start_process(bundle, "--name", "tiny", EDGESINK_CACHE=str(tmp_path))


def ask(url, messages, **options):
    body = {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 6} | options
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()


def test_a_signal_ends_what_runs_properly_and_conversations_are_there_after_a_restart(bundle, tmp_path):
    process, url = start(bundle, tmp_path)
    talk = [user("My name is Ann.")]
    first = ask(url, talk)
    lines = []

    def long_answer():
        body = {"messages": [user("Tell a story.")], "stream": True, "max_tokens": 60, "temperature": 0}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            for line in response.iter_lines():
                lines.append(line)
                begun.set()

    begun = threading.Event()
    client = threading.Thread(target=long_answer)
    client.start()
    assert begun.wait(60)
    process.send_signal(signal.SIGTERM)
    client.join(60)
    assert process.wait(60) == 0, process.stderr.read()
    process.stderr.close()
    answers = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert lines[-2:] == ["data: [DONE]", ""]
    assert answers[-1]["choices"][0]["finish_reason"] in ("length", "stop")  # it ended by itself, in its time
    process, url = start(bundle, tmp_path)
    try:
        talk += [assistant(first["choices"][0]["message"]["content"]), user("What is my name?")]
        again = ask(url, talk)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= first["edgesink"]["position"]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        process.stderr.close()


def test_it_does_not_listen_to_others_without_a_key(bundle, tmp_path):
    done = subprocess.run(
        [*COMMAND, str(bundle), "--host", "0.0.0.0", "--port", "0"], env=os.environ | {"EDGESINK_API_KEY": ""},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "without an API key" in done.stderr
    assert "Traceback" not in done.stderr
