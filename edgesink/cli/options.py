"""The options and arguments that several commands share, and how their text is read. Knows no command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesink.errors import BadOption
from edgesink.spec import Device, Provider
from edgesink.targets import Precision

Model = Annotated[str, typer.Argument(help="A bundle folder, or a model: alias, hub id, folder, .gguf file.")]
Texts = Annotated[list[Path], typer.Option("--text", help="A text file; may be given again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Plot = Annotated[Path | None, typer.Option(help="Draw to this PNG file.")]
Threads = Annotated[int | None, typer.Option(help="Threads for matrix products; default every core.")]
Window = Annotated[int, typer.Option(help="Most recent tokens that are seen beside 4 sinks; of a model.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Of the weights; of a model.")]
DeviceOption = Annotated[Device, typer.Option(help="Where the models run.")]

ProviderOption = Annotated[Provider, typer.Option(help="Where ONNX Runtime runs; plain: without kernels of our own.")]
Sinks = Annotated[int | None, typer.Option(help="Pinned first tokens of this stream; default the bundle's.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopK = Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that hold this share; 1 keeps all.")]
MinP = Annotated[float, typer.Option(help="Keep tokens at least this likely beside the likeliest; 0 keeps all.")]
Penalty = Annotated[float, typer.Option(help="Make tokens seen lately less likely; 1 does not.")]
Seed = Annotated[int | None, typer.Option(help="Of the draws; default a fresh one.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Most tokens of an answer; default no limit.")]


def split_list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def int_list(text: str) -> list[int]:
    try:
        return [int(word) for word in split_list(text)]
    except ValueError:
        raise BadOption(f"{text!r}", "whole numbers with commas between, as 0,4") from None


def require_texts(texts: list[Path]) -> list[Path]:
    if not texts:
        raise BadOption("no text", "--text FILE")
    return texts
