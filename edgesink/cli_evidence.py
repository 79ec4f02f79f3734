"""The commands that check the claim: `eval ppl`, `eval recall`, `eval latency`, `eval endurance`, `attn`, `verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesink.errors import BadOption
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import DEFAULT_SINKS, DEFAULT_WINDOW, POSITIONS, Device, Positions, Precision, StreamSpec

if TYPE_CHECKING:
    from edgesink.perplexity import Curve, Sampling

eval_app = typer.Typer(help="Measure what sinks do for a model, on your text.", no_args_is_help=True)


Model = Annotated[str, typer.Argument(help="A bundle folder, or a model: alias, hub id, folder, .gguf file.")]
Texts = Annotated[list[Path], typer.Option("--text", help="A text file; may be given again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plot = Annotated[Path | None, typer.Option(help="Draw to this PNG file.")]
Threads = Annotated[int | None, typer.Option(help="Threads for matrix products; default every core.")]
Window = Annotated[int, typer.Option(help="Most recent tokens that are seen beside 4 sinks; of a model.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Of the weights; of a model.")]
DeviceOption = Annotated[Device, typer.Option(help="Where the models run.")]


@eval_app.command()
def ppl(
    model: Model = DEFAULT_MODEL,
    text: Texts = [],  # noqa: B006 - typer copies it
    modes: Annotated[str, typer.Option(help="Of dense, window, sinks, recompute.")] = "window,sinks",
    sinks: Annotated[str, typer.Option(help="Numbers of pinned first tokens; 0 is the mode window.")] = "4",
    positions: Annotated[str, typer.Option(help="Of cache, original; original needs a model.")] = "cache",
    window: Window = DEFAULT_WINDOW,
    precision: PrecisionOption = "int4",
    tokens: Annotated[int | None, typer.Option(help="Read this many, again from the start if need be.")] = None,
    skip: Annotated[int, typer.Option(min=0, help="Leave out so many tokens after the sinks.")] = 0,
    every: Annotated[int | None, typer.Option(help="Tokens a row of the curve; default a fiftieth.")] = None,
    stride: Annotated[int, typer.Option(help="recompute scores the last --run of so many tokens.")] = 100,
    run: Annotated[int, typer.Option(help="Tokens that share a recomputed window, which then is longer.")] = 1,
    dense_limit: Annotated[int, typer.Option(help="dense stops here: its memory grows.")] = 16384,
    progress: Annotated[Path | None, typer.Option(help="Keep the state here; go on from it if it exists.")] = None,
    plot: Plot = None,
    threads: Threads = None,
    device: DeviceOption = "cpu",
    as_json: Json = False,
) -> None:
    """Perplexity of a text longer than the memory: dense, window, sinks and recomputation side by side."""
    from edgesink.held_model import held_model
    from edgesink.manifest import Manifest
    from edgesink.perplexity import Sampling
    from edgesink.perplexity_run import Measurement, plan
    from edgesink.progress import Progress
    from edgesink.runtime.tokenizer import Tokenizer
    from edgesink.texts import Text

    planned = plan(words(modes), numbers(sinks), words(positions))
    bundles = {place: bundle_of(model, place, window, precision) for place in sorted({p.positions for p in planned})}
    first = next(iter(bundles.values()))
    if any(one.mode == "recompute" for one in planned):
        bundles["recompute"] = first if run == 1 else longer_bundle(model, window + run - 1, precision)
    manifest = Manifest.read(first)
    source = Text(some(text), Tokenizer.of_bundle(first), manifest.bos_id, skip, keep=max(numbers(sinks)))
    total = tokens or source.count()
    measurement = Measurement(
        bundles=bundles,
        text=source,
        sampling=Sampling(total, stride, manifest.stream.capacity, run),
        every=every or max(1, total // 50),
        dense_limit=dense_limit,
        dense_model=lambda: held_model(checkpoint_of(model), manifest.precision, device),
        threads=threads,
        provider=device,
    )
    identity = {
        "bundles": {place: Manifest.read(bundle).fingerprint for place, bundle in sorted(bundles.items())},
        "texts": [file.name for file in source.files], "tokens": total, "every": measurement.every, "stride": stride,
        "run": run, "skip": skip,
    }  # fmt: skip
    kept = Progress(progress, identity)
    with Bar() as bar:
        found = measurement.run(planned, kept, lambda curve: bar.show(curve.label, curve.position, total))
    _show_perplexity(found, measurement.sampling, plot, as_json)


def _show_perplexity(found: list[Curve], sampling: Sampling, plot: Path | None, as_json: bool) -> None:
    from edgesink.perplexity_table import as_data, as_table, draw

    if plot:
        draw(plot, found, sampling.capacity)
    print(json.dumps(as_data(found, sampling), indent=2) if as_json else as_table(found, sampling))


def bundle_of(model: str, positions: str, window: int, precision: Precision) -> Path:
    """The bundle itself, or one made of the model with these options."""
    from edgesink.bundles import find_bundle
    from edgesink.manifest import MANIFEST, Manifest

    if positions not in POSITIONS:
        raise BadOption(f"positions {positions!r}", " or ".join(POSITIONS))
    if (Path(model) / MANIFEST).is_file():
        own = Manifest.read(Path(model)).stream.positions
        if positions != own:
            raise BadOption(f"positions {positions!r} of a bundle made with {own}", "", "name the model, not a bundle")
        return Path(model)
    place: Positions = "original" if positions == "original" else "cache"
    return find_bundle(model, StreamSpec.fitted(DEFAULT_SINKS, window, positions=place), precision)


def longer_bundle(model: str, window: int, precision: Precision) -> Path:
    """One made of the model with a longer window than was asked for; a bundle cannot be made longer."""
    from edgesink.manifest import MANIFEST

    if (Path(model) / MANIFEST).is_file():
        raise BadOption("--run with a bundle", "--run 1: its window is what it is", "name the model, not a bundle")
    return bundle_of(model, "cache", window, precision)


def checkpoint_of(model: str) -> Path:
    from edgesink.export.source import find_checkpoint

    return find_checkpoint(model)


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise BadOption(f"{text!r}", "whole numbers with commas between, as 0,4") from None


def some(texts: list[Path]) -> list[Path]:
    if not texts:
        raise BadOption("no text", "--text FILE")
    return texts


def say(text: str) -> None:
    """To a person, beside the result."""
    print(text, file=sys.stderr, flush=True)


class Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="tok", disable=None, leave=False, file=sys.stderr)
        self._name = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def show(self, name: str, done: int, total: int) -> None:
        """`done` of `total`."""
        if self._name != name:
            self._name = name
            self._bar.reset(total)
            self._bar.set_description(name)
        self._bar.update(done - self._bar.n)
