"""Answer forty short questions of known answer with several ways to choose tokens, and count the right answers.

    python scripts/short_questions.py smollm2-135m path/to/model.gguf --seeds 3

Every question begins a conversation of its own. An answer is right if the expected word is in it; it is cut after 48
tokens. Prints a table in Markdown: docs/chat.md has one. The model's own sampling is what its bundle recommends.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Sequence

import edgesink
from edgesink.bundles import find_bundle
from edgesink.runtime.chat import Chat
from edgesink.runtime.sampling import SamplingSpec

LONGEST_ANSWER = 48  # tokens

QUESTIONS: tuple[tuple[str, str], ...] = (  # and what a right answer has, as a regular expression
    ("What is 2+2?", r"\b(4|four)\b"),
    ("What is 3 times 3?", r"\b(9|nine)\b"),
    ("What is 10 minus 7?", r"\b(3|three)\b"),
    ("What is half of 10?", r"\b(5|five)\b"),
    ("How many days are in a week?", r"\b(7|seven)\b"),
    ("How many months are in a year?", r"\b(12|twelve)\b"),
    ("How many minutes are in an hour?", r"\b(60|sixty)\b"),
    ("How many legs does a spider have?", r"\b(8|eight)\b"),
    ("How many sides does a triangle have?", r"\b(3|three)\b"),
    ("How many hours are in a day?", r"\b24\b|twenty-four"),
    ("What is the capital of France?", r"\bParis\b"),
    ("What is the capital of Italy?", r"\bRome\b"),
    ("What is the capital of Germany?", r"\bBerlin\b"),
    ("What is the capital of Japan?", r"\bTokyo\b"),
    ("What is the capital of Spain?", r"\bMadrid\b"),
    ("What is the capital of Egypt?", r"\bCairo\b"),
    ("What is the capital of the United Kingdom?", r"\bLondon\b"),
    ("What is the capital of Russia?", r"\bMoscow\b"),
    ("On which continent is Kenya?", r"\bAfrica"),
    ("Which country has the city of Toronto?", r"\bCanada\b"),
    ("Which planet do we live on?", r"\bEarth\b"),
    ("Which is the largest planet of the solar system?", r"\bJupiter\b"),
    ("Which is the largest ocean on Earth?", r"\bPacific\b"),
    ("What is the chemical formula of water?", r"H2O|H₂O"),
    ("What is the chemical symbol of gold?", r"\bAu\b"),
    ("At how many degrees Celsius does water boil?", r"\b100\b"),
    ("Which gas do plants take in from the air?", r"carbon dioxide|CO2|CO₂"),
    ("Which organ pumps blood through the body?", r"\bheart\b"),
    ("Who wrote Romeo and Juliet?", r"Shakespeare"),
    ("Who painted the Mona Lisa?", r"Leonardo|da Vinci"),
    ("Who developed the theory of relativity?", r"Einstein"),
    ("Who was the first president of the United States?", r"Washington"),
    ("What colour is a ripe banana?", r"\byellow\b"),
    ("What colour do you get by mixing blue and yellow?", r"\bgreen\b"),
    ("What is the opposite of hot?", r"\b(cold|cool)\b"),
    ("What is the plural of 'mouse'?", r"\bmice\b"),
    ("What is the past tense of 'go'?", r"\bwent\b"),
    ("How do you say 'hello' in Spanish?", r"\bhola\b"),
    ("Which animal barks?", r"\bdog"),
    ("What do bees make?", r"\bhoney\b"),
)

SETTINGS: dict[str, SamplingSpec | None] = {
    "temperature 0.7, top-p 0.9, penalty 1.1": SamplingSpec(0.7, 0, 0.9, 0.0, 1.1),
    "temperature 0.7, top-p 0.9": SamplingSpec(0.7, 0, 0.9),
    "the model's own": None,
    "temperature 0": SamplingSpec(),
}


def right_answers(chat: Chat, questions: Sequence[tuple[str, str]], show: bool) -> int:
    """How many questions are answered right."""
    right = 0
    for question, pattern in questions:
        chat.reset()
        text = "".join(token.text for token in chat.answer(question, LONGEST_ANSWER))
        found = re.search(pattern, text, re.IGNORECASE) is not None
        right += found
        if show:
            print(f"{'right' if found else 'WRONG'}  {question}  {' '.join(text.split())}", file=sys.stderr)
    return right


def measure(model: str, seeds: int, show: bool) -> list[str]:
    """The lines of the table for one model."""
    stream = edgesink.load(find_bundle(model))
    own = SamplingSpec.of_model(stream.manifest.sampling)
    lines = []
    for name, setting in SETTINGS.items():
        spec = setting or own
        counts = []
        for seed in range(seeds if spec.temperature else 1):
            chat = Chat(stream, sampling=SamplingSpec.of_model(None), pin="fit")
            chat.sampling = spec
            chat.set_sampling(seed=seed + 1)
            counts.append(right_answers(chat, QUESTIONS, show))
        shown = f"{name}: {spec.words}" if setting is None else name
        each = ", ".join(map(str, counts))
        lines.append(f"| {stream.manifest.name} | {shown} | {statistics.mean(counts):.1f} | {each} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """Measure every model that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", action="store_true", help="print every answer")
    options = parser.parse_args()
    lines = [line for model in options.models for line in measure(model, options.seeds, options.show)]
    print(f"| model | sampling | right of {len(QUESTIONS)} | by seed |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
