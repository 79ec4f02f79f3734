"""The states of a bundle: which buffers its graph reads and writes, said once for the manifest and the emitters.

Owns which keys the graph over our kernels holds in float32. Float16 is precise enough for keys and values in general,
but in a few layers of Qwen2 models the biases of keys reach 354, in pairs of dimensions that hardly turn. All keys have
such a bias alike, so most of it cancels in the softmax; its rounding, up to 0.06 of a key of 211, does not. Layers are
of two kinds: in Qwen2.5-Coder-0.5B their largest bias is below 10 or beyond 21, in 1.5B below 14 or beyond 42.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgesink import names
from edgesink.export.graph import cut
from edgesink.export.recipe import Recipe
from edgesink.export.weights import Weights
from edgesink.manifest import State, rows_of
from edgesink.spec import ModelSpec
from edgesink.targets import ROWS, lacks

LARGEST_KEY_BIAS = 16.0
"""Up to here float16 has steps of 1/128 or less; keys of a layer with a larger one are held in float32."""


def float32_in_kernels(model: ModelSpec, recipe: Recipe, weights: Weights) -> tuple[str, ...] | None:
    """Names of the states that the graph over our kernels holds in float32; None if it has none, or there is no graph:
    the keys of layers with a bias of keys beyond LARGEST_KEY_BIAS."""
    has_graph = recipe.target == "onnx" and not lacks(recipe.target, recipe.precision, model.as_data())
    if not has_graph or "k_bias" not in model.weights:
        return None
    biases = (np.asarray(weights(f"layers.{layer}.k_bias")) for layer in range(model.layers))
    return tuple(names.key(layer) for layer, bias in enumerate(biases) if np.abs(bias).max() > LARGEST_KEY_BIAS) or None


def states_of(model: ModelSpec, recipe: Recipe) -> tuple[State, ...]:
    """Every state of the export, in the order of its graph."""
    if recipe.target == "coreml":
        states = tuple(
            state
            for part, layers in enumerate(cut(model.layers, recipe.parts))
            for state in packed_states(model, recipe, layers, part)
        )
        return states if len(states) > 1 else (replace(states[0], layers=None),)  # which then goes without saying
    dtype = ROWS[recipe.target].states[recipe.precision]
    return tuple(
        State(name(layer), (1, model.kv_heads, _rows(model, recipe, view), model.head_dim), dtype, view)
        for layer in range(model.layers)
        for view in [model.ring_of(layer, recipe.stream)]
        for name in (names.key, names.value)
    )


def packed_states(model: ModelSpec, recipe: Recipe, layers: range, part: int) -> list[State]:
    """Those of one Core ML package: keys and values of the layers of a ring in one tensor, a state for each ring."""
    dtype, states = ROWS[recipe.target].states[recipe.precision], []
    for view in range(len(model.rings(recipe.stream))):
        here = layers_of(model, recipe, layers, view)
        if here:
            shape = (2 * len(here), model.kv_heads, _rows(model, recipe, view), model.head_dim)
            states.append(State(names.kv_cache(view), shape, dtype, view, part, tuple(here)))
    return states


def layers_of(model: ModelSpec, recipe: Recipe, layers: range, view: int) -> list[int]:
    """Those of `layers` whose ring is the one at `view`."""
    return [layer for layer in layers if model.ring_of(layer, recipe.stream) == view]


def _rows(model: ModelSpec, recipe: Recipe, view: int) -> int:
    ring = recipe.stream.layer_ring(model.rings(recipe.stream)[view])
    return rows_of(ring, recipe.target)
