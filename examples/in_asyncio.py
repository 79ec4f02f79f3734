"""An answer in asyncio: tokens are made in a thread, and a cancelled answer leaves a conversation that goes on."""

import asyncio
import sys
from contextlib import aclosing

import edgesink
from edgesink.bundles import find_bundle


async def ask(chat: edgesink.Chat, message: str) -> str:
    """The whole answer, printed as it comes."""
    text = ""
    async with aclosing(chat.stream_answer(message, max_new_tokens=60)) as tokens:
        async for token in tokens:
            text += token.text
            print(token.text, end="", flush=True)
    print()
    return text


async def main() -> None:
    """One answer, one that is cut short, and another one."""
    chat = edgesink.Chat(edgesink.load(find_bundle(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")))
    await ask(chat, "What is the capital of France?")
    try:
        await asyncio.wait_for(ask(chat, "Count from one to one thousand."), timeout=0.2)
    except TimeoutError:
        print(" … (too slow)")
    await ask(chat, "Thank you!")
    print(f"{len(chat.turns)} turns, {sum(turn.cut for turn in chat.turns)} cut short")


asyncio.run(main())
