"""requirements.lock has a version for all that is installed with edgesink, and one that pyproject.toml allows."""

import itertools
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
EXTRAS = ("export", "coreai", "eval", "test")
LINES = [line for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
LOCK = [Requirement(line) for line in LINES]
MACHINES = [
    {
        "sys_platform": system,
        "platform_system": system.capitalize(),
        "os_name": "posix",
        "platform_machine": machine,
        "python_version": python,
        "python_full_version": python + ".9",
    }
    for system, machine in [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
    for python in ("3.11", "3.12", "3.13")
]


def pins(machine: dict[str, str]) -> dict[str, str]:
    """Package -> version on a machine; a package with two lines for it is an error."""
    there = [line for line in LOCK if line.marker is None or line.marker.evaluate(machine)]
    versions = {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in there}
    assert len(versions) == len(there)
    return versions


def needed(package: str, extra: str = "", seen: set[tuple[str, str]] | None = None) -> set[str]:
    """The packages that an installed package needs on this machine, and they in turn."""
    seen = set() if seen is None else seen
    if (package, extra) not in seen:
        seen.add((package, extra))
        for text in distribution(package).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(default_environment() | {"extra": extra}):
                for wanted in ["", *requirement.extras]:
                    needed(canonicalize_name(requirement.name), wanted, seen)
    return {name for name, _ in seen}


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_one_public_version(line):
    """No hosts, no paths, no builds of one machine such as +cpu: the file says the same everywhere."""
    assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; .+)?", line)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: " ".join(list(machine.values())[::2][:3]))
def test_every_requirement_of_ours_has_a_version_that_it_allows(machine):
    versions = pins(default_environment() | machine)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in map(Requirement, itertools.chain(*lists)):
        if requirement.name != "edgesink":  # one extra that holds another
            assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)], prereleases=True)


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_everything_that_is_installed_with_us_has_a_version(extra):
    try:
        packages = needed("edgesink", extra)
    except PackageNotFoundError as missing:
        pytest.skip(f"edgesink[{extra}] is not installed: {missing}")
    unlocked = packages - pins(default_environment()).keys() - {"edgesink", "pip"}  # pip is what installs them
    assert not unlocked, "python scripts/lock.py"


def test_the_readme_and_ci_install_the_versions_of_the_lock():
    readme, ci = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", ".ci/run"))
    commands = re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    assert all(command.startswith("pip install -c requirements.lock '.[") for command in commands)
    installs = re.findall(r'bin/pip" install (.*)', ci)
    assert installs
    assert all("-c requirements.lock" in options for options in installs)
