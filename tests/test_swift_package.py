"""What of the Swift package can be checked without building it: golden files are current, Apple-only code type-checks
against our own declarations of the API, and the formatter has nothing to say."""

import importlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
IOS = HERE.parent / "apps" / "ios"
KIT, DEMO = IOS / "EdgesinkKit", IOS / "EdgesinkDemo"


@pytest.mark.parametrize("name", ["manifest", "chat"])
def test_the_golden_file_is_current(name):
    module = importlib.import_module(f"make_golden_{name}")
    stored = json.loads((HERE / "golden" / f"{name}.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(module.golden()))


def swiftc(*arguments: object) -> None:
    if shutil.which("swiftc") is None:
        pytest.skip("no Swift toolchain on this machine: Apple-only sources are not type-checked")
    result = subprocess.run(["swiftc", "-swift-version", "6", *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_apple_only_sources_type_check_against_our_declarations_of_the_api(tmp_path):
    """Not a compilation: the declarations are ours, from Apple's documentation. SwiftUI views are only parsed."""

    if not any((include / "sqlite3.h").exists() for include in (Path("/usr/include"), Path("/usr/local/include"))):
        pytest.skip("no header of SQLite on this machine (libsqlite3-dev): Apple-only sources are not type-checked")
    found = ["-I", tmp_path, "-I", KIT / "Sources" / "CSQLite"]

    def module(name: str, sources: list[Path]) -> None:
        out = tmp_path / f"{name}.swiftmodule"
        package = ["-package-name", "EdgesinkKit", "-module-name", name]
        swiftc("-emit-module", "-parse-as-library", *package, *found, "-o", out, *sources)

    module("CoreML", [HERE / "swift_stubs" / "CoreML.swift"])
    for name in ("EdgesinkCore", "EdgesinkCoreML", "EdgesinkMemory"):
        module(name, sorted((KIT / "Sources" / name).rglob("*.swift")))
    models = [DEMO / "Sources" / name for name in ("ChatModel.swift", "BundleFolder.swift")]
    swiftc("-typecheck", "-parse-as-library", *found, *models)


def test_the_formatter_has_nothing_to_say():
    if shutil.which("swift") is None:
        pytest.skip("no Swift toolchain on this machine: Swift sources are not linted")
    folders = [KIT / "Sources", KIT / "Tests", DEMO / "Sources"]
    command = ["swift", "format", "lint", "--strict", "--recursive", "--configuration", IOS / ".swift-format"]
    result = subprocess.run([*map(str, command), *map(str, folders)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
