"""The rooms of the house: every folder is in the wheel, and no room imports one that it must not know."""

import ast
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"edgesink": "edgesink", "export": "edgesink.export", "runtime": "edgesink.runtime"}

MAY_IMPORT = {
    "edgesink": {"edgesink"},
    "edgesink.export": {"edgesink"},
    "edgesink.runtime": {"edgesink"},
    "edgesink.mil": {"edgesink"},
    "edgesink.verify": {"edgesink", "edgesink.mil", "edgesink.export", "edgesink.runtime"},
    "edgesink.memory": {"edgesink", "edgesink.runtime"},
    "edgesink.evaluate": {"edgesink", "edgesink.export", "edgesink.runtime", "edgesink.memory"},
    "edgesink.bench": {"edgesink", "edgesink.runtime"},
    "edgesink.serve": {"edgesink", "edgesink.runtime", "edgesink.memory"},
    "edgesink.cli": {
        "edgesink", "edgesink.export", "edgesink.runtime", "edgesink.verify", "edgesink.evaluate", "edgesink.bench",
        "edgesink.serve",
        "edgesink.memory",
    },
}  # fmt: skip
"""Room -> the other rooms that its modules may import, inside functions too. A room is a folder, without those in it
that have a line of their own."""

DOORS = {
    "edgesink": {"edgesink.runtime", "edgesink.memory"},  # `edgesink.load`, imported when it is asked for
    "edgesink.bundles": {"edgesink.export"},  # what is not a bundle yet is exported once
    "edgesink.llm_plugin": {"edgesink.runtime"},  # the entry of another program, as `edgesink.cli` is
}
"""Modules that may import more than their room."""

ORACLE = {"edgesink.off_by_one", "edgesink.reference", "edgesink.rotary_probe", "edgesink.slow_ring"}
"""The oracle. It imports nothing else of ours but the errors: it shares no code with what it is the measure of."""


def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything that is installed."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            found[name] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The longest line of the table that the module is under."""
    return max((name for name in MAY_IMPORT if f"{module}.".startswith(f"{name}.")), key=len)


def imported(path: Path) -> set[str]:
    """Every module of ours that a file imports, wherever in it the import stands."""
    return ours(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_at_once(path: Path) -> set[str]:
    """Those of them that are imported when the module is."""
    return ours(ast.parse(path.read_text(encoding="utf-8")).body)


def ours(nodes: Iterable[ast.AST]) -> set[str]:
    """The modules of edgesink that the import statements among the nodes name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= submodules or {str(node.module)}
    return {name for name in found if name.split(".")[0] == "edgesink"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module):
    here = room(module)
    allowed = MAY_IMPORT[here] | DOORS.get(module, set()) | {here}
    names = imported(MODULES[module])
    assert {name for name in names if room(name) not in allowed} == set()


def test_the_oracle_shares_no_code_with_what_it_measures():
    for module in ORACLE:
        assert imported(MODULES[module]) <= ORACLE | {"edgesink.errors"}


@pytest.mark.parametrize("imports", [imported_at_once, imported], ids=["when imported", "inside functions too"])
def test_no_circle_between_modules(imports):
    waiting = {module: imports(path) & MODULES.keys() - {module} for module, path in MODULES.items()}
    while ready := {module for module, names in waiting.items() if not names}:
        waiting = {module: names - ready for module, names in waiting.items() if module not in ready}
    assert waiting == {}


def test_every_folder_with_modules_is_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    on_disk = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES.items()}
    assert on_disk == set(packages)
    assert len(packages) == len(set(packages))
