"""The pinned rows of a running stream: read, replaced by those of other first tokens, and put back.

Owns which rows they are: 0 … sinks-1 of every state whose view has sinks. Layers with a window of their own pin nothing
and are left alone. Nothing is rotated or recomputed: a pinned key lies as it was when its stream began, so the rows of
two streams of one bundle with the same number of sinks may change places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgesink.errors import BROKEN, BadNumbers, BadOption
from edgesink.manifest import Manifest
from edgesink.runtime.backends import Backend


@dataclass(frozen=True, eq=False)
class PinnedRows:
    """Keys and values of a stream's pinned tokens."""

    fingerprint: str  # of the bundle
    sinks: int
    rows: dict[str, np.ndarray]  # by state, [1, K, sinks, D] each

    @property
    def bytes(self) -> int:
        """That they take."""
        return sum(array.nbytes for array in self.rows.values())


def pinned_rows(backend: Backend, manifest: Manifest, position: int, sinks: int) -> PinnedRows:
    """A copy of them, out of a stream at `position`."""
    _check_begun(position, sinks)
    return _rows_of(backend.state(), manifest, sinks)


def put_pinned_rows(backend: Backend, manifest: Manifest, rows: PinnedRows, position: int, sinks: int) -> None:
    """Write them over those of a stream at `position`."""
    _check_begun(position, sinks)
    if rows.fingerprint != manifest.fingerprint or rows.sinks != sinks:
        found = f"{rows.sinks} pinned rows" + ("" if rows.fingerprint == manifest.fingerprint else " of another bundle")
        raise BadOption(found, f"{sinks} of this bundle", "make them with the stream that they are for")
    state = backend.state()
    pinned = _pinned_states(manifest)
    if any(rows.rows[name].dtype != state[name].dtype for name in pinned):
        raise BadOption("pinned rows of another runner", "those of this one, kernels or plain", "make them with it")
    for name in pinned:
        state[name][:, :, :sinks] = rows.rows[name]
    backend.load_state(state)


def repin(backend: Backend, manifest: Manifest, ids: np.ndarray, position: int, sinks: int) -> PinnedRows:
    """Write the rows of a stream that begins with `ids` over those of a stream at `position`; what stood there.

    The scratch stream is run by the same backend, which holds the weights: the live state is put aside meanwhile.
    """
    _check_begun(position, sinks)
    _check_ids(ids, manifest, sinks)
    live = {name: array.copy() for name, array in backend.state().items()}
    before = _rows_of(live, manifest, sinks)
    try:
        new = _read(backend, manifest, ids, sinks)
        for name, rows in new.rows.items():
            live[name][:, :, :sinks] = rows
    finally:
        backend.load_state(live)
    return before


def _read(backend: Backend, manifest: Manifest, ids: np.ndarray, sinks: int) -> PinnedRows:
    """The pinned rows of a stream that begins with `ids`."""
    start = 0
    for size in manifest.stream.ring(sinks).chunks(len(ids)):
        backend.feed(ids[start : start + size], start, sinks)
        start += size
    if not np.isfinite(backend.logits).all():
        raise BadNumbers("the logits after the tokens to be pinned are not finite", "", BROKEN)
    return _rows_of(backend.state(), manifest, sinks)


def _rows_of(state: dict[str, np.ndarray], manifest: Manifest, sinks: int) -> PinnedRows:
    return PinnedRows(
        manifest.fingerprint, sinks, {name: state[name][:, :, :sinks].copy() for name in _pinned_states(manifest)}
    )


def _pinned_states(manifest: Manifest) -> list[str]:
    """The states whose view has sinks."""
    return [state.name for state in manifest.states if manifest.views[state.view].sinks]


def _check_begun(position: int, sinks: int) -> None:
    if position < sinks:
        raise BadOption(
            f"pinned rows of a stream of {position} tokens", f"{sinks} or more", "feed what is to be pinned first"
        )


def _check_ids(ids: np.ndarray, manifest: Manifest, sinks: int) -> None:
    if len(ids) != sinks:
        remedy = "pad or cut them, or start a stream with another number of sinks"
        raise BadOption(f"{len(ids)} ids to pin", f"{sinks}, the sinks of this stream", remedy)
    first = manifest.prefix[:sinks]
    if tuple(ids[: len(first)].tolist()) != first:
        raise BadOption(
            f"ids to pin that begin with {ids[0]}", f"{first[0]}, the model's own sink token", "put it in front"
        )
