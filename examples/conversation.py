"""A conversation: a system prompt that is never forgotten, a transcript, and an exchange that is taken back exactly."""

import sys

import edgesink
from edgesink.bundles import find_bundle

stream = edgesink.load(find_bundle(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"))
chat = edgesink.Chat(stream, system="You answer in one short sentence.", pin="system")

for message in ("What is the capital of France?", "What is the capital of Italy?"):
    print(f"> {message}")
    for token in chat.answer(message, max_new_tokens=40):  # each message is fed once, however long the talk
        print(token.text, end="", flush=True)
    print()

position = stream.position
print(f"taken back: {chat.undo()}")
print(f"{position - stream.position} tokens fewer; {stream.sinks} pinned")
for turn in chat.turns:
    print(f"{turn.role:>9}: {turn.text}")
