"""Write tests/golden/manifest.json: two manifests, ways to damage them, and the words they are refused with.

Swift repeats them (`ManifestTests.swift`); `test_swift_package.py` checks that the file is current.
"""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np

from edgesink.bounded_inputs import bounded_inputs
from edgesink.errors import BadBundle
from edgesink.manifest import FORMAT, BundleFile, Manifest, Parity, State
from edgesink.names import POSITION
from edgesink.sampling_defaults import SamplingDefaults
from edgesink.spec import LayerRing, StreamSpec
from edgesink.turns import Piece, Script, Trigger, Turns

FILES = (BundleFile("model.onnx", 3, "aa"), BundleFile("model.onnx.data", 4, "bb"), BundleFile("README.md", 1, "cc"))
SYSTEM = (Piece("text", "system: "), Piece("system"), Piece("text", "\n"))
FIRST = (Piece("text", "user: "), Piece("user", trim="both"), Piece("text", "\nassistant:"))
LATER = (Piece("text", "\n"), *FIRST)
TURNS = Turns(
    Script(FIRST, LATER), Script(SYSTEM + FIRST, LATER), "", True, (Piece("text", "\n"),), (), (Trigger("user", "/x"),),
    ("its turns have no control tokens",),
)  # fmt: skip
GOOD = Manifest(
    target="onnx", name="toy", family="llama", vocab=256, stream=StreamSpec(4, 28, 16, 8),
    views=(LayerRing(32, True),),
    states=tuple(State(name, (1, 2, 39, 16), "float32", 0) for name in ("key_0", "value_0", "key_1", "value_1")),
    precision="int4", weights="four bits", bos_id=None, eos_ids=(0, 2), turns=TURNS, no_turns=None, files=FILES,
    tools={"onnx": "1.23"},
    architecture={"layers": 2, "anything": [1.5, None]},
    step_weight_bytes=4,
    parity=Parity(100, 1e-5, 1e-6, 1.0, True, "onnxruntime", "2026-11-22"),
    sampling=SamplingDefaults(0.7, 20, 0.8, 0.05, 1.1, "generation_config.json"),
)  # fmt: skip
TWO_VIEWS = dataclasses.replace(
    GOOD, target="coreml", kv_write="host", turns=None, no_turns="it has no chat template", sampling=None,
    views=(LayerRing(32, True), LayerRing(8, False)),
    states=(
        State("kv_cache", (4, 2, 64, 16), "float16", 0, layers=(1, 3)),
        State("kv_cache_1", (6, 2, 32, 16), "float16", 1, layers=(0, 2, 4)),
    ),
)  # fmt: skip
MANIFESTS = {"good": GOOD, "two_views": TWO_VIEWS}
STATE = {"name": "key_2", "shape": [1, 2, 39, 16], "dtype": "float32", "view": 0, "part": 0}
SAID = {"kind": "user", "text": "", "id": None, "trim": "none"}
TOKEN = {"kind": "token", "text": "<s>", "id": 1, "trim": "none"}
DATE = {"kind": "date", "text": "%d %b %Y 100%%", "id": None, "trim": "none"}

# Of which manifest, where, and what is put there; "remove" takes the field away.
FAULTS = [
    ("good", ["format"], FORMAT + 1),
    ("good", ["format"], FORMAT - 1),
    ("good", ["format"], None),
    ("good", ["format"], "remove"),
    ("good", ["surprise"], 1),
    ("good", ["architecture"], {"of": {"a": "family that nobody knows yet"}}),
    ("good", ["architecture"], {}),
    ("good", ["architecture"], []),
    ("good", ["architecture"], "remove"),
    ("good", ["name"], None),
    ("good", ["family"], "mamba9"),
    ("good", ["vocab"], "remove"),
    ("good", ["vocab"], "9"),
    ("good", ["vocab"], True),
    ("good", ["vocab"], 256.0),
    ("good", ["vocab"], 0),
    ("good", ["vocab"], 2),
    ("good", ["vocab"], 1 << 62),
    ("good", ["target"], "tflite"),
    ("good", ["precision"], None),
    ("good", ["stream"], []),
    ("good", ["stream", "surprise"], 1),
    ("good", ["stream", "positions"], "remove"),
    ("good", ["stream", "window"], "remove"),
    ("good", ["stream", "window"], 1),
    ("good", ["stream", "window"], 29),
    ("good", ["stream", "window"], (1 << 63) - 1),
    ("good", ["stream", "chunk"], 0),
    ("good", ["stream", "chunk"], 7),
    ("good", ["stream", "sinks"], None),
    ("good", ["stream", "sinks"], 17),
    ("good", ["stream", "sinks"], -1),
    ("good", ["stream", "positions"], "sideways"),
    ("good", ["views"], []),
    ("good", ["views"], {}),
    ("good", ["views", "0", "surprise"], 1),
    ("good", ["views", "0", "sinks"], "remove"),
    ("good", ["views", "0", "sinks"], 1),
    ("good", ["views", "0", "sinks"], False),
    ("good", ["views", "0", "capacity"], 33),
    ("good", ["views", "0", "capacity"], -32),
    ("good", ["views"], [{"capacity": 32, "sinks": True}, {"capacity": 8, "sinks": False}]),
    ("good", ["states"], []),
    ("good", ["states"], None),
    ("good", ["states"], [STATE, STATE]),
    ("good", ["states", "1", "surprise"], 1),
    ("good", ["states", "1", "part"], "remove"),
    ("good", ["states", "1", "part"], 1),
    ("good", ["states", "1", "view"], 1),
    ("good", ["states", "1", "view"], -1),
    ("good", ["states", "1", "name"], 7),
    ("good", ["states", "1", "dtype"], "bfloat16"),
    ("good", ["states", "1", "dtype"], "float16"),
    ("good", ["states", "1", "shape"], [1, 2, 40, 16]),
    ("good", ["states", "1", "shape"], [2, 2, 39, 16]),
    ("good", ["states", "1", "shape"], [1, 3, 39, 16]),
    ("good", ["states", "1", "shape"], [1, 2, 39, 8]),
    ("good", ["states", "1", "shape"], [1, 2, 39]),
    ("good", ["states", "1", "shape"], [1, 0, 39, 16]),
    ("good", ["states", "1", "shape"], [1, 2, 39, -16]),
    ("good", ["states", "1", "shape"], [1, 2, 39, 1 << 31]),
    ("good", ["states", "1", "shape"], [1 << 31, 1 << 31, 1 << 31, 1 << 31]),
    ("good", ["states", "1", "shape"], [1, 2, 39, (1 << 63) - 1]),
    ("good", ["states", "1", "shape"], [1, 2, 39, "16"]),
    ("good", ["eos_ids"], 2),
    ("good", ["eos_ids"], [0, "x"]),
    ("good", ["eos_ids"], [0, 256]),
    ("good", ["eos_ids"], [-1]),
    ("good", ["eos_ids"], []),
    ("good", ["bos_id"], 255),
    ("good", ["bos_id"], 256),
    ("good", ["bos_id"], "x"),
    ("good", ["bos_id"], "remove"),
    ("good", ["sink_token_id"], 3),
    ("good", ["sink_token_id"], 256),
    ("good", ["sink_token_id"], -1),
    ("good", ["sink_token_id"], "x"),
    ("good", ["sink_token_id"], "remove"),
    ("good", ["turns"], None),
    ("good", ["turns"], "remove"),
    ("good", ["turns"], []),
    ("good", ["no_turns"], "why not"),
    ("good", ["no_turns"], "remove"),
    ("good", ["turns", "surprise"], 1),
    ("good", ["turns", "refusal"], "Roles\n'x'"),
    ("good", ["turns", "refusal"], None),
    ("good", ["turns", "blank_system"], 1),
    ("good", ["turns", "without_system"], None),
    ("good", ["turns", "without_system"], {"first": [SAID], "later": [SAID]}),
    ("good", ["turns", "without_system"], {"first": [SAID], "later": []}),
    ("good", ["turns", "without_system", "first"], "remove"),
    ("good", ["turns", "without_system", "first"], []),
    ("good", ["turns", "without_system", "first"], [SAID, SAID | {"kind": "system"}]),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"id": 255}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"id": 256}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"id": -1}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"id": None}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"text": ""}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"kind": "answer"}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"kind": "text"}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"trim": "both"}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"trim": "middle"}),
    ("good", ["turns", "without_system", "first", "0"], TOKEN | {"surprise": 1}),
    ("good", ["turns", "without_system", "first", "0"], {"kind": "text"}),
    ("good", ["turns", "without_system", "first", "0"], DATE),
    ("good", ["turns", "without_system", "first", "0"], DATE | {"text": "%d %j"}),
    ("good", ["turns", "without_system", "first", "1", "text"], "x"),
    ("good", ["turns", "without_system", "first", "1", "trim"], "right"),
    ("good", ["turns", "with_system"], None),
    ("good", ["turns", "with_system", "first", "1", "kind"], "user"),
    ("good", ["turns", "with_system", "later"], []),
    ("good", ["turns", "end"], None),
    ("good", ["turns", "end"], []),
    ("good", ["turns", "controls"], [256]),
    ("good", ["turns", "controls"], [255]),
    ("good", ["turns", "controls"], ["1"]),
    ("good", ["turns", "triggers"], [{"role": "user", "text": ""}]),
    ("good", ["turns", "triggers"], [{"role": "assistant", "text": "x"}]),
    ("good", ["turns", "triggers"], ["x"]),
    ("good", ["turns", "notes"], [1]),
    ("good", ["turns", "notes"], []),
    ("two_views", ["no_turns"], None),
    ("good", ["kv_write"], "slice"),
    ("good", ["vocabulary_bits"], 6),
    ("good", ["step_weight_bytes"], "remove"),
    ("good", ["step_weight_bytes"], "9"),
    ("good", ["step_weight_bytes"], -1),
    ("good", ["step_weight_bytes"], 1 << 62),
    ("good", ["sampling"], None),
    ("good", ["sampling"], "remove"),
    ("good", ["sampling"], []),
    ("good", ["sampling", "surprise"], 1),
    ("good", ["sampling", "source"], "remove"),
    ("good", ["sampling", "temperature"], -0.5),
    ("good", ["sampling", "temperature"], "hot"),
    ("good", ["sampling", "temperature"], 0),
    ("good", ["sampling", "top_k"], -1),
    ("good", ["sampling", "top_k"], 1.5),
    ("good", ["sampling", "top_p"], 0),
    ("good", ["sampling", "top_p"], 1.25),
    ("good", ["sampling", "min_p"], 1),
    ("good", ["sampling", "repetition_penalty"], 0),
    ("good", ["logit_rows"], 8),
    ("good", ["logit_rows"], 9),
    ("good", ["logit_rows"], 1),
    ("good", ["logit_rows"], None),
    ("good", ["logit_rows"], "8"),
    ("good", ["float32_in_kernels"], ["key_1"]),
    ("good", ["float32_in_kernels"], ["key_1", "key_9"]),
    ("good", ["float32_in_kernels"], None),
    ("good", ["float32_in_kernels"], "key_1"),
    ("good", ["float32_in_kernels"], [1]),
    ("good", ["parts"], 0),
    ("good", ["parts"], 2),
    ("good", ["parts"], 1 << 40),
    ("good", ["parts"], "1"),
    ("good", ["parity"], None),
    ("good", ["parity", "surprise"], 1),
    ("good", ["tools"], "remove"),
    ("good", ["tools"], {"onnx": 1}),
    ("good", ["files"], [{"path": "../x", "bytes": 1, "sha256": ""}]),
    ("good", ["files"], [{"path": "/etc/x", "bytes": 1, "sha256": ""}]),
    ("good", ["files"], [{"path": "a\\b", "bytes": 1, "sha256": ""}]),
    ("good", ["files"], [{"path": ".", "bytes": 1, "sha256": ""}]),
    ("good", ["files"], [{"path": "x", "bytes": -1, "sha256": ""}]),
    ("good", ["files"], [{"path": "x", "bytes": (1 << 63) - 1, "sha256": ""}]),
    ("good", ["files"], [{"path": "weights/..x", "bytes": 1, "sha256": ""}]),
    ("two_views", ["kv_write"], None),
    ("two_views", ["kv_write"], "scatter"),
    ("two_views", ["kv_write"], "blend"),
    ("two_views", ["views", "1", "capacity"], 7),
    ("two_views", ["views", "1", "capacity"], 32),
    ("two_views", ["views", "1", "capacity"], 25),
    ("two_views", ["views", "1", "capacity"], 26),
    ("two_views", ["views", "1", "sinks"], True),
    ("two_views", ["states", "1", "view"], 0),
    ("two_views", ["states", "1", "name"], "kv_cache"),
    ("two_views", ["states", "1", "shape"], [5, 2, 32, 16]),
    ("two_views", ["states", "1", "shape"], [6, 1, 32, 32]),
    ("two_views", ["states", "1", "part"], 1),
    ("two_views", ["states", "1", "layers"], "remove"),
    ("two_views", ["states", "1", "layers"], None),
    ("two_views", ["states", "1", "layers"], 2),
    ("two_views", ["states", "1", "layers"], []),
    ("two_views", ["states", "1", "layers"], [0, 2, "4"]),
    ("two_views", ["states", "1", "layers"], [0, 2, 5]),
    ("two_views", ["states", "1", "layers"], [0, 2, 3]),
    ("two_views", ["states", "1", "layers"], [0, 2, -1]),
    ("two_views", ["states", "1", "layers"], [0, 2, 4, 5]),
    ("two_views", ["states", "1", "layers"], [4, 2, 0]),
    ("good", ["states", "0", "layers"], [0]),
    ("two_views", ["parts"], 2),
]
POSITIONS = [(0, 4), (7, 4), (14, 4), (15, 4), (39, 4), (40, 0), (1000, 16), (2**40 + 3, 1)]  # and sinks


def damaged(manifest: Manifest, where: list[str], value: object) -> dict:
    data = json.loads(manifest.to_json())
    inner = data
    for key in where[:-1]:
        inner = inner[int(key) if isinstance(inner, list) else key]
    last = int(where[-1]) if isinstance(inner, list) else where[-1]
    if value == "remove":
        del inner[last]
    else:
        inner[last] = copy.deepcopy(value)
    return data


def message_of(data: dict) -> str | None:
    """What the manifest is refused with; None if it is read."""
    try:
        Manifest.from_json(json.dumps(data))
    except BadBundle as error:
        return str(error)
    return None


def frames(position: int, sinks: int) -> list[int]:
    """Where each ring of the second manifest is said to stand."""
    _, inputs = bounded_inputs(TWO_VIEWS, np.array([7]), position, sinks)
    return inputs[POSITION].tolist()


def golden() -> dict:
    return {
        "about": "made by make_golden_manifest.py; message null: the manifest is read",
        "manifests": {
            name: {
                "manifest": json.loads(manifest.to_json()), "state_bytes": manifest.state_bytes,
                "weight_bytes": manifest.weight_bytes, "fingerprint": manifest.fingerprint,
            }
            for name, manifest in MANIFESTS.items()
        },
        "frames": [{"position": at, "sinks": sinks, "frames": frames(at, sinks)} for at, sinks in POSITIONS],
        "faults": [
            {"of": of, "where": where, "value": value, "message": message_of(damaged(MANIFESTS[of], where, value))}
            for of, where, value in FAULTS
        ],
    }  # fmt: skip


if __name__ == "__main__":
    path = Path(__file__).parent / "golden" / "manifest.json"
    path.write_text(json.dumps(golden(), indent=1, ensure_ascii=False) + "\n")
