"""A Core AI program in Apple's interpreter, which runs on Linux too: how a saved asset is checked.

Owns the asset's state and its two entry points; what they are given is `bounded_inputs`'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgesink import names
from edgesink.bounded_inputs import bounded_inputs
from edgesink.errors import MissingPackage
from edgesink.manifest import Manifest
from edgesink.packages import COREAI_REMEDY


class CoreAiStream:
    """A saved asset in Apple's interpreter, one stream at a time."""

    def __init__(self, asset: Path, manifest: Manifest) -> None:
        try:
            from coreai.authoring import AIModelAsset
            from coreai.runtime import NDArray
        except ImportError:
            raise MissingPackage("running a Core AI asset needs Apple's coreai-core", "", COREAI_REMEDY) from None
        self._array, self._manifest = NDArray, manifest
        self._loop = asyncio.new_event_loop()
        self._executable = AIModelAsset.load(asset).executable()  # specialised in a folder of its own, until `close`
        loaded = self._loop.run_until_complete(self._executable.__aenter__())
        self._functions = {name: loaded.load_function(name) for name in (names.DECODE, names.PREFILL)}
        self._state = {state.name: NDArray(np.zeros(state.shape, state.dtype)) for state in manifest.states}

    def feed(self, ids: np.ndarray, position: int, sinks: int) -> np.ndarray:
        """Run ids (int [T], at most a chunk) that stand at `position`; float32 [V], after the last."""
        function, inputs = bounded_inputs(self._manifest, ids, position, sinks)
        outputs: Mapping[str, Any] = self._loop.run_until_complete(self._call(self._functions[function], inputs))
        return np.asarray(outputs[names.LOGITS].numpy(), np.float32).reshape(-1)

    def state(self, name: str) -> np.ndarray:
        """A state as the last run left it."""
        return np.asarray(self._state[name].numpy())

    def close(self) -> None:
        """Let go of the specialised program."""
        self._functions.clear()
        self._loop.run_until_complete(self._executable.__aexit__(None, None, None))
        self._loop.close()

    async def _call(self, function: Any, inputs: Mapping[str, np.ndarray]) -> Any:
        arrays = {name: self._array(value) for name, value in inputs.items()}
        return await function(inputs=arrays, state=self._state)
