"""What a package says of itself to people and tools: its inputs, outputs and state in words, the manifest inside."""

from __future__ import annotations

from typing import Any

from edgesink import names
from edgesink.manifest import Manifest

DESCRIPTIONS = {
    names.IDS: "Token ids, [1, T]; behind `length` of them, padding.",
    names.POSITION: "Tokens fed before this run, as edgesink's Ring.frame of that number: always bounded.",
    names.SINKS: "How many first tokens of this stream are never forgotten; the same from its start to its end.",
    names.LENGTH: "How many of the ids are real, 1 to T.",
    names.LOGITS: "Logits after the last real id, [1, V].",
    names.HIDDEN: "What the part before this one returned for the ids, [1, T, hidden].",
    names.updated(names.HIDDEN): "For the part behind this one, [1, T, hidden].",
    names.KV_CACHE: "Keys and values of the layers here, [2 L, K, rows, D]: keys of layer i at 2 i, values at 2 i + 1.",
    names.NEW_KV: "Rows of the ids, [2 L, K, T, D], to be written to the state at their slots before the next run.",
}


def describe_model(description: Any, manifest: Manifest, part: int) -> None:
    """Fill in a ModelDescription protobuf of the package number `part`."""
    for function in description.functions:
        for feature in (*function.input, *function.output, *function.state):
            feature.shortDescription = DESCRIPTIONS[feature.name]
    metadata = description.metadata
    metadata.shortDescription = (
        f"{manifest.model.name}: streams forever in constant memory, {manifest.stream.capacity} tokens remembered"
    )
    metadata.versionString = manifest.tools["edgesink"]
    metadata.userDefined[names.MANIFEST_KEY] = manifest.to_json()
    if manifest.parts > 1:
        metadata.userDefined[names.PART_KEY] = str(part)
