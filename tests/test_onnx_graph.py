"""The graph as a file: standard, checked, and with nothing in it that grows with the stream."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edgesink import names
from edgesink.manifest import KERNELS_GRAPH, ONNX_DATA, ONNX_GRAPH, Manifest
from edgesink.spec import StreamSpec

SPEC = StreamSpec(3, 13, 8, 5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_float_graph_is_standard_onnx(toy, tmp_path, precision):
    path = toy.bundle(tmp_path / "bundle", SPEC, precision) / ONNX_GRAPH
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    assert {node.domain for node in graph.node} == {""}


def test_a_quantised_graph_adds_one_operator_only(toy, tmp_path):
    path = toy.bundle(tmp_path / "bundle", SPEC, "int4") / ONNX_GRAPH
    graph = onnx.load(path, load_external_data=False).graph
    assert {n.op_type for n in graph.node if n.domain} == {"MatMulNBits"}


def test_no_tensor_has_a_shape_that_depends_on_the_position(toy, tmp_path):
    """Every tensor of the graph is handed out and has the same shape at any two positions of equal chunk."""
    bundle = toy.bundle(tmp_path / "bundle", SPEC, "fp32")
    model = onnx.load(bundle / ONNX_GRAPH)
    declared = {output.name for output in model.graph.output}
    for node in model.graph.node:
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name not in declared)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    state = {name: np.zeros((1, 2, SPEC.rows, 16), np.float32) for name in names.states(3)}

    def shapes(position: int, length: int) -> list[tuple[int, ...]]:
        ends = {
            names.IDS: np.full((1, length), 7), names.POSITION: np.array([position]), names.SINKS: np.array([3]),
        }  # fmt: skip
        return [np.shape(output) for output in session.run(None, ends | state)]

    for length in (1, 5):
        first = shapes(0, length)
        assert all(shapes(position, length) == first for position in (1, 12, 13, 16, 17, 40, 10**6, 10**12))


def test_the_state_goes_in_and_out_with_one_shape_and_is_written_once_a_layer(toy, tmp_path):
    graph = onnx.load(toy.bundle(tmp_path / "bundle", SPEC) / ONNX_GRAPH, load_external_data=False).graph
    shape_of = lambda info: [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]  # noqa: E731
    inputs = {i.name: shape_of(i) for i in graph.input}
    outputs = {o.name: shape_of(o) for o in graph.output}
    states = names.states(3)
    for state in states:
        assert inputs[state] == outputs[names.updated(state)] == [1, 2, "rows", 16]
    writers = [node for node in graph.node if node.op_type == "ScatterND"]
    assert sorted(node.output[0] for node in writers) == sorted(map(names.updated, states))
    readers = [node.op_type for node in graph.node if set(node.input) & set(states) and node.op_type != "Shape"]
    assert readers == ["ScatterND"] * len(states), "the graph reads the state only after writing it"


def test_states_of_different_rings_may_have_different_numbers_of_rows(two_views, tmp_path):
    bundle = two_views.bundle(tmp_path / "bundle", SPEC)
    graph = onnx.load(bundle / ONNX_GRAPH, load_external_data=False).graph
    rows = {i.name: i.type.tensor_type.shape.dim[2].dim_param for i in graph.input if i.name in names.states(3)}
    assert [rows[names.key(layer)] for layer in range(3)] == ["rows", "rows_1", "rows"]
    assert [rows[state.name] for state in Manifest.read(bundle).states if state.view == 1] == ["rows_1", "rows_1"]
    (position,) = [i for i in graph.input if i.name == names.POSITION]
    assert [d.dim_value for d in position.type.tensor_type.shape.dim] == [1]


def test_weights_are_stored_once_for_both_graphs(toy, tmp_path):
    bundle = toy.bundle(tmp_path / "bundle", SPEC, "int4")
    plain, ours = (places(bundle / name) for name in (ONNX_GRAPH, KERNELS_GRAPH))
    common = plain.keys() & ours.keys()
    assert {name: plain[name] for name in common} == {name: ours[name] for name in common}
    assert {"embedding.codes", "layers.0.q+layers.0.k+layers.0.v.codes"} <= common
    ends = sorted((int(place["offset"]), int(place["length"])) for place in (plain | ours).values())
    assert sum(length for _, length in ends) <= (bundle / ONNX_DATA).stat().st_size
    assert all(at % 64 == 0 and at < start + length + 64 for (start, length), (at, _) in pairwise(ends))
    assert all(start + length <= at for (start, length), (at, _) in pairwise(ends))


def places(graph: Path) -> dict[str, dict[str, str]]:
    """Where each tensor lies that is not in the graph itself."""
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    found = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in tensors}
    return {name: place for name, place in found.items() if place}
