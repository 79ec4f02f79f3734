"""An answer as readable Markdown while it is still being written.

Owns where the finished blocks of a growing text end, and how a block looks. A block that is finished is printed once
and never touched again; only the last one is drawn anew. Nothing that the model wrote is lost: HTML is shown as text,
line ends stay line ends, and characters that would command a terminal are replaced. Knows no model and no terminal.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Markdown

_COMMANDS = dict.fromkeys([*range(0x20), 0x7F, *range(0x80, 0xA0)], "\ufffd")
HARMLESS = _COMMANDS | {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): ""}


def harmless(text: str) -> str:
    """The text without characters that would move a cursor, ring a bell or set a title."""
    return text.translate(HARMLESS)


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")


def split(text: str) -> tuple[list[str], str]:
    """The finished top-level blocks of a growing text, and what may yet change: from the last block's start on."""
    starts = [token.map[0] for token in _parser().parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    if len(starts) < 2:
        return [], text
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    blocks = ["".join(lines[start:end]) for start, end in pairwise(starts)]
    return blocks, "".join(lines[starts[-1] :])


def cut(block: str, most: int) -> tuple[str, str]:
    """A block that does not end, cut behind a line or a word after `most` characters at most; code goes on as code."""
    at = max(block.rfind("\n", 0, most), block.rfind(" ", 0, most)) + 1 or most
    first_line = block.split("\n", 1)[0] + "\n"
    tokens = _parser().parse(block)
    if tokens and tokens[0].type == "fence" and len(first_line) < most:
        at = max(block.rfind("\n", 0, most) + 1, len(first_line))
        return block[:at], first_line + block[at:]
    return block[:at], block[at:]


def rendered(block: str) -> Markdown:
    """One block, or several, for rich."""
    shown = _kind()("", code_theme="ansi_dark", hyperlinks=False)
    shown.parsed = [_with_line_ends(token) for token in _parser().parse(block)]
    return shown


@cache
def _kind() -> type[Markdown]:
    """rich's Markdown with code that begins at the left edge, so that it can be copied as it is."""
    from rich.markdown import CodeBlock, Markdown
    from rich.syntax import Syntax

    class Code(CodeBlock):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            yield Syntax(str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True)

    class Readable(Markdown):
        elements = Markdown.elements | {"fence": Code, "code_block": Code}

    return Readable


def _with_line_ends(token: Token) -> Token:
    """A line end inside a paragraph is shown as one: a poem or an address is written so."""
    for child in token.children or []:
        if child.type == "softbreak":
            child.type = "hardbreak"
    return token
