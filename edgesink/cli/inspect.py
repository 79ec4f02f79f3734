"""The commands `inspect` and `models`: what a bundle is, and which models have a short name."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from edgesink.cli.options import Json
from edgesink.cli.output import megabytes, print_json
from edgesink.manifest import Manifest
from edgesink.models import DEFAULT_MODEL, MODELS, Alias
from edgesink.sampling_defaults import CHAT_SAMPLING
from edgesink.targets import lacks


def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder, as written by `edgesink export`.")],
    as_json: Json = False,
) -> None:
    """Show the model, size, window and parity of a bundle."""
    manifest = Manifest.read(bundle)
    manifest.check_files(bundle)
    if as_json:
        derived = {"state_bytes": manifest.state_bytes, "weight_bytes": manifest.weight_bytes}
        if manifest.has_kernels:
            derived["kernels_state_bytes"] = manifest.kernels_state_bytes
        print_json({**json.loads(manifest.to_json()), **derived})
        return
    stream = manifest.stream
    print(f"{manifest.name}, {manifest.family}, for {manifest.target}")
    if manifest.parts > 1:
        print(f"cut into  {manifest.parts} packages, run one behind the other")
    print(f"weights   {megabytes(manifest.weight_bytes)}: {manifest.weights}")
    if manifest.step_weight_bytes is not None:
        print(f"a step    reads {megabytes(manifest.step_weight_bytes)} of them")
    print(f"state     {megabytes(manifest.state_bytes)}, from the first token to the last")
    if manifest.target == "onnx":
        print(f"kernels   {_kernels(manifest)}")
        print(f"drafts    {_drafts(manifest)}")
    print(f"remembers {stream.capacity} tokens: {stream.sinks} first ones and the last {stream.window}")
    if manifest.sink_token_id is not None:
        print(f"begins    with token {manifest.sink_token_id}, the model's own sink token, whatever it is fed")
    for view in manifest.views:
        if not view.sinks:
            print(f"and       in some layers the last {view.capacity} alone, as the model was trained")
    print(f"sinks     0 to {stream.max_sinks}, chosen when a stream starts; positions as in the {stream.positions}")
    print(f"feeds     up to {stream.chunk} tokens at once")
    print(f"sampling  {_sampling(manifest)}")
    for note in manifest.chat_notes:
        print(f"chat      {note}")
    parity = manifest.parity
    print(
        f"parity    max |Δlogit| {parity.max_abs_diff:.1e} over {parity.tokens} tokens, {parity.runner}, {parity.date}"
        if parity
        else "parity    not verified; run `edgesink verify`"
    )


def _kernels(manifest: Manifest) -> str:
    """Which C kernels run the bundle here, or why none do."""
    from edgesink.runtime.kernels import available_kernels

    if not manifest.has_kernels:
        reasons = ", ".join(lacks(manifest.target, manifest.precision, manifest.architecture))
        return f"none{f': {reasons}' if reasons else ''}; runs on ONNX Runtime's own operators"
    here = next(iter(available_kernels()), "none on this machine")
    wide = len(manifest.float32_in_kernels or ())
    keys = f", keys of {wide} layers in float32" if wide else ""
    return f"{here}; with them {megabytes(manifest.kernels_state_bytes)} of state{keys}"


def _sampling(manifest: Manifest) -> str:
    """What `chat` and `generate` take where their options say nothing."""
    own = manifest.sampling
    if own is None:
        return f"the model's makers recommend none; chat: {CHAT_SAMPLING.words}; generate: the most likely token"
    return f"{own.words} ({own.source})"


def _drafts(manifest: Manifest) -> str:
    """How many tokens a pass may choose, or why only one."""
    if manifest.logit_rows is not None:
        return f"up to {manifest.logit_rows} tokens a pass, where a text repeats itself"
    if manifest.stream.chunk == 1:
        return "none: it feeds one token at once"
    return "none: exported before a pass gave more than one row of logits; export the model again"


def models(
    families: Annotated[
        bool, typer.Option("--families", help="List the families of models, with what was verified of each instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models that have a short name, with their hub ids."""
    if families:
        _list_families(as_json)
    elif as_json:
        print_json({name: _as_data(alias) for name, alias in MODELS.items()})
    else:
        for name, alias in MODELS.items():
            notes = [alias.licence, *(["gated"] if alias.gated else [])]
            notes += ["default"] if name == DEFAULT_MODEL else []
            print(f"{name:<15}{alias.parameters:>5}  {alias.family:<12}{alias.hub_id}  ({', '.join(notes)})")


def _list_families(as_json: bool) -> None:
    """What `tests/make_families_table.py` found: docs/families.md says what the numbers are."""
    verified = json.loads((resources.files("edgesink") / "verified.json").read_text(encoding="utf-8"))
    if as_json:
        print_json(verified)
        return
    targets = list(next(iter(verified.values())))
    print("largest difference of a logit from the reference, as a share of the logits' standard deviation")
    print(f"{'family':<14}" + "".join(f"{target:>10}" for target in targets))
    for family, cells in verified.items():
        print(f"{family:<14}" + "".join(f"{cells[target]:>10}" for target in targets))


def _as_data(alias: Alias) -> dict[str, object]:
    fields = ("hub_id", "parameters", "family", "licence", "gated")
    return {field: getattr(alias, field) for field in fields}
