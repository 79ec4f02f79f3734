"""Writes docs/families.md: every family on every target, against transformers and against the oracle.

Run it from the repository: `python tests/make_families_table.py`, or with the names of rows behind it: they and those
that the document lacks are measured, and the others stay as they stand there. A tiny random model of each family, its
norms and biases random too, is exported for each target and fed over three laps of its ring in ragged chunks. A number
is the largest difference of a logit over the spread (standard deviation) of the logits.
"""

from __future__ import annotations

import datetime
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import swift_cli
import torch
from test_families import CASES, LAPS, STREAM, ids_of, random_model

from edgesink.errors import EdgesinkError
from edgesink.export.bundle import export
from edgesink.manifest import COREAI_MODEL, Manifest
from edgesink.reference import Reference
from edgesink.runtime.session import load
from edgesink.verify.held_model import held_model
from edgesink.verify.runners import MilRunner, OnnxRunner

ROOT = Path(__file__).parent.parent
RAGGED = (5, 1, 4, 2, 5, 3, 1)
SWIFT_TOKENS = 60
COLUMNS = (
    "ONNX fp32: transformers",
    "ONNX fp32: oracle",
    "kernels int8",
    "kernels int4",
    "Core ML, evaluated in fp32",
    "Core ML, evaluated in fp16",
    "Core AI fp32",
    "Swift, ONNX fp32",
)

Feed = Callable[[np.ndarray, int, int], np.ndarray]


def main(*asked: str) -> None:
    path = ROOT / "docs" / "families.md"
    known = rows_of(path.read_text(encoding="utf-8")) if asked else {}
    rows = {case: known[case] if case in known and case not in asked else row_of(case) for case in CASES}
    path.write_text(document(rows), encoding="utf-8")
    (ROOT / "edgesink" / "verified.json").write_text(json.dumps(verified(rows), indent=2) + "\n", encoding="utf-8")


def row_of(case: str) -> dict[str, str]:
    """The cells of one model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model(case)
        model.save_pretrained(folder / "model")
        write_tokenizer(folder / "model")
        ids = ids_of(LAPS * STREAM.rows + 3)
        expected = oracle_logits(model, ids)
        cells = dict(onnx_cells(folder, model, ids, expected))
        for precision in ("int8", "int4"):
            cells[f"kernels {precision}"] = cell(lambda p=precision: kernels(folder, p, ids))  # type: ignore[misc]
        for precision in ("fp32", "fp16"):
            column = f"Core ML, evaluated in {precision}"
            cells[column] = cell(lambda p=precision: core_ml(folder, p, ids))  # type: ignore[misc]
        cells["Core AI fp32"] = cell(lambda: core_ai(folder, ids, expected))
        print(case, cells, file=sys.stderr, flush=True)
        return cells


def write_tokenizer(folder: Path) -> None:
    from conftest import write_toy_tokenizer

    write_toy_tokenizer(folder)


def oracle_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    """float32 [n, V], after every id."""
    reference = Reference(model, STREAM.sinks, STREAM.window)
    return np.stack([reference.step(int(token)) for token in ids])


def cell(measure: Callable[[], str]) -> str:
    """A number, or the reason why there is none."""
    try:
        return measure()
    except EdgesinkError as error:
        return f"refused: {error.found}"


def onnx_cells(folder: Path, model: Any, ids: np.ndarray, expected: np.ndarray) -> Iterator[tuple[str, str]]:
    bundle = folder / "onnx"
    export(folder / "model", bundle, "onnx", STREAM, "fp32")
    stream = load(bundle, kernels=False)
    logits = np.stack([stream.step(int(token)) for token in ids[: STREAM.capacity]])
    with torch.inference_mode():
        dense = model(torch.tensor(ids[None, : STREAM.capacity])).logits[0].numpy()
    yield "ONNX fp32: transformers", number(np.abs(logits - dense).max(), dense)
    manifest = Manifest.read(bundle)
    yield "ONNX fp32: oracle", worst(OnnxRunner(bundle, manifest, "cpu").feed, ids, expected)
    yield "Swift, ONNX fp32", swift(folder, bundle, ids)


def kernels(folder: Path, precision: str, ids: np.ndarray) -> str:
    """Against the oracle with the weights as they are rounded."""
    bundle = folder / precision
    manifest = export(folder / "model", bundle, "onnx", STREAM, precision)  # type: ignore[arg-type]
    if not manifest.has_kernels:
        return "runs on ONNX Runtime's own operators"
    expected = oracle_logits(held_model(folder / "model", precision), ids)  # type: ignore[arg-type]
    return worst(OnnxRunner(bundle, manifest, "cpu", kernels=True).feed, ids, expected)


def core_ml(folder: Path, precision: str, ids: np.ndarray) -> str:
    """The float16 program, by our evaluator; its weights are float16."""
    bundle = folder / "coreml"
    if not bundle.exists():
        export(folder / "model", bundle, "coreml", STREAM, "fp16")
    expected = oracle_logits(held_model(folder / "model", "fp16"), ids)
    return worst(MilRunner(bundle, Manifest.read(bundle), "cpu", precision).feed, ids, expected)


def core_ai(folder: Path, ids: np.ndarray, expected: np.ndarray) -> str:
    from edgesink.verify.coreai import CoreAiStream

    bundle = folder / "coreai"
    manifest = export(folder / "model", bundle, "coreai", STREAM, "fp32")
    stream = CoreAiStream(bundle / COREAI_MODEL, manifest)
    try:
        return worst(stream.feed, ids, expected)
    finally:
        stream.close()


def swift(folder: Path, bundle: Path, ids: np.ndarray) -> str:
    """Greedy tokens that Swift and Python have in common, from the same prompt."""
    if shutil.which("swift") is None:
        return "no Swift toolchain"
    prompt = folder / "prompt.json"
    prompt.write_text(json.dumps(ids[:20].tolist()))
    words = ["generate", bundle, "--ids-file", prompt, "--json", "--max-new-tokens", SWIFT_TOKENS, "--ignore-end"]
    words += ["--temperature", 0, "--repetition-penalty", 1]
    got = json.loads(swift_cli.run(*words))["ids"]
    stream = load(bundle, kernels=False)
    logits, ours = stream.prefill(ids[:20]), []
    while len(ours) < SWIFT_TOKENS:
        ours.append(int(logits.argmax()))
        logits = stream.step(ours[-1])
    same = next((i for i, (a, b) in enumerate(zip(got, ours, strict=True)) if a != b), SWIFT_TOKENS)
    return f"{same} of {SWIFT_TOKENS} tokens"


def worst(feed: Feed, ids: np.ndarray, expected: np.ndarray) -> str:
    """The largest difference after any chunk, chunks ragged and across the wrap."""
    position, turn, largest = 0, 0, 0.0
    while position < len(ids):
        piece = ids[position : position + RAGGED[turn % len(RAGGED)]]
        logits = feed(piece, position, STREAM.sinks)
        position, turn = position + len(piece), turn + 1
        largest = max(largest, float(np.abs(logits - expected[position - 1]).max()))
    return number(largest, expected)


def number(difference: float, logits: np.ndarray) -> str:
    return f"{difference / float(logits.std()):.0e}"


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """The rows of a document, case -> column -> cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {case: dict(zip(COLUMNS, rest, strict=True)) for case, *rest in cells[1:]}


def document(rows: dict[str, dict[str, str]]) -> str:
    tools = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "onnxruntime", "coremltools"))
    table = "\n".join(
        f"| {case} | " + " | ".join(row[column] for column in COLUMNS) + " |" for case, row in rows.items()
    )
    heads = "| model | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS)
    return f"""# Model families, each on every target

Made by `python tests/make_families_table.py` on {datetime.date.today()}: {tools}, {processor()}.

Every row is a tiny random model of transformers (norms and biases random too), exported with {STREAM.sinks} sinks, a
capacity of {STREAM.capacity} tokens and chunks of up to {STREAM.chunk}. A number is the largest difference of a logit,
as a share of the logits' standard deviation: in the first column before the first eviction against transformers' own
forward pass, elsewhere over {LAPS} laps of the ring, in ragged chunks across the wrap, against the
[oracle](../edgesink/reference.py), which knows no family. A quantised or float16 bundle is compared with the oracle on
the same rounded weights. "Core ML" is the saved package in [an independent evaluator](coreml.md) of Apple's operation
definitions, not Core ML. Its norms and rotary tables are float16 whatever it is evaluated in, and the oracle's are not:
with constants that float16 holds the graph alone is within 1e-5 (`tests/test_coreml_views.py`). "Swift" counts greedy
tokens equal to the Python runtime's.

{heads}
{table}

Real files are checked by `pytest -m slow tests/test_families_real.py`: Qwen2.5-Coder-0.5B and 1.5B, and Gemma 3 270M
([what was measured](evidence.md)).
"""


def verified(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """For `edgesink models --families`: family -> target -> the largest number of its rows."""
    targets = {"onnx": "ONNX fp32: oracle", "kernels": "kernels int4", "coreml": "Core ML, evaluated in fp32",
               "coreai": "Core AI fp32", "swift": "Swift, ONNX fp32"}  # fmt: skip
    result: dict[str, dict[str, str]] = {}
    for case, row in rows.items():
        cells = result.setdefault(case.partition(" ")[0], {})
        for target, column in targets.items():
            cells[target] = max(cells.get(target, ""), row[column], key=_size)
    return {family: {target: _short(text) for target, text in cells.items()} for family, cells in result.items()}


def _size(text: str) -> float:
    """Of a number; of words, nothing, so that a number of another row of the family counts."""
    try:
        return float(text)
    except ValueError:
        return -1.0 if not text else 0.0


def _short(text: str) -> str:
    return "equal" if text == f"{SWIFT_TOKENS} of {SWIFT_TOKENS} tokens" else text


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    main(*sys.argv[1:])
