"""The census of saved packages, and what the structure check says of rings with and without a planted fault."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesink.errors import BadBundle
from edgesink.mil.evaluator import MilEvaluator
from edgesink.mil.package import TensorType
from edgesink.mil.structure import PackageStructure, check_ring_structure, describe

ct = pytest.importorskip("coremltools")

from coremltools.converters.mil.converter import mil_convert  # noqa: E402
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402, N813
from coremltools.converters.mil.mil import Function, Placeholder, Program, types  # noqa: E402
from coremltools.converters.mil.mil.program import StateTensorPlaceholder  # noqa: E402

Body = Callable[..., Any]  # ring state, maybe another, row [1, 16], slot [1] -> output
RING = TensorType("fp16", (4, 16))


def i(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def save(
    path: Path,
    body: Body,
    names: tuple[str, ...] = ("main",),
    ring: tuple[int, ...] = RING.shape,
    states: tuple[str, ...] = ("ring",),
) -> Path:
    """A package whose functions all are `body` over states of the shape `ring`, a row and a slot."""
    program = Program()
    for name in names:
        inputs = {
            "row": Placeholder((1, 16), dtype=types.fp16, name="row"),
            "slot": Placeholder((1,), dtype=types.int32, name="slot"),
            **{state: StateTensorPlaceholder(ring, dtype=types.fp16, name=state) for state in states},
        }
        with Function(inputs, opset_version=ct.target.iOS18) as function:
            given = function.inputs
            out = body(*(given[state] for state in states), given["row"], given["slot"])
            function.set_outputs([mb.identity(x=out, name="out")])
        program.add_function(name, function)
    program.default_function_name = names[0]
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


def findings(tmp_path: Path, body: Body, **options: Any) -> list[str]:
    return check_ring_structure(describe(save(tmp_path / "f.mlpackage", body)), **options)


def write(ring: Any, value: Any) -> Any:
    return mb.coreml_update_state(state=ring, value=value)


def at(slot: Any) -> dict[str, Any]:
    """The bounds of the row at `slot`."""
    begin = mb.concat(values=[slot, i(0)], axis=0)
    return dict(begin=begin, end=mb.concat(values=[mb.add(x=slot, y=i(1)), i(16)], axis=0))


# ---- rings as they should be


def shared(name: str, value: np.ndarray) -> Any:
    """A constant that functions share."""
    variable = mb.const(val=value)
    variable.op.weight_id = name
    return variable


def sliced(ring: Any, row: Any, slot: Any) -> Any:
    """Two writes of one row, the second through shared weights."""
    weight, bias = shared("weight", np.eye(16, dtype=np.float16)), shared("bias", np.zeros(16, np.float16))
    first = write(ring, mb.slice_update(x=mb.read_state(input=ring), update=row, **at(slot)))
    row = mb.linear(x=row, weight=weight, bias=bias)
    second = write(ring, mb.slice_update(x=first, update=row, **at(slot)))
    return mb.matmul(x=row, y=second, transpose_y=True)


def blended(ring: Any, row: Any, slot: Any) -> Any:
    """All static bounds: rows are kept or replaced by a 0/1 mask."""
    hit = mb.cast(x=mb.reshape(x=mb.equal(x=slot, y=i(0, 1, 2, 3)), shape=i(4, 1)), dtype="fp16")
    old = mb.slice_by_index(x=mb.read_state(input=ring), begin=i(0, 0), end=i(4, 16))
    new = mb.add(x=mb.mul(x=old, y=mb.sub(x=np.float16(1), y=hit)), y=mb.mul(x=hit, y=row))
    return write(ring, mb.slice_update(x=mb.read_state(input=ring), update=new, begin=i(0, 0), end=i(4, 16)))


def left_alone(ring: Any, row: Any, slot: Any) -> Any:
    return mb.matmul(x=row, y=mb.read_state(input=ring), transpose_y=True)


@pytest.fixture(scope="module")
def ring_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("ring") / "r.mlpackage", sliced, ("decode", "prefill"))


def test_a_package_is_described_as_it_was_built(ring_package: Path) -> None:
    structure = describe(ring_package)
    decode = structure.functions["decode"]
    assert (structure.spec_version, structure.default_function) == (9, "decode")
    assert sorted(structure.functions) == ["decode", "prefill"]
    assert dict(decode.inputs) == {"row": TensorType("fp16", (1, 16)), "slot": TensorType("int32", (1,))}
    assert dict(decode.outputs) == {"out": TensorType("fp16", (1, 4))}
    assert decode.states == decode.described_states == (("ring", RING),)
    assert (decode.state_reads, decode.state_writes) == ({"ring": 3}, {"ring": 2})
    assert decode.state_path == {"ring": ("read_state", "slice_update")}
    assert decode.op_census["slice_update"] == 2
    assert decode.op_census["linear"] == decode.op_census["matmul"] == 1
    assert structure.max_rank == 2
    assert structure.weight_bytes == 64 + (64 + 512) + (64 + 32)  # header, then record and data of matrix and bias
    assert structure.repeated_weight_bytes == 0
    assert structure.total_bytes == sum(path.stat().st_size for path in ring_package.rglob("*") if path.is_file())


def test_user_defined_metadata_is_described(ring_package: Path, tmp_path: Path) -> None:
    model = ct.models.MLModel(str(ring_package), skip_model_load=True)
    model.user_defined_metadata["sinks"] = "4"
    model.save(str(tmp_path / "m.mlpackage"))
    assert describe(tmp_path / "m.mlpackage").metadata["sinks"] == "4"


def test_a_ring_written_by_slices_has_no_findings(ring_package: Path) -> None:
    assert check_ring_structure(describe(ring_package)) == []


def test_a_ring_written_by_blending_has_no_findings(tmp_path: Path) -> None:
    assert findings(tmp_path, blended) == []


def test_a_ring_that_the_host_writes_has_no_findings_if_that_is_said(tmp_path: Path) -> None:
    assert findings(tmp_path, left_alone, read_only=["ring"]) == []


def two_rings(ring: Any, other: Any, row: Any, slot: Any) -> Any:
    """The one is written by slices, the other by blending."""
    sliced(ring, row, slot)
    return blended(other, row, slot)


def test_two_rings_are_described_and_checked_each_for_itself(tmp_path: Path) -> None:
    structure = describe(save(tmp_path / "two.mlpackage", two_rings, states=("ring", "other")))
    main = structure.functions["main"]
    assert dict(main.states) == {"ring": RING, "other": RING}
    assert (main.state_reads, main.state_writes) == ({"ring": 3, "other": 3}, {"ring": 2, "other": 1})
    assert "select" not in main.state_path["ring"]
    assert check_ring_structure(structure) == []
    assert check_ring_structure(structure, states={"ring": (4, 16), "other": (4, 16)}) == []


def test_states_that_are_not_those_of_the_manifest_are_a_finding(ring_package: Path) -> None:
    found = check_ring_structure(describe(ring_package), states={"ring": (4, 32)})
    assert [finding.partition(" has ")[0] for finding in found] == ["decode", "prefill"]
    assert all("expected {'ring': (4, 32)}" in finding for finding in found)


# ---- planted faults


def shifted_by_concat(ring: Any, row: Any, slot: Any) -> Any:
    old = mb.slice_by_index(x=mb.read_state(input=ring), begin=i(1, 0), end=i(4, 16))
    return write(ring, mb.concat(values=[old, row], axis=0))


def shifted_by_slices(ring: Any, row: Any, slot: Any) -> Any:
    old = mb.read_state(input=ring)
    rest = mb.slice_by_index(x=old, begin=i(1, 0), end=i(4, 16))
    return write(ring, mb.slice_update(x=old, update=rest, begin=i(0, 0), end=i(3, 16)))


def shifted_by_gather(ring: Any, row: Any, slot: Any) -> Any:
    return write(ring, mb.gather(x=mb.read_state(input=ring), indices=i(1, 2, 3, 0), axis=0))


def scattered(ring: Any, row: Any, slot: Any) -> Any:
    return write(ring, mb.scatter(data=mb.read_state(input=ring), indices=slot, updates=row, axis=0, mode="update"))


def transposed(ring: Any, row: Any, slot: Any) -> Any:
    turned = mb.transpose(x=mb.read_state(input=ring), perm=[1, 0])
    return write(ring, mb.transpose(x=mb.add(x=turned, y=np.float16(1)), perm=[1, 0]))


def shifted_by_matmul(ring: Any, row: Any, slot: Any) -> Any:
    step = np.eye(4, k=1, dtype=np.float16)
    return write(ring, mb.matmul(x=step, y=mb.read_state(input=ring)))


def position_in_fp16(ring: Any, row: Any, slot: Any) -> Any:
    angle = mb.cast(x=mb.add(x=slot, y=i(1)), dtype="fp16")
    return mb.add(x=blended(ring, row, slot), y=angle)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (left_alone, "main: state ring is never written"),
        (shifted_by_concat, "main: concat on the path from reading to writing state ring"),
        (shifted_by_gather, "main: gather on the path from reading to writing state ring"),
        (scattered, "main: scatter on the path from reading to writing state ring"),
        (transposed, "main: transpose on the path from reading to writing state ring"),
        (shifted_by_slices, "writes rows elsewhere than they were read"),
        (shifted_by_matmul, "does not keep what the state held"),
        (position_in_fp16, "brings an integer input to fp16"),
    ],
)
def test_a_planted_fault_is_the_one_finding(tmp_path: Path, body: Body, complaint: str) -> None:
    found = findings(tmp_path, body)
    assert len(found) == 1
    assert complaint in found[0]


def crossed(ring: Any, other: Any, row: Any, slot: Any) -> Any:
    """What is read of the one ring is written to the other."""
    two_rings(ring, other, row, slot)
    return write(ring, mb.slice_update(x=mb.read_state(input=other), update=row, **at(slot)))


def mixed(ring: Any, other: Any, row: Any, slot: Any) -> Any:
    """A row of the one ring goes into the other."""
    two_rings(ring, other, row, slot)
    foreign = mb.slice_by_index(x=mb.read_state(input=other), begin=i(0, 0), end=i(1, 16))
    return write(ring, mb.slice_update(x=mb.read_state(input=ring), update=foreign, begin=i(0, 0), end=i(1, 16)))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [(crossed, "does not keep what the state held"), (mixed, "brings in what another state held")],
)
def test_a_fault_between_two_rings_is_the_one_finding(tmp_path: Path, body: Body, complaint: str) -> None:
    (found,) = check_ring_structure(describe(save(tmp_path / "f.mlpackage", body, states=("ring", "other"))))
    assert complaint in found


def test_a_write_to_a_read_only_state_is_found(tmp_path: Path) -> None:
    assert findings(tmp_path, blended, read_only=["ring"]) == [
        "main: state ring is written 1 times, expected read-only"
    ]


def test_another_specification_version_is_found(tmp_path: Path) -> None:
    assert findings(tmp_path, blended, spec_version=10) == ["specification version 9, expected 10"]


def test_a_state_of_rank_five_is_found(tmp_path: Path) -> None:
    body = lambda ring, row, slot: write(ring, mb.add(x=mb.read_state(input=ring), y=np.float16(1)))  # noqa: E731
    structure = describe(save(tmp_path / "f.mlpackage", body, ring=(1, 1, 1, 2, 2)))
    assert check_ring_structure(structure) == [
        "main: state ring is fp16[1, 1, 1, 2, 2], expected fp16 of rank 4 at most"
    ]


def test_weights_stored_for_each_function_are_found(tmp_path: Path) -> None:
    def body(ring: Any, row: Any, slot: Any) -> Any:  # the same matrix without a shared name
        return mb.add(x=blended(ring, row, slot), y=mb.matmul(x=row, y=np.eye(16, dtype=np.float16)))

    structure = describe(save(tmp_path / "f.mlpackage", body, ("decode", "prefill")))
    assert structure.repeated_weight_bytes == 512
    assert check_ring_structure(structure) == ["512 bytes of weights are stored more than once"]


def edited(path: Path, change: Callable[[Any], None]) -> PackageStructure:
    """The structure after a change to the saved program that no exporter would make."""
    model = path / "Data/com.apple.CoreML/model.mlmodel"
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString(model.read_bytes())
    change(spec)
    model.write_bytes(spec.SerializeToString())
    return describe(path)


def test_a_description_that_names_another_state_is_found(tmp_path: Path) -> None:
    def rename(spec: Any) -> None:
        spec.description.functions[0].state[0].name = "cache"

    found = check_ring_structure(edited(save(tmp_path / "f.mlpackage", blended), rename))
    assert found == ["main takes states ring fp16[4, 16] but describes cache fp16[4, 16]"]


def test_functions_with_different_states_are_found(tmp_path: Path) -> None:
    def widen(spec: Any) -> None:
        function = spec.mlProgram.functions["prefill"]
        (state,) = (v for v in function.inputs if v.name == "ring")
        state.type.stateType.wrappedType.tensorType.dimensions[0].constant.size = 8

    path = save(tmp_path / "f.mlpackage", blended, ("decode", "prefill"))
    found = check_ring_structure(edited(path, widen))
    assert "prefill has the states ring fp16[8, 16], decode has ring fp16[4, 16]" in found


def test_a_flexible_shape_is_found(tmp_path: Path) -> None:
    def loosen(spec: Any) -> None:
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        block.operations[-1].outputs[0].type.tensorType.dimensions[0].unknown.variadic = False

    found = check_ring_structure(edited(save(tmp_path / "f.mlpackage", blended), loosen))
    assert found == ["main: value out has no fixed shape"]


def test_control_flow_is_refused(tmp_path: Path) -> None:
    def nest(spec: Any) -> None:
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        block.operations[-1].blocks.add()

    with pytest.raises(BadBundle, match="with nested blocks"):
        edited(save(tmp_path / "f.mlpackage", blended), nest)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit.trace
@pytest.mark.filterwarnings("ignore:Output, .*renamed")
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_a_traced_index_put_that_loses_the_state_write_is_found_and_seen(tmp_path: Path) -> None:
    """coremltools converts this without a word to a program that never writes its state."""
    torch = pytest.importorskip("torch")

    class Cache(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.zeros(1, 2, 8, 4))

        def forward(self, rows: Any, slot: Any) -> Any:
            self.cache[:, :, slot] = rows
            return self.cache.sum(-1)

    traced = torch.jit.trace(Cache().eval(), (torch.ones(1, 2, 1, 4), torch.tensor([3], dtype=torch.int32)))
    rows = ct.TensorType("rows", (1, 2, 1, 4))
    slot = ct.TensorType("slot", (1,), dtype=np.int32)
    state = ct.StateType(ct.TensorType(shape=(1, 2, 8, 4), dtype=np.float16), name="cache")
    path = tmp_path / "t.mlpackage"
    ct.convert(
        traced,
        inputs=[rows, slot],
        states=[state],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
        package_dir=str(path),
    )
    assert check_ring_structure(describe(path)) == ["main: state cache is never written"]
    evaluator = MilEvaluator(path)
    cache = evaluator.make_state()
    evaluator.predict({"rows": np.ones((1, 2, 1, 4)), "slot": [3]}, cache)
    assert not cache["cache"].any()
