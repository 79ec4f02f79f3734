"""How far an artefact may be from the oracle: one table, a reason a row.

The oracle has the bundle's own weights, so what is left is arithmetic: the order of sums, half precision, activations
rounded to 8 bits. A fault of the ring (a slot, a phase, a mask) is far larger than the single-precision row, and a
small one can hide below the rows for quantised weights: verify an fp32 export of the same model too.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgesink.manifest import Manifest
from edgesink.spec import TorchType
from edgesink.targets import ROWS


@dataclass(frozen=True)
class Tolerance:
    """Limits over all tokens that were compared."""

    max_abs: float  # of a logit
    mean_kl: float  # nats, of the artefact's next-token distribution from the oracle's
    argmax: float  # least share of tokens with the same argmax
    reason: str


TABLE: dict[tuple[str, bool], Tolerance] = {  # (arithmetic, with sinks)
    ("single", True): Tolerance(
        2e-3, 1e-6, 0.99, "float32 both: only the order of sums differs; 1e-4 measured on SmolLM2-135M"
    ),
    ("single", False): Tolerance(
        5e-2, 1e-4, 0.98, "without sinks a trained model is ill-conditioned: the oracle itself moves by 1e-3 in float64"
    ),
    ("half", True): Tolerance(1.0, 1e-2, 0.95, "float16 state and activations, rounded after every operation"),
    ("half", False): Tolerance(3.0, 1e-1, 0.85, "as above, and ill-conditioned without sinks"),
    ("bfloat16", True): Tolerance(6.0, 5e-2, 0.85, "bfloat16 state and activations: 8 bits of a number are kept"),
    ("bfloat16", False): Tolerance(9.0, 3e-1, 0.7, "as above, and ill-conditioned without sinks"),
    ("int8 activations", True): Tolerance(
        4.0, 3e-2, 0.85, "MatMulNBits rounds activations to 8 bits by block: a KL of about 0.005 that is no fault"
    ),
    ("int8 activations", False): Tolerance(8.0, 2e-1, 0.7, "as above, and ill-conditioned without sinks"),
    ("kernels", True): Tolerance(
        0.2,
        1e-4,
        0.98,
        "activations rounded to 15 bits, scales and state to float16; 0.06 and a KL of 4e-7 measured on "
        "SmolLM2-135M, a KL of 1e-5 on random weights",
    ),
    ("kernels", False): Tolerance(1.0, 1e-3, 0.95, "as above, and ill-conditioned without sinks"),
}


def arithmetic(manifest: Manifest, device: str) -> str:
    """What the artefact computes in: the first half of a key of the table."""
    if manifest.state_dtype == "float16" or (device == "cuda" and manifest.precision != "fp32"):
        return "half"
    return "int8 activations" if manifest.precision in ROWS[manifest.target].rounds_activations else "single"


def tolerance(manifest: Manifest, device: str, sinks: int, kernels: bool = False) -> Tolerance:
    """The row for this bundle, run on `device` or by our kernels with so many sinks."""
    return TABLE["kernels" if kernels else arithmetic(manifest, device), sinks > 0]


def torch_tolerance(dtype: TorchType, sinks: int) -> Tolerance:
    """The row for the decoder in PyTorch."""
    arithmetic: dict[TorchType, str] = {"float32": "single", "bfloat16": "bfloat16", "float16": "half"}
    return TABLE[arithmetic[dtype], sinks > 0]
