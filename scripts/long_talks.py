"""Long scripted conversations: what a window that begins with a turn is worth, and whether a talk stays flat.

    python scripts/long_talks.py MODEL --capacity 1024 --turns 300

Three ways to forget are compared on the same messages: `turns` (system prompt pinned, exchanges forgotten whole),
`plain` (system prompt pinned, token by token) and `unpinned` (four sinks, token by token). For each it prints

- broken: share of the tokens of answers, after the first eviction, whose window begins within a turn;
- violations: answers that hold a word of the template (a role's name at the beginning of a line, a control token);
- obeyed: answers to "What is your name?", every tenth message and the last, that give the name which only the system
  prompt tells; those in the last third of the talk;
- repetition: share of the 4-grams of the answers' words that stood earlier in the same answer;
- answers that are word for word the one before;
- echo: share of those 4-grams that stood in the three answers before;
- perplexity of reference replies: with `--references`, every message is answered once in a conversation of its own, and
  these replies are scored, teacher-forced, in the place of the answers of one long talk;
- milliseconds to the first token of "What is your name?": at turn 3, at the first three such turns with a full window,
  and at the last three; the medians;
- tokens per second, the process's own memory (mapped weights apart) once two rings have been forgotten (all of it has
  been touched by then) and at the end.

Answers are greedy. `--json FILE` keeps every answer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgesink
from edgesink.bundles import find_bundle
from edgesink.gauges import own_bytes
from edgesink.runtime.chat import Chat
from edgesink.spec import StreamSpec

SYSTEM = "You are Pico, a friendly assistant. Your name is Pico. Answer in one or two short sentences."
PROBE, PROBE_EVERY, OBEYED = "What is your name?", 10, re.compile(r"\bPico\b")
TEMPLATE = re.compile(r"<\|?\w+\|?>|^(?:user|assistant|system)\b", re.MULTILINE)
WAYS: dict[str, dict[str, Any]] = {
    "turns": {"pin": "system", "evict": "turns"},
    "plain": {"pin": "system", "evict": "plain"},
    "unpinned": {"pin": "none", "evict": "plain"},
}

TOPICS = (
    "the moon", "bread", "rivers", "glass", "honey bees", "the sea", "bicycles", "rain", "paper", "salt", "mountains",
    "clocks", "tea", "trains", "wool", "volcanoes", "bridges", "chess", "wheat", "lighthouses", "iron", "maps", "owls",
    "gardens", "ice", "violins", "whales", "deserts", "soap", "kites", "lemons", "snow", "copper", "libraries",
    "windmills",
)  # fmt: skip
QUESTIONS = (
    "What is interesting about {}?",
    "Tell me one fact about {}.",
    "Why do people care about {}?",
    "How would you explain {} to a child?",
    "Is there a common mistake about {}?",
    "I was thinking about {} this morning while I waited for the bus and it began to rain. What comes to your mind?",
    "Write a short sentence with {} in it.",
    "Compare {} with something else.",
)


def messages(count: int) -> list[str]:
    """The same every time; no two alike before 200 but the probes."""
    talk = [QUESTIONS[i % len(QUESTIONS)].format(TOPICS[(i * 11) % len(TOPICS)]) for i in range(count)]
    return [PROBE if is_probe(i, count) else message for i, message in enumerate(talk)]


def is_probe(i: int, count: int) -> bool:
    """Whether message i of so many asks for the name."""
    return i % PROBE_EVERY == 2 or i == count - 1


def talk(bundle: Path, way: str, turns: int, tokens: int, threads: int | None) -> dict[str, Any]:
    """A talk of so many turns, and what was seen of it."""
    chat = Chat(edgesink.load(bundle, threads=threads), SYSTEM, **WAYS[way])
    answers, first_seconds, own, broken, seen, speeds = [], [], [], 0, 0, []
    starts: set[int] = set()
    full = touched = turns - 1  # the turns at which the window was full, and all memory had been touched
    for message in messages(turns):
        begin, first, text, made = time.perf_counter(), 0.0, [], 0
        for token in chat.answer(message, tokens):
            first = first or time.perf_counter() - begin
            made += 1
            text.append(token.text)
            if made == 1:
                starts |= starts_of(chat)
            if chat.stream.evicted:
                seen += 1
                broken += chat.stream.window_begin not in starts
        speeds.append((made - 1) / max(1e-9, time.perf_counter() - begin - first))
        first_seconds.append(first)
        own.append(own_bytes() / (1 << 20))
        if chat.stream.evicted:
            full = min(full, len(own) - 1)
        if chat.stream.evicted > 2 * chat.stream.capacity:
            touched = min(touched, len(own) - 1)
        answers.append("".join(text).strip())
    probed = [answer for i, answer in enumerate(answers) if is_probe(i, turns) and i >= turns - max(1, turns // 3)]
    return {
        "way": way, "turns": turns, "tokens": chat.stream.position, "forgotten": chat.stream.evicted,
        "broken": broken / max(1, seen), "violations": sum(bool(TEMPLATE.search(answer)) for answer in answers),
        "obeyed": sum(bool(OBEYED.search(answer)) for answer in probed) / len(probed),
        "obeyed_at_the_end": bool(OBEYED.search(answers[-1])),
        "repetition": float(np.mean([repetition(answer) for answer in answers])),
        "echo": echo(answers), "same_as_before": sum(one == two for one, two in itertools.pairwise(answers)),
        "first_token_seconds": probe_seconds(first_seconds, full),
        "tokens_per_second": float(np.median(speeds)), "own_mb": [own[touched], own[-1]],
        "answers": answers,
    }  # fmt: skip


def probe_seconds(first_seconds: list[float], full: int) -> list[float]:
    """Until the first token of one question: at first, and medians of three times from `full` on and at the end."""
    probed = [(i, seconds) for i, seconds in enumerate(first_seconds) if is_probe(i, len(first_seconds))]
    behind = [seconds for i, seconds in probed if i >= full]
    return [probed[0][1], float(np.median(behind[:3])), float(np.median(behind[-3:]))]


def starts_of(chat: Chat) -> set[int]:
    """Where the window may begin without breaking a turn, of the exchange that is being answered."""
    unfed = chat._open.unfed if chat._open else None
    return set() if unfed is None else {unfed.message_start, unfed.message_start - unfed.opening, unfed.turn_start}


def repetition(answer: str) -> float:
    """Share of the 4-grams of words that stood in the answer before."""
    words = answer.lower().split()
    grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def echo(answers: list[str]) -> float:
    """Mean share of the 4-grams of words of an answer that stood in one of the three before it."""
    grams = [{tuple(words[i : i + 4]) for i in range(len(words) - 3)} for words in (a.lower().split() for a in answers)]
    shares = [len(own & set().union(*grams[max(0, i - 3) : i])) / len(own) for i, own in enumerate(grams) if i and own]
    return float(np.mean(shares)) if shares else 0.0


def lonely_replies(bundle: Path, turns: int, tokens: int, threads: int | None) -> list[str]:
    """What each message is answered in a conversation of its own."""
    chat, replies = Chat(edgesink.load(bundle, threads=threads), SYSTEM), []
    for message in messages(turns):
        replies.append("".join(token.text for token in chat.answer(message, tokens)))
        chat.reset()
    return replies


def reference_perplexity(bundle: Path, way: str, replies: list[str], threads: int | None) -> float:
    """exp of the mean negative log likelihood of the replies' tokens, fed in the place of answers."""
    chat = Chat(edgesink.load(bundle, threads=threads), SYSTEM, undo_bytes=0, **WAYS[way])
    losses: list[float] = []
    for message, reply in zip(messages(len(replies)), replies, strict=True):
        losses += scored(chat, message, reply)
    return math.exp(sum(losses) / len(losses))


def scored(chat: Chat, message: str, reply: str) -> Iterator[float]:
    """The negative log likelihood of each token of a reply to a message; the stream stands behind it then."""
    stream, ids = chat.stream, chat.stream.tokenizer.encode(reply)
    unfed = chat._feed.next(chat._unfed, message, stream.position)
    chat._begin(message, unfed)
    logits = stream.feed((*unfed.answer, *unfed.turn))
    for id_ in ids:
        scores = logits.astype(np.float64)
        scores -= scores.max()
        yield float(np.log(np.exp(scores).sum()) - scores[id_])
        logits = stream.feed([id_])
    chat._unfed, chat._open = type(unfed)(stream.position), None


def line(result: dict[str, Any]) -> str:
    """A row of the table."""
    first, memory = result["first_token_seconds"], result["own_mb"]
    perplexity = f"{result['perplexity']:.3f}" if "perplexity" in result else "-"
    return (
        f"| {result['way']} | {result['broken']:.0%} | {result['violations']} | {result['obeyed']:.0%} "
        f"({'yes' if result['obeyed_at_the_end'] else 'no'} at the end) | {result['repetition']:.1%} "
        f"| {result['echo']:.1%} | {result['same_as_before']} | {perplexity} "
        f"| {', '.join(f'{1e3 * seconds:.0f}' for seconds in first)} ms "
        f"| {result['tokens_per_second']:.0f} | {memory[0]:.0f} -> {memory[1]:.0f} MB |"
    )


def main() -> None:
    """Run the talks and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--capacity", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=60, help="of an answer, at most")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--references", action="store_true", help="also score replies of conversations of one message")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = find_bundle(options.model, StreamSpec.fitted(4, options.capacity - 4))
    replies: list[str] = []
    if options.references:
        replies = lonely_replies(bundle, options.turns, options.tokens, options.threads)
    print(f"{options.model}, capacity {options.capacity}, {options.turns} turns, at most {options.tokens} tokens each")
    columns = (
        "way", "broken", "violations", "obeyed", "repetition", "echo", "as before", "perplexity", "first token",
        "tokens/s", "memory",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    results = []
    for way in options.ways:
        result = talk(bundle, way, options.turns, options.tokens, options.threads)
        if replies:
            result["perplexity"] = reference_perplexity(bundle, way, replies, options.threads)
        results.append(result)
        print(line(result), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
