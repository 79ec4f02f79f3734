"""What families add to a decoder, through the graph for our kernels: each alone and all together, over three laps.

The truth is the plain graph in floats with the very same weights. It shares the decoder with the other one, and none of
its operators: norms, biases, gates, scales and rings are nodes of ONNX Runtime there.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat
from pathlib import Path

import numpy as np
import onnx
import pytest
from toy_specs import llama_spec

from edgesink import names
from edgesink.export.blocks import Blocks
from edgesink.export.families.weights_of import weight_shape
from edgesink.export.quantize import quantize
from edgesink.export.to_onnx.builder import WeightFile
from edgesink.export.to_onnx.kernels import write_kernels_graph
from edgesink.export.to_onnx.ops import write_onnx
from edgesink.export.to_onnx.weights import OnnxWeights
from edgesink.manifest import KERNELS_GRAPH, ONNX_DATA, ONNX_GRAPH
from edgesink.runtime import kernels
from edgesink.spec import ModelSpec, Rotary, StreamSpec, View

pytestmark = pytest.mark.skipif(
    not kernels.available_kernels(), reason="no C compiler when edgesink was installed, or another processor"
)

STREAM = StreamSpec(3, 13, 8, 5)  # 20 rows
TOKENS = 3 * STREAM.rows
VOCAB = 96
IDS = np.random.default_rng(0).integers(0, VOCAB, TOKENS)
CLOSE = 0.006  # of logits of about 1: 15 bits of an activation, float16 of keys and values; found 0.004
FAR = 100 * CLOSE  # a feature that moves no logit so far would not be missed; found 0.9

FAST = tuple(30.0 ** (-np.arange(8) / 8))
SLOW = tuple(1000.0 ** (-np.arange(8) / 8))
STILL = (0.0,) * 8
BIASES, HEAD_NORMS = ("q_bias", "k_bias", "v_bias"), ("q_norm", "k_norm")
WHOLE_NORMS = ("q_whole_norm", "k_whole_norm")
POST_NORMS = ("post_attention_norm", "post_mlp_norm")
NORM_BIASES, LAST_BIASES = ("attention_norm_bias", "mlp_norm_bias"), ("o_bias", "up_bias", "down_bias")


def model_of(views: tuple[View, ...] = (View(Rotary(FAST)),), more: tuple[str, ...] = (), **changes) -> ModelSpec:
    """Three layers, those of even numbers of the first view, with `more` weights than Llama has."""
    model = llama_spec(intermediate=96, vocab=VOCAB)
    view_of, weights = (0, len(views) - 1, 0), (*model.weights, *more)
    return replace(model, **{"views": views, "view_of": view_of, "weights": weights, "norm_eps": 1e-2, **changes})


def without(model: ModelSpec, weight: str) -> ModelSpec:
    """The same without one of its weights."""
    return replace(model, weights=tuple(other for other in model.weights if other != weight))


NEAR_AND_FAR = (View(Rotary(FAST), window=9), View(Rotary(SLOW)))
TURNED_AND_STILL = (View(Rotary(FAST)), View(Rotary(STILL)))
MODELS = {
    "Llama's": model_of(),
    "biases": model_of(more=BIASES),
    "norms of heads": model_of(more=HEAD_NORMS),
    "a norm of queries": model_of(more=("q_norm",)),
    "a norm of keys": model_of(more=("k_norm",)),
    "norms after products": model_of(more=POST_NORMS),
    "norms of all heads together": model_of(more=WHOLE_NORMS),
    "a clip": model_of(clip=0.8, more=BIASES),
    "a clip and norms": model_of(clip=0.8, more=WHOLE_NORMS),
    "OLMo's": without(without(model_of(more=(*WHOLE_NORMS, *POST_NORMS)), "attention_norm"), "mlp_norm"),
    "GELU": model_of(activation="gelu_tanh"),
    "exact GELU": model_of(activation="gelu"),
    "LayerNorm": model_of(norm_kind="layer"),
    "LayerNorm with biases": model_of(more=NORM_BIASES, norm_kind="layer"),
    "side by side": model_of(parallel=True),
    "no gate": without(model_of(), "gate"),
    "no gate, biases": without(model_of(more=LAST_BIASES, activation="gelu"), "gate"),
    "one norm": without(model_of(parallel=True), "mlp_norm"),
    "GPT-NeoX's": without(
        model_of(more=(*BIASES, *NORM_BIASES, *LAST_BIASES), norm_kind="layer", parallel=True, activation="gelu"),
        "gate",
    ),
    "one head of keys and values": model_of(heads=6, kv_heads=1),
    "any scale": model_of(scale=0.6),
    "a scaled stream": model_of(embedding_scale=3.0, stream_scale=0.25),
    "layers with a window of their own": model_of(NEAR_AND_FAR),
    "no layer but with a window of its own": model_of((View(Rotary(FAST), window=9),)),
    "layers without positions": model_of(TURNED_AND_STILL),
    "heads that turn in part": model_of((View(Rotary(FAST[:4] + STILL[:4])),)),
    "an amplitude": model_of((View(Rotary(FAST[:6] + STILL[:2], amplitude=1.7)),)),
    "all": model_of(
        (View(Rotary(FAST[:6] + STILL[:2], 1.2), window=9), View(Rotary(SLOW))), (*BIASES, *HEAD_NORMS, *POST_NORMS),
        activation="gelu_tanh", scale=0.4, embedding_scale=3.0, stream_scale=0.5, tied=False,
    ),
}  # fmt: skip

ONE_WIDTH: dict[str, int] = {}
WIDTHS = {"q, k in 4 bits, v in 8": {"v": 8}, "gate in 8 bits, up in 4": {"gate": 8}, "both": {"k": 8, "up": 8}}


@dataclass(frozen=True)
class Toy:
    """A model's random weights, matrices in `bits` by their name in a layer, else in 4; the embedding in 8."""

    model: ModelSpec
    bits: dict[str, int]

    def held(self, weight: str) -> Blocks | np.ndarray:
        random = np.random.default_rng(list(weight.encode()))
        shape = weight_shape(self.model, weight)
        if len(shape) == 1:
            return random.uniform(0.3, 1.3, shape).astype(np.float32) * random.choice([-1, 1])
        matrix = random.standard_normal(shape).astype(np.float32) * np.float32(shape[1] ** -0.5)
        kind = weight.rpartition(".")[2]
        return quantize(matrix, 8 if kind in ("embedding", "head") else self.bits.get(kind, 4))

    def floats(self, weight: str) -> np.ndarray:
        held = self.held(weight)
        return held.dequantized() if isinstance(held, Blocks) else held


class Run:
    """A graph with its state, every row laid out; `unwritten` is what a row holds that nobody wrote.

    `weights` are memory that the session reads, and kept for it.
    """

    def __init__(self, session, model: ModelSpec, unwritten: float, sinks: int, weights: object = None) -> None:
        self.session, self.sinks, self.position, self.weights = session, sinks, 0, weights
        rows = {names.rows(place): STREAM.layer_ring(ring).rows for place, ring in enumerate(model.rings(STREAM))}
        self.state = {}
        for given in session.get_inputs():
            if given.name.startswith(("key_", "value_")):
                dtype = np.float16 if "float16" in given.type else np.float32
                shape = [rows.get(size, size) for size in given.shape]
                self.state[given.name] = np.full(shape, unwritten, dtype)

    def feed(self, ids: np.ndarray) -> np.ndarray:
        """The logits after the last of them, [V]."""
        outputs = [names.LOGITS, *(names.updated(name) for name in self.state)]
        feeds = {names.IDS: ids[None], names.POSITION: np.array([self.position]), names.SINKS: np.array([self.sinks])}
        logits, *state = self.session.run(outputs, feeds | self.state)
        self.state = dict(zip(self.state, state, strict=True))
        self.position += len(ids)
        return logits[0]


def plain_session(folder: Path, toy: Toy, stream: StreamSpec):
    import onnxruntime as ort

    with closing(WeightFile(folder / ONNX_DATA)) as file:
        write_onnx(folder / ONNX_GRAPH, toy.model, stream, OnnxWeights(file, toy.floats))
    return ort.InferenceSession(folder / ONNX_GRAPH, providers=["CPUExecutionProvider"])


def kernels_run(folder: Path, toy: Toy, stream: StreamSpec = STREAM, sinks: int = STREAM.sinks) -> Callable[[], Run]:
    """Makes runs from the start; what was never written is never read."""
    import onnxruntime as ort

    with closing(WeightFile(folder / ONNX_DATA)) as file:
        weights = OnnxWeights(file, toy.held)
        write_kernels_graph(folder / KERNELS_GRAPH, toy.model, stream, weights)
    options, ours = ort.SessionOptions(), kernels.Kernels(folder / KERNELS_GRAPH)
    ours.add_to(options)
    session = ort.InferenceSession(ours.graph, options, providers=["CPUExecutionProvider"])
    return lambda: Run(session, toy.model, np.nan, sinks, ours)


def after_every_token(run: Run) -> np.ndarray:
    return np.stack([run.feed(IDS[token : token + 1]) for token in range(TOKENS)])


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Callable[..., np.ndarray]:
    """truth(name, stream, sinks, widths) -> the logits after every token, [TOKENS, V]."""

    @cache
    def logits(name: str, stream: StreamSpec = STREAM, sinks: int = STREAM.sinks, widths: str = "") -> np.ndarray:
        toy = Toy(MODELS[name], WIDTHS.get(widths, ONE_WIDTH))
        session = plain_session(tmp_path_factory.mktemp("plain"), toy, stream)
        return after_every_token(Run(session, toy.model, 0, sinks))

    return logits


def ragged() -> Iterator[int]:
    sizes = np.random.default_rng(1)
    while True:
        yield int(sizes.integers(1, STREAM.chunk + 1))


def stays_close(start: Callable[[], Run], expected: np.ndarray) -> None:
    """In chunks of 1, ragged and whole."""
    for sizes in (repeat(1), ragged(), repeat(STREAM.chunk)):
        run = start()
        while run.position < TOKENS:
            size = min(next(sizes), TOKENS - run.position)
            difference = np.abs(run.feed(IDS[run.position : run.position + size]) - expected[run.position - 1])
            report = f"token {run.position - 1}, a chunk of {size}: max |Δ| {difference.max():.1e}"
            assert difference.max() <= CLOSE, f"{report}, mean {difference.mean():.1e}"


@pytest.mark.parametrize("name", MODELS)
def test_what_a_family_adds_comes_through_the_kernels(truth, tmp_path, name):
    expected = truth(name)
    if name != "Llama's":
        assert np.abs(expected - truth("Llama's"))[STREAM.capacity :].max() > FAR, "nothing is tested"
    start = kernels_run(tmp_path, Toy(MODELS[name], ONE_WIDTH))
    stays_close(start, expected)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("name", ["Llama's", "all"])
def test_matrices_of_two_widths_keep_their_biases_norms_and_gates(truth, tmp_path, name, widths):
    start = kernels_run(tmp_path, Toy(MODELS[name], WIDTHS[widths]))
    stays_close(start, truth(name, widths=widths))


@pytest.mark.parametrize("sinks", [0, 1, 8])
def test_layers_with_a_window_of_their_own_have_no_sinks_however_many_a_stream_has(truth, tmp_path, sinks):
    start = kernels_run(tmp_path, Toy(MODELS["all"], ONE_WIDTH), sinks=sinks)
    stays_close(start, truth("all", sinks=sinks))


def test_sinks_whose_distance_grows_have_their_amplitude_too(truth, tmp_path):
    growing = replace(STREAM, positions="original")
    expected = truth("an amplitude", growing)
    assert np.abs(expected - truth("an amplitude"))[STREAM.capacity :].max() > FAR, "nothing is tested"
    start = kernels_run(tmp_path, Toy(MODELS["an amplitude"], ONE_WIDTH), growing)
    stays_close(start, expected)


def test_a_graph_says_no_more_than_its_model_needs(tmp_path):
    """Llama's asks for what every model asks for."""
    kernels_run(tmp_path, Toy(MODELS["Llama's"], ONE_WIDTH))
    nodes = onnx.load(tmp_path / KERNELS_GRAPH, load_external_data=False).graph.node
    attention = [node for node in nodes if node.op_type == "RingAttention"]
    assert {attribute.name for node in attention for attribute in node.attribute} == {"heads", "capacity", "coarse"}
    assert {tuple(node.input[9:]) for node in attention} == {("", "", names.OLDEST, names.LOGIT_ROWS)}, "no norms"
    assert {len(node.input) for node in nodes if node.op_type == "BlockProduct"} == {5, 6}
