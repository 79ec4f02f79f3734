"""What a message waits for its memory, with the model as the judge of what comes back and without.

    edgesink memory calibrate QWEN
    python scripts/time_recall.py QWEN --threads 2

Notes are told, and chatter behind them until all of them are beyond the window; then each is asked for in other words,
a few times over, and nothing is answered. Prints the median and the longest wait.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import edgesink
from edgesink.bundles import find_bundle
from edgesink.gauges import milliseconds
from edgesink.memory.memory import Memory
from edgesink.memory.sample_talk import chatter, notes
from edgesink.runtime.chat import Chat

REPLY = "I see. Go on."


def tell(chat: Chat, messages: Iterable[str]) -> Iterator[str]:
    """Tell the messages, and go on until the window has none of them; the chatter that follows."""
    others = chatter()
    for message in messages:
        chat.read(message, REPLY)
    forgotten = chat.stream.position + chat.stream.window
    while chat.stream.position <= forgotten:
        chat.read(next(others), REPLY)
    return others


def ask(memory: Memory, chat: Chat, message: str) -> None:
    """All that happens before a message is fed."""
    with memory.around(chat, message):
        pass


def main() -> None:
    """Time both, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    about = notes("evaluate")[:16]
    for judge in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            stream = edgesink.load(find_bundle(options.model), options.threads)
            memory = Memory(Path(folder) / "talk.memory", judge=judge)
            chat = Chat(stream, memory=memory)
            tell(chat, (note.text for note in about))
            waits = [
                milliseconds(partial(ask, memory, chat, note.other)) for _ in range(options.rounds) for note in about
            ]
            memory.close()
            print(
                f"{'judged' if judge else 'not judged'}: median {statistics.median(waits):.0f} ms, "
                f"longest {max(waits):.0f} ms, of {len(waits)} messages at position {stream.position}"
            )


if __name__ == "__main__":
    main()
