"""The options and arguments that several commands share, and how their text is read. Knows no command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesink.errors import BadOption
from edgesink.spec import Device, Drafts, Provider
from edgesink.targets import Precision

CHECKPOINT = "a short name (see `edgesink models`), a hub id (owner/name), a checkpoint folder or a .gguf file"

Model = Annotated[
    str,
    typer.Argument(help=f"A bundle folder, or a model to export on first use: {CHECKPOINT}."),
]
CheckpointName = Annotated[
    str,
    typer.Argument(help=f"A model: {CHECKPOINT}."),
]
Texts = Annotated[list[Path], typer.Option("--text", help="UTF-8 text file to read. Repeat the option for more files.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Plot = Annotated[Path | None, typer.Option(help="Also draw the result into this PNG file.")]
Threads = Annotated[
    int | None, typer.Option(help="Number of CPU threads. Default: one for each core that the process may use.")
]
Window = Annotated[
    int, typer.Option(help="Sliding window in tokens, in addition to 4 sinks. Ignored if MODEL is a bundle.")
]
PrecisionOption = Annotated[Precision, typer.Option(help="Weight precision. Ignored if MODEL is a bundle.")]
DeviceOption = Annotated[Device, typer.Option(help="Device that runs the models.")]

ProviderOption = Annotated[
    Provider, typer.Option(help="Execution provider: cpu, cuda, or plain (cpu without edgesink's C kernels).")
]
KernelsOption = Annotated[
    bool | None,
    typer.Option("--kernels/--no-kernels", help="Use edgesink's C kernels. Default: where they are available."),
]
MappedOption = Annotated[
    bool | None,
    typer.Option(
        "--mapped/--read",
        help="With kernels: leave the weights in their file and let the system keep what it can in memory, or read "
        "them into memory. Default: mapped, where that costs no time.",
    ),
]
ExactOption = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="With kernels: compute prompts as precisely as answers; they are read more slowly.",
    ),
]
DraftsOption = Annotated[
    Drafts,
    typer.Option(
        help="Guess several tokens at once from what was said before, and keep those that the model would choose: "
        "auto (with edgesink's kernels, where it is faster and the answer stays the same), on or off."
    ),
]
Sinks = Annotated[
    int | None,
    typer.Option(help="Number of attention sinks: first tokens that are never evicted. Default: the bundle's."),
]
Temperature = Annotated[
    float | None,
    typer.Option(help="Sampling temperature. 0 always takes the most likely token. Default: the model's own."),
]
TopK = Annotated[
    int | None,
    typer.Option(help="Sample from the k most likely tokens only. 0 turns this off. Default: the model's own."),
]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Sample from the most likely tokens that together reach this probability. 1 turns this off. "
        "Default: the model's own."
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        help="Drop tokens less likely than this fraction of the most likely token's probability. 0 turns this off. "
        "Default: the model's own."
    ),
]
Penalty = Annotated[
    float | None,
    typer.Option(
        help="Penalty on tokens that the answer had recently, above 1. 1 turns this off. Default: the model's own."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Random seed for sampling. Default: random.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Maximum number of tokens to generate. Default: no limit.")]


def split_list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def int_list(text: str) -> list[int]:
    try:
        return [int(word) for word in split_list(text)]
    except ValueError:
        raise BadOption(f"{text!r}", "comma-separated integers, for example 0,4") from None


def require_texts(texts: list[Path]) -> list[Path]:
    if not texts:
        raise BadOption("no text", "--text FILE")
    return texts
