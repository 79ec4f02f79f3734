"""Chat templates of many families, in data/chat_templates: written down from their documented formats, as far as a
plain conversation goes. Branches for tools, documents and pictures are left out.
"""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "chat_templates"


@dataclass(frozen=True)
class ChatKind:
    """The tokens that a template's tokenizer has."""

    tokens: tuple[str, ...]  # special ones
    bos: str
    eos: str
    plain: tuple[str, ...]  # added tokens that are not special
    stripping: bool  # the special ones take along the white space behind them

    @property
    def special(self) -> dict[str, str]:
        """As templates ask for them."""
        return {"bos_token": self.bos, "eos_token": self.eos}


def kind(
    tokens: str = "", bos: str = "<s>", eos: str = "</s>", plain: tuple[str, ...] = (), stripping: bool = False
) -> ChatKind:
    """`tokens`: the special ones besides bos and eos, with spaces between them."""
    return ChatKind(tuple(dict.fromkeys((bos, eos, *tokens.split()))), bos, eos, plain, stripping)


def source(name: str) -> str:
    """The template of this name."""
    file = re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("'", "")).strip("-")
    return (FOLDER / f"{file}.jinja").read_text(encoding="utf-8")


KINDS: dict[str, ChatKind] = {
    "ChatML": kind("<|im_start|> <|im_end|> <|endoftext|>"),
    "SmolLM2": kind("<|im_start|> <|im_end|> <|endoftext|>"),
    "SmolLM3": kind("<|im_start|> <|im_end|> <|endoftext|>", plain=("<think>", "</think>")),
    "Qwen1.5": kind("<|im_start|> <|im_end|> <|endoftext|>"),
    "Qwen2.5": kind("<|im_start|> <|im_end|> <|endoftext|>"),
    "Qwen3": kind(
        "<|im_start|> <|im_end|> <|endoftext|>",
        plain=("<think>", "</think>", "<tool_response>", "</tool_response>", "<|fim_prefix|>"),
    ),
    "QwQ": kind("<|im_start|> <|im_end|> <|endoftext|>", plain=("<think>", "</think>")),
    "Hermes 3": kind("<|im_start|> <|im_end|> <|endoftext|>", bos="<|begin_of_text|>"),
    "Yi 1.5": kind("<|im_start|> <|im_end|> <|endoftext|>"),
    "InternLM": kind("<eoh> <eoa>", plain=("<|User|>", "<|Bot|>")),
    "InternLM 2.5": kind("<|im_start|> <|im_end|> <|endoftext|>"),
    "MPT": kind("<|im_start|> <|im_end|> <|endoftext|>"),
    "LFM2": kind("<|im_start|> <|im_end|> <|endoftext|>", bos="<|startoftext|>"),
    "Llama 2": kind(),
    "Llama 3": kind("<|start_header_id|> <|end_header_id|> <|eot_id|>", bos="<|begin_of_text|>", eos="<|end_of_text|>"),
    "Llama 3.1": kind(
        "<|start_header_id|> <|end_header_id|> <|eot_id|>", bos="<|begin_of_text|>", eos="<|end_of_text|>"
    ),
    "Llama 3.2": kind(
        "<|start_header_id|> <|end_header_id|> <|eot_id|>", bos="<|begin_of_text|>", eos="<|end_of_text|>"
    ),
    "Llama 4": kind("<|header_start|> <|header_end|> <|eot|>", bos="<|begin_of_text|>", eos="<|end_of_text|>"),
    "Mistral v0.1": kind(),
    "Mistral v0.2": kind(),
    "Mistral v0.3": kind("[INST] [/INST]"),
    "Mistral v0.3, first revision": kind("[INST] [/INST]"),
    "Mistral v7": kind("[INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT]"),
    "Gemma": kind("<start_of_turn> <end_of_turn>", bos="<bos>", eos="<eos>"),
    "Gemma 2": kind("<start_of_turn> <end_of_turn>", bos="<bos>", eos="<eos>"),
    "Gemma 3": kind("<start_of_turn> <end_of_turn>", bos="<bos>", eos="<eos>", plain=("\n\n", "\n\n\n", "<b>")),
    "Gemma 4": kind("<|turn> <turn|>", bos="<bos>", eos="<eos>"),
    "Phi 3": kind("<|system|> <|user|> <|assistant|> <|end|>", eos="<|endoftext|>", stripping=True),
    "Phi 3.5": kind("<|system|> <|user|> <|assistant|> <|end|>", eos="<|endoftext|>", stripping=True),
    "Phi 4": kind("<|im_start|> <|im_sep|>", bos="<|endoftext|>", eos="<|im_end|>"),
    "Phi 4 mini": kind(
        "<|system|> <|user|> <|assistant|> <|end|> <|tool|> <|/tool|>", bos="<|endoftext|>", eos="<|endoftext|>"
    ),
    "Zephyr, TinyLlama": kind(),
    "StableLM 2": kind("<|user|> <|assistant|>", eos="<|endoftext|>"),
    "Vicuna": kind(),
    "Alpaca": kind(),
    "Command R": kind(
        "<|START_OF_TURN_TOKEN|> <|SYSTEM_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|>",
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    "DeepSeek V2": kind(bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>"),
    "DeepSeek V3": kind(
        "<｜User｜> <｜Assistant｜>",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        plain=("<think>", "</think>"),
    ),
    "DeepSeek R1": kind(
        "<｜User｜> <｜Assistant｜>",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        plain=("<think>", "</think>"),
    ),
    "DeepSeek Coder": kind("<|EOT|>"),
    "Granite 3": kind("<|start_of_role|> <|end_of_role|>", bos="<|end_of_text|>", eos="<|end_of_text|>"),
    "Granite 3.3": kind("<|start_of_role|> <|end_of_role|>", bos="<|end_of_text|>", eos="<|end_of_text|>"),
    "OLMo 2": kind("<|user|> <|assistant|>", bos="<|endoftext|>", eos="<|endoftext|>"),
    "Falcon": kind(eos="<|endoftext|>"),
    "Falcon 3": kind("<|user|> <|assistant|> <|system|>", eos="<|endoftext|>"),
    "OpenChat 3.5": kind("<|end_of_turn|>"),
    "Solar": kind(),
    "Orca 2": kind("<|im_start|>", eos="<|im_end|>"),
    "EXAONE 3": kind("[|system|] [|user|] [|assistant|]", bos="[BOS]", eos="[|endofturn|]"),
    "gpt-oss": kind("<|start|> <|end|> <|message|> <|channel|>", bos="<|startoftext|>", eos="<|return|>"),
    "GLM 4": kind("[gMASK] <sop> <|user|> <|assistant|> <|system|>", eos="<|endoftext|>"),
    "ChatGLM 3": kind("[gMASK] sop <|user|> <|assistant|> <|system|>"),
    "Baichuan 2": kind("<reserved_106> <reserved_107>"),
    "MiniCPM": kind("<用户> <AI>"),
    "Nemotron": kind("<extra_id_0> <extra_id_1>"),
    "ERNIE 4.5": kind(bos="<|begin_of_sentence|>", eos="<|end_of_sentence|>"),
    "Kimi K2": kind("<|im_system|> <|im_user|> <|im_assistant|> <|im_middle|> <|im_end|>"),
    "Seed OSS": kind(bos="<seed:bos>", eos="<seed:eos>"),
    "Hunyuan": kind(
        "<｜hy_begin▁of▁sentence｜> <｜hy_User｜> <｜hy_Assistant｜> "
        "<｜hy_place▁holder▁no▁2｜> <｜hy_place▁holder▁no▁3｜>"
    ),
    "BlenderBot, transformers' own": kind(),
    "GPT-2, transformers' own": kind(),
    "a system prompt is demanded": kind("<|system|> <|user|> <|assistant|> <|end|>"),
    "loop controls": kind("<|system|> <|user|> <|assistant|> <|end|>"),
}
"""By name; every one of them becomes turns."""

REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "leaves the user's message out"),
    "no jinja": ("{% for %}", "cannot be read"),
    "unknown tag": ("{% include_all %}", "cannot be read"),
    "rounds are numbered (ChatGLM 2)": (
        "{% for m in messages %}{% if m.role == 'user' %}[Round {{ loop.index0 // 2 + 1 }}]\n\nQ: {{ m.content }}\n\nA:"
        "{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}",
        "no two later turns alike",
    ),
    "the last message alone": ("{{ messages[-1].content }}", "drops earlier answers"),
    "messages repeated": (
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[0].content }}", "repeats earlier messages"
    ),
    "parts of messages (SmolVLM)": (
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}",
        "leaves the user's message out",
    ),
    "messages as JSON": ("{{ messages | tojson }}", "in a way of its own"),
    "capitals": ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "leaves the user's message out"),
    "half a strip": ("{% for m in messages %}{{ m.content.strip('\\n') }}.{% endfor %}", "white space"),
    "arithmetic with the date": (
        "{{ strftime_now('%Y') | int - 1 }}{% for m in messages %}{{ m.content }}.{% endfor %}", "in a way of its own"
    ),
    "a date in weeks": (
        "{{ strftime_now('%U') }}{% for m in messages %}{{ m.content }}.{% endfor %}", "a date with %U"
    ),
    "division by zero": ("{{ 1 / 0 }}", "division by zero"),
    "an error of types": ("{{ messages + 1 }}", "can only concatenate"),
    "no such thing": ("{{ messages[99].content }}", "has no element 99"),
    "another file": ("{% include 'x' %}", "no loader"),
    "out of the sandbox": ("{{ messages.__class__.__mro__ }}", "unsafe"),
    "without end": ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
    "too long": ("{{ 'x' * 2000000 }}", "more than"),
}  # fmt: skip
"""By name: a template that becomes no turns, and words of the reason."""
