"""The commands `edgesink sessions …`: conversations that are kept, listed, shown, exported, removed. Needs no model."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgesink.cli.options import Json
from edgesink.cli.output import megabytes, print_json, say
from edgesink.files import atomic_write

if TYPE_CHECKING:
    from edgesink.runtime.saved_chat import SavedChat

Name = Annotated[str, typer.Argument(help="Name of a session, or the path of its file.")]
Format = Literal["markdown", "json"]


def list_(as_json: Json = False) -> None:
    """List the sessions that are kept, the latest first."""
    from edgesink.runtime.session_text import as_data, title
    from edgesink.runtime.sessions import list_sessions
    from edgesink.runtime.transcript import exchanges

    found = list(list_sessions())
    if as_json:
        print_json([
            {"name": one.name, "path": str(one.path), "bytes": one.bytes, "memory_bytes": one.memory_bytes,
             "trouble": one.trouble}
            | (as_data(one.saved, turns=False) if one.saved else {})
            for one in found
        ])  # fmt: skip
        return
    for one in found:
        if one.saved is None:
            print(f"{one.name:<20}{one.trouble}")
            continue
        when = datetime.fromisoformat(one.saved.saved).strftime("%Y-%m-%d %H:%M")
        asked, size = exchanges(one.saved.chat.turns), megabytes(one.bytes)
        memory = f" + {megabytes(one.memory_bytes)} of memory" if one.memory_bytes else ""
        print(f"{one.name:<20}{when}{asked:>6} messages{size:>10}{memory}  {one.saved.model}  {title(one.saved)}")
    if not found:
        say("(no session is kept yet; `edgesink chat --session NAME` keeps one)")


def show(
    name: Name, last: Annotated[int, typer.Option(min=0, help="Number of turns to print, the last ones.")] = 10
) -> None:
    """Show what a session is, and its last turns."""
    from edgesink.runtime.session_text import as_markdown, summary
    from edgesink.runtime.sessions import session_path

    path, saved = session_path(name), _header(name)
    print(summary(saved, path.stat().st_size))
    turns = saved.chat.turns
    if left_out := len(turns) - min(last, len(turns)):
        print(f"\n({left_out} earlier turns are not shown)")
    print(as_markdown(turns[len(turns) - min(last, len(turns)) :]), end="")


def export(
    name: Name,
    form: Annotated[Format, typer.Option("--format", help="Form of the transcript.")] = "markdown",
    out: Annotated[Path | None, typer.Option(help="File to write. Default: print it.")] = None,
) -> None:
    """Write the transcript of a session as Markdown or JSON."""
    import json

    from edgesink.runtime.session_text import as_data, document

    saved = _header(name)
    if form == "json" and out is None:
        print_json(as_data(saved))
        return
    text = document(saved) if form == "markdown" else json.dumps(as_data(saved), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return
    with atomic_write(out) as aside:
        aside.write_text(text, encoding="utf-8")
    print(out)


def rm(names: Annotated[list[str], typer.Argument(help="Names of sessions, or paths of their files.")]) -> None:
    """Remove sessions for good, with their memory."""
    from edgesink.runtime.sessions import remove_session

    for name in names:
        remove_session(name)


def _header(name: str) -> SavedChat:
    from edgesink.runtime.saved_chat import read_header
    from edgesink.runtime.sessions import session_path

    return read_header(session_path(name))
