"""The decoder as a Core AI program (iOS 27, macOS 27): PyTorch's side of the vocabulary, through Apple's converter.

Owns the two entry points, `decode` and `prefill`, over one set of states, and the saving of the asset. The graph is the
bounded frame of `attention`, traced by `torch.export`; its lowering is Apple's.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch  # noqa: TID253  (imported when a Core AI export is asked for)

from edgesink import names
from edgesink.errors import MissingPackage
from edgesink.export.checkpoint import weight_names
from edgesink.export.recipe import Recipe
from edgesink.export.to_torch import RingDecoder
from edgesink.export.weights import Weights
from edgesink.manifest import COREAI_MODEL
from edgesink.packages import COREAI_REMEDY
from edgesink.spec import ModelSpec


def write_coreai(folder: Path, model: ModelSpec, recipe: Recipe, weights: Weights) -> None:
    """Write `model.aimodel` into `folder`. Raises MissingPackage without Apple's packages."""
    try:
        from coreai_torch import TorchConverter, get_decomp_table
    except ImportError:
        raise MissingPackage("exporting for Core AI needs Apple's coreai-torch", "", COREAI_REMEDY) from None
    stream, rings = recipe.stream, len(model.rings(recipe.stream))
    dtype = torch.float16 if recipe.precision == "fp16" else torch.float32
    tensors = {name: torch.tensor(np.asarray(weights(name)), dtype=dtype) for name in weight_names(model)}
    converter = TorchConverter()
    for entry, length in ((names.DECODE, 1), (names.PREFILL, stream.chunk)):
        module = RingDecoder(model, stream, tensors, index=torch.int32).eval()
        inputs = [names.IDS, names.POSITION, names.SINKS, *([names.LENGTH] if length > 1 else [])]
        shapes = [{names.IDS: (1, length), names.POSITION: (rings,)}.get(name, (1,)) for name in inputs]
        # a tensor for each: one object for two arguments would be traced as one input
        arguments = tuple(torch.ones(shape, dtype=torch.int32) for shape in shapes)
        with torch.no_grad():
            program = torch.export.export(module, arguments).run_decompositions(get_decomp_table())
        states = list(program.graph_signature.buffers_to_mutate.values())
        converter.add_exported_program(
            program, input_names=inputs, output_names=[names.LOGITS], state_names=states, entrypoint_name=entry
        )
    with contextlib.redirect_stdout(io.StringIO()):
        converter.to_coreai().save_asset(folder / COREAI_MODEL)
