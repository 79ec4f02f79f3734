"""Write requirements.lock: one version of every package that any extra needs, on Linux and macOS, Python 3.11 to 3.13.

    pip install uv
    python scripts/lock.py             # a version that pyproject.toml still allows stays
    python scripts/lock.py --upgrade   # the newest that pyproject.toml allows; run the tests before committing it

The resolver is uv's. Then every machine below is asked for in turn: one that some version has no wheel for is an error.
The file names versions only, so `pip install -c requirements.lock` takes them from wherever pip looks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

LOCK = "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13")


class Machine(NamedTuple):
    platform: str  # as uv names it
    macos: str  # the oldest
    extras: tuple[str, ...]
    built: tuple[str, ...] = ()  # packages that have no wheel for it


MACHINES = (
    Machine("x86_64-manylinux_2_28", "", ("test",)),
    Machine("x86_64-manylinux_2_34", "", ("test", "coreai")),
    Machine("aarch64-manylinux_2_28", "", ("test",), ("coremltools",)),  # pip builds it without its native part
    Machine("aarch64-apple-darwin", "14.0", ("test",)),
    Machine("aarch64-apple-darwin", "26.0", ("test", "coreai")),
)  # no Mac with an Intel processor: neither torch 2.13 nor onnxruntime 1.32 has a wheel for it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    os.chdir(Path(__file__).parent.parent)
    if shutil.which("uv") is None:
        raise SystemExit("uv is not installed: pip install uv")
    write(upgrade)
    for machine in MACHINES:
        for python in PYTHONS:
            check(machine, python)


def write(options: list[str]) -> None:
    """Resolve all extras for all systems at once; lines that differ between them carry markers."""
    told = ["--custom-compile-command", "python scripts/lock.py", "--no-annotate", "--output-file", LOCK]
    compile_("--universal", "--python-version", PYTHONS[0], "--all-extras", "--no-emit-package", "pip", *told, *options)


def check(machine: Machine, python: str) -> None:
    """SystemExit unless the lock can be installed from wheels there, but for the packages that are built."""
    there = ["--python-platform", machine.platform, "--python-version", python, "--constraints", LOCK]
    wheels = ["--only-binary", ":all:", *(f"--no-binary={package}" for package in machine.built)]
    compile_(*there, *wheels, *(f"--extra={extra}" for extra in machine.extras), macos=machine.macos)
    print(f"installs on {machine.platform} {machine.macos}, Python {python}: {', '.join(machine.extras)}")


def compile_(*options: str, macos: str = "") -> None:
    command = ["uv", "pip", "compile", "pyproject.toml", "--quiet", *options]
    target = {"MACOSX_DEPLOYMENT_TARGET": macos} if macos else {}
    done = subprocess.run(command, env=os.environ | target, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"uv found no versions: {' '.join(command)}")


if __name__ == "__main__":
    main()
