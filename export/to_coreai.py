"""The decoder as a Core AI program (iOS 27, macOS 27): PyTorch's side of the vocabulary, through Apple's converter.

Owns the two entry points, `decode` and `prefill`, over one set of states, and the saving of the asset. The graph is the
bounded frame of `attention`, traced by `torch.export`; its lowering is Apple's. `CoreAiStream` drives a saved asset in
Apple's interpreter, which runs on Linux too.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253  (imported when a Core AI export is asked for)

from edgesink import names
from edgesink.bounded_inputs import bounded_inputs
from edgesink.errors import MissingPackage
from edgesink.export.checkpoint import weight_names
from edgesink.export.to_torch import RingDecoder
from edgesink.export.weights import Weights
from edgesink.manifest import COREAI_MODEL, Manifest

REMEDY = "pip install 'edgesink[coreai]'"


def write_coreai(folder: Path, manifest: Manifest, weights: Weights) -> None:
    """Write `model.aimodel` into `folder`. Raises MissingPackage without Apple's packages."""
    try:
        from coreai_torch import TorchConverter, get_decomp_table
    except ImportError:
        raise MissingPackage("exporting for Core AI needs Apple's coreai-torch", "", REMEDY) from None
    model, stream = manifest.model, manifest.stream
    dtype = torch.float16 if manifest.precision == "fp16" else torch.float32
    tensors = {name: torch.tensor(np.asarray(weights(name)), dtype=dtype) for name in weight_names(model)}
    converter = TorchConverter()
    for entry, length in ((names.DECODE, 1), (names.PREFILL, stream.chunk)):
        module = RingDecoder(model, stream, tensors, index=torch.int32).eval()
        inputs = [names.IDS, names.POSITION, names.SINKS, *([names.LENGTH] if length > 1 else [])]
        # a tensor for each: one object for two arguments would be traced as one input
        arguments = [torch.ones(1, length if name == names.IDS else 1, dtype=torch.int32) for name in inputs]
        arguments = [arguments[0], *(argument[0] for argument in arguments[1:])]
        with torch.no_grad():
            program = torch.export.export(module, tuple(arguments)).run_decompositions(get_decomp_table())
        states = list(program.graph_signature.buffers_to_mutate.values())
        converter.add_exported_program(
            program, input_names=inputs, output_names=[names.LOGITS], state_names=states, entrypoint_name=entry
        )
    with contextlib.redirect_stdout(io.StringIO()):
        converter.to_coreai().save_asset(folder / COREAI_MODEL)


class CoreAiStream:
    """A saved asset in Apple's interpreter, one stream at a time."""

    def __init__(self, asset: Path, manifest: Manifest) -> None:
        try:
            from coreai.authoring import AIModelAsset
            from coreai.runtime import NDArray
        except ImportError:
            raise MissingPackage("running a Core AI asset needs Apple's coreai-core", "", REMEDY) from None
        self._array, self._manifest = NDArray, manifest
        model, stream = manifest.model, manifest.stream
        self._loop = asyncio.new_event_loop()
        self._executable = AIModelAsset.load(asset).executable()  # specialised in a folder of its own, until `close`
        loaded = self._loop.run_until_complete(self._executable.__aenter__())
        self._functions = {name: loaded.load_function(name) for name in (names.DECODE, names.PREFILL)}
        shape = (1, model.kv_heads, stream.rows, model.head_dim)
        self._state = {name: NDArray(np.zeros(shape, manifest.state_dtype)) for name in names.states(model.layers)}

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        """Run ids (int [T], at most a chunk) that stand at `position`; float32 [V], after the last."""
        function, inputs = bounded_inputs(self._manifest.stream, ids, position, sinks)
        outputs: Mapping[str, Any] = self._loop.run_until_complete(self._call(self._functions[function], inputs))
        return np.asarray(outputs[names.LOGITS].numpy(), np.float32).reshape(-1)

    def close(self) -> None:
        """Let go of the specialised program."""
        self._functions.clear()
        self._loop.run_until_complete(self._executable.__aexit__(None, None, None))
        self._loop.close()

    async def _call(self, function: Any, inputs: Mapping[str, np.ndarray]) -> Any:
        arrays = {name: self._array(value) for name, value in inputs.items()}
        return await function(inputs=arrays, state=self._state)
