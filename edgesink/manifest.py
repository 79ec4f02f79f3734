"""The bundle's `manifest.json`: everything a runner must know, strict in and out.

Owns the file format. A bundle is a folder; the manifest names its files with sizes and SHA-256, and a runner opens
nothing that it does not name. Unknown fields, missing fields, other versions and paths that leave the folder are
refused with a remedy. Knows nothing of how the graph is made or run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from edgesink.errors import BadBundle, EdgesinkError
from edgesink.files import atomic_write, recover_folder
from edgesink.spec import ModelSpec, StreamSpec
from edgesink.targets import KV_WRITES, ROWS, VOCABULARY_BITS, KvWrite, Precision, Target
from edgesink.targets import StateDtype as StateDtype

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
ONNX_GRAPH = "model.onnx"
ONNX_DATA = "model.onnx.data"  # the weights of both graphs
KERNELS_GRAPH = "model.kernels.onnx"  # the same over operators of our own, for processors that have their kernels
KERNELS_IMAGE = "model.kernels.json"  # where its weights lie in ONNX_DATA, and how they lie in memory
COREML_PACKAGE = "model.mlpackage"
COREAI_MODEL = "model.aimodel"
GOLDEN_STREAM = "golden_stream.json"  # a prompt and the ids after it, for a device to repeat when it loads the bundle

STATE_ITEM_BYTES: dict[StateDtype, int] = {"float32": 4, "float16": 2}

T = TypeVar("T")


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
class Manifest:
    """What a bundle says of itself."""

    target: Target
    model: ModelSpec
    stream: StreamSpec
    precision: Precision
    weights: str  # how the weights are held, for people: "Q4_1 carried over, head 8 bit"
    state_dtype: StateDtype
    bos_id: int | None  # put before a text that is not a chat, where the tokenizer does so
    eos_ids: tuple[int, ...]  # every id that ends an answer
    files: tuple[BundleFile, ...]
    tools: dict[str, str]  # versions of what made the bundle
    parity: Parity | None = None
    options: dict[str, str] = field(default_factory=dict)  # as the file has them; read them by the properties below
    format: int = FORMAT

    def __post_init__(self) -> None:
        if unknown := sorted(self.options.keys() - {"kv_write", "vocabulary_bits", "parts"}):
            raise BadBundle(f"an unknown option {unknown[0]!r}", "", "update edgesink or export again")
        parts = self.options.get("parts", "1")
        if not (parts.isascii() and parts.isdecimal() and 1 <= int(parts) <= self.model.layers):
            raise BadBundle(f"{parts!r} parts", f"1 to {self.model.layers}", "export the model again")
        if (bits := self.options.get("vocabulary_bits", "8")) not in ("4", "8"):
            raise BadBundle(f"{bits!r} vocabulary_bits", "4 or 8", "export the model again")
        if (write := self.options.get("kv_write")) is not None and write not in KV_WRITES:
            raise BadBundle(f"{write!r} kv_write", " or ".join(KV_WRITES), "export the model again")

    @property
    def kv_write(self) -> KvWrite | None:
        """How new keys and values reach the state; None where the target has one way only."""
        return typing.cast("KvWrite | None", self.options.get("kv_write"))

    @property
    def vocabulary_bits(self) -> int:
        """Bits of the embedding and the head, where the weights are quantised."""
        return int(self.options.get("vocabulary_bits", VOCABULARY_BITS))

    @property
    def parts(self) -> int:
        """Packages that the layers are cut into, to be run one behind the other; 1 but for some of Core ML."""
        return int(self.options.get("parts", "1"))

    @property
    def coreml_packages(self) -> tuple[str, ...]:
        """Names of the Core ML packages, in the order in which they are run."""
        if self.parts == 1:
            return (COREML_PACKAGE,)
        name, suffix = COREML_PACKAGE.split(".")
        return tuple(f"{name}.{part}.{suffix}" for part in range(self.parts))

    @property
    def state_rows(self) -> int:
        """Rows of a state buffer as the target holds it: those of the stream, and maybe a few more."""
        multiple = ROWS[self.target].row_multiple
        return -(-self.stream.rows // multiple) * multiple

    @property
    def state_bytes(self) -> int:
        """Bytes of the key/value state: constant from the first token to the last."""
        model = self.model
        values = 2 * model.layers * model.kv_heads * model.head_dim * self.state_rows
        return values * STATE_ITEM_BYTES[self.state_dtype]

    @property
    def has_kernels(self) -> bool:
        """The bundle has a second graph, over kernels of our own; they hold the state in float16."""
        return {KERNELS_GRAPH, KERNELS_IMAGE, ONNX_DATA} <= {file.path for file in self.files}

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
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read strictly; BadBundle says what is wrong and what to do."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BadBundle(f"{MANIFEST} is not JSON ({error})", "", "export the model again") from None
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            remedy = "update edgesink" if isinstance(found, int) and found > FORMAT else "export the model again"
            raise BadBundle(f"{MANIFEST} has format {found!r}", f"format {FORMAT}", remedy)
        return _decode(cls, data, MANIFEST)

    @classmethod
    def read(cls, bundle: Path) -> Manifest:
        """Read the manifest of the bundle folder; BadBundle if there is none."""
        recover_folder(bundle)
        path = bundle / MANIFEST
        if not path.is_file():
            raise BadBundle(f"no {MANIFEST} in {bundle}", "a bundle folder", "make one with `edgesink export`")
        return cls.from_json(path.read_text(encoding="utf-8"))

    def check_files(self, bundle: Path) -> None:
        """Hold every file of the folder against its size and SHA-256; BadBundle names the first that differs."""
        for file in self.files:
            path = bundle / file.path
            if not path.is_file():
                raise BadBundle(f"{path} is missing", "", "copy or export the bundle again")
            size = path.stat().st_size
            if size != file.bytes:
                raise BadBundle(f"{path} has {size} bytes", f"{file.bytes}", "copy or export the bundle again")
            if sha256_of(path) != file.sha256:
                raise BadBundle(f"{path} has been altered", f"SHA-256 {file.sha256}", "copy or export it again")


def describe_file(bundle: Path, path: Path) -> BundleFile:
    """The manifest's line for `path`, a file inside `bundle`."""
    return BundleFile(path.relative_to(bundle).as_posix(), path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_manifest(bundle: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically, so that a reader never sees half of it."""
    with atomic_write(bundle / MANIFEST) as aside:
        aside.write_text(manifest.to_json(), encoding="utf-8")


def _decode(kind: Any, data: Any, where: str) -> Any:
    """`data` as JSON gave it, as a value of the annotated type `kind`; BadBundle at the first misfit."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), data, where)
    if origin is Literal:
        fits = data in arguments
    elif origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return _decode(inner, data, where)
    elif origin is tuple and isinstance(data, list):
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    elif origin is dict and isinstance(data, dict):
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    elif kind is float:
        fits = isinstance(data, int | float) and not isinstance(data, bool)
    else:
        fits = isinstance(kind, type) and type(data) is kind
    if not fits:
        raise BadBundle(f"{where} is {data!r}", getattr(kind, "__name__", str(kind)), "export the model again")
    return float(data) if kind is float else data


def _decode_dataclass(kind: type[T], data: Any, where: str) -> T:
    if not isinstance(data, dict):
        raise BadBundle(f"{where} is {data!r}", "an object", "export the model again")
    hints = typing.get_type_hints(kind)
    required = {f.name for f in dataclasses.fields(typing.cast(Any, kind)) if _is_required(f)}
    if unknown := sorted(data.keys() - hints.keys()):
        raise BadBundle(f"{where} has an unknown field {unknown[0]!r}", "", "update edgesink or export again")
    if missing := sorted(required - data.keys()):
        raise BadBundle(f"{where} lacks {missing[0]!r}", "", "export the model again")
    values = {name: _decode(hints[name], item, f"{where}: {name}") for name, item in data.items()}
    try:
        return kind(**values)
    except BadBundle:
        raise
    except EdgesinkError as error:
        raise BadBundle(f"{where}: {error.found}", error.expected, "export the model again") from None


def _is_required(field_: dataclasses.Field[Any]) -> bool:
    return field_.default is dataclasses.MISSING and field_.default_factory is dataclasses.MISSING
