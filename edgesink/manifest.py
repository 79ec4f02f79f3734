"""The bundle's `manifest.json`: everything a runner must know, strict in and out.

Owns the file format. A bundle is a folder; the manifest names its files with sizes and SHA-256, and a runner opens
nothing that it does not name. Unknown fields, missing fields, other versions and paths that leave the folder are
refused with a remedy. Knows nothing of how the graph is made or run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgesink import names, strict_json
from edgesink.errors import AGAIN, BadBundle, BadOption, EdgesinkError, reason
from edgesink.files import atomic_write, recover_folder
from edgesink.known_digests import sha256_of
from edgesink.ring import Ring
from edgesink.sampling_defaults import SamplingDefaults
from edgesink.spec import LARGEST_SIZE, LayerRing, StreamSpec
from edgesink.targets import ROWS, VOCABULARY_BITS, KvWrite, Precision, Target
from edgesink.targets import StateDtype as StateDtype
from edgesink.turns import Turns

FORMAT = 3
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"  # for people: `Manifest.turns` is what is left of it
ONNX_GRAPH = "model.onnx"
ONNX_DATA = "model.onnx.data"  # the weights of both graphs
KERNELS_GRAPH = "model.kernels.onnx"  # the same over operators of our own, for processors that have their kernels
COREML_PACKAGE = "model.mlpackage"
COREAI_MODEL = "model.aimodel"
GOLDEN_STREAM = "golden_stream.json"  # a prompt and the ids after it, for a device to repeat when it loads the bundle
CALIBRATION = "memory.safetensors"  # how a memory compares meanings; the bundles of most models are without

GRAPHS: dict[Target, tuple[str, ...]] = {"onnx": (ONNX_GRAPH, ONNX_DATA)}
"""Files without which a bundle cannot run; what Core ML and Core AI have are folders."""

STATE_ITEM_BYTES: dict[StateDtype, int] = {"float32": 4, "float16": 2}
LARGEST_FLOAT = sys.float_info.max
LARGEST_BYTES = 1 << 44  # of a file or a state; more is a damaged manifest

MAY_LACK = {"may_lack": True}
"""Of a field that came later: where it is None it is not written, so what was written before it is read."""


@dataclass(frozen=True)
class BundleFile:
    """One file of the bundle."""

    path: str  # relative to the bundle, forward slashes
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path)
        if parts.is_absolute() or ".." in parts.parts or "\\" in self.path or not parts.parts:
            raise BadBundle(f"the manifest names {self.path!r}", "a path inside the bundle", "do not trust this bundle")
        if not 0 <= self.bytes <= LARGEST_BYTES:
            raise BadBundle(f"{self.path} of {self.bytes} bytes", f"0 to {LARGEST_BYTES}", AGAIN)


@dataclass(frozen=True)
class Parity:
    """How close the artefact came to the PyTorch oracle, as `edgesink verify` measured it."""

    tokens: int
    max_abs_diff: float  # of logits
    mean_abs_diff: float
    argmax_agreement: float  # 0 … 1
    passed: bool
    runner: str  # what ran the artefact, "onnxruntime 1.32.0 cpu"
    date: str  # ISO


@dataclass(frozen=True)
class State:
    """A buffer of keys or values that a graph reads and writes in place, the same memory from run to run."""

    name: str
    shape: tuple[int, ...]  # [1, K, rows, D]; of Core ML [2 L, K, rows, D], keys and values of its layers in turn
    dtype: StateDtype
    view: int  # whose ring its rows are: a place in `Manifest.views`
    part: int = 0  # of a model that is cut: the package that has it
    layers: tuple[int, ...] | None = dataclasses.field(default=None, metadata=MAY_LACK)
    """Of Core ML, where there are several states: the layers whose keys and values it has, in turn."""

    def __post_init__(self) -> None:
        sizes_fit = len(self.shape) == 4 and all(0 < size <= LARGEST_SIZE for size in self.shape)
        if not sizes_fit or self.bytes > LARGEST_BYTES:
            raise BadBundle(f"state {self.name} has shape {list(self.shape)}", "four sizes that fit a machine", AGAIN)

    @property
    def bytes(self) -> int:
        """That it takes."""
        return math.prod(self.shape) * STATE_ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    A runner needs no field of `architecture`: a new family of models does not break an app that is installed.
    """

    target: Target
    name: str  # of the model, for people
    family: str  # as the checkpoint calls it: "llama", "qwen2"
    vocab: int  # V
    stream: StreamSpec
    views: tuple[LayerRing, ...]  # the rings that layers have, in the order of the graph's positions
    states: tuple[State, ...]
    precision: Precision
    weights: str  # how the weights are held, for people: "Q4_K, Q6_K of the GGUF, bit for bit"
    bos_id: int | None  # put before a text that is not a chat, where the tokenizer does so
    eos_ids: tuple[int, ...]  # every id that ends an answer
    turns: Turns | None  # how a conversation is written; None: the model is not for one
    no_turns: str | None  # why there are none
    files: tuple[BundleFile, ...]
    tools: dict[str, str]  # versions of what made the bundle
    architecture: dict[str, Any]  # the exporter's `ModelSpec`, for `edgesink verify`
    parity: Parity | None = None
    kv_write: KvWrite | None = None  # how new keys and values reach the state; None where the target has one way only
    vocabulary_bits: int = VOCABULARY_BITS  # of the embedding and the head, where the weights are quantised
    parts: int = 1  # packages that the layers are cut into, to be run one behind the other
    sink_token_id: int | None = None  # what the model saw in front of everything: every stream begins with it
    step_weight_bytes: int | None = None  # of weights that one step reads; None where they were not counted
    sampling: SamplingDefaults | None = dataclasses.field(default=None, metadata=MAY_LACK)
    """That its makers recommend; None: they say nothing."""
    logit_rows: int | None = dataclasses.field(default=None, metadata=MAY_LACK)
    """Last tokens of a run whose logits the graph gives at most, where asked to; None: the last one's only."""
    float32_in_kernels: tuple[str, ...] | None = dataclasses.field(default=None, metadata=MAY_LACK)
    """States that the graph over our kernels holds in float32; it holds others in float16. None: it has no such."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.vocabulary_bits not in (4, 8):
            raise BadBundle(f"vocabulary_bits {self.vocabulary_bits}", "4 or 8", AGAIN)
        ways = ROWS[self.target].kv_writes
        if self.kv_write not in (ways or (None,)):
            raise BadBundle(f"kv_write {self.kv_write!r} for {self.target}", " or ".join(ways) or "None", AGAIN)
        if not 0 <= (self.step_weight_bytes or 0) <= LARGEST_BYTES:
            raise BadBundle(f"step_weight_bytes {self.step_weight_bytes}", f"0 to {LARGEST_BYTES}", AGAIN)
        if self.logit_rows is not None and not 1 < self.logit_rows <= self.stream.chunk:
            raise BadBundle(f"logit_rows {self.logit_rows}", f"2 to the chunk, {self.stream.chunk}", AGAIN)
        if not 0 < self.vocab <= LARGEST_SIZE:
            raise BadBundle(f"a vocabulary of {self.vocab}", f"1 to {LARGEST_SIZE}", AGAIN)
        ids = (*self.eos_ids, self.bos_id or 0, *self.prefix, *(self.turns.ids if self.turns else ()))
        if outside := [id_ for id_ in ids if not 0 <= id_ < self.vocab]:
            raise BadBundle(f"token id {outside[0]}", f"0 to {self.vocab - 1}", AGAIN)
        if (self.turns is None) == (self.no_turns is None):
            raise BadBundle("turns, or no reason why there are none", "one of the two", AGAIN)
        for view in self.views:
            _check_view(view, self.stream)
        self._check_states()

    def _check_states(self) -> None:
        """Every view and every part has states, and each state fits the ring of its view."""
        if not self.states or self.parts < 1:
            raise BadBundle(f"{len(self.states)} states in {self.parts} parts", "one or more of both", AGAIN)
        for state in self.states:
            self._check_state(state)
        for what, used, count in (
            ("view", {state.view for state in self.states}, len(self.views)),
            ("part", {state.part for state in self.states}, self.parts),
        ):
            if len(used) < count:
                raise BadBundle(f"states of {len(used)} of {count} {what}s", f"some of every {what}", AGAIN)
        if len({(state.part, state.name) for state in self.states}) < len(self.states):
            raise BadBundle("two states of one name", "names that differ", AGAIN)
        if len({state.dtype for state in self.states}) > 1:
            raise BadBundle("states of two types", "one type", AGAIN)
        self._check_layers()
        known = {state.name for state in self.states}
        if odd := [name for name in self.float32_in_kernels or () if name not in known]:
            raise BadBundle(f"float32_in_kernels names {odd[0]}", "a state", AGAIN)

    def _check_layers(self) -> None:
        """Where a state says which layers it has, all do, and every layer is in one of them."""
        said = [layer for state in self.states for layer in state.layers or ()]
        if all(state.layers is None for state in self.states):
            return
        if self.target != "coreml" or sorted(said) != list(range(len(said))):
            raise BadBundle(f"states of the layers {sorted(said)}", "every layer once, in Core ML's states", AGAIN)
        if odd := [state for state in self.states if 2 * len(state.layers or ()) != state.shape[0]]:
            found = f"state {odd[0].name} has {len(odd[0].layers or ())} layers and shape {list(odd[0].shape)}"
            raise BadBundle(found, "keys and values of each", AGAIN)

    def _check_state(self, state: State) -> None:
        if not 0 <= state.view < len(self.views) or not 0 <= state.part < self.parts:
            raise BadBundle(f"state {state.name} of view {state.view}, part {state.part}", "one that there is", AGAIN)
        ring = self.stream.layer_ring(self.views[state.view])
        if state.shape[2] != rows_of(ring, self.target):
            expected = f"{rows_of(ring, self.target)}, its ring's"
            raise BadBundle(f"state {state.name} has {state.shape[2]} rows", expected, AGAIN)
        whole = state.shape[0] % 2 == 0 if self.target == "coreml" else state.shape[0] == 1
        first = next(other for other in self.states if other.view == state.view)
        if not whole or state.shape[1:] != first.shape[1:]:
            raise BadBundle(f"state {state.name} has shape {list(state.shape)}", "that of its view", AGAIN)

    @property
    def coreml_packages(self) -> tuple[str, ...]:
        """Names of the Core ML packages, in the order in which they are run."""
        if self.parts == 1:
            return (COREML_PACKAGE,)
        name, suffix = COREML_PACKAGE.split(".")
        return tuple(f"{name}.{part}.{suffix}" for part in range(self.parts))

    @property
    def prefix(self) -> tuple[int, ...]:
        """The ids that every stream begins with, before anything is fed: the sink token, or none."""
        return () if self.sink_token_id is None else (self.sink_token_id,)

    @property
    def first_ids(self) -> tuple[int, ...]:
        """The ids before a text that is not a chat: the sink token and the begin-of-sequence token, where there are."""
        return self.prefix if self.bos_id is None else (*self.prefix, self.bos_id)

    @property
    def chat_notes(self) -> tuple[str, ...]:
        """What people should know of conversations with the model, a line each."""
        return self.turns.notes if self.turns else (f"not possible: {self.no_turns}",)

    @property
    def state_dtype(self) -> StateDtype:
        """Of every state: a bundle has one."""
        return self.states[0].dtype

    @property
    def state_bytes(self) -> int:
        """Bytes of the key/value state: constant from the first token to the last."""
        return sum(state.bytes for state in self.states)

    @property
    def kernels_state_bytes(self) -> int:
        """The same as the graph over our kernels holds it."""
        wide = self.float32_in_kernels or ()
        items = [STATE_ITEM_BYTES["float32" if state.name in wide else "float16"] for state in self.states]
        return sum(math.prod(state.shape) * size for state, size in zip(self.states, items, strict=True))

    @property
    def has_kernels(self) -> bool:
        """The bundle has a second graph, over kernels of our own."""
        return {KERNELS_GRAPH, ONNX_DATA} <= {file.path for file in self.files}

    def values_of(self, layer: int) -> tuple[State, int]:
        """The state that has the values of a layer, and which block of it; BadOption where the manifest does not say.

        A Core ML state has the keys of its first layer, then that layer's values, and so on; of one that does not name
        its layers they are the model's, if there is no other state.
        """
        name = names.value(layer)
        for state in self.states:
            if state.name == name:
                return state, 0
            if state.layers and layer in state.layers:
                return state, 2 * state.layers.index(layer) + 1
        first, *others = self.states
        if self.target == "coreml" and not others and first.layers is None and 0 <= layer < first.shape[0] // 2:
            return first, 2 * layer + 1
        raise BadOption(f"the values of layer {layer}", "a layer of the model")

    @property
    def weight_bytes(self) -> int:
        """Bytes of the graph's files, weights included."""
        return sum(file.bytes for file in self.files if file.path.startswith("model."))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the state's meaning; a session file carries it."""
        digests = sorted(f"{file.path} {file.sha256}" for file in self.files if file.path.startswith("model."))
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        data = dataclasses.asdict(self)
        for kind, part in ((Manifest, data), *((State, state) for state in data["states"])):
            for name in _may_lack(kind):
                if part[name] is None:
                    del part[name]
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read strictly; BadBundle says what is wrong and what to do."""
        try:
            data = strict_json.parse(text)
        except ValueError as error:
            raise BadBundle(f"{MANIFEST} is not JSON ({error})", "", AGAIN) from None
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            remedy = "update edgesink" if isinstance(found, int) and found > FORMAT else AGAIN
            raise BadBundle(f"{MANIFEST} has format {found!r}", f"format {FORMAT}", remedy)
        return decode(cls, data, MANIFEST)

    @classmethod
    def read(cls, bundle: Path) -> Manifest:
        """Read the manifest of the bundle folder; BadBundle if there is none."""
        recover_folder(bundle)
        path = bundle / MANIFEST
        if not os.path.isfile(path):
            raise BadBundle(f"no {MANIFEST} in {bundle}", "a bundle folder", "make one with `edgesink export`")
        try:
            return cls.from_json(path.read_bytes())
        except OSError as error:
            raise BadBundle(f"{path} cannot be read ({reason(error)})") from None

    def check_files(self, bundle: Path, digest_of: Callable[[Path], str] = sha256_of) -> None:
        """Hold every file of the folder against its size and SHA-256; BadBundle names the first that differs.

        Args:
            digest_of: the SHA-256 of a file; the default reads all of it.
        """
        named = {file.path for file in self.files}
        if lacking := sorted({TOKENIZER, *GRAPHS.get(self.target, ())} - named):
            raise BadBundle(f"{MANIFEST} does not name {lacking[0]}, so nothing checks it", "every file named", AGAIN)
        for file in self.files:
            path = bundle / file.path
            if not os.path.isfile(path):
                raise BadBundle(f"{path} is missing", "", "copy or export the bundle again")
            if not path.resolve().is_relative_to(bundle.resolve()):
                remedy = "copy what it leads to there, as cp -L does"
                raise BadBundle(f"{path} is a link that leaves the bundle", "the file itself", remedy)
            size = path.stat().st_size
            if size != file.bytes:
                raise BadBundle(f"{path} has {size} bytes", f"{file.bytes}", "copy or export the bundle again")
            if digest_of(path) != file.sha256 and sha256_of(path) != file.sha256:  # a record may be damaged itself
                raise BadBundle(f"{path} has been altered", f"SHA-256 {file.sha256}", "copy or export it again")


def _check_view(view: LayerRing, stream: StreamSpec) -> None:
    """The ring of the stream's sinks is as long as the stream sees; a layer's own window is shorter."""
    least, most = (stream.capacity, stream.capacity) if view.sinks else (stream.chunk, stream.capacity - 1)
    if not least <= view.capacity <= most:
        kind, expected = ("with", f"{most}") if view.sinks else ("without", f"{least} to {most}")
        raise BadBundle(f"a view {kind} sinks of {view.capacity} tokens", expected, AGAIN)


def rows_of(ring: Ring, target: Target) -> int:
    """Rows of a state buffer as the target holds it: those of the ring, and maybe a few more."""
    multiple = ROWS[target].row_multiple
    return -(-ring.rows // multiple) * multiple


def describe_file(bundle: Path, path: Path) -> BundleFile:
    """The manifest's line for `path`, a file inside `bundle`."""
    return BundleFile(path.relative_to(bundle).as_posix(), path.stat().st_size, sha256_of(path))


def replace_manifest(bundle: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically, so that a reader never sees half of it."""
    with atomic_write(bundle / MANIFEST) as aside:
        aside.write_text(manifest.to_json(), encoding="utf-8")


def decode(kind: Any, data: Any, where: str) -> Any:
    """`data` as JSON gave it, as a value of the annotated type `kind`; BadBundle at the first misfit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    if origin is Literal:
        fits = data in arguments
    elif origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return decode(inner, data, where)
    elif origin is tuple and isinstance(data, list):
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    elif origin is dict and isinstance(data, dict):
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    elif kind is float:
        fits = isinstance(data, int | float) and not isinstance(data, bool) and abs(data) <= LARGEST_FLOAT
    else:
        fits = isinstance(kind, type) and type(data) is kind
    if not fits:
        raise BadBundle(f"{where} is {data!r}", getattr(kind, "__name__", str(kind)), AGAIN)
    return float(data) if kind is float else data


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    """The type of every field of a dataclass."""
    return typing.get_type_hints(kind)


@cache
def _may_lack(kind: Any) -> frozenset[str]:
    """Names of the fields of a dataclass that its JSON may lack."""
    return frozenset(field.name for field in dataclasses.fields(kind) if "may_lack" in field.metadata)


def _decode_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise BadBundle(f"{where} is {data!r}", "an object", AGAIN)
    hints = _types_of(kind)
    if unknown := sorted(data.keys() - hints.keys()):
        raise BadBundle(f"{where} has an unknown field {unknown[0]!r}", "", "update edgesink or export again")
    if missing := sorted(hints.keys() - data.keys() - _may_lack(kind)):
        raise BadBundle(f"{where} lacks {missing[0]!r}", "", AGAIN)
    if empty := [name for name in sorted(_may_lack(kind)) if name in data and data[name] is None]:
        raise BadBundle(f"{where}: {empty[0]} is null", "a value, or no such field", AGAIN)
    values = {name: decode(hints[name], item, f"{where}: {name}") for name, item in data.items()}
    try:
        return kind(**values)
    except BadBundle:
        raise
    except EdgesinkError as error:
        raise BadBundle(f"{where}: {error.found}", error.expected, AGAIN) from None
