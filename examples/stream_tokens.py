"""A stream of tokens without an end: what it needs is the same after a thousand tokens as after ten."""

import sys

import edgesink
from edgesink.bundles import find_bundle

stream = edgesink.load(find_bundle(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m"))
prompt = stream.tokenizer.encode("Once upon a time", special=True)

before = stream.state_bytes
for token in stream.generate(prompt, max_new_tokens=400, temperature=0.7, top_p=0.9, seed=1):
    print(token.text, end="", flush=True)

print(f"\n{stream.position} tokens fed, {stream.evicted} forgotten, {stream.state_bytes / 1e6:.1f} MB of state")
assert stream.state_bytes == before
