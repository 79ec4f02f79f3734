"""Write tests/golden/chat.json: turns of many chat templates, and the ids that Python makes of conversations.

Swift repeats them (`TurnTests.swift`); `test_swift_package.py` checks that the file is current. The templates are those
of `chat_templates.py`, the tokenizers those of `make_golden_tokenizer.py` with each template's control tokens.
"""

import dataclasses
import datetime
import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from edgesink.errors import EdgesinkError
from edgesink.export.chat.cut import cut
from edgesink.turn_encoder import TurnEncoder
from edgesink.turns import Script, Turns, format_date, write

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from chat_templates import KINDS, ChatKind, source  # noqa: E402  (beside this file)

NOW = datetime.datetime(2026, 3, 5, 14, 7, 9)
FORMATS = ["%d %b %Y", "%A, %B %-d, %Y at %I:%M %p", "%a %-m/%d/%y %H:%M:%S 100%%", ""]
MESSAGES = ["Hi", "  spaces\naround \n\n", "\u2003\x1c\u00a0😀 'x' e\u0301\u200b "]

TOKENIZERS = {
    "SmolLM2": "smollm2", "SmolLM3": "smollm2", "Qwen3": "qwen2", "LFM2": "o200k", "Llama 2": "mistral",
    "Llama 3.2": "llama3", "Mistral v0.1": "mistral", "Mistral v0.2": "mistral", "Mistral v0.3": "mistral_v3",
    "Mistral v7": "o200k", "Gemma": "gemma", "Gemma 3": "gemma", "Phi 3": "mistral", "Phi 3.5": "mistral_v3",
    "Phi 4 mini": "o200k", "Zephyr, TinyLlama": "mistral", "Vicuna": "mistral", "Alpaca": "mistral_v3",
    "DeepSeek R1": "qwen2", "Granite 3.3": "gpt2", "Falcon": "gpt2", "gpt-oss": "o200k", "GLM 4": "llama3",
    "a system prompt is demanded": "smollm2",
}  # fmt: skip
"""Kinds of templates, each with a tokenizer."""


def tokenizer_of(kind: ChatKind, base: str) -> Tokenizer:
    """A golden tokenizer with the control tokens of a kind."""
    golden = json.loads((HERE / "golden" / "tokenizer" / f"{base}.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps(golden["tokenizer"]))
    tokenizer.add_special_tokens([
        AddedToken(token, normalized=False, rstrip=kind.stripping and token != kind.bos) for token in kind.tokens
    ])  # fmt: skip
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in kind.plain])
    return tokenizer


def outcome(turns: Turns, encoder: TurnEncoder, system: str | None, message: str, later: bool) -> dict:
    """The ids of a turn, or the words that it is refused with."""
    try:
        script: Script = turns.script(system)
        turns.check_message(message)
        parts = write(script.later if later else script.first, system, message, NOW)
        return {"ids": encoder.encode(parts, goes_on=later)}
    except EdgesinkError as error:
        return {"error": str(error)}


def golden_of(name: str, base: str) -> dict:
    kind = KINDS[name]
    tokenizer = tokenizer_of(kind, base)
    turns = cut(source(name), kind.special, tokenizer)
    encoder = TurnEncoder(tokenizer, turns.ids)
    evil = "log: " + "\n".join(kind.tokens) + " " + "".join((*kind.tokens, *kind.plain))
    cases = [
        {"system": system, "message": message, "later": later, **outcome(turns, encoder, system, message, later)}
        for message in (*MESSAGES, evil, "", "/no_think", "a\n\nb")
        for system in (None, message)
        for later in (False, True)
    ]
    return {
        "name": name, "tokenizer": base, "added_tokens": json.loads(tokenizer.to_str())["added_tokens"],
        "turns": dataclasses.asdict(turns), "cases": cases,
    }  # fmt: skip


def golden() -> dict:
    return {
        "about": "made by make_golden_chat.py; today is 2026-03-05 14:07:09",
        "dates": [{"format": form, "text": format_date(form, NOW)} for form in FORMATS],
        "kinds": [golden_of(name, base) for name, base in TOKENIZERS.items()],
    }


def text_of(data: dict) -> str:
    """JSON with a line for each kind."""
    lines = ",\n".join(json.dumps(kind, ensure_ascii=False) for kind in data["kinds"])
    head = json.dumps({key: value for key, value in data.items() if key != "kinds"}, ensure_ascii=False)
    return f'{head[:-1]}, "kinds": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    (HERE / "golden" / "chat.json").write_text(text_of(golden()), encoding="utf-8")
