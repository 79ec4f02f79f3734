"""How much disk an export takes, told before it is made: weights in their forms, and a little for the rest."""

from __future__ import annotations

import math
from dataclasses import replace

from edgesink.export.blocks import BLOCK
from edgesink.export.checkpoint import Checkpoint, weight_names, weight_shape
from edgesink.export.gguf_blocks import bits_of
from edgesink.export.halves import Halves
from edgesink.export.recipe import Recipe
from edgesink.export.weights import PALETTE_GROUP, Form, carried_kind, form_of
from edgesink.targets import ROWS

TABLE_BITS = 16  # of an entry of a palette
TOKEN_BYTES = 72  # of tokenizer.json


def bundle_bytes(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """About what the bundle weighs."""
    model, row, forms = checkpoint.model, ROWS[recipe.target], _forms(checkpoint, recipe)
    total = sum(_stored_bytes(form, weight_shape(model, name), row.block_bits) for name, form in forms.items())
    if model.tied and recipe.parts > 1:  # the first part and the last hold it
        total += _stored_bytes(forms["embedding"], weight_shape(model, "embedding"), row.block_bits)
    return total + (model.layers + 1) * row.layer_bytes + model.vocab * TOKEN_BYTES


def scratch_bytes(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """About what lies beside the bundle while it is made."""
    model = checkpoint.model
    values = sum(math.prod(weight_shape(model, name)) for name in weight_names(model))
    if model.tied and recipe.parts > 1:
        values += math.prod(weight_shape(model, "embedding"))
    return values * ROWS[recipe.target].scratch_bits.get(recipe.precision, 0) // 8


def _forms(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Form]:
    """Of every weight."""
    forms = {}
    for name in weight_names(checkpoint.model):
        form = form_of(name, checkpoint.model, recipe.precision, recipe.vocabulary_bits)
        kind = carried_kind(checkpoint, name, form)
        bits = form.bits if kind is None else bits_of(kind)
        whole = form.kind == "blocks" and not ROWS[recipe.target].packs_odd_bits
        carried = replace(form, bits=8 if whole and bits > 4 else bits)
        forms[name] = Form("floats", bits) if bits == Halves.bits else carried
    return forms


def _stored_bytes(form: Form, shape: tuple[int, ...], block_bits: int) -> int:
    size = math.prod(shape)
    bits = size * form.bits
    if form.kind == "blocks":
        bits += size // BLOCK * block_bits
    elif form.kind == "palette":
        bits += shape[0] // PALETTE_GROUP * 2**form.bits * TABLE_BITS
    return bits // 8
