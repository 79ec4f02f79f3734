"""A session: the conversation outlives the program. Run it twice; the second run goes on where the first one ended."""

import sys
from pathlib import Path

import edgesink
from edgesink.bundles import find_bundle
from edgesink.runtime.sessions import Session

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"
where = Path(sys.argv[2] if len(sys.argv) > 2 else "example.session")  # a plain name is kept in your state folder

chat = edgesink.Chat(edgesink.load(find_bundle(model)))
with Session.open(where) as session:  # nobody else can open it meanwhile
    for remark in session.resume(chat):
        print(f"({remark})")
    message = "Tell me a story about a lighthouse." if session.is_new else "Go on with the story."
    print(f"> {message}")
    print("".join(token.text for token in chat.answer(message, max_new_tokens=40)))
    session.save(chat)  # whole, and on the disk when this returns
print(f"{len(chat.turns)} turns in {where}, {where.stat().st_size / 1e6:.1f} MB")
