"""One vocabulary traced for layers of two kinds: nothing that depends on the one may serve the other."""

import inspect
from contextlib import closing, contextmanager

import numpy as np
import pytest

from edgesink import names
from edgesink.errors import BadOption
from edgesink.export import to_torch
from edgesink.export.attention import BoundedFrame, SinkCorrected
from edgesink.export.graph import Norm, Projection
from edgesink.export.quantize import quantize
from edgesink.export.rows import AttentionSpec, Heads
from edgesink.export.to_coreml import ops as to_coreml_ops
from edgesink.export.to_coreml.buffers import MilBuffers
from edgesink.export.to_coreml.builder import Program, WeightStore, constant, function
from edgesink.export.to_coreml.ops import MilOps
from edgesink.export.to_onnx import ops as to_onnx_ops
from edgesink.export.to_onnx.buffers import OnnxBuffers
from edgesink.export.to_onnx.builder import Graph, WeightFile
from edgesink.export.to_onnx.kernels import KernelOps, Packed, RingAttention
from edgesink.export.to_onnx.ops import OnnxOps, inputs
from edgesink.export.to_onnx.weights import OnnxWeights

HIDDEN = 32


def attention(scale=8**-0.5, base=10.0, capacity=12, rows=16, heads=4):
    """Layers with sinks, their positions in the cache."""
    frequencies = base ** -np.arange(4.0)
    return AttentionSpec(Heads(heads, 2, 8), scale, frequencies, np.ones(4), capacity, rows, True, "cache")


NEAR = attention()
FAR = attention(0.5, base=5.0, capacity=60, rows=64)
SAME_ROWS = attention(0.5, base=5.0)


def weights(name):
    """Any matrix that is asked for, q, k, v and the like, and "vector" of a head."""
    if name == "vector":
        return np.ones(8, np.float32)
    rows = {"q": 32, "k": 16, "v": 16}.get(name.rpartition(".")[2], HIDDEN)
    return quantize(np.random.default_rng(rows).normal(size=(rows, HIDDEN)).astype(np.float32), 4)


@pytest.fixture
def onnx_graph(tmp_path):
    with closing(WeightFile(tmp_path / "data")) as file:
        yield Graph(file), OnnxWeights(file, weights)


def nodes(graph, op):
    return [node for node in graph._nodes if node.op_type == op]


def traced_onnx(graph, stored, specs):
    """A layer of each spec through one vocabulary: the inputs by name."""
    ids, position, sinks = inputs(graph)
    ops = OnnxOps(graph, stored)
    for layer, spec in enumerate(specs):
        buffers = OnnxBuffers(graph, [layer], spec.heads, f"rows_{layer}")
        attention = SinkCorrected(ops, buffers, spec, ids, position, sinks)
        q, k, v = (graph.input(f"{name}_{layer}", np.float32, [1, 4, "T", 8]) for name in "qkv")
        attention(layer, q, k, v)
    return {given.name: given for given in graph._inputs}


def test_two_rings_of_an_onnx_graph_write_at_slots_of_their_own(onnx_graph):
    graph, stored = onnx_graph
    traced_onnx(graph, stored, [NEAR, FAR])
    indices = {node.output[0]: node.input[1] for node in nodes(graph, "ScatterND")}
    assert indices["key_0_out"] == indices["value_0_out"] != indices["key_1_out"] == indices["value_1_out"]


def test_two_rings_of_an_onnx_graph_have_rows_of_their_own(onnx_graph):
    graph, stored = onnx_graph
    given = traced_onnx(graph, stored, [NEAR, FAR])
    rows = [given[names.key(layer)].type.tensor_type.shape.dim[2].dim_param for layer in (0, 1)]
    assert rows == ["rows_0", "rows_1"]
    assert [node.input[0] for node in nodes(graph, "Shape") if node.input[0].startswith("key")] == ["key_0", "key_1"]


def test_layers_with_other_heads_have_sink_columns_of_another_shape(onnx_graph):
    graph, stored = onnx_graph
    wide = attention(0.5, heads=8)
    traced_onnx(graph, stored, [NEAR, wide])
    shapes = [node.input[1] for node in nodes(graph, "Reshape") if node.input[0].startswith("MatMul")]
    assert len(shapes) == len(set(shapes)) == 2


def test_a_layer_of_another_ring_is_not_in_the_buffers(onnx_graph):
    graph, _ = onnx_graph
    buffers = OnnxBuffers(graph, [0, 2], NEAR.heads, "rows")
    with pytest.raises(AssertionError, match="layer 1"):
        buffers.update(1, None, None, None)


@contextmanager
def mil_function(tmp_path, tokens):
    """The store and the inputs of a function of two layers, each with a state in the one tensor."""
    ids = {names.IDS: ((1, tokens), "int32"), names.POSITION: ((1,), "int32"), names.SINKS: ((1,), "int32")}
    program = Program()
    with function(program, "main", ids, {names.kv_cache(0): (4, 2, 16, 8)}) as (given, outputs):
        yield WeightStore(tmp_path), given
        outputs.append(constant(np.zeros(1)))


def tables(ops):
    return sorted(name for name in ops._consts if name.startswith("rope"))


@pytest.mark.parametrize(("specs", "count"), [([NEAR, NEAR], 1), ([NEAR, SAME_ROWS], 2)], ids=["one base", "two bases"])
def test_a_second_rotary_base_has_core_ml_tables_of_its_own(tmp_path, specs, count):
    with mil_function(tmp_path, 3) as (store, given):
        ops = MilOps(store, weights, None)
        buffers = MilBuffers(given[names.kv_cache(0)], [0, 1], "blend")
        for spec in specs:
            BoundedFrame(ops, buffers, spec, given[names.IDS], given[names.POSITION], given[names.SINKS], 3)
        cos, sin = (
            [store._held[name]["value"].array for name in tables(ops) if name.partition(".32.")[2].startswith(part)]
            for part in ("cos", "sin")
        )
        assert len(cos) == len(sin) == count
        for held, spec in zip(cos, specs, strict=False):
            assert np.array_equal(held, np.cos(np.arange(32)[:, None] * spec.frequencies).astype(np.float16))


def test_a_table_of_ones_is_not_taken_for_another(tmp_path):
    """Frequencies of zero: cosines are all one, sines all zero."""
    store = WeightStore(tmp_path)
    ones, zeros = np.ones((4, 2)), np.zeros((4, 2))
    assert store.keep_apart("rope", ones) == "rope"
    assert store.keep_apart("rope", zeros) == "rope.1"
    assert store.keep_apart("rope", ones) == "rope"
    assert store.keep_apart("rope", zeros) == "rope.1"


def test_core_ml_rows_go_to_the_slots_that_they_are_given(tmp_path):
    with mil_function(tmp_path, 3) as (_, given):
        buffers = MilBuffers(given[names.kv_cache(0)], [0, 1], "blend")
        first, second = constant(np.array([0, 1, 2])), constant(np.array([3, 4, 5]))
        assert buffers._blend_places(first) is buffers._blend_places(first)
        (put, _), (other, _) = buffers._blend_places(first), buffers._blend_places(second)
        assert put.var is not other.var


@pytest.mark.parametrize("name", ["update", "attend", "sink_scores", "rotate", "where"])
def test_the_kernels_answer_to_nothing_that_they_cannot_do(name):
    assert hasattr(OnnxOps, name) or hasattr(OnnxBuffers, name)
    assert not hasattr(KernelOps, name)


def test_heads_that_are_not_side_by_side_are_refused_by_the_kernels(onnx_graph):
    graph, stored = onnx_graph
    ops = KernelOps(graph, stored)
    ids, position, sinks = inputs(graph)
    attention = RingAttention(ops, NEAR, ids, position, sinks)
    projections = [Projection("q", 4), Projection("k", 2), Projection("v", 2)]
    q, k, v = ops.heads(graph.input("x", np.float32, [1, "T", HIDDEN]), *projections)
    assert (q.first, k.first, v.first) == (0, 4, 6)
    context = attention(0, q, k, v)
    assert (context.x.name, context.first, context.count) == ("context_0", 0, 4)
    for wrong in [(q, v, k), (Packed(position, 0, 4), k, v)]:
        with pytest.raises(AssertionError, match="side by side"):
            attention(1, *wrong)


@pytest.mark.parametrize(("spec", "scale"), [(NEAR, []), (FAR, [0.5])], ids=["usual", "its own"])
def test_the_kernels_are_told_a_scale_that_is_not_the_usual_one(onnx_graph, spec, scale):
    graph, stored = onnx_graph
    ops = KernelOps(graph, stored)
    x = graph.input("x", np.float32, [1, "T", HIDDEN])
    heads = ops.heads(x, Projection("q", 4), Projection("k", 2), Projection("v", 2))
    RingAttention(ops, spec, *inputs(graph))(0, *heads)
    (node,) = nodes(graph, "RingAttention")
    assert [attribute.f for attribute in node.attribute if attribute.name == "scale"] == scale


def test_the_kernels_take_norms_of_queries_and_keys_into_the_attention(onnx_graph):
    graph, stored = onnx_graph
    ops = KernelOps(graph, stored)
    x = graph.input("x", np.float32, [1, "T", HIDDEN])
    q, k, v = ops.heads(x, Projection("q", 4), Projection("k", 2), Projection("v", 2))
    RingAttention(ops, NEAR, *inputs(graph))(0, ops.norm(q, Norm("vector", 1e-6)), ops.norm(k, Norm("vector", 1e-6)), v)
    (node,) = nodes(graph, "RingAttention")
    assert list(node.input[-4:]) == ["vector", "vector", "", "logit_rows"]


@pytest.mark.parametrize(
    "activated",
    [to_onnx_ops.activated, to_coreml_ops.activated, to_torch.activated],
    ids=lambda activated: activated.__module__,
)
def test_an_activation_that_an_emitter_does_not_know_is_refused(activated):
    with pytest.raises(BadOption, match="relu"):
        activated(*[None] * (len(inspect.signature(activated).parameters) - 1), "relu")
