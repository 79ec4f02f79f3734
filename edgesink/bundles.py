"""From what a user names to a bundle on disk: a bundle as it is, a model exported once and kept in the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgesink.callbacks import Say, Talk, silent
from edgesink.errors import BadBundle, BadOption, EdgesinkError
from edgesink.manifest import Manifest
from edgesink.model_name import ModelName, understand
from edgesink.paths import cache_folder
from edgesink.spec import DEFAULT_SINKS, StreamSpec
from edgesink.targets import POSITIONS, Positions, Precision
from edgesink.version import __version__

CACHED_PRECISION: Precision = "int4"
SILENT = Talk()


def find_bundle(
    model: str, stream: StreamSpec | None = None, precision: Precision | None = None, talk: Talk = SILENT
) -> Path:
    """The bundle folder for whatever a user names (`model_name.understand`).

    A model is exported for onnx with the default window the first time it is asked for, and found again later; so it
    is for any other `stream` and `precision`. A bundle has its own. What another version of edgesink left in the cache
    is made again, if it can be.
    """
    named = understand(model)
    if named.kind == "bundle":
        assert named.path is not None
        return named.path
    stream, precision = stream or StreamSpec(), precision or CACHED_PRECISION
    goal = cache_folder("bundles") / f"{_cache_name(named)}-onnx-{precision}{_stream_name(stream)}"
    maker = _maker(goal)
    if maker != __version__:
        try:
            _export(model, goal, stream, precision, talk)
        except EdgesinkError as error:
            if maker is None:
                raise
            talk.say(f"{goal} is of edgesink {maker}, taken as it is ({error})")
    return goal


def bundle_of(model: str, positions: str, window: int, precision: Precision, talk: Talk = SILENT) -> Path:
    """The bundle itself, or one made of the model with these options."""
    if positions not in POSITIONS:
        raise BadOption(f"positions {positions!r}", " or ".join(POSITIONS))
    named = understand(model)
    if named.kind == "bundle":
        assert named.path is not None
        own = Manifest.read(named.path).stream.positions
        if positions != own:
            raise BadOption(f"positions {positions!r} of a bundle made with {own}", "", "name the model, not a bundle")
        return named.path
    place: Positions = "original" if positions == "original" else "cache"
    return find_bundle(model, StreamSpec.fitted(DEFAULT_SINKS, window, positions=place), precision, talk)


def longer_bundle(model: str, window: int, precision: Precision, talk: Talk = SILENT) -> Path:
    """One made of the model with a longer window than was asked for; a bundle cannot be made longer."""
    if understand(model).kind == "bundle":
        raise BadOption("--run with a bundle", "--run 1: its window is what it is", "name the model, not a bundle")
    return bundle_of(model, "cache", window, precision, talk)


def checkpoint_of(model: str, say: Say = silent) -> Path:
    """The checkpoint that a user names, downloaded if it must be."""
    from edgesink.export.source import find_checkpoint

    return find_checkpoint(model, say)


def _export(name: str, goal: Path, stream: StreamSpec, precision: Precision, talk: Talk) -> None:
    from edgesink.export.bundle import export

    checkpoint = checkpoint_of(name, talk.say)
    talk.say(f"exporting {name} once, to {goal}")
    manifest = export(checkpoint, goal, "onnx", stream, precision, talk.on_progress, say=talk.say)
    if "rounded" in manifest.weights:  # what a file holds in bits of its own, and the bundle does not
        talk.say(f"weights: {manifest.weights}")
    for note in manifest.chat_notes:
        talk.say(f"chat: {note}")


def _maker(bundle: Path) -> str | None:
    """The version of edgesink that made a bundle; None if there is none that can be read."""
    try:
        return Manifest.read(bundle).tools.get("edgesink", "an unknown version")
    except BadBundle:
        return None


def _cache_name(named: ModelName) -> str:
    """A folder name that changes when any file of a local checkpoint does."""
    if named.path is None:
        return named.text.replace("/", "--")
    inside = named.path.rglob("*") if named.path.is_dir() else [named.path]
    files = sorted(path for path in inside if path.is_file())
    stamp = "".join(f"{file.resolve()}{file.stat().st_size}{file.stat().st_mtime_ns}" for file in files)
    return f"{named.short}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"


def _stream_name(stream: StreamSpec) -> str:
    """Nothing for the default stream."""
    if stream == StreamSpec():
        return ""
    return f"-{stream.sinks}-{stream.window}-{stream.max_sinks}-{stream.chunk}-{stream.positions}"
