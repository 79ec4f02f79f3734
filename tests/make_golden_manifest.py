"""Write tests/golden/manifest.json: a manifest, ways to damage it, and the words it is refused with.

Swift repeats them (`ManifestTests.swift`); `test_swift_package.py` checks that the file is current.
"""

import copy
import json
from pathlib import Path

from edgesink.errors import BadBundle
from edgesink.manifest import FORMAT, BundleFile, Manifest, Parity
from edgesink.spec import Llama3Scaling, ModelSpec, RopeSpec, StreamSpec

MODEL = ModelSpec(
    "toy", "llama", 2, 64, 4, 2, 16, 128, 256, 1e-5, RopeSpec(10000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192)), True, 512
)
GOOD = Manifest(
    "onnx", MODEL, StreamSpec(4, 28, 16, 8), "int4", "four bits", "float32", None, (0, 2),
    (BundleFile("model.onnx", 3, "aa"), BundleFile("model.onnx.data", 4, "bb"), BundleFile("README.md", 1, "cc")),
    {"onnx": "1.23"}, Parity(100, 1e-5, 1e-6, 1.0, True, "onnxruntime", "2026-11-22"), {"kv_write": "slice"},
)  # fmt: skip

# Where, and what is put there; "remove" takes the field away.
FAULTS = [
    (["format"], FORMAT + 1),
    (["format"], None),
    (["surprise"], 1),
    (["model", "surprise"], 1),
    (["model", "rope", "scaling", "surprise"], 1),
    (["model", "heads"], "remove"),
    (["model", "heads"], "9"),
    (["model", "heads"], True),
    (["model", "heads"], 4.0),
    (["model", "kv_heads"], 3),
    (["model", "layers"], 0),
    (["model", "norm_eps"], "small"),
    (["model", "tied"], 1),
    (["model"], []),
    (["model", "name"], None),
    (["target"], "tflite"),
    (["precision"], None),
    (["stream", "window"], 1),
    (["stream", "sinks"], None),
    (["stream", "sinks"], 17),
    (["stream", "positions"], "sideways"),
    (["state_dtype"], "bfloat16"),
    (["eos_ids"], 2),
    (["eos_ids"], [0, "x"]),
    (["bos_id"], None),
    (["bos_id"], "x"),
    (["options"], {"kv_write": 1}),
    (["options"], None),
    (["options", "parts"], "0"),
    (["options", "parts"], "2"),
    (["options", "parts"], "3"),
    (["options", "parts"], "+1"),
    (["options", "parts"], ""),
    (["options", "parts"], 2),
    (["tools"], "remove"),
    (["files"], [{"path": "../x", "bytes": 1, "sha256": ""}]),
    (["files"], [{"path": "/etc/x", "bytes": 1, "sha256": ""}]),
    (["files"], [{"path": "a\\b", "bytes": 1, "sha256": ""}]),
    (["files"], [{"path": ".", "bytes": 1, "sha256": ""}]),
    (["files"], [{"path": "weights/..x", "bytes": 1, "sha256": ""}]),
]


def damaged(where: list[str], value: object) -> dict:
    data = json.loads(GOOD.to_json())
    inner = data
    for key in where[:-1]:
        inner = inner[key]
    if value == "remove":
        del inner[where[-1]]
    else:
        inner[where[-1]] = copy.deepcopy(value)
    return data


def message_of(data: dict) -> str | None:
    """What the manifest is refused with; None if it is read."""
    try:
        Manifest.from_json(json.dumps(data))
    except BadBundle as error:
        return str(error)
    return None


def golden() -> dict:
    return {
        "about": "made by make_golden_manifest.py; message null: the manifest is read",
        "good": json.loads(GOOD.to_json()),
        "state_bytes": GOOD.state_bytes,
        "weight_bytes": GOOD.weight_bytes,
        "fingerprint": GOOD.fingerprint,
        "faults": [
            {"where": where, "value": value, "message": message_of(damaged(where, value))} for where, value in FAULTS
        ],
    }


if __name__ == "__main__":
    path = Path(__file__).parent / "golden" / "manifest.json"
    path.write_text(json.dumps(golden(), indent=1, ensure_ascii=False) + "\n")
