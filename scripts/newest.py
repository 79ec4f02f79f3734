"""What the newest releases will break: the tests in a fresh environment without the lock, every warning an error.

    python scripts/newest.py                             # all tests
    python scripts/newest.py -x tests/test_perplexity.py # pytest's arguments

Prints the packages that are newer here than in requirements.lock, then the releases that pyproject.toml or a dependency
excludes, then what the tests say. Every warning fails its test here, also one that a dependency raises at its own line
because of a call of ours: a deprecation today is an error in a later release. Exit code 1 if anything fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="newest-") as folder:
        binaries = install(Path(folder))
        installed = {package["name"]: package["version"] for package in pip(binaries, "list")}
        newer = {package["name"]: package["latest_version"] for package in pip(binaries, "list", "--outdated")}
        print_newer_than_lock(installed)
        print_excluded(installed, newer, next(binaries.parent.glob("lib/python*/site-packages")))
        environment = os.environ | {"COLUMNS": "400"}  # whole messages in the summary
        command = [str(binaries / "pytest"), "-W", "error", "--tb=short", *sys.argv[1:]]
        sys.exit(min(1, subprocess.run(command, cwd=ROOT, env=environment).returncode))


def install(folder: Path) -> Path:
    """The folder of commands of a fresh environment, with edgesink[test] built from a copy of the repository."""
    unwanted = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "*.so", ".build")
    shutil.copytree(ROOT, folder / "source", ignore=unwanted)
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    command = [str(binaries / "pip"), "install", "--quiet", f"{folder}/source[test]"]
    subprocess.run(command, check=True, env=os.environ | {"PIP_CONSTRAINT": ""})
    return binaries


def pip(binaries: Path, *command: str) -> list[dict[str, str]]:
    done = subprocess.run([binaries / "pip", *command, "--format=json"], check=True, stdout=subprocess.PIPE)
    packages: list[dict[str, str]] = json.loads(done.stdout)
    return packages


def print_newer_than_lock(installed: dict[str, str]) -> None:
    lines = re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    locked: dict[str, set[str]] = {}
    for name, version in lines:  # several, where systems or Pythons differ
        locked.setdefault(name, set()).add(version)
    print("== newer than requirements.lock, and allowed")
    for name, version in sorted((canonicalize_name(name), version) for name, version in installed.items()):
        known = locked.get(name, set())
        if name not in ("edgesink", "pip") and version.partition("+")[0] not in known:  # +cpu is a build
            print(f"{name} {' or '.join(sorted(known)) or '(none)'} -> {version}")


def print_excluded(installed: dict[str, str], newer: dict[str, str], site: Path) -> None:
    print("== newer still, and excluded")
    for name, version in sorted(newer.items()):
        if name != "pip":
            by = ", ".join(excluders(site, canonicalize_name(name), version)) or "nothing here: published just now?"
            print(f"{name} {installed[name]} -> {version}, by {by}")
    print(flush=True)


def excluders(site: Path, name: str, version: str) -> list[str]:
    """The packages in the environment whose requirements do not allow this version."""
    found = set()
    for package in distributions(path=[str(site)]):
        extras = ["", "test", "eval", "export"] if package.name == "edgesink" else [""]
        for requirement in map(Requirement, package.requires or []):
            applies = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras)
            same = canonicalize_name(requirement.name) == name
            if same and applies and not requirement.specifier.contains(version, prereleases=True):
                found.add(package.name)
    return sorted(found)


if __name__ == "__main__":
    main()
