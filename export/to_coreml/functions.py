"""The packages of a Core ML bundle: in each a function for one token and one for a chunk, over a state for each ring.

Owns which inputs, states and outputs a function has, and which ring each layer looks back through; what the decoder is
in MIL is `ops`'. A state is of rank 4 with a multiple of 32 rows, as the Neural Engine is reported to want it; this
could not be measured where it was written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgesink import names
from edgesink.export.attention import by_view, frame_attention
from edgesink.export.graph import Attention, cut, decoder
from edgesink.export.recipe import Recipe
from edgesink.export.rows import AttentionSpec
from edgesink.export.states import layers_of, packed_states
from edgesink.export.to_coreml.buffers import MilBuffers
from edgesink.export.to_coreml.builder import (
    Program,
    Value,
    WeightStore,
    function,
    int32,
    mb,
    reshape,
    save_program,
)
from edgesink.export.to_coreml.description import describe_model
from edgesink.export.to_coreml.ops import MilOps
from edgesink.export.weights import Weights
from edgesink.manifest import Manifest
from edgesink.spec import ModelSpec

Values = Mapping[str, Value]
"""Inputs and states of a function by name."""


def write_coreml(folder: Path, model: ModelSpec, recipe: Recipe, draft: Manifest, weights: Weights) -> None:
    """Write `draft.coreml_packages` into `folder`; `draft`, a manifest that names no files yet, travels inside.

    Raises BadOption where the stream cannot be bounded.
    """
    parts = cut(model.layers, recipe.parts)
    for number, (package, layers) in enumerate(zip(draft.coreml_packages, parts, strict=True)):
        with tempfile.TemporaryDirectory(prefix=".weights.", dir=folder.parent) as scratch:
            part = Part(model, recipe, layers, WeightStore(Path(scratch)), weights)
            program = Program()
            part.add_function(program, names.DECODE, 1)
            part.add_function(program, names.PREFILL, recipe.stream.chunk)
            describe = partial(describe_model, manifest=draft, part=number)
            save_program(program, names.DECODE, folder / package, Path(scratch), describe)


@dataclass(frozen=True)
class Part:
    """The layers of one package, and where their weights come from."""

    model: ModelSpec
    recipe: Recipe
    layers: range
    store: WeightStore  # of the package, filled from `weights`
    weights: Weights

    def add_function(self, program: Program, name: str, tokens: int) -> None:
        """The function `name` over so many tokens; a chunk's is told how many of the tokens are real."""
        states = {state.view: state for state in packed_states(self.model, self.recipe, self.layers, part=0)}
        shapes = {state.name: state.shape for state in states.values()}
        with function(program, name, self.inputs(name, tokens), shapes) as (values, outputs):
            buffers = {view: self.buffers(view, values[state.name]) for view, state in states.items()}
            ops = MilOps(self.store, self.weights, values.get(names.LENGTH))
            entering = values[names.HIDDEN if self.layers.start else names.IDS]
            attention = self.attention(ops, buffers, values, entering)
            leaving = decoder(self.model, ops, attention, entering, self.layers)
            if self.layers.stop < self.model.layers:
                outputs.append(named(leaving, names.updated(names.HIDDEN)))
            else:
                outputs.append(named(reshape(leaving, 1, self.model.vocab), names.LOGITS))
            if self.recipe.kv_write == "host":
                outputs += [named(buffer.new_rows(), names.new_kv(view)) for view, buffer in buffers.items()]

    def inputs(self, name: str, tokens: int) -> dict[str, tuple[tuple[int, ...], str]]:
        """Name -> shape and type of the inputs of the function `name`. Every part is told every ring's position."""
        inputs: dict[str, tuple[tuple[int, ...], str]] = {}
        if self.layers.start:
            inputs[names.HIDDEN] = (1, tokens, self.model.hidden), "float16"
        else:
            inputs[names.IDS] = (1, tokens), "int32"
        inputs[names.POSITION] = (len(self.model.rings(self.recipe.stream)),), "int32"
        inputs[names.SINKS] = (1,), "int32"
        if name == names.PREFILL:
            inputs[names.LENGTH] = (1,), "int32"
        return inputs

    def buffers(self, view: int, state: Value) -> MilBuffers:
        """The buffers of the layers whose ring is the one at `view`."""
        return MilBuffers(state, layers_of(self.model, self.recipe, self.layers, view), str(self.recipe.kv_write))

    def attention(self, ops: MilOps, buffers: Mapping[int, MilBuffers], values: Values, entering: Value) -> Attention:
        """How the layers attend: a frame for each view that one of them has, at the position of its ring."""
        model, stream = self.model, self.recipe.stream
        rings, frames = model.rings(stream), {}
        for place in sorted({model.view_of[layer] for layer in self.layers}):
            view = model.views[place]
            ring = rings.index(model.ring(view, stream))
            spec, length = AttentionSpec.of(model, stream, view), values.get(names.LENGTH, 1)
            position = values[names.POSITION] if len(rings) == 1 else element(values[names.POSITION], ring)
            frames[place] = frame_attention(ops, buffers[ring], spec, entering, position, values[names.SINKS], length)
        return by_view(model, frames)


def element(x: Value, place: int) -> Value:
    """One element of x [n]: [1]."""
    return Value(mb.slice_by_index(x=x.var, begin=int32([place]), end=int32([place + 1])))


def named(value: Value, name: str) -> Value:
    """The same as an output."""
    return Value(mb.identity(x=value.var, name=name))
