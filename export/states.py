"""The states of a bundle: which buffers its graph reads and writes, said once for the manifest and the emitters."""

from __future__ import annotations

from edgesink import names
from edgesink.export.graph import cut
from edgesink.export.recipe import Recipe
from edgesink.manifest import State, rows_of
from edgesink.spec import ModelSpec
from edgesink.targets import ROWS


def states_of(model: ModelSpec, recipe: Recipe) -> tuple[State, ...]:
    """Every state of the export, in the order of its graph."""
    if recipe.target == "coreml":
        return tuple(
            state
            for part, layers in enumerate(cut(model.layers, recipe.parts))
            for state in packed_states(model, recipe, layers, part)
        )
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
            states.append(State(names.kv_cache(view), shape, dtype, view, part))
    return states


def layers_of(model: ModelSpec, recipe: Recipe, layers: range, view: int) -> list[int]:
    """Those of `layers` whose ring is the one at `view`."""
    return [layer for layer in layers if model.ring_of(layer, recipe.stream) == view]


def _rows(model: ModelSpec, recipe: Recipe, view: int) -> int:
    ring = recipe.stream.layer_ring(model.rings(recipe.stream)[view])
    return rows_of(ring, recipe.target)
