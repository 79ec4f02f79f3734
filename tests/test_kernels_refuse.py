"""Calls of our operators that cannot be are refused with a status, before memory is touched, and the host goes on."""

import kernel_nodes as nodes
import numpy as np
import packed
import pytest
from onnx import TensorProto, helper

from edgesink.runtime import kernels

pytestmark = pytest.mark.skipif(
    not kernels.available_kernels(), reason="no C compiler when edgesink was installed, or another processor"
)


REFUSED = "edgesink refuses the call: "


def refuses(session, feeds: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(Exception, match=REFUSED + words):  # a class of ONNX Runtime's, by the code of the status
        session.run(None, feeds)


def attention_session(
    norms: tuple[str, ...] = (), key: int = TensorProto.FLOAT16, value: int = TensorProto.FLOAT16, **numbers
):
    """Two heads of 16 over a ring of capacity 8; every size is free, so that it is the operator that checks it."""
    single, whole = TensorProto.FLOAT, TensorProto.INT64
    phases = ["cos", "sin", "sink_cos", "sink_sin"]
    kinds = {"qkv": (single, 3), "key": (key, 4), "value": (value, 4), "position": (whole, 1), "sinks": (whole, 1)}
    kinds |= dict.fromkeys(phases, (single, 3)) | dict.fromkeys(norms, (single, 1))
    made = {"context": (single, 3), "key_out": (key, 4), "value_out": (value, 4)}
    given, out = ([free(name, *kind) for name, kind in ends.items()] for ends in (kinds, made))
    numbers = {"heads": 2, "capacity": 8} | numbers
    node = helper.make_node("RingAttention", list(kinds), list(made), domain="edgesink", **numbers)
    return nodes.session_of([node], given, out, {})


def free(name: str, kind: int, rank: int):
    """An end of a graph whose sizes may be any."""
    return helper.make_tensor_value_info(name, kind, [f"{name}_{axis}" for axis in range(rank)])


def attention_feeds(position: int = 5, sinks: int = 2, tokens: int = 3, rows: int = 11, **changed) -> dict:
    half, single = np.float16, np.float32
    feeds = {
        "qkv": np.ones((1, tokens, 4 * 16), single), "key": np.ones((1, 1, rows, 16), half),
        "value": np.ones((1, 1, rows, 16), half), "position": np.atleast_1d(position), "sinks": np.array([sinks]),
        **{name: np.ones((1, tokens, 8), single) for name in ("cos", "sin", "sink_cos", "sink_sin")},
    }  # fmt: skip
    return feeds | changed


def halves(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float16)


IMPOSSIBLE_ATTENTION = {
    "position -1": (attention_feeds(position=-1), "a position"),
    "the least position": (attention_feeds(position=-(2**63)), "a position"),
    "a position beyond float64": (attention_feeds(position=2**53 - 2), "a position"),
    "the largest position": (attention_feeds(position=2**63 - 1), "a position"),
    "two positions": (attention_feeds(position=[1, 2]), "position and sinks"),
    "sinks -1": (attention_feeds(sinks=-1), "sinks"),
    "sinks and no window": (attention_feeds(sinks=8), "sinks"),
    "a window shorter than a chunk": (attention_feeds(sinks=6), "sinks"),
    "the largest number of sinks": (attention_feeds(sinks=2**63 - 1), "sinks"),
    "no row beyond the sinks": (attention_feeds(position=0, tokens=1, sinks=4, rows=4), "the buffers"),
    "too few rows, young": (attention_feeds(rows=7), "the buffers"),
    "too few rows, old": (attention_feeds(position=1000, rows=9), "the buffers"),
    "no rows": (attention_feeds(rows=0), "key has"),
    "no heads": (attention_feeds(key=halves(1, 0, 11, 16)), "key has"),
    "two streams": (attention_feeds(key=halves(2, 1, 11, 16)), "key is"),
    "fewer values than keys": (attention_feeds(value=halves(1, 1, 10, 16)), "value"),
    "three key heads for two": (attention_feeds(key=halves(1, 3, 11, 16), value=halves(1, 3, 11, 16)), "heads"),
    "a head of 8": (attention_feeds(key=halves(1, 1, 11, 8), value=halves(1, 1, 11, 8)), "a head dimension"),
    "no tokens": (attention_feeds(tokens=0), "qkv"),
    "narrow qkv": (attention_feeds(qkv=np.ones((1, 3, 63), np.float32)), "qkv"),
    "phases of fewer tokens": (attention_feeds(sink_sin=np.ones((1, 2, 8), np.float32)), "phases"),
    "narrow phases": (attention_feeds(cos=np.ones((1, 3, 7), np.float32)), "phases"),
}  # fmt: skip


@pytest.mark.parametrize(("feeds", "words"), IMPOSSIBLE_ATTENTION.values(), ids=IMPOSSIBLE_ATTENTION.keys())
def test_attention_that_cannot_be_is_refused_and_the_session_goes_on(feeds, words):
    session = attention_session()
    refuses(session, feeds, words)
    assert np.isfinite(session.run(None, attention_feeds())[0]).all()


def test_keys_are_float16_or_float32_and_values_float16():
    wide = attention_session(key=TensorProto.FLOAT)
    keys = np.ones((1, 1, 11, 16), np.float32)
    context, key, value = wide.run(None, attention_feeds(key=keys))
    assert (key.dtype, value.dtype) == (np.float32, np.float16)
    assert np.isfinite(context).all()
    refuses(wide, attention_feeds(key=keys[:, :, :7]), "value|the buffers")
    integers = attention_session(key=TensorProto.INT16)
    refuses(integers, attention_feeds(key=keys.astype(np.int16)), "key is in float16 or float32")
    doubles = attention_session(key=TensorProto.DOUBLE)
    refuses(doubles, attention_feeds(key=keys.astype(np.float64)), "key is in float16 or float32")
    with pytest.raises(Exception, match=r"[Tt]ype"):
        attention_session(value=TensorProto.FLOAT)


def test_attention_takes_the_last_position_the_fewest_rows_and_the_shortest_window():
    session = attention_session()
    for feeds in (
        attention_feeds(position=2**53 - 3),
        attention_feeds(position=1000, rows=10),
        attention_feeds(position=0, rows=3),
        attention_feeds(sinks=5),
    ):
        assert np.isfinite(session.run(None, feeds)[0]).all()


NORMS = {name: np.ones(16, np.float32) for name in ("q_norm", "k_norm")}


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_attention_with_an_impossible_scale_is_refused(scale):
    refuses(attention_session(scale=scale), attention_feeds(), "scale")


@pytest.mark.parametrize("numbers", [{}, {"epsilon": -1.0}, {"epsilon": float("nan")}, {"epsilon": float("inf")}])
def test_norms_of_heads_without_a_possible_epsilon_are_refused(numbers):
    refuses(attention_session((*NORMS,), **numbers), attention_feeds(**NORMS), "norms have an epsilon")


@pytest.mark.parametrize("wrong", [np.ones(15, np.float32), np.ones(0, np.float32), np.ones(32, np.float32)], ids=len)
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_that_is_not_as_long_as_a_head_is_refused(name, wrong):
    session = attention_session((*NORMS,), epsilon=1e-5)
    refuses(session, attention_feeds(**NORMS | {name: wrong}), "norms of heads are")
    assert np.isfinite(session.run(None, attention_feeds(**NORMS))[0]).all()


@pytest.mark.parametrize("numbers", [{"scale": 1}, {"epsilon": 1}])
def test_an_optional_number_of_another_type_is_refused_when_the_graph_is_loaded(numbers):
    with pytest.raises(Exception, match="type"):
        attention_session(**numbers)


@pytest.mark.parametrize("wrong", [-1, 37, 2**40, -(2**63)])
def test_a_row_that_there_is_not_is_refused(wrong):
    weights = nodes.MATRICES["4 bits, rows over"]  # 37 rows, in memory that is filled up to 48
    node = helper.make_node("BlockRows", ["ids", *weights.tensors], ["y"], columns=96, **weights.attributes)
    ends = [free("ids", TensorProto.INT64, 2)], [free("y", TensorProto.FLOAT, 3)]
    session = nodes.session_of([node], *ends, weights.tensors)
    refuses(session, {"ids": np.array([[3, wrong]])}, "an id")
    assert session.run(None, {"ids": np.array([[0, 36]])})[0].shape == (1, 2, 96)


@pytest.fixture
def product_inputs() -> dict[str, np.ndarray]:
    """Of a product of 96 rows and 576 columns with all that it can take."""
    ones = np.ones((1, 2, 576), np.float32)
    extra = {"norm": np.ones(576, np.float32), "residual": np.ones((1, 2, 96), np.float32)}
    return {"x": ones, **nodes.MATRICES["4 bits"].tensors, **extra}


def run_product(inputs: dict[str, np.ndarray], **attributes) -> np.ndarray:
    names = [name if name in inputs else "" for name in nodes.PRODUCT_INPUTS]
    attributes = {"rows": 96, "bits": 4, "gated": 0, "epsilon": 1e-5} | attributes
    node = helper.make_node("BlockProduct", names, ["y"], domain="edgesink", **attributes)
    kinds = {
        np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.uint8: TensorProto.UINT8,
        np.int8: TensorProto.INT8,
    }  # fmt: skip
    given = [free(name, kinds[x.dtype.type], x.ndim) for name, x in inputs.items()]
    return nodes.session_of([node], given, [free("y", TensorProto.FLOAT, 3)], {}).run(None, inputs)[0]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"bits": 7}, "weights are in 4, 5, 6, 8 or 16 bits"), ({"bits": 0}, "weights are"), ({"bits": 5}, "codes"),
        ({"bits": 6}, "weights in 6 bits or more, or of the table, take no offset"),
        ({"bits": 8}, "weights in 6 bits or more"),
        ({"table": 1}, "weights in 6 bits or more, or of the table"), ({"table": 2}, "table"), ({"table": -1}, "table"),
        ({"table": 1, "bits": 5}, "weights of the table"), ({"bits": 16}, "weights have a scale"),
        ({"bits": 2**32 + 4}, "weights are in"),
        ({"rows": 97}, "codes"), ({"rows": 0}, "rows"), ({"rows": -1}, "rows"), ({"rows": 2**62}, "rows"),
        ({"rows": 95}, "residual"), ({"gated": 1}, "residual"), ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"), ({"gated": 2}, "residual"), ({"gated": 3}, "residual"),
        ({"gated": 4}, "residual"), ({"gated": 5}, "gated"), ({"gated": -1}, "gated"), ({"gated": 2**32}, "gated"),
    ],
)  # fmt: skip
def test_a_product_with_impossible_attributes_is_refused(product_inputs, attributes, words):
    assert np.isfinite(run_product(product_inputs)).all()
    with pytest.raises(Exception, match=REFUSED + words):
        run_product(product_inputs, **attributes)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("x", lambda x: x[:, :, :544], "codes"), ("x", lambda x: x[:, :, :560], "columns"),
        ("x", lambda x: x[:, :0], "x is"), ("x", lambda x: x[0], "x is"), ("x", lambda x: x.repeat(2, 0), "x is"),
        ("codes", lambda codes: codes[1:], "codes"), ("codes", lambda codes: codes[..., :3], "codes"),
        ("scale", lambda scale: scale[1:], "scale"), ("scale", lambda scale: scale[:, 1:], "scale"),
        ("offset", lambda offset: offset[:, :, :15], "offset"), ("offset", lambda offset: offset.reshape(-1), "offset"),
        ("norm", lambda norm: norm[1:], "norm"), ("norm", lambda norm: norm[:0], "norm"),
        ("residual", lambda x: x[:, :1], "residual"), ("residual", lambda x: x[:, :, 1:], "residual"),
    ],
)  # fmt: skip
def test_a_product_of_tensors_that_do_not_fit_is_refused(product_inputs, name, change, words):
    with pytest.raises(Exception, match=REFUSED + words):
        run_product(product_inputs | {name: np.ascontiguousarray(change(product_inputs[name]))})


VECTOR = np.ones(96, np.float32)


@pytest.mark.parametrize("gated", [1, 2])
@pytest.mark.parametrize("name", ["bias", "after"])
def test_a_gated_product_with_more_than_a_gate_is_refused(product_inputs, name, gated):
    without = {given: x for given, x in product_inputs.items() if given not in ("norm", "residual")}
    assert np.isfinite(run_product(without, gated=gated)).all()
    with pytest.raises(Exception, match=REFUSED + "a gated product has no"):
        run_product(without | {name: VECTOR}, gated=gated)


def test_a_product_with_two_norms_is_refused(product_inputs):
    with pytest.raises(Exception, match=REFUSED + "a product has one norm"):
        run_product(product_inputs | {"after": VECTOR})


@pytest.mark.parametrize("wrong", [VECTOR[1:], VECTOR[:0], VECTOR[:48], np.ones(112, np.float32)], ids=len)
@pytest.mark.parametrize("name", ["bias", "after"])
def test_a_bias_or_a_norm_that_is_not_as_long_as_a_product_is_refused(product_inputs, name, wrong):
    without = {given: x for given, x in product_inputs.items() if given != "norm"}
    assert np.isfinite(run_product(without | {name: VECTOR})).all()
    with pytest.raises(Exception, match=REFUSED + name):
        run_product(without | {name: wrong})


def test_a_norm_after_a_product_of_broken_groups_is_refused():
    weights = nodes.MATRICES["4 bits, rows over"]
    inputs = {"x": np.ones((1, 2, 96), np.float32), **weights.tensors, "after": np.ones(37, np.float32)}
    with pytest.raises(Exception, match=REFUSED + "a product with a norm after it"):
        run_product(inputs, rows=37)


def test_weights_in_8_bits_with_an_offset_and_gates_of_broken_groups_are_refused():
    weights, ones = nodes.MATRICES["8 bits"], np.ones((1, 2, 160), np.float32)
    offset = np.zeros_like(weights.tensors["scale"])
    with pytest.raises(Exception, match=REFUSED + "weights in 6 bits or more, or of the table, take no offset"):
        run_product({"x": ones, **weights.tensors, "offset": offset}, rows=70, bits=8)
    with pytest.raises(Exception, match=REFUSED + "a gated product"):
        run_product({"x": ones, **weights.tensors}, rows=70, bits=8, gated=1)


def factored(kind: str) -> packed.Packed:
    """Weights with factors: 16 rows of 512 columns."""
    return packed.of_gguf(kind, packed.random_blocks(kind, 16, 512, np.array([0.01])))


def run_factored(matrix: packed.Packed, tensors: dict[str, np.ndarray], columns: int = 512, **attributes) -> np.ndarray:
    attributes = {name: x for name, x in matrix.attributes.items() if name != "domain"} | attributes
    return run_product({"x": np.ones((1, 2, columns), np.float32), **tensors}, **attributes)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "IQ4_XS"])
def test_factors_that_do_not_fit_are_refused(kind):
    matrix = factored(kind)
    assert np.isfinite(run_factored(matrix, matrix.tensors)).all()
    for name in sorted({"factors", "offset_factors"} & set(matrix.tensors)):
        for wrong in (matrix.tensors[name][:, 1:], matrix.tensors[name][..., :15], matrix.tensors[name][0]):
            with pytest.raises(Exception, match=REFUSED + f"{name} are not"):
                run_factored(matrix, matrix.tensors | {name: np.ascontiguousarray(wrong)})
    with pytest.raises(Exception, match=REFUSED + "scale is not"):
        run_factored(matrix, matrix.tensors | {"scale": matrix.tensors["scale"].repeat(8, 1)})
    with pytest.raises(Exception, match=REFUSED + "columns are whole blocks of 256"):
        run_factored(matrix, matrix.tensors, columns=480)


@pytest.mark.parametrize(
    ("kind", "missing", "attributes", "words"),
    [
        ("Q4_K", {"scale"}, {}, "weights have a scale"),
        ("Q6_K", {"factors"}, {}, "weights in 6 bits have factors"),
        ("Q4_K", {"factors"}, {}, "an offset has factors where"),
        ("Q4_K", {"offset_factors"}, {}, "an offset has factors where"),
        ("Q5_K", {"offset"}, {}, "weights with factors have an offset"),
        ("Q5_K", {"offset", "offset_factors"}, {}, "weights with factors have an offset"),
        ("IQ4_XS", {"factors"}, {}, "scale is not"),
        ("IQ4_XS", set(), {"bits": 8, "table": 0}, "weights in 8 or 16 bits take no factors"),
    ],
)
def test_weights_of_no_known_kind_are_refused(kind, missing, attributes, words):
    matrix = factored(kind)
    with pytest.raises(Exception, match=REFUSED + words):
        run_factored(matrix, {name: x for name, x in matrix.tensors.items() if name not in missing}, **attributes)


def test_a_table_of_another_type_is_refused_when_the_graph_is_loaded():
    matrix = factored("IQ4_XS")
    with pytest.raises(Exception, match="type"):
        run_factored(matrix, matrix.tensors, table=1.0)


def test_an_operator_without_its_attributes_is_refused_when_the_graph_is_loaded():
    node = helper.make_node("BlockRows", ["ids", "codes", "scale"], ["y"], domain="edgesink", rows=70, bits=8)
    ends = [free("ids", TensorProto.INT64, 2)], [free("y", TensorProto.FLOAT, 3)]
    with pytest.raises(Exception, match="columns"):
        nodes.session_of([node], *ends, nodes.MATRICES["8 bits"].tensors)
