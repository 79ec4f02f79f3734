"""One endless stream of tokens through a bundle.

Owns the position, the sinks of this stream and the checks on what comes in; the arithmetic is `Ring`'s, the graph and
its state are the backend's. Knows ids, not text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesink.errors import BROKEN, BadBundle, BadNumbers, BadOption
from edgesink.manifest import Manifest
from edgesink.ring import Ring
from edgesink.runtime.backends import Backend, OnnxBackend
from edgesink.runtime.bound_graph import RunOptions
from edgesink.spec import Provider

if TYPE_CHECKING:
    from edgesink.runtime.generate import Token
    from edgesink.runtime.pinned import PinnedRows
    from edgesink.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Snapshot:
    """A stream at one moment, apart from it: it may go on from there as often as it likes, and so may another."""

    position: int
    furthest: int
    sinks: int
    state: dict[str, np.ndarray]  # by name; of a young stream, the rows that it uses


class Stream:
    """A stream: feed it ids endlessly, its memory does not grow.

    Attributes:
        manifest: what the bundle says of itself.
        position: tokens fed since the stream started, the model's sink token included: it goes in front of the first.
    """

    def __init__(self, bundle: Path, manifest: Manifest, backend: Backend, sinks: int | None = None) -> None:
        self.bundle, self.manifest = bundle, manifest
        self._backend = backend
        self._ring: Ring = manifest.stream.ring(sinks)
        self.position = 0
        self._furthest = 0  # tokens that may have been written, those that were taken back included
        self._is_broken = False  # the state may hold what is not a number

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer, read the first time that text is asked for."""
        from edgesink.runtime.tokenizer import Tokenizer

        return Tokenizer.of_bundle(self.bundle)

    @property
    def sinks(self) -> int:
        """Pinned first tokens of this stream."""
        return self._ring.sinks

    @property
    def window(self) -> int:
        """Most recent tokens that a token sees, itself included."""
        return self._ring.window

    @property
    def capacity(self) -> int:
        """Tokens that a token sees at most."""
        return self._ring.capacity

    @property
    def evicted(self) -> int:
        """Tokens of this stream that the newest one no longer sees."""
        return self._ring.evicted(self.position)

    @property
    def rewindable(self) -> int:
        """Tokens that `rewind` can take back now, 0 … chunk: the last ones fed, as long as no key is missed for it."""
        stream, furthest = self.manifest.stream, max(self._furthest, self.position)
        rings = [stream.layer_ring(view, self.sinks) for view in self.manifest.views]
        oldest = max(len(self.manifest.prefix), *(ring.oldest_return(furthest) for ring in rings))
        return max(0, self.position - oldest)

    @property
    def runner(self) -> str:
        """What runs the graph, "onnxruntime 1.32.0 cpu, AVX2 kernels"."""
        return self._backend.name

    @property
    def state_bytes(self) -> int:
        """Bytes held for keys and values, the same from the first token to the last."""
        return self._backend.state_bytes

    def prefill(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Feed ids, any number from 1 up.

        Returns:
            float32 [V]: the logits after the last id.
        Raises:
            BadOption: no ids, or one outside the vocabulary; the stream is as it was.
            RunFailed: the graph stopped; the ids before `position` were fed, and the stream goes on from there.
            BadNumbers: a logit is not finite; the stream can be reset or restored, but not go on.
        """
        return self.feed(ids).copy()

    def step(self, token_id: int) -> np.ndarray:
        """Feed one id; float32 [V], the logits after it."""
        return self.prefill([token_id])

    def feed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """`prefill` without the copy: the array returned is overwritten by the next call."""
        array = self._checked(ids)
        if self.position == 0:
            array = np.concatenate([np.array(self.manifest.prefix, np.int64), array])
        start = 0
        for size in self._ring.chunks(len(array)):
            self._furthest = max(self._furthest, self.position + size)  # a run that stops may have written them all
            self._backend.feed(array[start : start + size], self.position, self._ring.sinks)
            start += size
            self.position += size
        self._check_logits()
        return self._backend.logits

    def rewind(self, tokens: int) -> None:
        """Take back the last `tokens` tokens, 0 … `rewindable`, exactly as if they had never been fed.

        There are no logits then: feed the next token. Up to a chunk can be taken back, counted from the furthest that
        the stream has come, in one step or several; after `restore`, what was fed since, and never the model's own
        sink token.

        Raises:
            BadOption: more, or fewer than 0; the stream is as it was.
        """
        if not 0 <= tokens <= self.rewindable:
            raise BadOption(
                f"rewinding by {tokens} of {self.position} tokens",
                f"0 to {self.rewindable}, those before them having been overwritten or being where the stream began",
                "save the stream before tokens that may be taken back, or reset it",
            )
        self.position -= tokens

    def repin(self, ids: Sequence[int] | np.ndarray) -> PinnedRows:
        """Put other first tokens in the place of the pinned ones, exactly `sinks` many; nothing else changes.

        Their keys and values are bit for bit those of a stream that began with `ids`. For a while the state is held
        twice. A model's own sink token stays the first of them.

        Returns:
            what stood there, for `put_pinned_rows`.
        Raises:
            BadOption: another number of ids, or a stream that has not yet so many tokens; the stream is as it was.
            RunFailed, BadNumbers: as `prefill`; the stream is as it was.
        """
        from edgesink.runtime.pinned import repin

        return repin(self._backend, self.manifest, self._checked(ids), self.position, self.sinks)

    def pinned_rows(self) -> PinnedRows:
        """A copy of the keys and values of the pinned tokens; BadOption before they have all been fed."""
        from edgesink.runtime.pinned import pinned_rows

        return pinned_rows(self._backend, self.manifest, self.position, self.sinks)

    def put_pinned_rows(self, rows: PinnedRows) -> None:
        """Put back what `repin` or `pinned_rows` gave; BadOption if it is of another bundle or number of sinks."""
        from edgesink.runtime.pinned import put_pinned_rows

        put_pinned_rows(self._backend, self.manifest, rows, self.position, self.sinks)

    def reset(self, sinks: int | None = None) -> None:
        """Start a new stream; `sinks` None keeps the number. What the buffers held before is never seen."""
        self._ring = self.manifest.stream.ring(self.sinks if sinks is None else sinks)
        if self._is_broken:  # rows that are masked count nothing times what they hold, which of NaN is NaN
            self._backend.load_state({name: np.zeros_like(array) for name, array in self._backend.state().items()})
        self.position, self._furthest, self._is_broken = 0, 0, False

    def snapshot(self) -> Snapshot:
        """A copy of the stream as it is now, for `return_to`; at most `state_bytes` large."""
        return Snapshot(self.position, self._furthest, self.sinks, self._backend.copy_state())

    def return_to(self, snapshot: Snapshot) -> None:
        """Be the stream that the snapshot is of; it may be of another stream of the same bundle and backend."""
        self._backend.put_back(snapshot.state)
        self._ring = self.manifest.stream.ring(snapshot.sinks)
        self.position, self._furthest, self._is_broken = snapshot.position, snapshot.furthest, False

    def another(self) -> Stream:
        """A new stream on the same weights, with a state of its own (`state_bytes`); feed one of them at a time."""
        other = Stream(self.bundle, self.manifest, self._backend.another(), self.sinks)
        other.__dict__["tokenizer"] = self.tokenizer
        return other

    def save(self, path: str | Path) -> None:
        """Write the stream to a session file, whole or not at all."""
        from edgesink.runtime.session_file import write_session

        write_session(Path(path), self.manifest, self.position, self.sinks, self._backend.state())

    def restore(self, path: str | Path) -> None:
        """Go on from a session file; BadSession if it is damaged or of another bundle, the stream left as it was."""
        from edgesink.runtime.session_file import read_session

        saved = read_session(Path(path), self.manifest, self._backend.state())
        ring = self.manifest.stream.ring(saved.sinks)
        self._backend.load_state(saved.state)
        self._ring, self.position, self._is_broken = ring, saved.position, False
        self._furthest = self.position + ring.chunk  # how far it had come is not in the file: at most so far

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Token]:
        """Feed `ids` and yield tokens until an end id, a stop string or `max_new_tokens` (None: endlessly).

        Each token has `.id` and `.text`, the characters that became certain with it.
        """
        from edgesink.runtime.generate import generate
        from edgesink.runtime.sampling import SamplingSpec

        spec = SamplingSpec(temperature, top_k, top_p, min_p, repetition_penalty, seed=seed)
        return generate(self, ids, spec, max_new_tokens, stop)

    def _check_logits(self) -> None:
        self._is_broken = self._is_broken or not np.isfinite(self._backend.logits).all()
        if self._is_broken:
            raise BadNumbers(f"the logits at position {self.position - 1} of the stream are not finite", "", BROKEN)

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(ids)
        if array.ndim != 1 or array.size == 0:
            raise BadOption(f"ids of shape {array.shape}", "a flat list of at least one id")
        if array.dtype.kind not in "iu":
            raise BadOption(f"ids of type {array.dtype}", "integers")
        vocab = self.manifest.vocab
        if array.min() < 0 or array.max() >= vocab:
            bad = array[(array < 0) | (array >= vocab)][0]
            raise BadOption(f"token id {bad}", f"0 to {vocab - 1}", "use the bundle's own tokenizer")
        return array.astype(np.int64, copy=False)


def load(
    bundle: str | Path,
    threads: int | None = None,
    provider: Provider = "cpu",
    sinks: int | None = None,
    kernels: bool | None = None,
    mapped: bool | None = None,
) -> Stream:
    """Open a bundle and start a stream.

    Args:
        bundle: the folder that `edgesink export` wrote, target onnx.
        threads: for matrix products, never more than the process may run on; None takes a thread a core.
        provider: where ONNX Runtime runs, "cpu" or "cuda"; "plain" is the CPU with `kernels=False`.
        sinks: pinned first tokens, 0 to the bundle's max_sinks; None takes the bundle's default.
        kernels: run the graph for edgesink's own kernels; None runs it where the bundle and this machine have it.
        mapped: with kernels, leave the weights in their file, of which the system keeps in memory what it can spare;
            False reads them into memory, and None does if they are less than a gigabyte and than half of what is free.
    Raises:
        BadBundle, BadOption, MissingPackage: each says what to do.
    """
    folder, options = Path(bundle), RunOptions.of(threads, provider, kernels, mapped)
    manifest = Manifest.read(folder)
    if manifest.target != "onnx":
        raise BadBundle(f"{folder} is a bundle for {manifest.target}", "one for onnx", "export with --target onnx")
    manifest.stream.ring(sinks)
    manifest.check_files(folder)
    return Stream(folder, manifest, OnnxBackend(folder, manifest, options), sinks)
