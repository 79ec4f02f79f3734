"""The command `attn`: where a model looks, as a picture and a table."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Annotated

import typer

from edgesink.bundles import checkpoint_of
from edgesink.cli.options import CheckpointName, Json, Plot, Texts, require_texts
from edgesink.cli.output import say
from edgesink.errors import BadOption
from edgesink.models import DEFAULT_MODEL


def attn(
    model: CheckpointName = DEFAULT_MODEL,
    text: Texts = [],  # noqa: B006 - typer copies it
    length: Annotated[int, typer.Option(help="Number of tokens per sample of the text.")] = 16,
    samples: Annotated[int, typer.Option(help="Number of samples to average.")] = 256,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Show how much attention the first token gets in every layer.

    Attention maps are averaged over samples of a text, as in figure 2 of the paper.
    """
    if length < 2 or samples < 1:
        raise BadOption(f"{samples} samples of {length} tokens", "at least 1 sample of at least 2 tokens")
    from edgesink.evaluate.attention_maps import average_maps, first_token_shares, load_eager, uniform_share
    from edgesink.evaluate.checkpoint_text import pieces_of

    checkpoint = checkpoint_of(model, say)
    pieces = itertools.islice(pieces_of(checkpoint, require_texts(text), length), samples)
    maps = average_maps(load_eager(checkpoint), pieces)
    shares = first_token_shares(maps)
    uniform = uniform_share(length)
    if plot:
        from edgesink.evaluate import plots

        plots.maps(plot, maps, f"attention by layer (rows) and head, {samples} samples of {length} tokens, log")
    if as_json:
        data = {
            "length": length,
            "samples": samples,
            "uniform": uniform,
            "layers": [dataclasses.asdict(s) for s in shares],
        }
        print(json.dumps(data, indent=2))
        return
    print(
        f"share of attention on the first of {length} tokens, mean of {samples} samples "
        f"(uniform attention: {uniform:.1%})"
    )
    print(f"{'layer':>5}  {'mean of heads':>13}  {'largest head':>12}  {'last token':>10}")
    for share in shares:
        print(f"{share.layer:>5}  {share.first:>13.1%}  {share.largest:>12.1%}  {share.last_query:>10.1%}")
