"""How likely a bundle finds each token of a text, a chunk at a time: the exported graph with another end.

Owns the graph that is derived from a bundle's: the node that keeps the last token is cut out, and a few nodes turn the
logits of every token into the negative log likelihood of the token that follows, so that T floats come out and not
T x V. The layers, the ring and the weights are the bundle's own, and chunk invariance makes the numbers those of
feeding the text token by token. Knows ids, not text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesink import names
from edgesink.errors import BadBundle, MissingPackage
from edgesink.manifest import Manifest
from edgesink.spec import Device

if TYPE_CHECKING:
    import onnx

TARGETS = "targets"  # [1, T] integer, the token that follows each of the ids
NLL = "nll"  # [1, T] float32, nats


class Scorer:
    """A stream of the bundle that scores what it is fed; its memory is constant.

    Attributes:
        position: tokens fed since the stream started.
    """

    def __init__(self, bundle: Path, threads: int | None = None, device: Device = "cpu") -> None:
        from edgesink.runtime.bound_graph import BoundGraph, RunOptions

        self.manifest = Manifest.read(bundle)
        if self.manifest.target != "onnx":
            raise BadBundle(f"a bundle for target {self.manifest.target}", "target onnx", "export with --target onnx")
        self._graph = BoundGraph(bundle, self.manifest, RunOptions(threads, device), derive=scoring_graph)
        self.reset(self.manifest.stream.sinks)

    def reset(self, sinks: int) -> None:
        """Start a new stream with `sinks` pinned tokens."""
        self.ring = self.manifest.stream.ring(sinks)
        self.position = 0

    def feed(self, ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Feed ids [n], any number; float32 [n], the nats by which each of the `targets` [n] surprises."""
        scores, start = [], 0
        for size in self.ring.chunks(len(ids)):
            part = slice(start, start + size)
            scores.append(self._run(ids[part], targets[part]))
            start += size
            self.position += size
        return np.concatenate(scores)

    def state(self) -> dict[str, np.ndarray]:
        """The key/value buffers by name."""
        return self._graph.state.arrays()

    def load_state(self, state: dict[str, np.ndarray], position: int, sinks: int) -> None:
        """Go on from a saved stream."""
        self.reset(sinks)
        self._graph.state.load(state)
        self.position = position

    def _run(self, ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
        nll = np.zeros((1, len(ids)), np.float32)
        self._graph.share_input(TARGETS, np.ascontiguousarray(targets[None], np.int64))
        self._graph.share_output(NLL, nll)
        self._graph.run(ids, self.position, self.ring.sinks)
        return nll[0]


def scoring_graph(path: Path) -> bytes:
    """The graph file `path` with `logits` replaced by the negative log likelihood of `targets`."""
    try:
        import onnx
    except ImportError:
        raise MissingPackage("scoring needs the package onnx", "", "pip install 'edgesink[eval]'") from None
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    _keep_every_token(graph)
    vocab = next(output for output in graph.output if output.name == names.LOGITS).type.tensor_type.shape.dim[-1]
    _append_nll(graph, names.LOGITS, vocab.dim_value)
    for output in [output for output in graph.output if output.name in (names.LOGITS, names.NEXT)]:
        graph.output.remove(output)
    model_bytes: bytes = model.SerializeToString()
    return model_bytes


def _keep_every_token(graph: onnx.GraphProto) -> None:
    """Cut out the node that keeps the last token, and the one that chooses the next."""
    last = next((node for node in graph.node if node.name == names.LAST), None)
    if last is None:
        raise BadBundle(f"the graph has no node {names.LAST}", "", "export the model again")
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == last.output[0]:
                node.input[index] = last.input[0]
    nodes = [node for node in graph.node if node.name != names.LAST and names.NEXT not in node.output]
    del graph.node[:]
    graph.node.extend(nodes)


def _append_nll(graph: onnx.GraphProto, logits: str, vocab: int) -> None:
    """logsumexp(logits) - logits[target], as [1, T]."""
    from onnx import TensorProto, helper, numpy_helper

    flat = numpy_helper.from_array(np.array([-1, vocab], np.int64), "nll_flat")
    column = numpy_helper.from_array(np.array([-1, 1], np.int64), "nll_column")
    row = numpy_helper.from_array(np.array([1, -1], np.int64), "nll_row")
    graph.initializer.extend([flat, column, row])
    graph.input.append(helper.make_tensor_value_info(TARGETS, TensorProto.INT64, [1, "T"]))
    graph.output.append(helper.make_tensor_value_info(NLL, TensorProto.FLOAT, [1, "T"]))
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Reshape", [logits, "nll_flat"], "nll_logits", {}),  # [T, V]
        ("LogSoftmax", ["nll_logits"], "nll_log_probability", {"axis": -1}),  # [T, V]
        ("Reshape", [TARGETS, "nll_column"], "nll_index", {}),  # [T, 1]
        ("GatherElements", ["nll_log_probability", "nll_index"], "nll_chosen", {"axis": 1}),  # [T, 1]
        ("Neg", ["nll_chosen"], "nll_each", {}),
        ("Reshape", ["nll_each", "nll_row"], NLL, {}),  # [1, T]
    ]
    graph.node.extend(helper.make_node(op, ins, [out], name=out, **more) for op, ins, out, more in steps)
