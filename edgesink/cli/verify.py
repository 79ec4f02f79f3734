"""The command `verify`: the logits of a bundle compared with the PyTorch reference, stage by stage."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
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
from edgesink.spec import ComputeUnits, StreamSpec, TorchType
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
    dtype: Annotated[
        TorchType | None,
        typer.Option(
            help="Also run the exported decoder in PyTorch in this float type. Default: float32 on cuda, none on cpu."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the logits of a bundle with the PyTorch reference.

    BUNDLE may also be a model: a test export of it is then compared. The comparison runs until the ring has wrapped
    several times. An ONNX bundle runs with ONNX Runtime's own operators and then with edgesink's C kernels where they
    are available. A Core ML bundle is computed by an independent evaluator, and on a Mac then by Core ML as well.
    """
    from edgesink.runtime.tokenizer import Tokenizer
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
        reports = verify_bundle(folder_of_bundle, checkpoint, device, tokens, sinks, show, compute_units, dtype)
        tokenizer = Tokenizer.of_bundle(folder_of_bundle)
        texts = [tuple(map(tokenizer.decode, report.greedy)) for report in reports]
    tables = list(map(_table, reports, texts))
    print(json.dumps(_all_data(reports, texts), indent=2) if as_json else "\n\n".join(tables))
    if failures := [f"{report.runner}: {failure}" for report in reports for failure in report.failures]:
        raise NotFaithful(
            "; ".join(failures),
            "the oracle's logits",
            "export the model again; if the difference remains, report it as a bug",
        )


def _table(report: Report, texts: Sequence[str]) -> str:
    """A report for people; `texts` are the greedy continuations of the reference and of the bundle."""
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
        *([f"FAILED: {failure}" for failure in report.failures] or ["passed"]),
    ]
    return "\n".join(lines)


def _all_data(reports: Sequence[Report], texts: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The target's own report, and those of other runners in it by their kind: "kernels", "core_ml"."""
    first, *others = map(_data, reports, texts)
    return {**first, **{report.kind: data for report, data in zip(reports[1:], others, strict=True)}}


def _data(report: Report, texts: Sequence[str]) -> dict[str, Any]:
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
