"""A reference evaluator of MIL semantics: runs a saved Core ML package operation by operation in numpy.

Owns execution, the states between calls, and the precision. It is not Core ML: it shows what the saved program says
by Apple's documentation of each operation, not how a device rounds it, nor whether a device accepts it. It shares no
code with the exporter; what it knows of a program it read from the files (`package`).

Two precisions. `fp32`: every float tensor is fp32, whatever is declared, and compressed weights decode to fp32
without rounding: for parity to 1e-4 and better. `fp16`: what is declared fp16 is fp16 between operations, weights
and states included, and each operation computes in fp32 inside: overflow and rounding at the boundaries show.
Integers are exact: computed in 64 bits, and refused where they leave their declared type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgesink.errors import BadOption, EdgesinkError
from edgesink.mil.ops import Op
from edgesink.mil.package import FORMATS, UNKNOWN, Array, Function, Operation, TensorType, open_package
from edgesink.mil.plan import Cache, Plan, Planner, Step

PRECISIONS = ("fp32", "fp16")
_WIDE = {"f": np.float32, "i": np.int64, "u": np.int64}


class MilEvaluator:
    """Runs the functions of one package; weights are decoded at a function's first call and kept."""

    def __init__(self, package_path: str | Path, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise BadOption(f"precision {precision!r}", f"one of {', '.join(PRECISIONS)}")
        self.precision = precision
        self.package = open_package(package_path)
        self._plans: dict[str, Plan] = {}
        self._constants: Cache = {}

    @property
    def functions(self) -> tuple[str, ...]:
        return tuple(self.package.functions)

    def signature(self, function: str | None = None) -> Function:
        """The function as the package has it: names and types of inputs and states, names of outputs."""
        name = function or self.package.default_function
        if name not in self.package.functions:
            raise BadOption(f"function {name!r}", f"one of {', '.join(self.functions)}")
        return self.package.functions[name]

    def make_state(self) -> dict[str, Array]:
        """Zeros for the states of all functions: name -> array, fp16 as declared or fp32, by the precision."""
        declared = {name: kind for f in self.package.functions.values() for name, kind in f.states.items()}
        return {name: np.zeros(kind.shape, self._storage(kind)) for name, kind in declared.items()}

    def predict(
        self, inputs: Mapping[str, Any], state: dict[str, Array], function: str | None = None
    ) -> dict[str, Array]:
        """Runs one function and updates `state` in place; deep-copy it to keep an old one.

        inputs: name -> array or nested numbers of the declared shape. Returns output name -> array. Raises
        EdgesinkError where an input, a state or any result contradicts the types that the package declares; the
        state is then worth nothing.
        """
        plan = self._plan(self.signature(function))
        values = plan.values.copy()
        if unknown := set(inputs) ^ set(plan.inputs):
            raise BadOption(f"inputs {sorted(inputs)} for {plan.function.name!r} (missing or extra: {sorted(unknown)})")
        for name, slot in plan.inputs.items():
            given, kind = np.asarray(inputs[name]), plan.function.inputs[name]
            if given.dtype.kind == "i" and kind.dtype.startswith("fp"):  # whole numbers written without a point
                given = given.astype(np.float32)
            values[slot] = self._settled(given, kind, f"input {name!r}")
        for name, kind in plan.function.states.items():
            held = state.get(name)
            if held is None or held.shape != kind.shape or held.dtype != self._storage(kind):
                raise BadOption(f"state {name!r} as given", f"{kind}, as made by make_state()")
        with np.errstate(all="ignore"):  # inf and nan are results to be seen, not warnings
            for step in plan.steps:
                self._run(step, values, state)
        return {name: np.array(values[slot]) for name, slot in plan.outputs.items()}

    def _plan(self, function: Function) -> Plan:
        if function.name not in self._plans:
            planner = Planner(self.package, function, self._fold, self._constants)
            with np.errstate(all="ignore"):
                self._plans[function.name] = planner.build()
        return self._plans[function.name]

    def _fold(self, operation: Operation, op: Op, arguments: dict[str, Any]) -> tuple[Array | str, ...]:
        """Constants are held as fp32, in fp16 precision with fp16's values: they are not widened at every use."""
        if isinstance(arguments.get("val"), str):
            return (arguments["val"],)
        results = self._computed(operation, op.compute, op.moves, arguments, [kind for _, kind in operation.outputs])
        return tuple(r.astype(np.float32, copy=False) if r.dtype == np.float16 else r for r in results)

    def _run(self, step: Step, values: list[Any], state: dict[str, Array]) -> None:
        if step.operation.kind == "read_state":
            values[step.outputs[0][0]] = state[step.state]
        elif step.operation.kind == "write_state":
            (data,) = (values[slot] for slot in step.reads())
            old = state[step.state]
            if data.shape != old.shape:
                raise EdgesinkError(f"state {step.state!r} is written with shape {data.shape}", f"{old.shape}")
            state[step.state] = data.astype(old.dtype, copy=step.copies)
        else:
            arguments = {
                parameter: values[slots] if isinstance(slots, int) else [values[slot] for slot in slots]
                for parameter, slots in step.arguments
            }
            declared = [kind for _, kind in step.outputs]
            results = self._computed(step.operation, step.compute, step.moves, arguments, declared)
            for (slot, _), result in zip(step.outputs, results, strict=True):
                values[slot] = result
        for slot in step.dead:
            values[slot] = None

    def _computed(
        self, operation: Operation, compute: Any, moves: bool, arguments: dict[str, Any], declared: list[TensorType]
    ) -> list[Array]:
        """The operation's results, of the declared shapes and stored as declared."""
        if not moves:
            arguments = {parameter: _wide(argument) for parameter, argument in arguments.items()}
        try:
            results = compute(**arguments)
        except (ValueError, IndexError, TypeError) as error:
            raise EdgesinkError(f"operation {operation.name!r} ({operation.kind}): {error}") from error
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(declared):
            raise EdgesinkError(
                f"operation {operation.name!r} ({operation.kind}) gives {len(results)} results", f"{len(declared)}"
            )
        return [
            self._settled(np.asarray(result), kind, f"operation {operation.name!r} ({operation.kind})")
            for result, kind in zip(results, declared, strict=True)
        ]

    def _storage(self, kind: TensorType) -> type:
        return np.float32 if kind.dtype == "fp16" and self.precision == "fp32" else FORMATS[kind.dtype].holder

    def _settled(self, result: Array, kind: TensorType, what: str) -> Array:
        """The result as its declared type stores it; refused where shape, kind or integer range contradict it."""
        if result.shape != kind.shape and not _fits(result.shape, kind.shape):
            raise EdgesinkError(f"{what} has shape {result.shape}", f"{kind}", "the program contradicts itself")
        storage: np.dtype[Any] = np.dtype(self._storage(kind))
        if result.dtype == storage:
            return result
        if _family(result.dtype) != _family(storage):
            raise EdgesinkError(f"{what} is of type {result.dtype}", f"{kind}")
        if storage.kind in "iu" and result.size:
            low, high, limits = int(result.min()), int(result.max()), np.iinfo(storage.type)
            if low < limits.min or high > limits.max:
                raise EdgesinkError(f"{what} has integers {low} … {high}", f"{limits.min} … {limits.max} ({kind})")
        return result.astype(storage)


def _wide(argument: Any) -> Any:
    """Floats as fp32 and integers as int64: what operations compute in."""
    if isinstance(argument, list):
        return [_wide(part) for part in argument]
    if isinstance(argument, str) or argument.dtype.kind not in _WIDE:
        return argument
    return argument.astype(_WIDE[argument.dtype.kind], copy=False)


def _family(dtype: np.dtype) -> Any:
    return _WIDE.get(dtype.kind, dtype.kind)


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    """Equal but for dimensions that the program leaves to run time."""
    return len(shape) == len(declared) and all(d in (UNKNOWN, n) for n, d in zip(shape, declared, strict=True))
