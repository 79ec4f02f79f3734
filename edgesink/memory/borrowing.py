"""A calibration that was measured with one bundle, for another of the same model.

Owns what must be the same of both, and how near their value rows must be. A phone's bundle cannot be fed hundreds of
messages on the machine that makes it: what a calibration says of the model holds of it too, if its rows are alike.
Runs nothing: rows are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from edgesink.errors import BadOption
from edgesink.manifest import TOKENIZER, Manifest
from edgesink.memory.calibration import Calibration, name_of, scale_of, standardised
from edgesink.memory.sample_talk import notes
from edgesink.runtime.tokenizer import Tokenizer

PROBE = 64  # tokens whose rows are compared at most
LEAST = 0.5  # mean cosine of their rows: other bits of the same weights give 0.7 and more, other weights about 0
EXPORT_AGAIN = "export both from one checkpoint with one version of edgesink"

_SAME: dict[str, Callable[[Manifest], object]] = {
    "another architecture": lambda manifest: manifest.architecture,
    "another vocabulary": lambda manifest: manifest.vocab,
    "another tokenizer": lambda manifest: [file.sha256 for file in manifest.files if file.path == TOKENIZER],
    "another way to write turns": lambda manifest: manifest.turns,
    "other first tokens": lambda manifest: manifest.first_ids,
}


def check_same_model(measured: Manifest, other: Manifest) -> None:
    """BadOption unless what two bundles say of their model is the same, their names aside, which are for people; or if
    the other does not say where its layers' values are."""
    for what, of in _SAME.items():
        if of(measured) != of(other):
            raise BadOption(
                f"a bundle for {other.target} of {other.name} with {what} than {measured.name}",
                "a bundle of the same model", EXPORT_AGAIN,
            )  # fmt: skip
    try:
        other.values_of(0)
    except BadOption:
        raise BadOption(
            f"{other.name} for {other.target} has {len(other.states)} states, and its manifest does not say which "
            "layers are in which",
            "one that does",
            "export it again",
        ) from None


def probe_ids(tokenizer: Tokenizer, measured: Manifest, other: Manifest) -> np.ndarray:
    """What both bundles are fed: int64 [n], with the ids in front that every stream of the model begins with, and no
    more than every layer of both sees."""
    text = " ".join(note.text for note in notes("calibrate")[:8])  # far more than is taken of it
    most = min(PROBE, *(view.capacity for view in (*measured.views, *other.views)))
    return np.array([*measured.prefix, *tokenizer.encode(text)][:most], np.int64)


def borrowed(
    made: Calibration, other: Manifest, mine: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]
) -> tuple[Calibration, float]:
    """The calibration as that of another bundle of the model, and how alike their rows are: -1 … 1.

    Args:
        made: measured with the one bundle.
        other: of the other.
        mine: for both layers of the calibration, the value rows [n, d] of `probe_ids` in the bundle it is of.
        theirs: likewise, in the other.
    Raises:
        BadOption: they are so unlike that the bundles have other weights.
    """
    likeness = min(alike(mine[layer], theirs[layer]) for layer in layers_of(made))
    if not likeness >= LEAST:
        raise BadOption(
            f"the values of {other.name} for {other.target} are like those of the model by {likeness:.2f} "
            "(the mean cosine of their rows)",
            f"{LEAST} or more, as other bits of the same weights have it",
            EXPORT_AGAIN,
        )
    return replace(made, name=name_of(other, made.name.partition(":")[2])), likeness


def layers_of(made: Calibration) -> tuple[int, int]:
    """That a calibration reads: the one whose rows are compared, and the gate's."""
    return made.numbers.layer, made.numbers.gate_layer


def alike(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Mean cosine of the rows [n, d] of the same tokens, by the mean and the deviation of `mine`; the first one aside,
    which looks at itself alone and is like no other."""
    mean, scale = scale_of(mine[1:])
    one, two = (standardised(rows[1:], mean, scale) for rows in (mine, theirs))
    return float((one * two).sum(axis=1).mean())
