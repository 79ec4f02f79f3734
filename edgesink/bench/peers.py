"""The other engines that a user chose, with the models that they read."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesink.bench.rounds import Contender, run_python, run_worker
from edgesink.errors import BadOption
from edgesink.files import atomic_write
from edgesink.paths import cache_folder

LLAMA, GENAI, OPENVINO = "llama.cpp", "onnxruntime-genai", "openvino-genai"
PEERS = (LLAMA, GENAI, OPENVINO)
EVICTIONS = ("half", "one")


@dataclass(frozen=True)
class PeerOptions:
    """The options of `bench` about other engines."""

    names: Sequence[str]
    models: Mapping[str, str]  # by name; llama.cpp and openvino-genai can take the GGUF that we export
    pythons: Mapping[str, str]  # by name; default this one
    quants: Sequence[str]  # of llama.cpp, in addition to that of its GGUF
    evictions: Sequence[str]  # of llama.cpp

    def __post_init__(self) -> None:
        for wanted, known in ((self.names, PEERS), (self.evictions, EVICTIONS)):
            for name in wanted:
                if name not in known:
                    raise BadOption(repr(name), f"one of {', '.join(known)}")
        for name in [*self.models, *self.pythons]:
            if name not in self.names:
                raise BadOption(f"{name}=…, an engine that was not chosen", f"--against {name}")


def contenders(options: PeerOptions, windows: Sequence[int], checkpoint: Callable[[], Path]) -> list[Contender]:
    """Every other engine, in each of its configurations.

    Args:
        checkpoint: finds what we export, which llama.cpp and openvino-genai read if it is a GGUF.
    """
    engines = []
    for name in options.names:
        python = options.pythons.get(name, sys.executable)
        _check_python(name, python)
        model = _model(name, options.models.get(name), checkpoint)
        if name == LLAMA:
            for file in [model, *(_quantized(model, kind, python) for kind in options.quants)]:
                kind = file.stem.rpartition(".")[2]
                for eviction in options.evictions:
                    label = f"{name} {kind}, {eviction} at a time"
                    engines.append(
                        Contender(label, name, dict.fromkeys(windows, file), python, options={"evict": eviction})
                    )
        else:
            engines.append(Contender(name, name, dict.fromkeys(windows, model), python))
    return engines


def _model(name: str, given: str | None, checkpoint: Callable[[], Path]) -> Path:
    model = Path(given).expanduser() if given else checkpoint()
    if not model.exists():
        raise BadOption(f"no file {model}", f"a model for {name}")
    if given is None and (name == GENAI or model.suffix != ".gguf"):
        what = "a folder made by its model builder" if name == GENAI else "a .gguf file"
        raise BadOption(f"no model for {name}", f"--peer-model {name}=PATH, {what}")
    return model


def _check_python(name: str, python: str) -> None:
    module = {LLAMA: "llama_cpp", GENAI: "onnxruntime_genai", OPENVINO: "openvino_genai"}[name]
    package = "llama-cpp-python" if name == LLAMA else name
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if run_python(python, "-c", find).returncode:
        remedy = f"pip install {package}, or name the Python that has it: --peer-python {name}=PYTHON"
        raise BadOption(f"{python} has no {package}", "", remedy)


def _quantized(model: Path, kind: str, python: str) -> Path:
    """`model` in another quantisation, made once by llama.cpp itself and kept."""
    goal = cache_folder("gguf") / f"{model.stem.rpartition('.')[0] or model.stem}.{kind}.gguf"
    if not goal.is_file():
        goal.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(goal) as temporary, tempfile.TemporaryDirectory() as folder:
            job = {"model": str(model), "goal": str(temporary), "kind": kind}
            run_worker(python, job, f"llama.cpp's {kind}", Path(folder))
    return goal
