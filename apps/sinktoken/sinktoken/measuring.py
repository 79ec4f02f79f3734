"""What is measured of a trained model, once: perplexity of its exported graph, and where its attention goes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgesink.evaluate.advice import try_sinks
from edgesink.evaluate.scoring import Scorer
from edgesink.export.bundle import export
from edgesink.runtime.tokenizer import Tokenizer
from edgesink.spec import StreamSpec
from sinktoken.looking import Looks, Shares, look

SINKS = (0, 1, 2, 4)
RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """Of one model."""

    perplexity: dict[str, float]  # past the capacity, by number of sinks
    tokens: int  # scored for each of them
    looks: Looks

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Result:
        """What `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        layers = [Shares(**layer) for layer in data["looks"]["layers"]]
        return cls(data["perplexity"], data["tokens"], Looks(layers, data["looks"]["hidden"]))


def measure(folder: Path, text: Path, capacity: int, tokens: int, threads: int) -> Result:
    """The result of the model in `folder`, measured once and kept there.

    Args:
        text: the held-out one.
        capacity: tokens that a token of the stream sees, as many as in training.
        tokens: read of the text, far more than the capacity.
        threads: of ONNX Runtime.
    """
    if (folder / RESULT).is_file():
        return Result.read(folder / RESULT)
    perplexity, scored = perplexities(folder, text, capacity, tokens, threads)
    result = Result(perplexity, scored, look(folder, text, capacity))
    result.save(folder / RESULT)
    return result


def perplexities(folder: Path, text: Path, capacity: int, tokens: int, threads: int) -> tuple[dict[str, float], int]:
    """Perplexity past the capacity by number of sinks, and the tokens scored; the graph is exported in float32."""
    most = max(SINKS)
    bundle = folder / "bundle"
    manifest = export(folder, bundle, "onnx", StreamSpec.fitted(most, capacity - most, 2 * most, 32), "fp32")
    ids = Tokenizer.of_bundle(bundle).encode(text.read_text(encoding="utf-8"))
    trials = try_sinks(Scorer(bundle, threads), np.array([*manifest.first_ids, *ids[:tokens]]), SINKS)
    return {str(trial.sinks): trial.perplexity for trial in trials}, trials[0].tokens
