"""Quantised weights as the operators of `kernels/` take them, and how GGUF's types lie there.

The layout written down once more, in numpy, so that neither the kernels nor the exporter is its own judge.
"""

from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import Q4_K, dequantize

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])

# type: (bytes of a block, columns of a block, where the halves of a block lie)
TYPES = {
    "Q4_0": (18, 32, [0]), "Q4_1": (20, 32, [0, 2]), "Q5_0": (22, 32, [0]), "Q5_1": (24, 32, [0, 2]),
    "Q8_0": (34, 32, [0]), "IQ4_NL": (18, 32, [0]), "Q4_K": (144, 256, [0, 2]), "Q5_K": (176, 256, [0, 2]),
    "Q6_K": (210, 256, [208]), "IQ4_XS": (136, 256, [0]),
    "F16": (64, 32, range(0, 64, 2)), "BF16": (64, 32, range(0, 64, 2)),
}  # fmt: skip
FLOATS = ("F16", "BF16")


def side_by_side(rows: np.ndarray) -> np.ndarray:
    """[N, M, …] -> [N / 16, M, 16, …], filled up with zeros."""
    filled = np.concatenate([rows, np.zeros((-len(rows) % 16, *rows.shape[1:]), rows.dtype)])
    return np.ascontiguousarray(filled.reshape(-1, 16, *rows.shape[1:]).swapaxes(1, 2))


def lay_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [N, K] as they lie: uint8 [N / 16, K / 32 bits, 16, 4]. In 16 bits they are [N, 2 K], bytes of floats."""
    if bits == 16:
        return side_by_side(codes.reshape(len(codes), -1, 4))
    blocks = codes.astype(np.uint8).reshape(len(codes), -1, 8, 4)  # [N, block, i, c] is column 4 i + c
    if bits == 8:
        vectors = blocks
    else:
        high = blocks >> 4
        parts = [blocks[:, :, :4] & 15 | blocks[:, :, 4:] << 4]
        if bits == 5:
            parts += [sum(high[:, :, [i]] << i for i in range(8))]
        if bits == 6:
            parts += [sum(high[:, :, [4 * half + j]] << 2 * j for j in range(4)) for half in range(2)]
        vectors = np.concatenate(parts, axis=2)
    return side_by_side(vectors.reshape(len(codes), -1, 4))


@dataclass(frozen=True)
class Packed:
    """A matrix [N, K] as the operators take it, and as it is."""

    tensors: dict[str, np.ndarray]
    attributes: dict[str, int | str]
    values: np.ndarray


def of_gguf(kind: str, blocks: np.ndarray) -> Packed:
    """Of the bytes of a GGUF tensor, uint8 [N, bytes of a row]."""
    size = TYPES[kind][0]
    bits, codes, fields = FIELDS[kind](blocks.reshape(len(blocks), -1, size))
    tensors = {"codes": lay_codes(codes.reshape(len(blocks), -1), bits)}
    tensors |= {name: side_by_side(x.reshape(len(blocks), -1)) for name, x in fields.items()}
    attributes = {"rows": len(blocks), "bits": bits, "domain": "edgesink"}
    if kind.startswith("IQ4") or kind == "BF16":
        attributes["table"] = 1
    return Packed(tensors, attributes, dequantize(blocks, GGMLQuantizationType[kind]))


def random_blocks(kind: str, rows: int, columns: int, halves: np.ndarray, seed: int = 0) -> np.ndarray:
    """The bytes of a GGUF tensor [rows, bytes of a row] whose codes and factors are any, its halves any of `halves`."""
    size, width, places = TYPES[kind]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (rows, columns // width, size), np.uint8)
    for place in places:
        drawn = random.choice(halves, (rows, columns // width, 1)).astype(np.float16)
        if kind == "BF16":
            drawn = (drawn.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        blocks[..., place : place + 2] = drawn.view(np.uint8)
    return blocks.reshape(rows, -1)


def _half(blocks: np.ndarray, place: int) -> np.ndarray:
    return np.ascontiguousarray(blocks[..., place : place + 2]).view(np.float16)


def _nibbles(x: np.ndarray) -> np.ndarray:
    """Low ones of all bytes, then high ones."""
    return np.concatenate([x & 15, x >> 4], axis=-1)


def _bits(x: np.ndarray) -> np.ndarray:
    """Bit i of four bytes as one number."""
    return np.unpackbits(x, axis=-1, bitorder="little")


def _q4_0(x):
    return 4, _nibbles(x[..., 2:]), {"scale": _half(x, 0)}


def _q4_1(x):
    return 4, _nibbles(x[..., 4:]), {"scale": _half(x, 0), "offset": _half(x, 2)}


def _q5_0(x):
    return 5, _nibbles(x[..., 6:]) | _bits(x[..., 2:6]) << 4, {"scale": _half(x, 0)}


def _q5_1(x):
    codes = _nibbles(x[..., 8:]) | _bits(x[..., 4:8]) << 4
    return 5, codes, {"scale": _half(x, 0), "offset": _half(x, 2)}


def _q8_0(x):
    return 8, x[..., 2:] ^ 128, {"scale": _half(x, 0)}


def _k_fields(x):
    factors = Q4_K.get_scale_min(np.ascontiguousarray(x[..., 4:16]).reshape(-1, 12))
    scale_factors, offset_factors = (y.reshape(*x.shape[:2], 8).astype(np.int8) for y in factors)
    halves = {"scale": _half(x, 0), "offset": -_half(x, 2)}
    return halves | {"factors": scale_factors, "offset_factors": offset_factors}


def _q4_k(x):
    return 4, _nibbles(x[..., 16:].reshape(*x.shape[:2], 4, 32)), _k_fields(x)


def _q5_k(x):
    low = _nibbles(x[..., 48:].reshape(*x.shape[:2], 4, 32)).reshape(*x.shape[:2], 8, 32)
    high = x[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return 5, low | high << 4, _k_fields(x)


def _q6_k(x):
    low = _nibbles(x[..., :128].reshape(*x.shape[:2], 2, 64)).reshape(*x.shape[:2], 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = x[..., 128:192].reshape(*x.shape[:2], 2, 1, 32) >> shifts & 3
    return 6, low | high << 4, {"scale": _half(x, 208), "factors": x[..., 192:208].view(np.int8)}


def _floats(x):
    return 16, x, {}


def _iq4_xs(x):
    high = _half(x, 2).view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([x[..., 4:8] & 15, x[..., 4:8] >> 4], axis=-1).reshape(*x.shape[:2], 8)
    factors = (low | high << 4).astype(np.int8) - np.int8(32)
    return 4, _nibbles(x[..., 8:].reshape(*x.shape[:2], 8, 16)), {"scale": _half(x, 0), "factors": factors}


# type: from blocks [N, blocks of a row, bytes] to bits, codes in the order of their columns, and halves and factors
FIELDS = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "IQ4_NL": _q4_0,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_XS": _iq4_xs,
    "F16": _floats, "BF16": _floats,
}  # fmt: skip
