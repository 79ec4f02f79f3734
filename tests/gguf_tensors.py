"""Tensors of a GGUF, drawn at random."""

import numpy as np


def random_tensor(kind: str, rows: int, columns: int) -> np.ndarray:
    """The bytes of one, all of them drawn but for its float16 numbers, which are finite: uint8 [N, bytes of a row]."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    random = np.random.default_rng(len(kind) * rows)
    size, count = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    data = random.integers(0, 256, (rows, columns // size, count), dtype=np.uint8)
    for at in {"Q6_K": [208], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}.get(kind, [0]):
        halves = (random.normal(size=(rows, columns // size, 1)) * 0.02).astype(np.float16)
        data[..., at : at + 2] = halves.view(np.uint8)
    data[0] = 0
    data[1, :, 4:] = 0
    data[2] |= 128 * (np.arange(count) >= 4).astype(np.uint8)
    return data.reshape(rows, -1)
