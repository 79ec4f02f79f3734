"""One endless stream of tokens through a bundle.

Owns the position, the sinks of this stream and the checks on what comes in; the arithmetic is `Ring`'s, the graph and
its state are the backend's. Knows ids, not text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgesink.errors import BROKEN, BadBundle, BadNumbers, BadOption
from edgesink.known_digests import KnownDigests
from edgesink.manifest import Manifest
from edgesink.ring import Ring
from edgesink.runtime.backends import Backend, OnnxBackend
from edgesink.runtime.bound_graph import RunOptions
from edgesink.runtime.drafts import Drafter
from edgesink.runtime.past import Past
from edgesink.spec import Drafts, Provider

if TYPE_CHECKING:
    from edgesink.runtime.generate import Token
    from edgesink.runtime.pinned import PinnedRows
    from edgesink.runtime.session_file import SavedSession
    from edgesink.runtime.tokenizer import Tokenizer
    from edgesink.runtime.undo import Journal


MOST_HIDDEN = 2
"""The part of the window that may be given up so that it begins with a turn: a half."""


@dataclass(frozen=True)
class Snapshot:
    """A stream at one moment, apart from it: it may go on from there as often as it likes, and so may another."""

    position: int
    furthest: int
    sinks: int
    past: np.ndarray  # its last ids, int64
    marks: tuple[int, ...]
    state: dict[str, np.ndarray]  # by name; of a young stream, the rows that it uses


class Stream:
    """A stream: feed it ids endlessly, its memory does not grow.

    Attributes:
        manifest: what the bundle says of itself.
        position: tokens fed since the stream started, the model's sink token included: it goes in front of the first.
        past: the ids of the last of them, as many as a token sees; none of those before `restore`.
        drafts: whether `follow` may run several tokens a pass, "auto" (on our kernels, where it pays), "on" or "off".
        changes: counts whatever was fed, taken back, reset or replaced.
        on_chunk: called behind every chunk of up to `manifest.stream.chunk` tokens; what it raises ends the feeding
            there, and the stream goes on from `position`.
        journal: keeps what is overwritten, for whoever wants to go back; None keeps nothing.
        marks: positions of the stream that its window should begin with, ascending; () lets it begin anywhere. Those
            that no token will ask for any more are dropped as the stream goes on.
    """

    def __init__(self, bundle: Path, manifest: Manifest, backend: Backend, sinks: int | None = None) -> None:
        self.bundle, self.manifest = bundle, manifest
        self._backend = backend
        self._ring: Ring = manifest.stream.ring(sinks)
        self.position, self.changes = 0, 0
        self.drafts: Drafts = "auto"
        self.past = Past(manifest.stream.capacity, manifest.stream.chunk)
        self.on_chunk: Callable[[], object] | None = None
        self._furthest = 0  # tokens that may have been written, those that were taken back included
        self.journal: Journal | None = None
        self.marks: list[int] = []
        self._taken_back = 0  # tokens that nothing was fed over yet
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
        return max(0, self.window_begin - self.sinks)

    @property
    def window_begin(self) -> int:
        """Position of the oldest token that the newest one sees, the pinned ones aside."""
        return self._ring.window_begin(max(0, self.position - 1), self.marks, self.most_hidden)

    @property
    def most_hidden(self) -> int:
        """Tokens of the window that are given up at most so that it begins with a mark; what is longer is cut."""
        return self.window // MOST_HIDDEN

    @property
    def can_mark(self) -> bool:
        """Whether `marks` can be heeded; not by a bundle that was exported before there were any."""
        return self._backend.can_hide

    @property
    def rewindable(self) -> int:
        """Tokens that `rewind` can take back now, 0 … chunk: the last ones fed, as long as no key is missed for it."""
        stream, furthest = self.manifest.stream, self._written
        rings = [stream.layer_ring(view, self.sinks) for view in self.manifest.views]
        oldest = max(len(self.manifest.prefix), *(ring.oldest_return(furthest) for ring in rings))
        return max(0, self.position - oldest)

    @property
    def runner(self) -> str:
        """What runs the graph, "onnxruntime 1.32.0 cpu, AVX2 kernels"."""
        return self._backend.name

    @property
    def is_in_memory(self) -> bool:
        """Whether the state lies in this process's memory, not on a GPU."""
        return self._backend.in_memory

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
        return self._feed(self._begun(self._checked(ids)))[0]

    def values(self, layer: int, first: int, last: int) -> np.ndarray:
        """What a layer holds as values of the tokens first … last-1 of the stream, float32 [last - first, K D].

        Raises:
            BadOption: no such layer, or tokens that its ring does not hold any more, or not yet.
        """
        found, block = self.manifest.values_of(layer)
        ring = self.manifest.stream.layer_ring(self.manifest.views[found.view], self.sinks)
        oldest = max(0, self._written - ring.slots)
        is_held = last <= ring.sinks or max(first, ring.sinks) >= oldest
        if not 0 <= first < last <= self.position or not is_held:
            raise BadOption(f"the values of tokens {first} to {last - 1}", f"tokens {oldest} to {self.position - 1}")
        slots = [ring.slot(token) for token in range(first, last)]
        rows = self._backend.rows(found.name)[block][:, slots]  # [K, n, D]
        return rows.transpose(1, 0, 2).reshape(last - first, -1).astype(np.float32)

    @property
    def _written(self) -> int:
        """How far the stream has come, with what was taken back since."""
        return max(self._furthest, self.position)

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
        self._move(-tokens)
        self.past.drop(tokens)
        self._taken_back += tokens

    def take_up(self, tokens: int) -> None:
        """Undo `rewind`, or a part of it; BadOption if something was fed since, or replaced."""
        if not 0 <= tokens <= self._taken_back:
            found = f"taking up {tokens} tokens again"
            raise BadOption(found, f"0 to {self._taken_back}, taken back and not fed over", "feed them")
        self._move(tokens)
        self.past.again(tokens)
        self._taken_back -= tokens

    def follow(self, token_id: int, drafts: Drafts | None = None) -> np.ndarray:
        """`step` for the tokens of an answer: where the stream has said the like before, several of them in one pass.

        Args:
            drafts: whether that may be; None takes `drafts`. "auto" does it where the logits are to the bit those of
                `step`, on our kernels: when it pays depends on the clock, and an answer must not. A bundle of one row
                of logits never does it.

        Returns:
            float32 [V], the logits after the id, until the next call. On our kernels they are to the bit those of
            `step`; on ONNX Runtime's own operators they differ by as much as between chunks.
        """
        mode = self.drafts if drafts is None else drafts
        if mode == "on" and self.most_rows == 1:
            raise BadOption("drafts for a graph with one row of logits", "one with more", self._why_few_rows)
        if mode == "off" or self.most_rows == 1 or (mode == "auto" and not self._backend.has_exact_rows):
            return self.feed([token_id])
        return self.drafter.follow(token_id, always=mode == "on")

    @cached_property
    def drafter(self) -> Drafter:
        """What runs several tokens a pass; its `counts` say how well that goes."""
        return Drafter(self)

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

        self._replaced()
        return repin(self._backend, self.manifest, self._checked(ids), self.position, self.sinks)

    def pinned_rows(self) -> PinnedRows:
        """A copy of the keys and values of the pinned tokens; BadOption before they have all been fed."""
        from edgesink.runtime.pinned import pinned_rows

        return pinned_rows(self._backend, self.manifest, self.position, self.sinks)

    def put_pinned_rows(self, rows: PinnedRows) -> None:
        """Put back what `repin` or `pinned_rows` gave; BadOption if it is of another bundle or number of sinks."""
        from edgesink.runtime.pinned import put_pinned_rows

        self._replaced()
        put_pinned_rows(self._backend, self.manifest, rows, self.position, self.sinks)

    def feed_all(self, ids: Sequence[int] | np.ndarray, rows: int) -> np.ndarray:
        """Feed ids, and get the logits after each of the last `rows` of them in one pass: 1 … `most_rows`.

        Returns:
            float32 [rows, V], the first row after id -rows; the next call overwrites it.
        Raises:
            BadOption: more rows than ids, or than `most_rows`; and as `prefill`.
        """
        array = self._checked(ids)
        if not 1 <= rows <= min(len(array), self.most_rows):
            found = f"{rows} rows of logits for {len(array)} ids"
            raise BadOption(found, f"1 to {min(len(array), self.most_rows)}", self._why_few_rows)
        if rows == 1:
            return self.feed(array)[None]
        array = self._begun(array)
        if ahead := max(0, len(array) - self._ring.chunk):
            self._feed(array[:ahead])
        return self._feed(array[ahead:], rows)

    @property
    def most_rows(self) -> int:
        """Tokens whose logits one pass gives at most; 1 of a bundle that was exported before there were more."""
        return self._backend.most_rows

    @property
    def _why_few_rows(self) -> str:
        return "export the model again" if self.most_rows == 1 < self._ring.chunk else ""

    def reset(self, sinks: int | None = None) -> None:
        """Start a new stream; `sinks` None keeps the number. What the buffers held before is never seen."""
        self._ring = self.manifest.stream.ring(self.sinks if sinks is None else sinks)
        if self._is_broken:  # rows that are masked count nothing times what they hold, which of NaN is NaN
            self._backend.load_state(self.empty_state())
        self.position, self._furthest, self._is_broken = 0, 0, False
        self._begun_anew()

    def keep_journal(self, most_bytes: int | None = None) -> Journal:
        """Keep from now on what is overwritten, at most so many bytes (None: as many as the state has).

        The journal is also the stream's `journal`; after `checkpoint(position)` there, `go_back` leads to it.

        Raises:
            BadOption: the state lies on a GPU.
        """
        if not self.is_in_memory:
            raise BadOption("a journal of a state on a GPU", "a stream on the CPU")
        from edgesink.runtime.undo import Journal

        most_bytes = self.state_bytes if most_bytes is None else most_bytes
        self.journal = Journal(self.manifest, self._backend.state, most_bytes)
        return self.journal

    def go_back(self) -> None:
        """Go back to the last checkpoint of the journal, exactly as if nothing had been fed since."""
        if self.journal is None or not self.journal.positions:
            raise BadOption("going back in a stream", "a checkpoint of its journal", "make one before feeding")
        before, self.position = self.position, self.journal.back()
        self._furthest = self.position + self._ring.chunk  # at most so far had it come by then
        self._replaced()
        self.past.drop(before - self.position)
        self.marks = [mark for mark in self.marks if mark <= self.position]

    def snapshot(self) -> Snapshot:
        """A copy of the stream as it is now, for `return_to`; at most `state_bytes` large."""
        past = self.past.latest().copy()
        return Snapshot(self.position, self._furthest, self.sinks, past, tuple(self.marks), self._backend.copy_state())

    def return_to(self, snapshot: Snapshot) -> None:
        """Be the stream that the snapshot is of; it may be of another stream of the same bundle and backend."""
        self._backend.put_back(snapshot.state)
        self._ring = self.manifest.stream.ring(snapshot.sinks)
        self.position, self._furthest, self._is_broken = snapshot.position, snapshot.furthest, False
        self._begun_anew()
        self.past.append(snapshot.past)
        self.marks.extend(snapshot.marks)

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

        self.go_on(read_session(Path(path), self.manifest, self._backend.state()))

    def written(self) -> dict[str, np.ndarray]:
        """The rows of the state that tokens have written, [1, K, rows, D] each; on the CPU the graph's own memory."""
        return self._backend.written(self.position)

    def go_on(self, saved: SavedSession) -> None:
        """Go on from a stream that was put away, whose state is whole buffers as this stream's."""
        ring = self.manifest.stream.ring(saved.sinks)
        self._backend.load_state(saved.state)
        self._ring, self.position, self._is_broken = ring, saved.position, False
        self._begun_anew()
        self._furthest = self.position + ring.chunk  # how far it had come is not in the file: at most so far

    def empty_state(self) -> dict[str, np.ndarray]:
        """Whole buffers of zeros, in the shapes and types in which this stream holds its state."""
        return {name: np.zeros_like(array) for name, array in self._backend.state().items()}

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
        drafts: Drafts | None = None,
    ) -> Iterator[Token]:
        """Feed `ids` and yield tokens until an end id, a stop string or `max_new_tokens` (None: endlessly).

        Each token has `.id` and `.text`, the characters that became certain with it. `drafts` as `follow`.
        """
        from edgesink.runtime.generate import generate
        from edgesink.runtime.sampling import SamplingSpec

        spec = SamplingSpec(temperature, top_k, top_p, min_p, repetition_penalty, seed=seed)
        return generate(self, ids, spec, max_new_tokens, stop, drafts)

    def _begun(self, array: np.ndarray) -> np.ndarray:
        """The ids, in a new stream behind the model's own sink token."""
        return array if self.position else np.concatenate([np.array(self.manifest.prefix, np.int64), array])

    def _feed(self, array: np.ndarray, rows: int = 1) -> np.ndarray:
        """Run ids, those of more rows than one in a single pass; [rows, V], the logits after the last."""
        start, logits = 0, self._backend.logits[None]
        self._replaced()
        for size in self._ring.chunks(len(array)):
            part = array[start : start + size]
            if self.journal is not None:
                self.journal.before(self.position, size, self.sinks)
            self._furthest = max(self._furthest, self.position + size)  # a run that stops may have written them all
            oldest = self._oldest(size)
            hidden = () if oldest is None else (oldest,)
            if rows == 1:
                self._backend.feed(part, self.position, self._ring.sinks, *hidden)
            else:
                logits = self._backend.feed_rows(part, self.position, self._ring.sinks, rows, *hidden)
            start += size
            self.position += size
            self.past.append(part)
            if self.on_chunk is not None and rows == 1:  # of several, some may have to be taken back first
                self.on_chunk()
        self._check_logits(logits)
        return logits

    def _oldest(self, size: int) -> np.ndarray | None:
        """Where the windows of the next tokens begin, int64 [size]; None while nothing needs to be hidden."""
        if not self.marks or self.position + size <= self.capacity:
            return None
        tokens = range(self.position, self.position + size)
        begins = [self._ring.window_begin(token, self.marks, self.most_hidden) for token in tokens]
        self._forget_marks()
        return np.array(begins, np.int64)

    def _forget_marks(self) -> None:
        """Drop the marks that no window will begin with, wherever the stream may go back to."""
        back = min([self.position, *(self.journal.positions[:1] if self.journal is not None else ())])
        while self.marks and self.marks[0] < back - 2 * self._ring.rows:
            del self.marks[0]

    def _move(self, tokens: int) -> None:
        self.position += tokens
        self.changes += 1

    def _replaced(self) -> None:
        """What was taken back cannot be taken up again."""
        self._taken_back = 0
        self.changes += 1

    def _begun_anew(self) -> None:
        """What is known of the stream before is of another."""
        self._replaced()
        self.past.clear()
        self.marks.clear()
        if self.journal is not None:
            self.journal.clear()

    def _check_logits(self, logits: np.ndarray) -> None:
        self._is_broken = self._is_broken or not np.isfinite(logits).all()
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
    exact: bool = False,
) -> Stream:
    """Open a bundle and start a stream.

    Args:
        bundle: the folder that `edgesink export` wrote, target onnx.
        threads: for matrix products, never more than the process may run on; None takes a thread a core.
        provider: where ONNX Runtime runs, "cpu" or "cuda"; "plain" is the CPU with `kernels=False`.
        sinks: pinned first tokens, 0 to the bundle's max_sinks; None takes the bundle's default.
        kernels: run the graph for edgesink's own kernels; None runs it where the bundle and this machine have it.
        mapped: with kernels, leave the weights in their file, whose pages other processes share and the system may
            take back; False reads them into memory of this process. None leaves them there where that costs no time.
        exact: with kernels, compute passes of more than 8 tokens as finely as shorter ones: prompts are read more
            slowly (docs/kernels.md, "Prompts").
    Raises:
        BadBundle, BadOption, MissingPackage: each says what to do.
    """
    folder, options = Path(bundle), RunOptions.of(threads, provider, kernels, mapped, exact)
    manifest = Manifest.read(folder)
    if manifest.target != "onnx":
        raise BadBundle(f"{folder} is a bundle for {manifest.target}", "one for onnx", "export with --target onnx")
    manifest.stream.ring(sinks)
    digests = KnownDigests(folder)
    manifest.check_files(folder, digests.sha256_of)
    digests.keep()
    return Stream(folder, manifest, OnnxBackend(folder, manifest, options), sinks)
