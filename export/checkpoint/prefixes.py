"""What stands before the names of a decoder's tensors in a file: found once, from the embedding's."""

from __future__ import annotations

from collections.abc import Mapping

from edgesink.export.checkpoint.shards import Tensor


def with_prefix(tensors: Mapping[str, Tensor], embedding: str, head: str) -> dict[str, Tensor]:
    """The tensors as a causal model spells them, given how it spells its embedding and its head.

    A base model that was saved alone lacks the first part of each name ("model."), and one that was part of a larger
    model has more ("language_model.model.", "model.language_model."). The head stands outside of what the first part
    names. Tensors that begin otherwise stay as they are; where two could be the embedding, all do.
    """
    first, _, rest = embedding.partition(".")
    found = [key for key in tensors if f".{key}".endswith(f".{rest}")]
    if embedding in tensors or len(found) != 1:
        return dict(tensors)
    before = found[0].removesuffix(rest)
    heads = {before.removesuffix(f"{first}.") + head, before + head, head}
    return {_renamed(key, before, f"{first}.", heads, head): tensor for key, tensor in tensors.items()}


def _renamed(key: str, before: str, first: str, heads: set[str], head: str) -> str:
    if key in heads:
        return head
    return first + key.removeprefix(before) if key.startswith(before) else key
