"""Facts that lean on the sentence before: do they come back with what "she" and "it" stand for?

    edgesink memory calibrate QWEN
    python scripts/memory_leaning.py QWEN

Each message names somebody or something in one sentence and tells the fact in the next, which begins with a pronoun;
the two are passages of their own. Chatter is told behind them until all are beyond the window, then each fact is asked
for by the name. Three ways: passages come back alone, with their neighbour, and the same answers while the window still
has the message. Prints how often the sentence with the fact came back, and how many answers were right.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

from time_recall import REPLY, tell

import edgesink
from edgesink.bundles import find_bundle
from edgesink.memory.memory import Memory
from edgesink.memory.sample_talk import has_answer
from edgesink.runtime.chat import Chat

LONGEST_ANSWER = 40
FACTS = (
    ("My cousin Ilse came to see us on the last weekend of the holidays, together with both of her large dogs.",
     "She works as a glassblower on the island of Murano.", "What does my cousin Ilse work as?", "glass"),
    ("Our neighbour Bertram has at last finished the long letter to the council about the noise of the fountain.",
     "He wants it to be turned off at nine in the evening.", "When should the fountain be off, for Bertram?", "nine|9"),
    ("On the way back from the lake we stopped at a tiny restaurant called Morena, which my brother had found.",
     "It has the best trout that I have ever eaten.", "What was so good at the restaurant Morena?", "trout"),
    ("The twins of my colleague Farida were born in the middle of the night, a whole month before they were expected.",
     "They are called Amir and Layla.", "What are the names of Farida's twins?", "Layla|Amir"),
    ("I met Professor Stahl by chance in the museum, in front of the painting with the two horses and the broken cart.",
     "He told me that the exam is on the third of June.", "Which date did Professor Stahl tell me?", "June|third"),
    ("Yesterday we looked at the sailing boat Albatross, which has been for sale in the harbour since the spring.",
     "It costs twenty-two thousand euros.", "What is the price of the sailing boat Albatross?", "22|twenty-two"),
    ("My old piano teacher Mrs Quist wrote me a postcard with a picture of a volcano and a great many stamps on it.",
     "She has moved to Iceland.", "Where does my piano teacher Mrs Quist live now?", "Iceland"),
    ("The builder sent us two drawings of the new kitchen, and both of them show the oven next to the large window.",
     "That will not work because of the radiator.", "Why can the oven not be next to the window?", "radiator"),
    ("My uncle Radek has a very old motorcycle in his barn, under three blankets and an enormous pile of newspapers.",
     "He is going to give it to my sister.", "Who will get the motorcycle of uncle Radek?", "sister"),
    ("We finally had the big walnut tree behind the house looked at by somebody who knows about diseases of trees.",
     "It has to be cut down in November.", "What has to be done with the walnut tree?", "cut|November"),
    ("Doctor Amadi called me in the office this morning, in the middle of the meeting with the people from the bank.",
     "Her message was that I should stop drinking coffee.", "What should I stop, as Doctor Amadi says?", "coffee"),
    ("Lorenzo and Pia have been together for eleven years, and last night they told us a secret over the dessert.",
     "They will get married on a ship.", "Where will Lorenzo and Pia get married?", "ship"),
    ("The parcel from aunt Hedwig took five weeks to arrive, and the paper around it was torn at every single corner.",
     "Its contents were nine jars of plum jam.", "What was in the parcel from aunt Hedwig?", "jam|plum"),
    ("The new boss of the library, Mr Okonkwo, walked through all of the rooms with us and asked very many questions.",
     "His first decision was to open on Sundays.", "What did Mr Okonkwo of the library decide first?", "Sunday"),
    ("The car of my friend Matej broke down on the mountain road, an hour before the storm that was in the news.",
     "It was towed away by a farmer with a tractor.", "Who towed away the car of my friend Matej?", "farmer|tractor"),
    ("The children want to call the hedgehog that lives under our terrace Napoleon, because of the way that it walks.",
     "They feed it with apples every evening.", "What do the children feed the hedgehog with?", "apple"),
)  # fmt: skip


def main() -> None:
    """Tell and ask in the three ways, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stream = edgesink.load(find_bundle(options.model), options.threads)
        memory = Memory(Path(folder) / "talk.memory")
        chat = Chat(stream, memory=memory)
        others = tell(chat, (f"{names} {tells}" for names, tells, _, _ in FACTS))
        alone = patch("edgesink.memory.memory.neighbour", lambda archive, passage: None)
        for name, way in (("alone", alone), ("with their neighbour", nullcontext())):
            with way:
                answers = [ask(chat, memory, question) for _, _, question, _ in FACTS]
            print(line(name, answers))
        seen = []
        for names, tells, question, _ in FACTS:
            chat.read(f"{names} {tells}", REPLY)
            chat.read(next(others), REPLY)
            seen.append(ask(chat, memory, question))
        print(line("in the window", seen))
        memory.close()


def ask(chat: Chat, memory: Memory, question: str) -> tuple[str, str]:
    """What came back for a question, and the answer, which is taken back."""
    memory.recalled = None
    answer = "".join(token.text for token in chat.answer(question, LONGEST_ANSWER))
    came = " ".join(one.passage.text for one in memory.recalled.found) if memory.recalled else ""
    chat.undo()
    return came, answer


def line(name: str, answers: list[tuple[str, str]]) -> str:
    """Shares of one way."""
    found = sum(tells in came for (_, tells, _, _), (came, _) in zip(FACTS, answers, strict=True))
    right = sum(
        has_answer(tuple(one.split("|")), text) for (_, _, _, one), (_, text) in zip(FACTS, answers, strict=True)
    )
    return f"{name}: the fact came back {found} of {len(FACTS)} times, {right} answers were right"


if __name__ == "__main__":
    main()
