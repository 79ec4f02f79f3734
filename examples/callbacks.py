"""Who wants to know: a function for every token, and one for the turns that the model has just stopped seeing."""

import sys

import edgesink
from edgesink.bundles import find_bundle
from edgesink.runtime.generate import Token
from edgesink.runtime.transcript import Eviction

stream = edgesink.load(find_bundle(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"))
made = 0


def count(token: Token) -> None:
    """Called with every token, before it is yielded."""
    global made
    made += 1


def tell(eviction: Eviction) -> None:
    """Called when whole turns have left the window."""
    for turn in eviction.turns:
        print(f"forgotten: {turn.role}: {turn.text[:40]!r}, tokens {turn.start} to {turn.end}")


chat = edgesink.Chat(stream, on_token=count, on_evict=tell)
for number in range(1, 6):
    long_message = f"Here is list number {number}: " + ", ".join(
        map(str, range(number * 100, number * 100 + stream.window // 12))
    )
    for _ in chat.answer(long_message, max_new_tokens=8):
        pass
print(f"{made} tokens were made, {stream.evicted} of {stream.position} are forgotten")
