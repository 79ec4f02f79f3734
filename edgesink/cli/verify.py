"""The command `verify`: the logits of a bundle compared with the PyTorch reference, stage by stage."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesink.bundles import checkpoint_of
from edgesink.cli.options import CHECKPOINT, DeviceOption, Json
from edgesink.cli.output import Bar, say
from edgesink.errors import NotFaithful
from edgesink.model_name import understand
from edgesink.models import DEFAULT_MODEL
from edgesink.spec import ComputeUnits, StreamSpec
from edgesink.targets import Precision, Target

if TYPE_CHECKING:
    from edgesink.verify.compare import Report


def verify(
    bundle: Annotated[
        str,
        typer.Argument(help=f"A bundle folder, or a model to make a test export of: {CHECKPOINT}."),
    ] = DEFAULT_MODEL,
    model: Annotated[
        str, typer.Option(help="If BUNDLE is a bundle: the model that it was exported from.")
    ] = DEFAULT_MODEL,
    device: DeviceOption = "cpu",
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Number of tokens to compare. Default: two laps of the ring for a bundle, six for a test export."
        ),
    ] = None,
    sinks: Annotated[int | None, typer.Option(help="Number of attention sinks. Default: the bundle's.")] = None,
    target: Annotated[Target, typer.Option(help="If BUNDLE is a model: format of the test export.")] = "onnx",
    precision: Annotated[
        Precision, typer.Option(help="If BUNDLE is a model: weight precision of the test export.")
    ] = "fp32",
    window: Annotated[
        int,
        typer.Option(
            help="If BUNDLE is a model: sliding window of the test export, small so that the ring wraps often."
        ),
    ] = 60,
    compute_units: Annotated[
        ComputeUnits, typer.Option(help="Core ML on a Mac only: the processors that run it.")
    ] = "cpu_and_gpu",
    as_json: Json = False,
) -> None:
    """Compare the logits of a bundle with the PyTorch reference.

    BUNDLE may also be a model: a test export of it is then compared. The comparison runs until the ring has wrapped
    several times. An ONNX bundle runs with ONNX Runtime's own operators and then with edgesink's C kernels where they
    are available. A Core ML bundle is computed by an independent evaluator, and on a Mac then by Core ML as well.
    """
    from edgesink.manifest import Manifest
    from edgesink.verify import runners
    from edgesink.verify.bundle import verify_bundle

    with tempfile.TemporaryDirectory() as folder, Bar() as bar:
        folder_of_bundle = Path(bundle)
        is_bundle = understand(bundle).kind == "bundle"
        checkpoint = checkpoint_of(model if is_bundle else bundle, say)
        if not is_bundle:
            from edgesink.export.bundle import export

            folder_of_bundle = Path(folder) / "bundle"
            stream = StreamSpec.fitted(window=window, target=target)
            export(checkpoint, folder_of_bundle, target, stream, precision)
            tokens = tokens or 6 * stream.rows
        show = partial(bar.show, "verify")
        report = verify_bundle(folder_of_bundle, checkpoint, device, tokens, sinks, show)
        texts = _texts(folder_of_bundle, report)
        data, table = _data(report, texts), _table(report, texts)
        manifest = Manifest.read(folder_of_bundle)
        if device == "cpu" and runners.runs_kernels(folder_of_bundle, manifest) and not report.failures:
            show = partial(bar.show, "kernels")
            report = verify_bundle(folder_of_bundle, checkpoint, device, tokens, sinks, show, kernels=True)
            texts = _texts(folder_of_bundle, report)
            data["kernels"], table = _data(report, texts), f"{table}\n\n{_table(report, texts)}"
        on_a_mac = manifest.target == "coreml" and runners.runs_core_ml()
        if on_a_mac and not report.failures:
            open_core_ml = partial(runners.CoreMlRunner, units=compute_units)
            show = partial(bar.show, "Core ML")
            report = verify_bundle(folder_of_bundle, checkpoint, device, tokens, sinks, show, open_core_ml)
            texts = _texts(folder_of_bundle, report)
            data["core_ml"], table = _data(report, texts), f"{table}\n\n{_table(report, texts)}"
    print(json.dumps(data, indent=2) if as_json else table)
    if report.failures:
        raise NotFaithful(
            "; ".join(report.failures),
            "the oracle's logits",
            "export the model again; if the difference remains, report it as a bug",
        )


def _texts(bundle: Path, report: Report) -> tuple[str, str]:
    """The greedy continuations of the reference and of the bundle."""
    from edgesink.runtime.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bundle(bundle)
    right, ours = report.greedy
    return tokenizer.decode(right), tokenizer.decode(ours)


def _table(report: Report, texts: tuple[str, str]) -> str:
    limit = report.tolerance
    lines = [
        f"{report.runner}, {report.sinks} sinks, {report.tokens} tokens, {report.laps:.1f} times round the ring",
        f"{'stage':<16}{'compared':>9}{'max |Δ|':>11}{'mean |Δ|':>11}{'mean KL':>11}{'argmax':>9}",
    ]
    for name, stage in [*report.stages.items(), ("all", report.whole)]:
        if stage.compared:
            mean, kl, same = (x / stage.compared for x in (stage.sum_abs, stage.sum_kl, stage.agreed))
            lines.append(f"{name:<16}{stage.compared:>9}{stage.max_abs:>11.1e}{mean:>11.1e}{kl:>11.1e}{same:>9.1%}")
    lines += [
        f"{'allowed':<16}{'':>9}{limit.max_abs:>11.1e}{'':>11}{limit.mean_kl:>11.1e}{limit.argmax:>9.1%}",
        f"({limit.reason})",
        f"oracle   {texts[0]!r}",
        f"artefact {texts[1]!r}",
        "FAILED" if report.failures else "passed",
    ]
    return "\n".join(lines)


def _data(report: Report, texts: tuple[str, str]) -> dict[str, Any]:
    return {
        "parity": dataclasses.asdict(report.parity()),
        "sinks": report.sinks,
        "laps": report.laps,
        "stages": {name: dataclasses.asdict(stage) for name, stage in report.stages.items()},
        "allowed": dataclasses.asdict(report.tolerance),
        "failures": report.failures,
        "oracle_text": texts[0],
        "artefact_text": texts[1],
    }
