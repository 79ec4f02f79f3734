"""What an export is asked for, with nothing left open: typed, checked, and made before anything is read or written."""

from __future__ import annotations

from dataclasses import dataclass

from edgesink.errors import BadOption
from edgesink.spec import ModelSpec, StreamSpec
from edgesink.targets import (
    KvWrite,
    Precision,
    Target,
    check_supported,
    check_target,
    default_kv_write,
    default_vocabulary_bits,
)


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint becomes a bundle. BadOption, as it is made, for what the target cannot do."""

    target: Target
    stream: StreamSpec
    precision: Precision
    kv_write: KvWrite | None  # how new keys and values reach the state; None where the target has one way only
    vocabulary_bits: int  # of the embedding and the head, where weights are quantised: 4 or 8
    parts: int  # packages that the layers are cut into
    sink_token: int | None = None  # id that every stream begins with; None: as the checkpoint says

    def __post_init__(self) -> None:
        check_supported(
            self.target, self.precision, self.stream.positions, self.kv_write, self.vocabulary_bits, self.parts
        )

    @classmethod
    def fitted(
        cls,
        target: Target = "onnx",
        stream: StreamSpec | None = None,
        precision: Precision = "int4",
        kv_write: KvWrite | None = None,
        vocabulary_bits: int | None = None,
        parts: int = 1,
        sink_token: int | None = None,
    ) -> Recipe:
        """The recipe with what was left open as the target has it by default."""
        check_target(target)
        if vocabulary_bits is None:
            vocabulary_bits = default_vocabulary_bits(target, precision)
        stream = stream or StreamSpec.fitted(target=target)
        kv_write = kv_write or default_kv_write(target)
        return cls(target, stream, precision, kv_write, vocabulary_bits, parts, sink_token)

    def check_model(self, model: ModelSpec) -> None:
        """BadOption if the model cannot be cut so, cannot look back so far, or has a window shorter than a chunk."""
        if not 1 <= self.parts <= model.layers:
            raise BadOption(f"--parts {self.parts}", f"1 to {model.layers}, the model's layers")
        if model.off_by_one and self.target != "onnx":
            raise BadOption(f"a softmax off by one for target {self.target}", "target onnx", "take --target onnx")
        if self.sink_token is not None and not 0 <= self.sink_token < model.vocab:
            raise BadOption(f"--sink-token {self.sink_token}", f"0 to {model.vocab - 1}, an id of the vocabulary")
        shortest = min(ring.capacity for ring in model.rings(self.stream))
        if shortest < self.stream.chunk:
            raise BadOption(
                f"layers whose own window is {shortest} tokens, and chunks of {self.stream.chunk}",
                "chunks of a window's length at most",
                "take a smaller --chunk",
            )
        if model.static_context is not None and self.stream.capacity > model.static_context:
            raise BadOption(
                f"sinks and window of {self.stream.capacity} tokens, and a model whose positions change beyond",
                f"{model.static_context} at most, its original context",
                "take a smaller --window",
            )
