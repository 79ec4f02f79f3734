"""Training of one model with transformers' Trainer: resumable, and looked at on the way.

Owns the model's making and the training loop. Leaves a checkpoint folder that transformers reads, with the tokenizer,
and `attention.jsonl`: a line for each look, {"step", "shares": [L][H]}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from edgesink.off_by_one import use_off_by_one
from sinktoken.attention import first_token_shares
from sinktoken.settings import Kind, Recipe, Run, Size
from sinktoken.texts import SINK_ID, Samples, opened

LOOKS = "attention.jsonl"
FINISHED = "model.safetensors"
LOOKED_AT = 16  # samples of the held-out text
DECLARED: dict[Kind, dict[str, Any]] = {
    "vanilla": {},
    "zero-sink": {"softmax_off_by_one": True},
    "sink-token": {"sink_token_id": SINK_ID},
}
"""What config.json says of a kind: `edgesink export` reads it."""


def make_model(run: Run, size: Size, positions: int) -> LlamaForCausalLM:
    """A model with random weights, those of a seed alike in every kind."""
    set_seed(run.seed)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
        **DECLARED[run.kind],
    )
    model = LlamaForCausalLM(config)
    if run.kind == "zero-sink":
        use_off_by_one(model)
    return model


class Looks(TrainerCallback):
    """Writes down the share of attention on the first token, now and then."""

    def __init__(self, file: Path, ids: torch.Tensor, every: int) -> None:
        self._file, self._ids, self._every = file, ids, every

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 0:
            self._file.unlink(missing_ok=True)
            self._look(0, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % self._every == 0:
            self._look(state.global_step, model)

    def _look(self, step: int, model: Any) -> None:
        shares = [[round(share, 5) for share in heads] for heads in first_token_shares(model, self._ids)]
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, "shares": shares}) + "\n")


def train(
    run: Run, size: Size, recipe: Recipe, ids: np.ndarray, held_out: np.ndarray, tokenizer: Tokenizer, folder: Path,
    opening: int | None = None,
) -> None:  # fmt: skip
    """Train into `folder`, from the last save if there is one; nothing is done where it is finished.

    Args:
        ids: of the texts, int64 [n].
        held_out: ids of the text that attention is looked at on.
        opening: the id that stands in front of every sample, in every kind; the tokenizer learns to put it there.
    """
    if (folder / FINISHED).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    front = [SINK_ID] if run.kind == "sink-token" else []
    front += [] if opening is None else [opening]
    samples = Samples(ids, recipe.length, recipe.steps * recipe.batch, run.seed, front)
    looked_at = Samples(held_out, recipe.length, LOOKED_AT, 0, front)
    looks = Looks(folder / LOOKS, torch.stack([looked_at[i]["input_ids"] for i in range(LOOKED_AT)]), recipe.look_every)
    trainer = Trainer(
        make_model(run, size, recipe.length + len(front)), _arguments(recipe, run.seed, folder), train_dataset=samples,
        callbacks=[looks],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    (folder / "loss.json").write_text(json.dumps(trainer.state.log_history))
    opened(tokenizer, opening).save(str(folder / "tokenizer.json"))
    trainer.model.save_pretrained(folder)


def _arguments(recipe: Recipe, seed: int, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        warmup_steps=recipe.warmup_steps,
        lr_scheduler_type="cosine",
        train_sampling_strategy="sequential",  # the samples are drawn at random already
        seed=seed,
        use_cpu=True,
        bf16=True,
        logging_steps=min(50, recipe.steps),
        save_steps=recipe.save_every,
        save_total_limit=1,
        report_to="none",
        dataloader_num_workers=0,
    )
