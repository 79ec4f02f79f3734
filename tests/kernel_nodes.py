"""Sessions of ONNX Runtime with graphs of one of our operators, and weights as these take them."""

import numpy as np
from onnx import helper, numpy_helper
from packed import lay_codes, side_by_side

from edgesink.runtime import kernels

PRODUCT_INPUTS = ("x", "codes", "scale", "offset", "norm", "residual", "bias", "after", "factors", "offset_factors")


def session_of(
    nodes: list,
    inputs: list,
    outputs: list,
    weights: dict[str, np.ndarray],
    threads: int = 2,
    entries: tuple[str, ...] = (),
):
    """`entries`: of the session's configuration, each with the value 1."""
    import onnxruntime as ort

    graph = helper.make_graph(
        nodes, "one", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("edgesink", 1)]
    options = ort.SessionOptions()
    for entry in entries:
        options.add_session_config_entry(entry, "1")
    options.register_custom_ops_library(str(kernels._path()))
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Weights:
    """A random matrix [N, K] as the operators take it, and as it is."""

    def __init__(self, rows: int, columns: int, bits: int, offset: bool) -> None:
        random = np.random.default_rng(rows * columns + bits)
        codes = random.integers(0, 1 << bits, (rows, columns)).astype(np.uint8)
        scale = (random.random((rows, columns // 32)) * 0.02 + 0.001).astype(np.float16)
        least = (random.random((rows, columns // 32)) * -0.1).astype(np.float16)
        self.tensors = {"codes": lay_codes(codes, bits), "scale": side_by_side(scale)}
        if offset:
            self.tensors["offset"] = side_by_side(least)
        whole = least if offset else -(1 << (bits - 1)) * scale.astype(float)
        counted = codes.reshape(rows, -1, 32) * scale[..., None].astype(float)
        self.values = (counted + whole[..., None]).reshape(rows, columns)
        self.attributes = {"rows": rows, "bits": bits, "domain": "edgesink"}


MATRICES = {
    "4 bits": Weights(96, 576, 4, offset=True),
    "4 bits, rows over": Weights(37, 96, 4, offset=True),
    "4 bits, symmetric": Weights(16, 64, 4, offset=False),
    "8 bits": Weights(70, 160, 8, offset=False),
    "one block": Weights(5, 32, 8, offset=False),
}


def gate_and_up(y: np.ndarray, gated: int) -> tuple[np.ndarray, np.ndarray]:
    """The products [..., N] of a gated one's rows: halves, or from 3 on groups of 16 in turn."""
    if gated < 3:
        gate, up = np.split(y, 2, axis=-1)
        return gate, up
    groups = y.reshape(*y.shape[:-1], -1, 2, 16)
    return groups[..., 0, :].reshape(*y.shape[:-1], -1), groups[..., 1, :].reshape(*y.shape[:-1], -1)
