"""A conversation of many turns with OpenAI-compatible servers, the whole history sent again with each of them.

    edgesink serve qwen.gguf --port 8080 &
    llama-server -m qwen.gguf -c 1024 --port 8081 &
    python scripts/serve_turns.py --turns 50 edgesink=http://127.0.0.1:8080/v1 llama.cpp=http://127.0.0.1:8081/v1

Every server gets the same messages of the user, one turn after the other; the servers take turns, so that whatever else
the machine does meets all of them alike. Prints, for every turn and server, the seconds to the first token and to the
last, the tokens of the prompt and how many of them the server had read before, and what went wrong where something did;
then the first token of turns 2 to 6, that of the last turns compared with it, and the longest. A server that refuses a
turn is asked no more: its conversation is at its end. `--json FILE` keeps everything, answers included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import openai

SYSTEM = "You are a patient guide who answers in two or three sentences and always in plain English."
TOPICS = (
    "the tides", "how bread rises", "why the sky is blue", "what a lock on a canal does", "how bees find flowers",
    "why iron rusts", "how a sail pulls a boat against the wind", "what makes a good map", "why leaves turn red",
    "how a clock keeps its time",
)  # fmt: skip
QUESTION = (
    "Turn {number}: tell me about {topic}. Say what happens first, what follows from it, who found it out, and one "
    "thing that most people get wrong about it. Keep the number of this turn in mind."
)


@dataclass
class Turn:
    """What one turn came to."""

    number: int
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    answer_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    answer: str = ""


@dataclass
class Talk:
    """A conversation with one server."""

    name: str
    client: openai.OpenAI
    model: str
    messages: list[dict[str, Any]]
    turns: list[Turn] = field(default_factory=list)
    ended: bool = False

    def say(self, number: int, max_tokens: int) -> Turn:
        """One turn more."""
        topic = TOPICS[number % len(TOPICS)]
        self.messages.append({"role": "user", "content": QUESTION.format(number=number, topic=topic)})
        turn = Turn(number)
        self.turns.append(turn)
        try:
            self._listen(turn, max_tokens)
        except openai.APIError as error:
            turn.error, self.ended = str(error).splitlines()[0][:300], True
        self.messages.append({"role": "assistant", "content": turn.answer})
        return turn

    def _listen(self, turn: Turn, max_tokens: int) -> None:
        start = time.perf_counter()
        chunks = self.client.chat.completions.create(
            model=self.model, messages=self.messages, max_tokens=max_tokens, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        for chunk in chunks:
            for choice in chunk.choices:
                turn.answer += choice.delta.content or ""
                turn.finish_reason = choice.finish_reason or turn.finish_reason
                if choice.delta.content and not turn.first_token_seconds:
                    turn.first_token_seconds = time.perf_counter() - start
            if chunk.usage:
                details = chunk.usage.prompt_tokens_details
                turn.prompt_tokens, turn.answer_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
                turn.cached_tokens = details.cached_tokens if details else None
        turn.seconds = time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+", help="NAME=BASE_URL")
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--json", type=Path, help="file for everything that was measured")
    options = parser.parse_args()
    talks = [open_talk(server, options.api_key) for server in options.servers]
    print("turn  server      first token s  all s  prompt  cached  answer  end")
    for number in range(options.turns):
        for talk in talks:
            if not talk.ended:
                print_turn(talk.name, talk.say(number, options.max_tokens))
    print()
    for talk in talks:
        print(summary(talk))
    if options.json:
        found = {talk.name: {"model": talk.model, "turns": [asdict(turn) for turn in talk.turns]} for talk in talks}
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def open_talk(server: str, api_key: str) -> Talk:
    name, _, url = server.partition("=")
    client = openai.OpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=600)
    return Talk(name, client, client.models.list().data[0].id, [{"role": "system", "content": SYSTEM}])


def print_turn(name: str, turn: Turn) -> None:
    numbers = f"{turn.number:>4}  {name:<10}  {turn.first_token_seconds:>13.3f}  {turn.seconds:>5.2f}"
    tokens = "".join(
        f"  {'-' if n is None else n:>6}" for n in (turn.prompt_tokens, turn.cached_tokens, turn.answer_tokens)
    )
    print(f"{numbers}{tokens}  {turn.error or turn.finish_reason}", flush=True)


def summary(talk: Talk) -> str:
    """The first token of turns 2 to 6, and of the last five where those are others, and the longest of all."""
    times = [turn.first_token_seconds for turn in talk.turns if turn.error is None]
    told = f"{talk.name}: {len(times)} turns" + (f"; refused turn {talk.turns[-1].number}" if talk.ended else "")
    if len(times) < 7:
        return told
    told += f"; first token after {spread(times[2:7])} in turns 2 to 6"
    if len(times) >= 12:
        ratio = statistics.median(times[-5:]) / statistics.median(times[2:7])
        told += f", {spread(times[-5:])} in the last 5 (x {ratio:.2f})"
    return f"{told}, {max(times):.3f} s at most"


def spread(times: Sequence[float]) -> str:
    """Their median and range."""
    return f"{statistics.median(times):.3f} s ({min(times):.3f} to {max(times):.3f})"


if __name__ == "__main__":
    main()
