"""Exports a model of Mistral 7B's shape, random weights in bfloat16 shards, and says what it took.

    python scripts/export_7b_shape.py FOLDER [--layers 32] [--target coreml] [--precision int4]

FOLDER gets a checkpoint of 14.5 GB (all 32 layers), the bundle and, for a while, the unpacked weights beside it; all of
it is removed at the end unless --keep. Prints one line of JSON: seconds, peak anonymous memory, bytes on disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgesink.gauges import own_bytes

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 32, 4096, 14336, 32, 8, 128, 32768
LAYERS_PER_SHARD = 4


def make_checkpoint(folder: Path, layers: int) -> None:
    """A folder as the hub lays it out: config, sharded safetensors and their index, a tokenizer of bytes."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    weight = lambda *shape: torch.randn(shape).mul_(shape[-1] ** -0.5).bfloat16()  # noqa: E731
    index: dict[str, str] = {}

    def shard(name: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    shard("model-ends.safetensors", {
        "model.embed_tokens.weight": weight(VOCAB, HIDDEN),
        "lm_head.weight": weight(VOCAB, HIDDEN),
        "model.norm.weight": torch.ones(HIDDEN).bfloat16(),
    })  # fmt: skip
    for first in range(0, layers, LAYERS_PER_SHARD):
        tensors = {}
        for layer in range(first, min(layers, first + LAYERS_PER_SHARD)):
            of = f"model.layers.{layer}."
            for name, shape in {
                "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
                "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
                "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
                "mlp.up_proj": (INTERMEDIATE, HIDDEN),
                "mlp.down_proj": (HIDDEN, INTERMEDIATE),
            }.items():
                tensors[f"{of}{name}.weight"] = weight(*shape)
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{of}{name}.weight"] = torch.ones(HIDDEN).bfloat16()
        shard(f"model-layers-{first}.safetensors", tensors)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(
        json.dumps({
            "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
            "rope_theta": 1000000.0, "max_position_embeddings": 32768, "tie_word_embeddings": False,
            "sliding_window": None, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
        })
    )  # fmt: skip
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


@contextmanager
def anonymous_peak(every_seconds: float = 0.1) -> Iterator[list[int]]:
    """A list whose last number is the most anonymous memory seen so far, bytes; mapped files are not counted."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(every_seconds):
            peak.append(max(peak.pop(), own_bytes()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--layers", type=int, default=LAYERS)
    arguments.add_argument("--target", default="coreml")
    arguments.add_argument("--precision", default="int4")
    arguments.add_argument("--keep", action="store_true")
    arguments.add_argument("--only-checkpoint", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    checkpoint, bundle = options.folder / "checkpoint", options.folder / "bundle"
    if options.only_checkpoint:
        make_checkpoint(checkpoint, options.layers)
        return
    # in a process of its own: the memory of making the weights is not the exporter's
    subprocess.run([sys.executable, *sys.argv, "--only-checkpoint"], check=True)

    from edgesink.export.bundle import export

    try:
        start = time.perf_counter()
        with anonymous_peak() as peak:
            export(checkpoint, bundle, options.target, precision=options.precision)
        print(
            json.dumps(
                {
                    "layers": options.layers,
                    "target": options.target,
                    "precision": options.precision,
                    "seconds": round(time.perf_counter() - start),
                    "peak_anonymous_bytes": peak[-1],
                    "checkpoint_bytes": disk_bytes(checkpoint),
                    "bundle_bytes": disk_bytes(bundle),
                }
            )
        )
    finally:
        if not options.keep:
            shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
