"""The README of a bundle: what it is, how to use it, and what of it is verified, in four fixed labels.

"verified" means run by the runtime that will run it. "checked by an independent evaluator" means computed from the
saved file by something that did not write it and is not that runtime. "parsed, not compiled" means read and found
well formed. "not verified" means none of these. Nothing here is stronger than its label.
"""

from __future__ import annotations

from edgesink.manifest import Manifest
from edgesink.targets import Target

VERIFICATION: dict[Target, str] = {
    "onnx": """\
- The graph's logits: verified by `edgesink verify`, which runs this very file in ONNX Runtime against the PyTorch
  oracle and writes the result into `manifest.json`; not verified where `manifest.json` has no parity.
- Phones: not verified.""",
    "coreml": """\
- The program's logits: checked by an independent evaluator (`edgesink verify`), which reads the saved package and
  computes it operation by operation against the PyTorch oracle. It is not Core ML, which had not run this package when
  this was written; on a Mac `edgesink verify` runs it there too.
- The package: parsed, not compiled. Its states, types and weights are read back and held against the structure of a
  ring; Apple's compiler sees it first on a Mac or a phone.
- Speed, memory and rounding on a device, the Neural Engine above all: not verified.""",
    "coreai": """\
- The program's logits: verified in Apple's interpreter of Core AI, which also runs on Linux, by `edgesink verify`.
- Speed, memory and rounding on a device: not verified.""",
}


def bundle_readme(manifest: Manifest) -> str:
    """The text of the bundle's README.md."""
    stream = manifest.stream
    return f"""# {manifest.name} for edgesink

A model of the family {manifest.family} as a {manifest.target} graph, weights {manifest.weights}.
It streams forever: {stream.sinks} pinned first tokens (up to {stream.max_sinks}) and the most recent {stream.window}
are remembered, in {manifest.state_bytes} bytes of state from the first token to the last.{_notes(manifest)}

    edgesink chat {{this folder}}
    edgesink inspect {{this folder}}
    edgesink verify {{this folder}}

`manifest.json` says everything else. It does not remember what the window has left behind.

## What is verified

{VERIFICATION[manifest.target]}
"""


def _notes(manifest: Manifest) -> str:
    return _sampling(manifest) + _cut(manifest)


def _sampling(manifest: Manifest) -> str:
    """What the model's makers recommend."""
    own = manifest.sampling
    return f"\nRecommended sampling: {own.words} ({own.source})." if own else ""


def _cut(manifest: Manifest) -> str:
    """How a model of several packages is run."""
    if manifest.parts == 1:
        return ""
    first, *_, last = manifest.coreml_packages
    return f"""

The layers are cut into {manifest.parts} packages, `{first}` to `{last}`, each with a state of its own. For every
piece of the stream all are run in that order, with the same `position`, `sinks` and `length`: the first takes the
`ids`, each one behind it takes as `hidden` what the one before gave as `hidden_out`, the last gives the `logits`.
edgesink's Swift package runs bundles of one package only."""
