"""What happens before the first token: nothing is imported, read or hashed that it does not need."""

import subprocess
import sys

import pytest

from edgesink import known_digests
from edgesink.known_digests import KnownDigests
from edgesink.manifest import ONNX_DATA, Manifest
from edgesink.runtime import kernels
from edgesink.runtime.session import load
from edgesink.spec import StreamSpec

ANONYMOUS_BYTES = 75_000_000  # of a process that runs SmolLM2, beyond the state: less than its 97 MB of weights


def run(code: str, *arguments: object) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_chat_imports_nothing_that_only_other_commands_need():
    modules = "edgesink.cli, edgesink.cli.chat.loop, edgesink.cli.keeping, edgesink.runtime.chat, edgesink.bundles"
    other = {"asyncio", "ssl", "sqlite3", "prompt_toolkit", "rich", "jinja2", "onnx", "torch", "transformers", "gguf"}
    assert run(f"import sys, {modules}\nprint(sorted({other} & set(sys.modules)))") == "[]"


def test_a_bundle_that_was_loaded_before_is_not_hashed_again(toy, tmp_path, monkeypatch):
    bundle = toy.bundle(tmp_path / "bundle", StreamSpec(4, 60, 16, 16), "int4")
    monkeypatch.setenv("EDGESINK_CACHE", str(tmp_path / "cache"))
    now = known_digests.time.time_ns
    monkeypatch.setattr(known_digests.time, "time_ns", lambda: now() + 3_000_000_000)
    hashed: list[str] = []
    whole = known_digests.sha256_of
    monkeypatch.setattr(known_digests, "sha256_of", lambda path: hashed.append(path.name) or whole(path))
    load(bundle)
    assert sorted(hashed) == sorted(file.path for file in Manifest.read(bundle).files)
    load(bundle)
    assert len(hashed) == len(Manifest.read(bundle).files)
    (bundle / ONNX_DATA).touch()
    load(bundle)
    assert hashed[len(Manifest.read(bundle).files) :] == [ONNX_DATA]
    assert KnownDigests(bundle).sha256_of(bundle / ONNX_DATA) == whole(bundle / ONNX_DATA)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import edgesink
stream = edgesink.load(sys.argv[1], threads=2, mapped=True)
stream.tokenizer
for _ in range(stream.capacity // 64 + 2):
    stream.feed(np.arange(64))
stream.step(5)
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
print(stream.state_bytes, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.skipif(not kernels.available_kernels(), reason="no C compiler when edgesink was installed")
def test_memory_of_its_own_follows_the_state_not_the_model(smollm2_bundles):
    state, anonymous = map(int, run(MEMORY, smollm2_bundles("int4", StreamSpec.fitted(window=28))).split())
    assert anonymous <= state + ANONYMOUS_BYTES, f"{anonymous} bytes"
