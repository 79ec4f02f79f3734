"""How meanings are compared with one model: the layer whose value rows are read, their scale, and two thresholds.

Owns the file of it, in the cache, named by the bundle's fingerprint, or in the bundle; and how rows become vectors.
`calibrate` measures what stands in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgesink import strict_json
from edgesink.errors import BadMemory, BadOption
from edgesink.files import atomic_write, place_errors
from edgesink.manifest import CALIBRATION, Manifest, describe_file, replace_manifest
from edgesink.paths import cache_folder

FORMAT = "1"
FULL = 127  # an int8 vector's largest component, by size


@dataclass(frozen=True)
class Numbers:
    """What a calibration says in single numbers."""

    layer: int  # whose value rows are compared
    gate_layer: int  # whose value rows say whether a message asks for something that was told
    asks: float  # least of the gate's first number: not small talk, and no question about the world
    is_question: float  # least of its second: not something that is being told
    least: float  # 0 … 1, least likeness of a passage to a question
    found: float  # share of paraphrased questions whose note came first, on the notes that it was made with
    passed: float  # share of them that both thresholds let through

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            whole = name in ("layer", "gate_layer")
            if type(value) is not int and (whole or type(value) is not float):
                raise ValueError(f"{name} is {value!r}, not a {'whole ' if whole else ''}number")
            if not math.isfinite(value) or (whole and value < 0):
                raise ValueError(f"{name} is {value!r}")


@dataclass(frozen=True, eq=False)
class Calibration:
    """How meanings are compared. d is K D, the width of a value row."""

    name: str  # changes with the vectors that it makes
    numbers: Numbers
    mean: np.ndarray  # float32 [d], of value rows of `layer`
    scale: np.ndarray  # float32 [d], 1 / their standard deviation
    gate_mean: np.ndarray  # float32 [d], of value rows of `gate_layer`
    gate: np.ndarray  # float32 [2, d], directions
    gate_offset: np.ndarray  # float32 [2]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Value rows of `layer` [n, d] as vectors of length 1."""
        return standardised(rows, self.mean, self.scale)

    def packed(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value rows as they are kept, int8 [n, d], and their mean, int8 [d]: directions, of any length."""
        vectors = self.vectors(rows)
        return _eight_bits(vectors), _eight_bits(vectors.mean(axis=0))

    def wants(self, rows: np.ndarray) -> np.ndarray:
        """What the gate says of a message by its value rows of `gate_layer` [n, d]: float32 [2]."""
        return self.gate @ (rows.mean(axis=0) - self.gate_mean) + self.gate_offset

    def surer(self, rows: np.ndarray) -> float:
        """How much surer the gate is than it must be that a message asks for something that was told."""
        return float(self.wants(rows)[0]) - self.numbers.asks

    def lets_through(self, rows: np.ndarray) -> bool:
        """Whether a message asks for something that was told."""
        asks, is_question = self.wants(rows)
        return bool(asks >= self.numbers.asks and is_question >= self.numbers.is_question)


def _eight_bits(vectors: np.ndarray) -> np.ndarray:
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    eight: np.ndarray = np.round(vectors * (FULL / np.maximum(largest, 1e-9))).astype(np.int8)
    return eight


def scale_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and one over the standard deviation, of value rows [n, d]: float32 [d] both."""
    deviation = rows.std(axis=0)
    return rows.mean(axis=0), (1 / np.maximum(deviation, 1e-6 + 1e-3 * deviation.max())).astype(np.float32)


def standardised(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Value rows [n, d] as vectors of length 1, by the mean and the scale [d] of their layer."""
    return normalised((rows - mean) * scale)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Of length 1 along the last axis."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def place_of(manifest: Manifest) -> Path:
    """Where the calibration of a bundle is kept."""
    return cache_folder("memory") / f"{manifest.fingerprint[:32]}.safetensors"


def name_of(manifest: Manifest, digest: str) -> str:
    """The name of a bundle's calibration: `digest` is of its arrays."""
    return f"{manifest.fingerprint[:16]}:{digest}"


ARRAYS = [field.name for field in fields(Calibration) if field.name not in ("name", "numbers")]


def write(calibration: Calibration, path: Path) -> None:
    """Write a calibration, whole or not at all."""
    header = {"edgesink_memory": FORMAT, "name": calibration.name, "numbers": json.dumps(asdict(calibration.numbers))}
    with place_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as aside:
        aside.write_bytes(save({name: np.ascontiguousarray(getattr(calibration, name)) for name in ARRAYS}, header))


def write_into(calibration: Calibration, bundle: Path) -> None:
    """Write that of a bundle into its folder, where its manifest names it. Stopped anywhere, it is one that loads."""
    manifest = Manifest.read(bundle)
    manifest = replace(manifest, files=tuple(file for file in manifest.files if file.path != CALIBRATION))
    replace_manifest(bundle, manifest)
    write(calibration, bundle / CALIBRATION)
    files = (*manifest.files, describe_file(bundle, bundle / CALIBRATION))
    replace_manifest(bundle, replace(manifest, files=files))


def find(manifest: Manifest, bundle: Path | None = None) -> Path | None:
    """The file of a bundle's calibration: that in the cache, else one in its folder; None if there is none yet."""
    if (cached := place_of(manifest)).is_file():
        return cached
    is_named = any(file.path == CALIBRATION for file in manifest.files)
    return bundle / CALIBRATION if bundle is not None and is_named else None


def read(manifest: Manifest, bundle: Path | None = None) -> Calibration | None:
    """That of a bundle, as `find` finds it. BadMemory if it is damaged, or of another version or bundle."""
    path = find(manifest, bundle)
    if path is None:
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if set(header) != {"edgesink_memory", "name", "numbers"} or header["edgesink_memory"] != FORMAT:
                raise ValueError("it is of another version")
            _check_known("tensor", file.keys(), ARRAYS)
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in ARRAYS}
            numbers = _numbers(header["numbers"])
        made = Calibration(header["name"], numbers, **arrays)
        _check(made, manifest)
        return made
    except (SafetensorError, ValueError, TypeError, OverflowError, OSError) as error:
        raise BadMemory(f"{path} cannot be used ({error})", "", "run `edgesink memory calibrate` again") from None


def _check_known(what: str, found: Iterable[str], known: Iterable[str]) -> None:
    """ValueError unless exactly those that are known were found."""
    there, wanted = set(found), set(known)
    if unknown := there - wanted:
        raise ValueError(f"the unknown {what} {min(unknown)[:60]!r}")
    if missing := wanted - there:
        raise ValueError(f"no {what} {min(missing)!r}")


def _numbers(text: str) -> Numbers:
    parsed = strict_json.parse(text)
    if not isinstance(parsed, dict):
        raise ValueError("its numbers are no object")
    _check_known("number", parsed, [field.name for field in fields(Numbers)])
    return Numbers(**parsed)


def _check(made: Calibration, manifest: Manifest) -> None:
    """ValueError unless it is of this bundle, with arrays as wide as the value rows of its layers, and finite."""
    if made.name != name_of(manifest, made.name.partition(":")[2]):
        raise ValueError(f"it is of another bundle: {made.name[:60]!r}")
    d, gate_d = (_width(manifest, name, getattr(made.numbers, name)) for name in ("layer", "gate_layer"))
    shapes = {"mean": (d,), "scale": (d,), "gate_mean": (gate_d,), "gate": (2, gate_d), "gate_offset": (2,)}
    for name, shape in shapes.items():
        if getattr(made, name).shape != shape:
            raise ValueError(f"{name} has shape {getattr(made, name).shape}, not {shape}")
    if not all(np.isfinite(getattr(made, name)).all() for name in ARRAYS):
        raise ValueError("numbers that are not finite")


def _width(manifest: Manifest, field: str, layer: int) -> int:
    """K D of a layer's value rows."""
    try:
        state, _ = manifest.values_of(layer)
    except BadOption:
        raise ValueError(f"{field} {layer} is no layer of the model") from None
    return state.shape[1] * state.shape[3]
