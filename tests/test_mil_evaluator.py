"""Small saved packages, run and compared with values computed by hand; and packages with something wrong."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesink.errors import BadBundle, BadOption, EdgesinkError
from edgesink.mil import plan as mil_plan
from edgesink.mil.evaluator import MilEvaluator

ct = pytest.importorskip("coremltools")

from coremltools.converters.mil.converter import mil_convert  # noqa: E402
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402, N813
from coremltools.converters.mil.mil import Function, Placeholder, Program, types  # noqa: E402
from coremltools.converters.mil.mil.program import StateTensorPlaceholder  # noqa: E402

INT, HALF, SINGLE = types.int32, types.fp16, types.fp32
Body = Callable[[dict[str, Any]], Any]


def h(*values: Any) -> np.ndarray:
    return np.array(values, np.float16)


def i(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def weight(name: str, value: np.ndarray) -> Any:
    """A constant that functions share: one record in the weight file."""
    variable = mb.const(val=value)
    variable.op.weight_id = name
    return variable


def save(path: Path, functions: dict[str, tuple[dict[str, Any], Body]], states: dict[str, tuple] | None = None) -> Path:
    """Saves a package: functions as name -> (input name -> (shape, type), body); the first one is the default."""
    program = Program()
    for name, (inputs, body) in functions.items():
        placeholders = {n: Placeholder(shape, dtype=dtype, name=n) for n, (shape, dtype) in inputs.items()}
        for n, shape in (states or {}).items():
            placeholders[n] = StateTensorPlaceholder(shape, dtype=HALF, name=n)
        with Function(placeholders, opset_version=ct.target.iOS18) as function:
            result = body(function.inputs)
            outputs = result if isinstance(result, list) else [result]
            function.set_outputs([mb.identity(x=x, name=f"out{k}") for k, x in enumerate(outputs)])
        program.add_function(name, function)
    program.default_function_name = next(iter(functions))
    program.export_as_multifunction = True
    program.skip_all_passes = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)  # a folder of coremltools' own
        mil_convert(
            program,
            convert_to="mlprogram",
            convert_from="milinternal",
            specification_version=ct.target.iOS18,
            compute_units=ct.ComputeUnit.CPU_ONLY,
            skip_model_load=True,
            package_dir=str(path),
        )
    return path


def save_main(path: Path, inputs: dict[str, Any], body: Body, states: dict[str, tuple] | None = None) -> Path:
    return save(path, {"main": (inputs, body)}, states)


def put(state: Any, row: Any, at: Any) -> Any:
    """Writes `row` [1, D] to row `at` [1] of a state [C, D] and reads the state back."""
    end = mb.concat(values=[mb.add(x=at, y=i(1)), i(row.shape[1])], axis=0)
    begin = mb.concat(values=[at, i(0)], axis=0)
    new = mb.slice_update(x=mb.read_state(input=state), update=row, begin=begin, end=end)
    return mb.coreml_update_state(state=state, value=new)


# ---- states and functions


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One head of two dimensions over three slots; `prefill` writes two rows, `decode` one and attends."""
    table = h([1, 0], [0, 1], [1, 1], [2, -1])

    def embedded(inputs: dict[str, Any]) -> Any:
        return mb.gather(x=weight("table", np.tile(table, (1, 8))), indices=inputs["ids"], axis=0)

    def decode(inputs: dict[str, Any]) -> Any:
        row = embedded(inputs)
        keys = put(inputs["keys"], row, inputs["slot"])
        scores = mb.matmul(x=row, y=keys, transpose_y=True)
        return mb.matmul(x=mb.softmax(x=scores), y=keys)

    def prefill(inputs: dict[str, Any]) -> Any:
        rows = embedded(inputs)
        new = mb.slice_update(x=mb.read_state(input=inputs["keys"]), update=rows, begin=i(0, 0), end=i(2, 16))
        return mb.reduce_sum(x=mb.coreml_update_state(state=inputs["keys"], value=new))

    one, two = ((1,), INT), ((2,), INT)
    functions = {"decode": ({"ids": one, "slot": one}, decode), "prefill": ({"ids": two}, prefill)}
    return save(tmp_path_factory.mktemp("attention") / "a.mlpackage", functions, {"keys": (3, 16)})


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_two_functions_work_on_one_state(attention: Path, precision: str, tolerance: float) -> None:
    evaluator = MilEvaluator(attention, precision)
    state = evaluator.make_state()
    assert evaluator.functions == ("decode", "prefill")
    assert evaluator.predict({"ids": [0, 1]}, state, "prefill")["out0"] == 16  # two rows of eight ones
    found = evaluator.predict({"ids": [2], "slot": [2]}, state)["out0"]
    # scores 8, 8, 16: the third key outweighs the others by e^8
    share = np.exp([0, 0, 8]) / np.exp([0, 0, 8]).sum()
    expected = np.tile(share @ np.array([[1, 0], [0, 1], [1, 1]]), 8)
    assert np.abs(found[0] - expected).max() <= tolerance
    assert state["keys"][:, :2].tolist() == [[1, 0], [0, 1], [1, 1]]


def test_each_stream_has_its_own_state(attention: Path) -> None:
    evaluator = MilEvaluator(attention)
    first, second = evaluator.make_state(), evaluator.make_state()
    evaluator.predict({"ids": [3], "slot": [1]}, first)
    assert first["keys"][1, :2].tolist() == [2, -1]
    assert not second["keys"].any()


def test_a_state_has_the_declared_type_in_fp16_and_single_precision_in_fp32(attention: Path) -> None:
    assert MilEvaluator(attention, "fp16").make_state()["keys"].dtype == np.float16
    assert MilEvaluator(attention, "fp32").make_state()["keys"].dtype == np.float32


def test_weights_shared_by_functions_are_decoded_once(attention: Path) -> None:
    evaluator = MilEvaluator(attention)
    plans = [evaluator._plan(evaluator.signature(name)) for name in evaluator.functions]
    tables = [next(v for v in plan.values if v is not None and v.shape == (4, 16)) for plan in plans]
    assert tables[0] is tables[1]


# ---- updates in place must not be seen


def entangled(inputs: dict[str, Any]) -> list[Any]:
    """Old and new contents of two states used after, before and across their writes."""
    a, b, row, at = inputs["a"], inputs["b"], inputs["row"], inputs["at"]
    old = mb.read_state(input=a)
    view = mb.slice_by_index(x=old, begin=i(0, 0), end=i(2, 2))
    new = put(a, row, at)
    kept = mb.add(x=old, y=view)  # the old contents, after the write
    copied = mb.coreml_update_state(state=b, value=new)  # a's contents, now b's as well
    again = put(a, mb.add(x=row, y=h([1, 1])), at)
    seen = mb.add(x=copied, y=mb.read_state(input=b))
    return [kept, seen, again, mb.read_state(input=b)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_states_updated_in_place_give_what_copies_give(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"row": ((1, 2), HALF), "at": ((1,), INT)}
    path = save_main(tmp_path / "e.mlpackage", inputs, entangled, {"a": (2, 2), "b": (2, 2)})
    calls = [{"row": [[1, 2]], "at": [0]}, {"row": [[3, 4]], "at": [1]}, {"row": [[5, 6]], "at": [0]}]

    def run() -> list[Any]:
        evaluator = MilEvaluator(path, precision)
        state = evaluator.make_state()
        return [(evaluator.predict(call, state), copy.deepcopy(state)) for call in calls]

    quick = run()
    monkeypatch.setattr(mil_plan, "IN_PLACE", {})
    np.testing.assert_equal(quick, run())
    outputs, state = quick[1]  # second call: a held [2, 3], [0, 0] before it
    assert outputs["out0"].tolist() == [[4, 6], [0, 0]]
    assert outputs["out1"].tolist() == [[4, 6], [6, 8]]
    assert state["a"].tolist() == [[2, 3], [4, 5]]
    assert state["b"].tolist() == [[2, 3], [3, 4]]


def test_a_plain_ring_write_is_in_place(attention: Path) -> None:
    evaluator = MilEvaluator(attention)
    state = evaluator.make_state()
    buffer = state["keys"]
    evaluator.predict({"ids": [3], "slot": [1]}, state)
    assert state["keys"] is buffer


def test_what_a_caller_passes_in_or_gets_back_is_not_touched_later(tmp_path: Path) -> None:
    def body(inputs: dict[str, Any]) -> list[Any]:
        stored = mb.coreml_update_state(state=inputs["s"], value=inputs["x"])
        return [stored, put(inputs["s"], h([9, 9]), i(0))]

    path = save_main(tmp_path / "c.mlpackage", {"x": ((2, 2), HALF)}, body, {"s": (2, 2)})
    evaluator = MilEvaluator(path, "fp16")
    state, given = evaluator.make_state(), h([1, 2], [3, 4])
    first = evaluator.predict({"x": given}, state)
    assert first["out0"].tolist() == given.tolist() == [[1, 2], [3, 4]]
    assert first["out1"].tolist() == state["s"].tolist() == [[9, 9], [3, 4]]
    evaluator.predict({"x": np.zeros((2, 2))}, state)
    assert first["out1"].tolist() == [[9, 9], [3, 4]]


# ---- precision


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def body(inputs: dict[str, Any]) -> list[Any]:
        x = inputs["x"]
        ones = mb.const(val=np.ones((1, 4100), np.float16))
        total = mb.linear(x=mb.mul(x=ones, y=x), weight=ones)
        return [mb.square(x=x), mb.add(x=x, y=h(2048)), total, mb.square(x=mb.cast(x=x, dtype="fp32"))]

    return save_main(tmp_path_factory.mktemp("arithmetic") / "p.mlpackage", {"x": ((1,), HALF)}, body)


def results(path: Path, precision: str, **inputs: Any) -> list[Any]:
    return [out.reshape(-1)[0] for out in MilEvaluator(path, precision).predict(inputs, {}).values()]


def test_fp16_overflow_shows_in_fp16_and_not_in_fp32(arithmetic: Path) -> None:
    assert results(arithmetic, "fp16", x=[300])[0] == np.inf
    assert results(arithmetic, "fp32", x=[300])[0] == 90000
    assert results(arithmetic, "fp16", x=[300])[3] == 90000  # a square that is declared fp32


def test_fp16_rounds_between_operations_and_accumulates_in_fp32_inside(arithmetic: Path) -> None:
    assert results(arithmetic, "fp16", x=[1])[:3] == [1, 2048, 4100]  # 2049 is no fp16; 4100 is one
    assert results(arithmetic, "fp32", x=[1])[:3] == [1, 2049, 4100]


# ---- compressed weights, as written by coremltools and read from the saved file


def test_int4_weights_in_blocks_are_decoded(tmp_path: Path) -> None:
    q = np.arange(-8, 8, dtype=np.int8).reshape(2, 8)
    scale = h([1, 0.5], [2, 0.1])

    def body(inputs: dict[str, Any]) -> Any:
        w = mb.constexpr_blockwise_shift_scale(data=q.view(types.np_int4_dtype), scale=scale)
        return mb.linear(x=inputs["x"], weight=w)

    path = save_main(tmp_path / "q.mlpackage", {"x": ((8, 8), HALF)}, body)
    assert (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size <= 64 * 4  # header, record, 8 bytes
    decoded = q * np.repeat(scale.astype(np.float32), 4, axis=1)
    exact = MilEvaluator(path).predict({"x": np.eye(8)}, {})["out0"].T
    assert np.array_equal(exact, decoded)
    rounded = MilEvaluator(path, "fp16").predict({"x": np.eye(8)}, {})["out0"].T
    assert np.array_equal(rounded, decoded.astype(np.float16))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("count", [8, 21])  # written into the program, and into the weight file
def test_palettes_of_every_width_are_decoded(tmp_path: Path, bits: int, count: int) -> None:
    indices = (np.arange(count) * 5 % 2**bits).astype(np.uint8)
    lut = np.linspace(-1, 1, 2**bits).astype(np.float16)
    packed = indices if bits == 8 else indices.view(getattr(types, f"np_uint{bits}_dtype"))

    def body(inputs: dict[str, Any]) -> Any:
        return mb.add(x=mb.constexpr_lut_to_dense(indices=packed, lut=lut.reshape(1, -1, 1)), y=inputs["x"])

    path = save_main(tmp_path / "l.mlpackage", {"x": ((1,), HALF)}, body)
    found = MilEvaluator(path).predict({"x": [0]}, {})["out0"]
    assert np.array_equal(found, lut[indices].astype(np.float32))


# ---- programs and calls that are refused


def refused(tmp_path: Path, body: Body, inputs: dict[str, Any], given: dict[str, Any], complaint: str) -> None:
    path = save_main(tmp_path / "r.mlpackage", inputs, body)
    with pytest.raises(EdgesinkError, match=complaint):
        MilEvaluator(path).predict(given, {})


def test_an_unknown_operation_is_refused_by_name(tmp_path: Path) -> None:
    body = lambda inputs: mb.softplus(x=inputs["x"])  # noqa: E731
    refused(tmp_path, body, {"x": ((1,), HALF)}, {"x": [1]}, "'softplus', which the evaluator does not know")


def test_integers_beyond_int32_are_refused(tmp_path: Path) -> None:
    body = lambda inputs: mb.add(x=inputs["x"], y=i(2**31 - 1))  # noqa: E731
    refused(tmp_path, body, {"x": ((1,), INT)}, {"x": [1]}, "integers 2147483648")


def test_a_cast_beyond_int32_is_refused(tmp_path: Path) -> None:
    body = lambda inputs: mb.cast(x=inputs["x"], dtype="int32")  # noqa: E731
    refused(tmp_path, body, {"x": ((1,), SINGLE)}, {"x": [3e9]}, "integers 3000000000")


def test_an_index_out_of_range_is_refused(tmp_path: Path) -> None:
    body = lambda inputs: mb.gather(x=h(1, 2, 3), indices=inputs["x"], axis=0)  # noqa: E731
    refused(tmp_path, body, {"x": ((1,), INT)}, {"x": [3]}, r"\(gather\): indices 3 … 3 into a dimension of 3")


def test_a_shape_that_contradicts_the_declared_one_is_refused(tmp_path: Path) -> None:
    # coremltools infers a scalar for a choice between scalars, whatever the condition's shape
    body = lambda inputs: mb.select(cond=mb.greater(x=inputs["x"], y=i(1)), a=np.float16(1), b=np.float16(0))  # noqa: E731
    refused(tmp_path, body, {"x": ((3,), INT)}, {"x": [1, 2, 3]}, r"\(select\) has shape \(3,\)")


def test_data_types_that_do_not_match_are_refused(attention: Path, tmp_path: Path) -> None:
    path = shutil.copytree(attention, tmp_path / "d.mlpackage")

    def declare_int(spec: Any) -> None:
        block = next(iter(spec.mlProgram.functions["decode"].block_specializations.values()))
        operation = next(o for o in block.operations if o.type == "softmax")
        operation.outputs[0].type.tensorType.dataType = 23  # INT32

    edit(path, declare_int)
    with pytest.raises(EdgesinkError, match=r"\(softmax\) declares int32\[1, 3\]; expected elements of type fp16"):
        MilEvaluator(path).predict({"ids": [0], "slot": [0]}, {}, "decode")


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({"ids": [0]}, r"inputs \['ids'\]"),
        ({"ids": [0], "slot": [0], "extra": [0]}, "extra"),
        ({"ids": [0, 1], "slot": [0]}, r"input 'ids' has shape \(2,\)"),
        ({"ids": [0.5], "slot": [0]}, "input 'ids' is of type float64"),
        ({"ids": [2**31], "slot": [0]}, "input 'ids' has integers"),
    ],
)
def test_inputs_that_are_not_as_declared_are_refused(attention: Path, inputs: dict[str, Any], complaint: str) -> None:
    evaluator = MilEvaluator(attention)
    with pytest.raises(EdgesinkError, match=complaint):
        evaluator.predict(inputs, evaluator.make_state(), "decode")


def test_a_state_of_another_precision_or_none_is_refused(attention: Path) -> None:
    evaluator = MilEvaluator(attention, "fp16")
    for state in ({}, MilEvaluator(attention, "fp32").make_state()):
        with pytest.raises(BadOption, match="state 'keys' as given"):
            evaluator.predict({"ids": [0], "slot": [0]}, state)


def test_unknown_functions_and_precisions_are_refused(attention: Path) -> None:
    with pytest.raises(BadOption, match="function 'main'; expected one of decode, prefill"):
        MilEvaluator(attention).predict({}, {}, "main")
    with pytest.raises(BadOption, match="precision 'fp8'"):
        MilEvaluator(attention, "fp8")


# ---- packages that are damaged or none at all


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Changes the saved program as no exporter would."""
    model = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString(model.read_bytes())
    change(spec)
    model.write_bytes(spec.SerializeToString())


def damage_weights(path: Path, change: Callable[[bytes], bytes]) -> None:
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    weights.write_bytes(change(weights.read_bytes()))


def redirect(package: Path, path: str) -> None:
    """Makes the manifest name another root model."""
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda p: shutil.rmtree(p), "has no Manifest.json"),
        (lambda p: (p / "Manifest.json").write_text("{"), "cannot be read"),
        (lambda p: (p / "Manifest.json").write_text("{}"), "cannot be read"),
        (lambda p: redirect(p, "../../elsewhere.mlmodel"), "leads out of"),
        (lambda p: redirect(p, "gone.mlmodel"), "gone.mlmodel is missing"),
        (lambda p: (p / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"\xffnonsense"), "is not a Core ML model"),
        (lambda p: edit(p, lambda spec: spec.neuralNetwork.SetInParent()), "a model of type neuralNetwork"),
        (lambda p: (p / "Data/com.apple.CoreML/weights/weight.bin").unlink(), "weight.bin is missing"),
        (lambda p: damage_weights(p, lambda data: data[:-40]), "ends at byte 256; expected at most 216"),
        (lambda p: damage_weights(p, lambda data: data[:100]), "lies past the file's 100 bytes"),
        (lambda p: damage_weights(p, lambda data: data[:64] + b"\0" + data[65:]), "starts with 0xdeadbe00"),
        (lambda p: damage_weights(p, lambda data: data[:68] + b"\2" + data[69:]), "holds 128 bytes of type 2"),
    ],
)
def test_a_damaged_package_gives_one_clear_error(
    attention: Path, tmp_path: Path, damage: Callable[[Path], Any], complaint: str
) -> None:
    path = shutil.copytree(attention, tmp_path / "x.mlpackage")
    damage(path)
    with pytest.raises(BadBundle, match=complaint):
        MilEvaluator(path)
