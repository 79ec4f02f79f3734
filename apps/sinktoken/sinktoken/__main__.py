"""The command line: `python -m sinktoken train`, then `python -m sinktoken report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from sinktoken.settings import KINDS, Recipe, Size, runs

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

Out = Annotated[Path, typer.Option(help="Folder of the study: a folder for each model, bundles and results.")]
SIZE, RECIPE = Size(), Recipe()
TEXTS = "texts"  # the study's own copies of its texts, in its folder


@app.command("train")
def train_models(
    texts: Annotated[Path, typer.Option(help="Folder of .txt files, the held-out one included.")],
    out: Out,
    held_out: Annotated[str, typer.Option(help="Name of the text that is measured on and never trained on.")] = (
        "persuasion.txt"
    ),
    join_lines: Annotated[bool, typer.Option(help="Make one line of every text, without line breaks.")] = False,
    kinds: Annotated[str, typer.Option(help="Kinds of model to train, comma-separated.")] = ",".join(KINDS),
    seeds: Annotated[int, typer.Option(help="Number of models of each kind.")] = 3,
    first_seed: Annotated[int, typer.Option(help="Seed of the first model of each kind; the others follow.")] = 0,
    opening: Annotated[
        str, typer.Option(help="Text, one token of the vocabulary, that every sample begins with. Default: none.")
    ] = "",
    layers: Annotated[int, typer.Option(help="Number of layers.")] = SIZE.layers,
    hidden: Annotated[int, typer.Option(help="Width of the residual stream.")] = SIZE.hidden,
    head_dim: Annotated[int, typer.Option(help="Dimensions of a head; the width is a multiple.")] = SIZE.head_dim,
    vocabulary: Annotated[int, typer.Option(help="Number of tokens that are made from the texts.")] = SIZE.vocabulary,
    steps: Annotated[int, typer.Option(help="Steps of training.")] = RECIPE.steps,
    batch: Annotated[int, typer.Option(help="Samples per step.")] = RECIPE.batch,
    length: Annotated[int, typer.Option(help="Tokens of text per sample.")] = RECIPE.length,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = RECIPE.learning_rate,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = RECIPE.weight_decay,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train the models of the study, one after the other.

    It may be stopped at any time: started again with the same options, it goes on from the last save.
    """
    import torch

    from sinktoken.texts import Texts, encode, make_tokenizer, opening_id
    from sinktoken.training import train

    torch.set_num_threads(threads)
    size = Size(vocabulary, hidden, layers, head_dim)
    recipe = Recipe(steps, batch, length, learning_rate, weight_decay)
    copies = Texts.copied(texts, held_out, out / TEXTS, join_lines)
    tokenizer = make_tokenizer(copies, vocabulary)
    ids, other_ids = encode(tokenizer, copies.training), encode(tokenizer, [copies.held_out])
    first = opening_id(tokenizer, opening)
    for run in runs(kinds.split(","), seeds, first_seed):
        typer.echo(f"{run.name}: {steps} steps of {batch * length} of {len(ids)} tokens", err=True)
        train(run, size, recipe, ids, other_ids, tokenizer, out / run.name, first)


@app.command()
def report(
    out: Out,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures. Default: the study's.")] = None,
    capacity: Annotated[int, typer.Option(help="Tokens that a token sees: sinks and window together.")] = RECIPE.length,
    tokens: Annotated[int, typer.Option(help="Tokens of the held-out text that are read.")] = 20_000,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Export every trained model, measure it, print the tables and draw the figures.

    What was measured of a model is kept in its folder and not measured again.
    """
    from edgesink.evaluate.attention_maps import average_maps
    from edgesink.evaluate.plots import maps
    from sinktoken.looking import load_looking, pieces
    from sinktoken.measuring import measure
    from sinktoken.report import attention_table, draw_emergence, draw_perplexity, hiding_table, perplexity_table
    from sinktoken.texts import Texts
    from sinktoken.training import FINISHED

    text, goal = Texts.of(out / TEXTS).held_out, figures or out
    folders = {kind: sorted(path.parent for path in out.glob(f"{kind}-*/{FINISHED}")) for kind in KINDS}
    folders = {kind: found for kind, found in folders.items() if found}
    results = {
        kind: [measure(folder, text, capacity, tokens, threads) for folder in tqdm(found, kind, unit="model")]
        for kind, found in folders.items()
    }
    draw_emergence(goal / "sink_emergence.png", folders)
    draw_perplexity(goal / "sink_perplexity.png", results)
    for kind, found in folders.items():
        attention = average_maps(load_looking(found[0]), pieces(found[0], text, capacity))
        maps(goal / f"sink_maps_{kind}.png", attention, f"{kind}: layers (rows) and heads, log")
    print(perplexity_table(results, capacity), attention_table(results), hiding_table(results), sep="\n\n")


@app.command()
def compare(
    models: Annotated[
        list[str],
        typer.Argument(metavar="NAME=FOLDER...", help="A name for the table, and a trained model in its study."),
    ],
    figure: Annotated[Path, typer.Option(help="File of the figure.")] = Path("sink_settings.png"),
    capacity: Annotated[int, typer.Option(help="Tokens that a token sees: sinks and window together.")] = RECIPE.length,
    tokens: Annotated[int, typer.Option(help="Tokens of the held-out text that are read.")] = 20_000,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Compare models of several studies: when a sink emerged, and what its eviction costs."""
    from sinktoken.comparing import Trained, draw_settings, named_folders, settings_table
    from sinktoken.measuring import measure
    from sinktoken.texts import Texts

    trained = {}
    for name, folder in tqdm(named_folders(models).items(), unit="model"):
        result = measure(folder, Texts.of(folder.parent / TEXTS).held_out, capacity, tokens, threads)
        trained[name] = Trained.read(folder, result)
    draw_settings(figure, trained)
    print(settings_table(trained))


if __name__ == "__main__":
    app()
