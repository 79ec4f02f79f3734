"""The demo's Xcode project is closed: every id resolves, every reference exists, every property list and source parses.

Not a build: that needs a Mac.
"""

import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "apps" / "ios" / "EdgesinkDemo"
IOS = DEMO.parent
PROJECT = DEMO / "EdgesinkDemo.xcodeproj" / "project.pbxproj"
ID = re.compile(r"[0-9A-F]{24}")


def parsed(text: str) -> dict:
    """An old-style property list as Python values; ValueError where it is none."""
    text = re.sub(r"/\*.*?\*/|^//.*?$", " ", text, flags=re.DOTALL | re.MULTILINE)
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[{}()=;,]|[^\s{}()=;,"]+', text)
    value, end = _value(tokens, 0)
    if end != len(tokens) or not isinstance(value, dict):
        raise ValueError("something after the end")
    return value


def _value(tokens: list[str], at: int) -> tuple[object, int]:
    if tokens[at] == "{":
        fields: dict[str, object] = {}
        at += 1
        while tokens[at] != "}":
            key = tokens[at].strip('"')
            if tokens[at + 1] != "=" or key in fields:
                raise ValueError(f"at {key}")
            fields[key], at = _value(tokens, at + 2)
            if tokens[at] != ";":
                raise ValueError(f"after {key}")
            at += 1
        return fields, at + 1
    if tokens[at] == "(":
        items: list[object] = []
        at += 1
        while tokens[at] != ")":
            item, at = _value(tokens, at)
            items.append(item)
            if tokens[at] != ",":
                raise ValueError(f"after {item}")
            at += 1
        return items, at + 1
    if tokens[at] in "=;,":
        raise ValueError(f"at {tokens[at]}")
    return tokens[at].strip('"'), at + 1


@pytest.fixture(scope="module")
def project() -> dict:
    return parsed(PROJECT.read_text(encoding="utf-8"))


def ids_in(value: object) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(ids_in, value.values()))
    if isinstance(value, list):
        return set().union(*map(ids_in, value))
    return {value} if ID.fullmatch(str(value)) else set()


def settings(project: dict) -> list[dict]:
    objects = project["objects"].values()
    return [item["buildSettings"] for item in objects if item["isa"] == "XCBuildConfiguration"]


def test_every_id_resolves_and_every_object_is_reached(project):
    objects = project["objects"]
    reached, open_ = set(), {project["rootObject"]}
    while open_:
        reached |= open_
        open_ = set().union(*(ids_in(objects[id_]) for id_ in open_)) - reached
    assert reached == set(objects)


def test_every_id_is_what_its_place_says(project):
    objects = project["objects"]
    expected = {
        "mainGroup": "PBXGroup", "productRefGroup": "PBXGroup", "productReference": "PBXFileReference",
        "buildConfigurationList": "XCConfigurationList", "package": "XCLocalSwiftPackageReference",
        "productRef": "XCSwiftPackageProductDependency", "baseConfigurationReference": "PBXFileReference",
        "targets": "PBXNativeTarget", "buildConfigurations": "XCBuildConfiguration", "files": "PBXBuildFile",
        "packageReferences": "XCLocalSwiftPackageReference",
        "packageProductDependencies": "XCSwiftPackageProductDependency",
        "fileSystemSynchronizedGroups": "PBXFileSystemSynchronizedRootGroup",
    }  # fmt: skip
    for item in objects.values():
        for field, isa in expected.items():
            for id_ in ids_in(item.get(field, [])):
                assert objects[id_]["isa"] == isa, field


def test_every_file_and_folder_exists(project):
    objects = project["objects"]

    def check(group: dict, folder: Path) -> int:
        found = 0
        for id_ in group["children"]:
            item = objects[id_]
            if item["sourceTree"] != "<group>":
                continue
            path = folder / item.get("path", "")
            assert path.exists(), path
            found += 1 + (check(item, path) if item["isa"] == "PBXGroup" else 0)
        return found

    root = objects[project["rootObject"]]
    assert check(objects[root["mainGroup"]], DEMO) >= 6


def test_the_package_and_its_products_exist(project):
    objects = project["objects"].values()
    (reference,) = [item for item in objects if item["isa"] == "XCLocalSwiftPackageReference"]
    manifest = (DEMO / reference["relativePath"] / "Package.swift").read_text(encoding="utf-8")
    products = [item["productName"] for item in objects if item["isa"] == "XCSwiftPackageProductDependency"]
    assert products
    for product in products:
        assert f'.library(name: "{product}"' in manifest


def test_property_lists_parse_and_say_what_the_app_needs(project):
    named = {value for values in settings(project) for key, value in values.items() if key in _PLIST_SETTINGS}
    assert named == {"Support/Info.plist", "Support/EdgesinkDemo.entitlements"}
    info = plistlib.loads((DEMO / "Support" / "Info.plist").read_bytes())
    assert info["UIFileSharingEnabled"]
    assert info["LSSupportsOpeningDocumentsInPlace"]
    entitlements = plistlib.loads((DEMO / "Support" / "EdgesinkDemo.entitlements").read_bytes())
    assert entitlements == {"com.apple.developer.kernel.increased-memory-limit": True}


_PLIST_SETTINGS = ("INFOPLIST_FILE", "CODE_SIGN_ENTITLEMENTS")


def test_the_project_asks_for_what_the_package_asks_for(project):
    manifest = (IOS / "EdgesinkKit" / "Package.swift").read_text(encoding="utf-8")
    assert ".iOS(.v18)" in manifest
    assert {values["IPHONEOS_DEPLOYMENT_TARGET"] for values in settings(project) if "SDKROOT" in values} == {"18.0"}
    assert {values["SWIFT_VERSION"] for values in settings(project) if "SDKROOT" in values} == {"6.0"}
    description = (DEMO / "project.yml").read_text(encoding="utf-8")
    for name in ("../EdgesinkKit", "Support/Info.plist", "Support/EdgesinkDemo.entitlements", "Signing.xcconfig"):
        assert name in description


def test_every_swift_source_parses():
    if shutil.which("swiftc") is None:
        pytest.skip("no Swift toolchain on this machine: Swift sources are not parsed")
    sources = [path for path in IOS.rglob("*.swift") if ".build" not in path.parts]
    assert len(sources) > 50
    result = subprocess.run(["swiftc", "-parse", "-parse-as-library", *sources], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_no_source_ends_the_process_on_what_it_reads():
    for source in IOS.rglob("*.swift"):
        if ".build" not in source.parts:
            text = source.read_text(encoding="utf-8")
            assert not re.search(r"fatalError|try!|as! ", text), source
