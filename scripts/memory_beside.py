"""The questions of `edgesink eval memory`, asked of a dense context and of llama.cpp's shifted one too.

    edgesink memory calibrate qwen.gguf
    python scripts/memory_beside.py qwen.gguf --server llama-server --distances 2 --each 16

The same facts are told and the same questions asked, greedily, in five ways, each in a conversation of its own:
edgesink with a window, alone and with its memory; edgesink with a window that nothing leaves; and llama.cpp's server on
the same file, with a context as small as the window and with one that nothing leaves. Prints a table in Markdown: right
answers, the memory of keys and values, and the seconds until the first question was answered.

llama.cpp's server refuses a prompt longer than its context; `--context-shift` only makes room for what it generates. So
the client forgets as that option does, the older half of what stands behind the system prompt, and `--cache-reuse` has
the server move the rows of the rest instead of reading them again. The table says how many tokens it read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from llama_server import running

import edgesink
from edgesink.bundles import bundle_of
from edgesink.evaluate.memory import Answered, Arm, measure
from edgesink.evaluate.memory_plan import KINDS, Told, distances_plan
from edgesink.memory.memory import Memory
from edgesink.runtime.chat import Chat
from edgesink.runtime.turn_feed import TurnFeed, Unfed
from edgesink.spec import DEFAULT_SINKS

ROOM = 128  # tokens kept free in llama.cpp's context, for a question and its answer
FEWEST_REUSED = 64  # tokens in a row that llama.cpp moves rather than reads


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to answer, and what came of it."""

    name: str
    answered: list[Answered]
    state_bytes: float
    seconds: float  # until the first question was answered
    tokens: int  # of the conversation
    read: int  # by the engine, until the first question was asked


class LlamaChat:
    """A conversation on llama.cpp's server, as far as `measure` needs one; it is its own stream.

    Args:
        client: of the server.
        ours: a stream whose tokenizer, turns, sinks and capacity are taken; distances are counted in its windows.
        context: tokens that the server holds.
    """

    def __init__(self, client: httpx.Client, ours: edgesink.Stream, context: int) -> None:
        turns = ours.manifest.turns
        assert turns is not None
        self.stream, self.memory, self.turns = self, None, list[str]()
        self.manifest, self.tokenizer, self.sinks, self.capacity = ours.manifest, ours.tokenizer, 0, ours.capacity
        self._client, self._most = client, context - ROOM
        self._feed = TurnFeed(ours.manifest, turns, ours.tokenizer, None)
        self._held: list[int] = []  # what the server is to see
        self._before: list[tuple[list[int], int]] = []  # for `undo`
        self.position = self.read = 0

    def answer(self, message: str, most: int) -> Iterator[Any]:
        """Send a message, and yield all of the answer at once; nothing is forgotten for a question."""
        self._before.append((list(self._held), self.position))
        unfed = self._feed.next(Unfed(self.position), message, self.position)
        self.feed([*([] if self.position else self.manifest.prefix), *unfed.turn])
        if most == 0:
            self._held = shifted(self._held, self._feed.head_size, self._most)
        asked = {"prompt": self._held, "n_predict": most, "temperature": 0, "cache_prompt": True, "id_slot": 0}
        told = self._client.post("/completion", json=asked).raise_for_status().json()
        self.turns += [message, ""]
        if most == 0:
            self.read += told["timings"]["prompt_n"]
        else:
            yield SimpleNamespace(text=told["content"])

    def feed(self, ids: Sequence[int]) -> None:
        """What the server sees with the next message."""
        self._held += ids
        self.position += len(ids)

    def undo(self) -> None:
        """Take back the last exchange; the server keeps what is common to two prompts."""
        self._held, self.position = self._before.pop()
        del self.turns[-2:]


def shifted(ids: list[int], head: int, most: int) -> list[int]:
    """Without the older half of what stands behind the first `head` ids, over and over while there are too many."""
    while len(ids) > most:
        gone = (len(ids) - head) // 2
        ids = ids[:head] + ids[head + gone :]
    return ids


def in_windows_of(told: Sequence[Told], times: float) -> list[Told]:
    """The same distances in tokens, for a stream whose windows are so many times as long."""
    shares: list[Any] = [one.windows / times for one in told]  # a plan of its own has whole windows
    return [dataclasses.replace(one, windows=share) for one, share in zip(told, shares, strict=True)]


def timed(answers: Iterator[Answered]) -> tuple[list[Answered], float]:
    """All answers, and the seconds until the first."""
    begin = time.perf_counter()
    first = next(answers)
    seconds = time.perf_counter() - begin
    return [first, *answers], seconds


def ours(bundle: Path, threads: int, told: Sequence[Told], arm: Arm) -> tuple[Way, edgesink.Stream]:
    """Edgesink in one of the ways of `eval memory`; only with "quoted" is anything remembered."""
    stream = edgesink.load(bundle, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(Path(folder) / "talk.memory")
        chat = Chat(stream, memory=memory if arm == "quoted" else None, pin="fit")
        answered, seconds = timed(measure(chat, memory, told, [arm]))
        memory.close()
    name = f"edgesink, {stream.capacity}{', with its memory' if arm == 'quoted' else ''}"
    return Way(name, answered, stream.state_bytes, seconds, stream.position, stream.position), stream


def llama(options: argparse.Namespace, context: int, stream: edgesink.Stream, told: Sequence[Told]) -> Way:
    """llama.cpp with a context of so many tokens."""
    command = [options.server, "-m", str(options.model), "-c", str(context), "-t", str(options.threads)]
    with server(command) as (client, state_bytes), tempfile.TemporaryDirectory() as folder:
        chat, memory = LlamaChat(client, stream, context), Memory(Path(folder) / "unused.memory")
        answered, seconds = timed(measure(cast(Chat, chat), memory, told, ["nothing"]))
        memory.close()
    return Way(f"llama.cpp, {context}", answered, state_bytes, seconds, chat.position, chat.read)


@contextmanager
def server(command: list[str]) -> Iterator[tuple[httpx.Client, float]]:
    """A server while it is wanted, and the bytes of keys and values that it reports."""
    flags = f"--parallel 1 --context-shift --cache-reuse {FEWEST_REUSED} --cache-ram 0 -lv 4"
    with tempfile.TemporaryFile("w+") as log, running([*command, *flags.split()], log) as client:
        log.seek(0)
        sizes = re.findall(r"KV buffer size = +([0-9.]+) MiB", log.read())
        yield client, sum(map(float, sizes)) * (1 << 20)


def table(ways: Sequence[Way]) -> str:
    """In Markdown, a column for each way."""
    rows = [["", *(way.name for way in ways)], ["---"] * (len(ways) + 1)]
    for kind in KINDS:
        asked = [[one.right for one in way.answered if one.question.kind == kind] for way in ways]
        if any(asked):
            rows.append([f"{kind}, of {len(asked[0])}", *(str(sum(right)) for right in asked)])
    rows.append(["keys and values, MB", *(f"{way.state_bytes / 1e6:.0f}" for way in ways)])
    rows.append(["tokens of the conversation", *(str(way.tokens) for way in ways)])
    rows.append(["tokens read", *(str(way.read) for way in ways)])
    rows.append(["seconds to the first answer", *(f"{way.seconds:.0f}" for way in ways)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Tell and ask in all ways, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--server", default="llama-server")
    parser.add_argument("--distances", default="2", help="in windows, comma-separated")
    parser.add_argument("--each", type=int, default=16, help="lines, and notes, at each distance")
    parser.add_argument("--window", type=int, default=1024, help="tokens, sinks included")
    parser.add_argument("--dense", type=int, default=8192, help="tokens of the context that nothing leaves")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="a file for every answer")
    options = parser.parse_args()
    told = distances_plan([int(one) for one in options.distances.split(",")], options.each)
    small, large = (
        bundle_of(str(options.model), "cache", size - DEFAULT_SINKS, "int4") for size in (options.window, options.dense)
    )
    alone, stream = ours(small, options.threads, told, "nothing")
    remembering, _ = ours(small, options.threads, told, "quoted")
    dense, _ = ours(large, options.threads, in_windows_of(told, options.dense / options.window), "nothing")
    theirs = [llama(options, context, stream, told) for context in (options.window, options.dense)]
    ways = [alone, remembering, dense, *theirs]
    assert all(way.tokens < options.dense - ROOM for way in ways), "a larger --dense is needed"
    print(table(ways))
    if options.json:
        kept = [dataclasses.asdict(way) for way in ways]
        options.json.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
