"""Builds and runs the Swift package's command line for the tests that compare it with Python."""

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

PACKAGE = Path(__file__).parents[1] / "apps" / "ios" / "EdgesinkKit"


@functools.cache
def built() -> Path:
    """The optimised `edgesink-cli`, built once; skips the test where there is no Swift toolchain."""
    if shutil.which("swift") is None:
        pytest.skip("no Swift toolchain on this machine: the Swift package is not tested")
    command = ["swift", "build", "-c", "release", "--product", "edgesink-cli", "-Xswiftc", "-warnings-as-errors"]
    build = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout[-4000:] + build.stderr[-4000:]
    shown = subprocess.run([*command[:4], "--show-bin-path"], cwd=PACKAGE, capture_output=True, text=True, check=True)
    return Path(shown.stdout.strip()) / "edgesink-cli"


def run(*arguments: object, stdin: str | None = None) -> str:
    """stdout of `edgesink-cli`."""
    capi = Path(onnxruntime.__file__).parent / "capi"
    library = next((str(path) for path in capi.glob("libonnxruntime*") if "providers" not in path.name), "")
    environment = os.environ | {"EDGESINK_ONNXRUNTIME": library}
    result = subprocess.run(
        [built(), *map(str, arguments)], input=stdin, capture_output=True, encoding="utf-8", env=environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def encode(tokenizer: Path, texts: list[str], *options: str) -> list[list[int]]:
    """Ids of every text, by `edgesink-cli tokenize`."""
    lines = "\n".join(json.dumps(text) for text in texts)
    return [json.loads(line) for line in run("tokenize", tokenizer, "--lines", *options, stdin=lines).splitlines()]


def decode(tokenizer: Path, ids: list[list[int]]) -> list[str]:
    """Text of every list of ids, special tokens left out."""
    lines = "\n".join(json.dumps(item) for item in ids)
    # Not splitlines(): text may hold other line separators than the newline.
    return [json.loads(line) for line in run("tokenize", tokenizer, "--decode", stdin=lines).split("\n") if line]
