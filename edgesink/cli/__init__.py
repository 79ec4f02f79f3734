"""The command line: options in, dataclasses out, one short body a command.

stdout is the result; progress and talk go to stderr. An `EdgesinkError` is one line and exit code 1, wrong usage is 2.
Heavy packages are imported by the commands that need them. Refuses arithmetic.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edgesink.cli import (
    advise,
    attention,
    bench,
    export,
    inspect,
    memory,
    memory_eval,
    perplexity,
    recall,
    serve,
    sessions,
    talk,
    timing,
    verify,
)
from edgesink.cli.output import leave, say, take_any_encoding
from edgesink.errors import EdgesinkError
from edgesink.files import place_errors
from edgesink.version import __version__

app = typer.Typer(
    help="Stream language models endlessly in constant memory, with attention sinks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
sessions_app = typer.Typer(help="Manage the conversations that `edgesink chat --session` keeps.", no_args_is_help=True)
eval_app = typer.Typer(help="Measure a model with attention sinks on your own text.", no_args_is_help=True)

memory_app = typer.Typer(help="Show, forget or export what a conversation remembers.", no_args_is_help=True)


def main() -> None:
    """Run the command line; the entry point of the `edgesink` script."""
    if not sys.warnoptions:  # neither -W nor PYTHONWARNINGS
        warnings.simplefilter("ignore", FutureWarning)  # what a dependency plans to change is for developers to see
    take_any_encoding()
    try:
        with place_errors(Path("the output")):
            try:
                app()
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on
        leave(1)
    except EdgesinkError as error:
        say(f"edgesink: {error}")
        leave(1)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


COMMANDS: tuple[Callable[..., None], ...] = (
    export.export,
    talk.chat,
    talk.generate,
    serve.serve,
    inspect.inspect,
    inspect.models,
    verify.verify,
    bench.bench,
    attention.attn,
    advise.advise,
)
SESSION_COMMANDS: tuple[Callable[..., None], ...] = (sessions.list_, sessions.show, sessions.export, sessions.rm)
EVAL_COMMANDS: tuple[Callable[..., None], ...] = (
    perplexity.ppl,
    timing.latency,
    timing.endurance,
    recall.recall,
    memory_eval.memory,
)

for command in COMMANDS:
    app.command()(command)
for command in EVAL_COMMANDS:
    eval_app.command()(command)
for command in SESSION_COMMANDS:
    sessions_app.command(command.__name__.rstrip("_"))(command)
app.add_typer(sessions_app, name="sessions")
app.add_typer(eval_app, name="eval")
for name, of_memory in memory.COMMANDS.items():
    memory_app.command(name)(of_memory)
app.add_typer(memory_app, name="memory")
