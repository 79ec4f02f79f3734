"""What a saved Core ML package is made of, and whether that is the shape of a ring that streams forever.

Owns the census of a package (`describe`) and the findings about it (`check_ring_structure`). Nothing runs here:
values are the `evaluator`'s business. An empty list of findings says that the saved program has the structure that
we mean it to have; it does not say that Core ML accepts the package.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesink.mil.package import (
    UNKNOWN,
    Array,
    Function,
    Interface,
    MilPackage,
    Operation,
    TensorType,
    Value,
    open_package,
)

Named = tuple[tuple[str, TensorType], ...]  # name and type, in the package's order

# Operations that compute new numbers from a state: what comes out is not the state's content any more.
_MIXING = {"linear", "matmul", "softmax"}
# Operations that leave each row of a state where it is, so that no write moves the buffer.
_STEADY = {"slice_update", "slice_by_index", "select", "add", "sub", "mul", "identity", "cast"}
_STEADY |= {"reshape", "split", "read_state"}
_MAX_STATE_RANK = 4
_REPEATED_SHARE = 0.01  # small blobs that happen to be equal (norms of all ones) are no second copy of the model


@dataclass(frozen=True)
class FunctionStructure:
    """One function of the program."""

    name: str
    inputs: Named
    outputs: Named
    states: Named  # as the function takes them
    described_states: Named  # as the model's description promises them to the caller
    op_census: dict[str, int]
    state_reads: dict[str, int]
    state_writes: dict[str, int]
    state_path: dict[str, tuple[str, ...]]  # per state: kinds between a read and a write, sorted
    unread_writes: tuple[str, ...]  # names of writes whose value does not carry the state's content
    mixed_writes: tuple[str, ...]  # names of writes whose value carries the content of another state
    moved_rows: tuple[str, ...]  # names of updates that put rows elsewhere than they were sliced from
    half_positions: tuple[str, ...]  # names of casts that bring an integer computed from an input to fp16
    unknown_shapes: tuple[str, ...]  # names of values whose shape is not fixed
    max_rank: int


@dataclass(frozen=True)
class PackageStructure:
    """A whole package; sizes in bytes."""

    spec_version: int
    default_function: str
    functions: dict[str, FunctionStructure]
    weight_bytes: int  # of the weight files
    repeated_weight_bytes: int  # what blobs stored more than once take beyond the first copy
    total_bytes: int  # of all files
    metadata: dict[str, str]

    @property
    def max_rank(self) -> int:
        return max(function.max_rank for function in self.functions.values())


def describe(package_path: str | Path) -> PackageStructure:
    """The structure of a saved package; raises BadBundle where it cannot be read."""
    package = open_package(package_path)
    return PackageStructure(
        spec_version=package.spec_version,
        default_function=package.default_function,
        functions={n: _describe_function(f, package.interfaces[n]) for n, f in package.functions.items()},
        weight_bytes=sum(data.size for data in package.weight_files.values()),
        repeated_weight_bytes=_repeated_bytes(package),
        total_bytes=sum(path.stat().st_size for path in package.path.rglob("*") if path.is_file()),
        metadata=package.metadata,
    )


def check_ring_structure(
    structure: PackageStructure,
    *,
    spec_version: int = 9,
    read_only: Collection[str] = (),
    states: Mapping[str, tuple[int, ...]] | None = None,
) -> list[str]:
    """What contradicts rings kept in fixed states, one sentence each.

    Args:
        read_only: names of states that the host writes.
        states: the states that there should be, name -> shape; None takes whatever there is.
    """
    functions = list(structure.functions.values())
    findings = [finding for function in functions for finding in _function_findings(function, read_only)]
    if structure.spec_version != spec_version:
        findings.append(f"specification version {structure.spec_version}, expected {spec_version}")
    for function in functions[1:]:
        if set(function.states) != set(functions[0].states):
            findings.append(
                f"{function.name} has the states {_spelled(function.states)}, "
                f"{functions[0].name} has {_spelled(functions[0].states)}"
            )
    for function in functions:
        found = {name: kind.shape for name, kind in function.states}
        if states is not None and found != states:
            findings.append(f"{function.name} has the states {_spelled(function.states)}, expected {dict(states)}")
    if structure.repeated_weight_bytes > _REPEATED_SHARE * structure.weight_bytes:
        findings.append(f"{structure.repeated_weight_bytes} bytes of weights are stored more than once")
    return findings


def _function_findings(function: FunctionStructure, read_only: Collection[str]) -> Iterator[str]:
    where = function.name
    if not function.states:
        yield f"{where} has no state"
    if set(function.states) != set(function.described_states):
        yield f"{where} takes states {_spelled(function.states)} but describes {_spelled(function.described_states)}"
    for state, kind in function.states:
        writes = function.state_writes[state]
        if kind.dtype != "fp16" or len(kind.shape) > _MAX_STATE_RANK:
            yield f"{where}: state {state} is {kind}, expected fp16 of rank {_MAX_STATE_RANK} at most"
        if state in read_only and writes:
            yield f"{where}: state {state} is written {writes} times, expected read-only"
        if state not in read_only and not writes:
            yield f"{where}: state {state} is never written"
        if moving := sorted(set(function.state_path[state]) - _STEADY):
            yield f"{where}: {', '.join(moving)} on the path from reading to writing state {state}"
    for name in function.unread_writes:
        yield f"{where}: write {name} does not keep what the state held"
    for name in function.mixed_writes:
        yield f"{where}: write {name} brings in what another state held"
    for name in function.moved_rows:
        yield f"{where}: update {name} writes rows elsewhere than they were read"
    for name in function.half_positions:
        yield f"{where}: cast {name} brings an integer input to fp16, which is exact to 2048 only"
    for name in function.unknown_shapes:
        yield f"{where}: value {name} has no fixed shape"


def _spelled(states: Named) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in states) or "none"


# ---- one function


def _describe_function(function: Function, interface: Interface) -> FunctionStructure:
    makers = {name: operation for operation in function.operations for name, _ in operation.outputs}
    produced = {name: kind for operation in function.operations for name, kind in operation.outputs}
    types = {**function.inputs, **function.states, **produced}
    carried = _carried(function)
    paths = {state: set[str]() for state in function.states}
    unread, mixed, moved = [], [], []
    for write in (operation for operation in function.operations if operation.kind == "write_state"):
        state, trail = _state(write), _trail(write.inputs["data"], makers, carried)
        paths[state] |= {operation.kind for operation in trail}
        held = frozenset().union(*(carried.get(str(source), frozenset()) for source in write.inputs["data"]))
        if state not in held:
            unread.append(write.name)
        elif held != {state}:
            mixed.append(write.name)
        updates = [operation for operation in trail if operation.kind == "slice_update"]
        moved += [update.name for update in updates if not _keeps_rows(update, makers, carried)]
    counts = {
        kind: Counter(_state(operation) for operation in function.operations if operation.kind == kind)
        for kind in ("read_state", "write_state")
    }
    return FunctionStructure(
        name=function.name,
        inputs=tuple(function.inputs.items()),
        outputs=tuple((name, types[name]) for name in function.outputs if name in types),
        states=tuple(function.states.items()),
        described_states=tuple(interface.states.items()),
        op_census=dict(Counter(operation.kind for operation in function.operations).most_common()),
        state_reads={state: counts["read_state"][state] for state in function.states},
        state_writes={state: counts["write_state"][state] for state in function.states},
        state_path={state: tuple(sorted(kinds)) for state, kinds in paths.items()},
        unread_writes=tuple(unread),
        mixed_writes=tuple(mixed),
        moved_rows=tuple(dict.fromkeys(moved)),
        half_positions=tuple(_half_positions(function)),
        unknown_shapes=tuple(name for name, kind in types.items() if UNKNOWN in kind.shape),
        max_rank=max((len(kind.shape) for kind in types.values()), default=0),
    )


def _state(operation: Operation) -> str:
    return str(operation.inputs["input"][0])


def _sources(operation: Operation) -> Iterator[str]:
    """Names of the values that the operation uses."""
    for argument in operation.inputs.values():
        yield from (source for source in argument if isinstance(source, str))


def _carried(function: Function) -> dict[str, frozenset[str]]:
    """For each value the states whose content it holds: read, moved or blended, but not mixed into new numbers."""
    carried: dict[str, frozenset[str]] = {}
    for operation in function.operations:
        if operation.kind == "read_state":
            states = frozenset({_state(operation)})
        elif operation.kind in _MIXING or operation.kind.startswith("reduce_"):
            states = frozenset()
        else:
            states = frozenset().union(*(carried.get(source, frozenset()) for source in _sources(operation)))
        carried.update((name, states) for name, _ in operation.outputs)
    return carried


def _trail(
    argument: tuple[str | Value, ...], makers: dict[str, Operation], carried: dict[str, frozenset[str]]
) -> list[Operation]:
    """The operations that bring a state's content into `argument`, back to the reads and those included."""
    pending = [source for source in argument if isinstance(source, str)]
    trail: dict[str, Operation] = {}
    while pending:
        name = pending.pop()
        if name in trail or not carried.get(name):
            continue
        trail[name] = makers[name]
        if makers[name].kind != "read_state":
            pending += _sources(makers[name])
    return list(trail.values())


def _keeps_rows(update: Operation, makers: dict[str, Operation], carried: dict[str, frozenset[str]]) -> bool:
    """Whether rows sliced from a state return to where they were, as far as the places are constants."""
    trail = _trail(update.inputs["update"], makers, carried)
    slices = [update, *(operation for operation in trail if operation.kind == "slice_by_index")]
    places = [_literal(operation.inputs["begin"], makers) for operation in slices]
    return all(place == places[0] for place in places)


def _literal(argument: tuple[str | Value, ...], makers: dict[str, Operation]) -> object:
    """A constant's contents (for one in a weight file: its place), None for a computed value."""
    (source,) = argument
    if isinstance(source, str) and source in makers and makers[source].kind == "const":
        (source,) = makers[source].inputs["val"]
    if isinstance(source, str):
        return None
    held = source.immediate
    return held.tolist() if isinstance(held, Array) else (source.file, source.offset)


def _half_positions(function: Function) -> Iterator[str]:
    """Casts to fp16 of integers that depend on an integer input."""
    integers = {name for name, kind in function.inputs.items() if kind.dtype == "int32"}
    for operation in function.operations:
        if integers.isdisjoint(_sources(operation)):
            continue
        integers |= {name for name, kind in operation.outputs if "int" in kind.dtype}
        if operation.kind == "cast" and any(kind.dtype == "fp16" for _, kind in operation.outputs):
            yield operation.name


# ---- weights


def _repeated_bytes(package: MilPackage) -> int:
    """Bytes of blobs whose contents another blob already holds."""
    seen: set[tuple[str, int]] = set()
    contents: set[tuple[int, bytes]] = set()
    repeated = 0
    for value in _weights(package):
        start, size = package.record(value)
        if (value.file, start) in seen:
            continue
        seen.add((value.file, start))
        digest = hashlib.blake2b(package.weight_files[value.file][start : start + size].data).digest()
        repeated += size if (size, digest) in contents else 0
        contents.add((size, digest))
    return repeated


def _weights(package: MilPackage) -> Iterator[Value]:
    for function in package.functions.values():
        for operation in function.operations:
            for argument in operation.inputs.values():
                yield from (v for v in argument if isinstance(v, Value) and v.file)
