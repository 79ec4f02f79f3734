"""Write tests/golden/chat.json: templates of the supported families and what jinja2 makes of conversations.

The long templates are abridged: their branches for tools are left out, the statements that write a plain conversation
are as in the models' own.
"""

import datetime
import json
from pathlib import Path
from unittest import mock

from edgesink.errors import BadOption
from edgesink.runtime import chat

DATE = datetime.datetime(2026, 3, 5)

_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
    "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
_CHATML_TURN = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
_CHATML_END = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
_LLAMA_TURN = (
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>'"
)


def _chatml(system: str) -> str:
    first = f"{{{{ '<|im_start|>system\\n{system}<|im_end|>\\n' }}}}"
    when = "{% if loop.first and messages[0]['role'] != 'system' %}" + first + "{% endif %}"
    return "{% for message in messages %}" + when + _CHATML_TURN + _CHATML_END


_QWEN25 = """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = " + _LLAMA_TURN + " %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def _llama31(date: str) -> str:
    return (
        "{{- bos_token }}\n" + date + """
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message #}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- for message in messages %}
    {{- """ + _LLAMA_TURN + """ }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
    )  # fmt: skip


_FIXED = """{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}"""
_TODAY = """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}"""

_AFTER = "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
_MISTRAL1 = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('AFTER') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token}}
    {%- endif %}
{%- endfor %}
""".replace("AFTER", _AFTER)

_MISTRAL2 = (
    "{{ bos_token }}{% for message in messages %}" + _ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)


def _mistral3(last: str, answer: str) -> str:
    return (
        """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("AFTER") }}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if LAST and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- ANSWER}}
    {%- endif %}
{%- endfor %}
""".replace("AFTER", _AFTER)
        .replace("LAST", last)
        .replace("ANSWER", answer)
    )


_GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}" + _ALTERNATE + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)

_ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

TEMPLATES = {
    "SmolLM2": _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    "ChatML": "{% for message in messages %}" + _CHATML_TURN + _CHATML_END,
    "Qwen2": _chatml("You are a helpful assistant."),
    "Qwen2.5, abridged": _QWEN25,
    "Llama 3": _LLAMA3,
    "Llama 3.1, abridged": _llama31(_FIXED),
    "Llama 3.2, abridged": _llama31(_TODAY),
    "Mistral Instruct v1": _MISTRAL1,
    "Mistral Instruct v0.2": _MISTRAL2,
    "Mistral Instruct v0.3, abridged": _mistral3(
        "(message == user_messages[-1])", '" " + message["content"]|trim + eos_token'
    ),
    "Mistral Instruct v0.3, first revision, abridged": _mistral3("loop.last", '" " + message["content"] + eos_token'),
    "Gemma": _GEMMA,
    "Gemma 2": "{{ bos_token }}" + _GEMMA,
    "TinyLlama, Zephyr": _ZEPHYR,
}

UNKNOWN = {
    "of another family": "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}",
    "ChatML that trims": TEMPLATES["ChatML"].replace("message['content']", "message['content'] | trim"),
    "Mistral without its spaces": _MISTRAL2.replace("'[INST] '", "'[INST]'"),
    "SmolLM2 of another name": _chatml("You are somebody else"),
    "empty": "",
}

_TEXTS = ["Hi", "  spaces\naround \n\n", "😀 'quotes' \"and\" {{ braces }}\t", ""]
CONVERSATIONS = [
    [("user", "Hi")],
    [("system", "Be brief."), ("user", "Hi")],
    [("user", _TEXTS[1]), ("assistant", _TEXTS[1]), ("user", _TEXTS[2])],
    [("system", _TEXTS[1]), ("user", _TEXTS[2]), ("assistant", "Well."), ("user", "And?"), ("assistant", "So.")],
    [("system", ""), ("user", ""), ("assistant", ""), ("user", "\u2003\x1c\u00a0x\u200b ")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hi"), ("user", "Hi")],
    [("user", "a"), ("user", "b")],
    [("assistant", "a"), ("user", "b")],
]


class _Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


def rendering(template: chat.ChatTemplate, messages: list[dict], prompting: bool) -> dict:
    try:
        return {"text": template.render(messages, prompting)}
    except BadOption as error:
        return {"error": str(error)}


def golden_of(name: str, source: str) -> dict:
    template = chat.ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    cases = []
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in turns]
        for prompting in (True, False):
            cases.append({"messages": messages, "prompting": prompting, **rendering(template, messages, prompting)})
    turns = {"first": template.first_turn("Hi", None), "next": template.next_turn("And?")}
    return {"name": name, "source": source, "cases": cases, **turns}


def golden() -> dict:
    with mock.patch.object(chat, "datetime", _Clock):
        return {
            "about": "made by make_golden_chat.py with jinja2; bos <s>, eos </s>, today is 2026-03-05",
            "templates": [golden_of(name, source) for name, source in TEMPLATES.items()],
            "unknown": UNKNOWN,
        }


if __name__ == "__main__":
    path = Path(__file__).parent / "golden" / "chat.json"
    path.write_text(json.dumps(golden(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
