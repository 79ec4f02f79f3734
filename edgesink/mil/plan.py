"""A function of a package, prepared once so that each call only computes.

Owns the resolution of names to slots, the folding of what depends on constants alone (and so the decoding of
weights, shared between functions), the static checks of operations, parameters and data types, and the lifetimes:
which values a step frees, and where a state may be updated in place. Refuses to know what an operation means
(`ops`) and does not run any step (`evaluator`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from edgesink.errors import EdgesinkError
from edgesink.mil.ops import IN_PLACE, OPS, Op
from edgesink.mil.package import Array, Function, MilPackage, Operation, TensorType, Value

Slots = int | tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One operation at run time."""

    operation: Operation
    compute: Callable[..., Any] | None  # None for read_state and write_state
    moves: bool  # arguments go in as they are stored
    arguments: tuple[tuple[str, Slots], ...]
    outputs: tuple[tuple[int, TensorType], ...]
    state: str = ""
    copies: bool = False  # a write whose value lives elsewhere too
    dead: tuple[int, ...] = ()  # slots that nothing needs after this step

    def reads(self) -> Iterator[int]:
        for _, slots in self.arguments:
            yield from (slots,) if isinstance(slots, int) else slots


@dataclass
class Plan:
    """All steps of one function; `values` has a place per slot and already holds the constants."""

    function: Function
    values: list[Array | str | None] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


Fold = Callable[[Operation, Op, dict[str, Any]], tuple[Array | str, ...]]  # runs an operation on constants
Cache = dict[Hashable, tuple[Array | str, ...]]  # folded constants, by what they were made from


@dataclass(frozen=True)
class _Constant:
    key: Hashable  # equal for equal contents, also across functions
    value: Array | str


class Planner:
    """Builds one plan; constants come from and go to `cache`."""

    def __init__(self, package: MilPackage, function: Function, fold: Fold, cache: Cache) -> None:
        self._package, self._fold, self._cache = package, fold, cache
        self._types: dict[str, TensorType] = dict(function.inputs)
        self._constants: dict[str, _Constant] = {}
        self._slots: dict[str, int] = {}
        self.plan = Plan(function)

    def build(self) -> Plan:
        plan, function = self.plan, self.plan.function
        plan.inputs = {name: self._new_slot(name) for name in function.inputs}
        for operation in function.operations:
            if operation.kind in ("read_state", "write_state"):
                plan.steps.append(self._state_step(operation))
            else:
                self._computation(operation)
            self._types.update(operation.outputs)
        plan.outputs = {name: self._slot_of(name, f"output of {function.name!r}") for name in function.outputs}
        with_lifetimes(plan)
        return plan

    def _computation(self, operation: Operation) -> None:
        op = OPS.get(operation.kind)
        if op is None:
            raise EdgesinkError(
                f"operation {operation.name!r} is a {operation.kind!r}, which the evaluator does not know",
                f"one of {len(OPS) + 2} known kinds",
                "add its meaning to edgesink/mil/ops.py, or export without it",
            )
        variadic = _check_parameters(operation, op)
        self._check_dtypes(operation, op)
        if self._folds(operation):
            self._fold_constant(operation, op, variadic)
            return
        arguments = [(p, self._argument(operation, p, p in variadic)) for p in operation.inputs]
        outputs = tuple((self._new_slot(name), kind) for name, kind in operation.outputs)
        self.plan.steps.append(Step(operation, op.compute, op.moves, tuple(arguments), outputs))

    def _state_step(self, operation: Operation) -> Step:
        (state,) = operation.inputs["input"]
        declared = self.plan.function.states.get(str(state))
        if declared is None:
            raise EdgesinkError(f"operation {operation.name!r} uses {state!r}, which is not a state of the function")
        value = operation.outputs[0][1] if operation.kind == "read_state" else self._type(operation.inputs["data"][0])
        if value != declared:
            raise EdgesinkError(f"operation {operation.name!r} handles state {state!r} as {value}", f"{declared}")
        if operation.kind == "read_state":
            outputs = tuple((self._new_slot(name), kind) for name, kind in operation.outputs)
            return Step(operation, None, True, (), outputs, str(state))
        return Step(operation, None, True, (("data", self._argument(operation, "data", False)),), (), str(state))

    # ---- constants

    def _folds(self, operation: Operation) -> bool:
        sources = [source for argument in operation.inputs.values() for source in argument]
        return all(isinstance(source, Value) or source in self._constants for source in sources)

    def _fold_constant(self, operation: Operation, op: Op, variadic: set[str]) -> None:
        parts = sorted((p, tuple(map(self._key, sources))) for p, sources in operation.inputs.items())
        key = (operation.kind, tuple(parts), tuple(kind for _, kind in operation.outputs))
        if key not in self._cache:
            arrays = {p: [self._constant(s) for s in sources] for p, sources in operation.inputs.items()}
            arguments = {p: values if p in variadic else values[0] for p, values in arrays.items()}
            self._cache[key] = self._fold(operation, op, arguments)
        for i, (name, _) in enumerate(operation.outputs):
            self._constants[name] = _Constant((key, i), self._cache[key][i])

    def _key(self, source: str | Value) -> Hashable:
        if isinstance(source, str):
            return self._constants[source].key
        if source.file:
            return source.file, source.offset, source.type
        contents = source.immediate
        return contents if isinstance(contents, str) else (contents.tobytes(), source.type)  # type: ignore[union-attr]

    def _constant(self, source: str | Value) -> Array | str:
        return self._constants[source].value if isinstance(source, str) else self._package.array(source)

    # ---- slots and types

    def _new_slot(self, name: str, value: Array | str | None = None) -> int:
        self._slots[name] = len(self.plan.values)
        self.plan.values.append(value)
        return self._slots[name]

    def _slot_of(self, name: str, user: str) -> int:
        if name in self._slots:
            return self._slots[name]
        if name not in self._constants:
            raise EdgesinkError(f"{user} uses {name!r}, which nothing before it defines", remedy="export again")
        return self._new_slot(name, self._constants[name].value)

    def _argument(self, operation: Operation, parameter: str, variadic: bool) -> Slots:
        user = f"operation {operation.name!r}"
        slots = tuple(
            self._slot_of(source, user)
            if isinstance(source, str)
            else self._new_slot(f"{operation.name}.{parameter}.{i} in place", self._package.array(source))
            for i, source in enumerate(operation.inputs[parameter])
        )
        return slots if variadic else slots[0]

    def _type(self, source: str | Value) -> TensorType | None:
        return source.type if isinstance(source, Value) else self._types.get(source)

    def _check_dtypes(self, operation: Operation, op: Op) -> None:
        """Inputs that must agree do, and the outputs are declared as the operation gives them."""
        sources = [source for p in op.alike for source in operation.inputs.get(p, ())]
        dtypes = sorted({kind.dtype for kind in map(self._type, sources) if kind is not None})
        if len(dtypes) > 1:
            raise EdgesinkError(f"operation {operation.name!r} ({operation.kind}) mixes {' and '.join(dtypes)}")
        given = op.gives or (dtypes[0] if dtypes else "any")
        wrong = [str(kind) for _, kind in operation.outputs if given not in ("any", kind.dtype)]
        if wrong:
            raise EdgesinkError(
                f"operation {operation.name!r} ({operation.kind}) declares {wrong[0]}", f"elements of type {given}"
            )


def _check_parameters(operation: Operation, op: Op) -> set[str]:
    """Which parameters take several values; refuses unknown and missing ones."""
    known = inspect.signature(op.compute).parameters
    wrong = set(operation.inputs) - set(known)
    wrong |= {p for p, k in known.items() if k.default is inspect.Parameter.empty and p not in operation.inputs}
    if wrong:
        raise EdgesinkError(
            f"operation {operation.name!r} ({operation.kind}) has parameters {sorted(operation.inputs)}",
            f"those of {sorted(known)}",
        )
    return {p for p, k in known.items() if "list" in str(k.annotation)}


# ---- lifetimes


def with_lifetimes(plan: Plan) -> None:
    """Completes the steps with what dies after each, and with in-place forms where they cannot be noticed.

    Every value belongs to the buffers whose memory it may share. A state read is the state's own buffer, not a copy:
    30 layers that each copied a packed state would spend most of a decode step on it. So an update works in place
    where no other value of its buffers is used later and every state in them is written before it is read again.

    A ring's write, step by step (`row` is a computed value, `here` an input):

        step                                  buffers of the result   dies     because
        0  old = read_state(keys)             {state keys}            -        old is used by 1
        1  new = slice_update(old, row, here) {state keys}, in place  old row  old dies, no value of {state keys} is
                                                                               used later, 2 writes keys before 3 reads
        2  write_state(keys, new)             -, no copy              new      new lies in keys' own buffer already
        3  all = read_state(keys)             {state keys}            -        all is used by 4
        4  out = matmul(q, all)               {value out}             q all    a product shares no memory

    Inputs, as `here`, belong to the caller and never die. Were `old` an argument of 4 as well, it would not die at 1:
    `new` would be a copy with a buffer {value new} of its own, which 2 makes the buffer of keys. Were 2 missing, or
    behind 3, then 3 would see the update too early: again a copy.
    """
    last_use = {slot: i for i, step in enumerate(plan.steps) for slot in step.reads()}
    last_use.update({slot: len(plan.steps) for slot in plan.outputs.values()})
    kept = {slot for slot, value in enumerate(plan.values) if value is not None} | set(plan.inputs.values())
    buffers: dict[int, frozenset[str]] = {slot: frozenset({"outside"}) for slot in kept}
    held: dict[str, frozenset[str]] = {state: frozenset({f"state {state}"}) for state in plan.function.states}

    for i, step in enumerate(plan.steps):
        dead = {slot for slot in (*step.reads(), *(s for s, _ in step.outputs)) if last_use.get(slot, i) <= i} - kept
        step = replace(step, dead=tuple(sorted(dead)))
        if step.operation.kind == "read_state":
            buffers[step.outputs[0][0]] = held[step.state]
        elif step.operation.kind == "write_state":
            (data,) = step.reads()
            elsewhere = frozenset({"outside"}).union(*(b for state, b in held.items() if state != step.state))
            step = replace(step, copies=bool(buffers[data] & elsewhere))
            held[step.state] = frozenset({f"write {i}"}) if step.copies else buffers[data]
        else:
            target = dict(step.arguments).get("x")
            if step.operation.kind in IN_PLACE and isinstance(target, int):
                mine, later = buffers[target], {slot for slot, last in last_use.items() if last > i and slot != target}
                others = frozenset().union(*(bs for slot, bs in buffers.items() if slot in later))
                free = target in dead and "outside" not in mine and not mine & others
                if free and all(_overwritten(plan, i, state) for state, bs in held.items() if bs & mine):
                    step = replace(step, compute=IN_PLACE[step.operation.kind])
                    buffers[step.outputs[0][0]] = mine
            shared = [buffers[slot] for slot in step.reads()] if OPS[step.operation.kind].views else []
            for slot, _ in step.outputs:
                buffers.setdefault(slot, frozenset({f"value {slot}"}).union(*shared))
        plan.steps[i] = step


def _overwritten(plan: Plan, i: int, state: str) -> bool:
    """Whether after step i the state is written before it is read, in this call."""
    later = (step.operation.kind for step in plan.steps[i + 1 :] if step.state == state)
    return next(later, "") == "write_state"
