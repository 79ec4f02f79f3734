"""What float16 scales cost the weights of a GGUF in a Core ML package: the relative error of matrices, by type.

    python scripts/coreml_rounding.py FILE.gguf

Prints one JSON line a GGUF type: its matrices, and the root mean square of the difference over that of the weights, the
mean and the largest of all of them.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from edgesink.export.blocks import Blocks
from edgesink.export.checkpoint import open_checkpoint, weight_names
from edgesink.export.halves import Halves
from edgesink.export.to_coreml.builder import held_parts


def in_package(weight: Blocks | Halves) -> np.ndarray:
    """float32 [N, K], as the package's operation unpacks it."""
    parts = {name: part.array.astype(np.float32) for name, part in held_parts(weight).items()}
    if "value" in parts:
        return parts["value"]
    rows, count = parts["scale"].shape
    data = parts["data"].reshape(rows, count, -1)
    if "offset" in parts:
        data = data - parts["offset"][..., None]
    return (data * parts["scale"][..., None]).reshape(weight.shape)


def relative_error(weight: Blocks | Halves) -> float:
    """Of root mean squares."""
    exact = weight.dequantized()
    return float(np.linalg.norm(in_package(weight) - exact) / np.linalg.norm(exact))


def main(path: Path) -> None:
    checkpoint, errors = open_checkpoint(path), defaultdict(list)
    for name in weight_names(checkpoint.model):
        if kind := checkpoint.kind(name):
            errors[kind].append(relative_error(checkpoint.blocks(name)))
    for kind, found in sorted(errors.items()):
        mean, most = float(np.mean(found)), max(found)
        print(json.dumps({"type": kind, "matrices": len(found), "mean": f"{mean:.1e}", "largest": f"{most:.1e}"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
