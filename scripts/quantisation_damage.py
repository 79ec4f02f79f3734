"""What each way of quantising costs a model as Core ML and as ONNX hold it, beside the same checkpoint in floats.

    python scripts/quantisation_damage.py CHECKPOINT TEXT [--tokens 300] [--window 28]

Exports each bundle, feeds TEXT token by token, the Core ML program to the evaluator in emulated float16 and the ONNX
graph to ONNX Runtime, and holds the logits against the PyTorch oracle in float32. Prints one line of JSON a bundle:
megabytes, ratio of perplexities, mean KL (nats a token), mean |Δlogit|, share of tokens with the same argmax.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from edgesink.export.bundle import export
from edgesink.manifest import Manifest
from edgesink.reference import Reference
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.spec import StreamSpec
from edgesink.verify.compare import Stage, log_softmax
from edgesink.verify.runners import open_runner

BUNDLES = [  # target, precision, bits of the vocabulary
    ("onnx", "fp32", 8), ("onnx", "int8", 8), ("onnx", "int4", 8), ("onnx", "int4", 4),
    ("coreml", "fp16", 8), ("coreml", "int8", 8), ("coreml", "int4", 8), ("coreml", "int4", 4), ("coreml", "pal4", 8),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--window", type=int, default=28)
    given = parser.parse_args()
    stream = StreamSpec.fitted(window=given.window, chunk=8)
    expected: list[np.ndarray] = []
    for target, precision, bits in BUNDLES:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            export(given.checkpoint, bundle, target, stream, precision, vocabulary_bits=bits)
            ids = np.array(Tokenizer.of_bundle(bundle).encode(given.text.read_text(encoding="utf-8"))[: given.tokens])
            if not expected:
                oracle = Reference(given.checkpoint, stream.sinks, stream.window)
                expected = [oracle.step(int(id_)) for id_ in ids]
            manifest = Manifest.read(bundle)
            runner, damage, ours = open_runner(bundle, manifest), Stage(), 0.0
            for place, right in enumerate(expected):
                found = runner.feed(ids[place : place + 1], place, stream.sinks)
                damage.add(right, found)
                ours -= log_softmax(found)[ids[place + 1]] if place + 1 < len(ids) else 0.0
            right_sum = -sum(log_softmax(row)[id_] for row, id_ in zip(expected, ids[1:], strict=False))
            line = {
                "bundle": f"{target} {precision}" + (f", vocabulary {bits} bit" if precision == "int4" else ""),
                "megabytes": round(manifest.weight_bytes / 1e6, 2),
                "perplexity": round(float(np.exp((ours - right_sum) / (len(ids) - 1))), 4),
                "mean_kl": round(damage.sum_kl / damage.compared, 5),
                "mean_abs": round(damage.sum_abs / damage.compared, 4),
                "argmax": round(damage.agreed / damage.compared, 4),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
