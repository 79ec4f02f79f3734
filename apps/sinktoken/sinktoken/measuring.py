"""What a trained model does: perplexity of its exported graph by number of sinks, and where its attention goes.

Owns the two measurements. The graph is the one that `edgesink export` writes, float32, with the capacity that the
model was trained with; the text is the held-out one, read far past the capacity.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from edgesink.evaluate.advice import try_sinks
from edgesink.evaluate.attention_maps import average_maps
from edgesink.evaluate.checkpoint_text import pieces_of
from edgesink.evaluate.scoring import Scorer
from edgesink.export.bundle import export
from edgesink.export.checkpoint import open_checkpoint
from edgesink.off_by_one import NAME as OFF_BY_ONE
from edgesink.reference import load_model
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.spec import StreamSpec

SINKS = (0, 1, 2, 4)
FIRST_QUERY = 16  # as in `attention`
MAP_LENGTH = 64  # tokens of a piece that attention is averaged over
MAP_PIECES = 256
RESULT = "result.json"


@dataclass(frozen=True)
class Shares:
    """Shares of attention (0 to 1) of later queries in one layer, means over heads."""

    first: float  # on the first token
    largest: float  # on the first token, by the head that gives it the most
    own: float  # on the query's own token
    previous: float  # on the one before
    nothing: float  # on the row of zeros, which only a softmax off by one has


@dataclass(frozen=True)
class Result:
    """What was measured of one model."""

    perplexity: dict[str, float]  # past the capacity, by number of sinks
    tokens: int  # scored for each of them
    layers: list[Shares]

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Result:
        """What `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(data["perplexity"], data["tokens"], [Shares(**layer) for layer in data["layers"]])


def measure(folder: Path, text: Path, capacity: int, tokens: int, threads: int) -> Result:
    """The result of the model in `folder`, measured once and kept there."""
    if (folder / RESULT).is_file():
        return Result.read(folder / RESULT)
    trials = perplexities(folder, text, capacity, tokens, threads)
    result = Result(
        {str(sinks): value for sinks, (value, _) in trials.items()},
        trials[0][1],
        layer_shares(attention_maps(folder, text)),
    )
    result.save(folder / RESULT)
    return result


def perplexities(folder: Path, text: Path, capacity: int, tokens: int, threads: int) -> dict[int, tuple[float, int]]:
    """Sinks -> perplexity past the capacity, and the tokens scored; every stream sees `capacity` tokens."""
    most = max(SINKS)
    bundle = folder / "bundle"
    manifest = export(folder, bundle, "onnx", StreamSpec(most, capacity - most, 2 * most, 32), "fp32")
    ids = Tokenizer.of_bundle(bundle).encode(text.read_text(encoding="utf-8"))
    read = np.array([*manifest.prefix, *ids[: tokens + capacity]])
    trials = try_sinks(Scorer(bundle, threads), read, SINKS)
    return {trial.sinks: (trial.perplexity, trial.tokens) for trial in trials}


def attention_maps(folder: Path, text: Path) -> np.ndarray:
    """Attention averaged over pieces of the text: float64 [L, H, n, n], rows are queries."""
    model = load_model(folder)
    if not open_checkpoint(folder).model.off_by_one:
        model.set_attn_implementation("eager")  # others do not tell their weights
    assert model.config._attn_implementation in ("eager", OFF_BY_ONE)
    return average_maps(model, islice(pieces_of(folder, [text], MAP_LENGTH), MAP_PIECES))


def layer_shares(maps: np.ndarray) -> list[Shares]:
    """Where the attention of each layer goes; `maps` as `attention_maps` gives them."""
    return [_shares(layer) for layer in maps]


def _shares(heads: np.ndarray) -> Shares:
    """Of one layer [H, n, n]."""
    first = heads[:, FIRST_QUERY:, 0].mean(1)  # [H]
    return Shares(
        first=float(first.mean()),
        largest=float(first.max()),
        own=float(heads.diagonal(0, 1, 2)[:, FIRST_QUERY:].mean()),
        previous=float(heads.diagonal(-1, 1, 2)[:, FIRST_QUERY - 1 :].mean()),
        nothing=float(1 - heads[:, FIRST_QUERY:].sum(-1).mean()),
    )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds; 0 for a single one."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
