"""What a package says of itself to people and tools: its inputs, outputs and state in words, the manifest inside."""

from __future__ import annotations

from typing import Any

from edgesink import names
from edgesink.manifest import Manifest

DESCRIPTIONS = {
    names.IDS: "Token ids, [1, T]; behind `length` of them, padding.",
    names.POSITION: "Tokens fed before this run, as the Ring.frame of each of the manifest's views: always bounded.",
    names.SINKS: "How many first tokens of this stream are never forgotten; the same from its start to its end.",
    names.LENGTH: "How many of the ids are real, 1 to T.",
    names.LOGITS: "Logits after the last real id, [1, V].",
    names.HIDDEN: "What the part before this one returned for the ids, [1, T, hidden].",
    names.updated(names.HIDDEN): "For the part behind this one, [1, T, hidden].",
}


KV_CACHE = "Keys and values of layers that share a ring, [2 L, K, rows, D]: keys of layer i at 2 i, values at 2 i + 1."
NEW_KV = "Rows of the ids, [2 L, K, T, D], to be written to the state at their slots before the next run."


def describe_model(description: Any, manifest: Manifest, part: int) -> None:
    """Fill in a ModelDescription protobuf of the package number `part`."""
    for function in description.functions:
        for feature in (*function.input, *function.output, *function.state):
            feature.shortDescription = _description(feature.name)
    metadata = description.metadata
    metadata.shortDescription = (
        f"{manifest.name}: streams forever in constant memory, {manifest.stream.capacity} tokens remembered"
    )
    metadata.versionString = manifest.tools["edgesink"]
    metadata.userDefined[names.MANIFEST_KEY] = manifest.to_json()
    if manifest.parts > 1:
        metadata.userDefined[names.PART_KEY] = str(part)


def _description(name: str) -> str:
    if name.startswith(names.kv_cache(0)):
        return KV_CACHE
    return NEW_KV if name.startswith(names.new_kv(0)) else DESCRIPTIONS[name]
