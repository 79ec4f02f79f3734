"""What chat templates see and do, against transformers' own rendering: the same text, or a refusal on both sides."""

from datetime import datetime

import pytest
from chat_templates import KINDS, source
from transformers.utils.chat_template_utils import render_jinja_template

from edgesink.export.chat.template import NoTurns, Template

MESSAGES = [
    {"role": "user", "content": "Tom & <b>é</b>\n'x' \"y\""},
    {"role": "assistant", "content": "<think>a</think>b"},
]

CONSTRUCTS = [
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "{{ messages[0] | tojson }}",
    "{{ {'b': 1, 'a': ['é', none, true]} | tojson(indent=2) }}",
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "{{ 'é' | tojson(ensure_ascii=true) }}",
    "{% if tools is none and documents is none %}none{% else %}some{% endif %}",
    "{% if tools is not none %}{{ tools | tojson }}{% endif %}{{ missing }}{{ enable_thinking is defined }}",
    "{{ strftime_now('%d %b %Y') }}",
    "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ dict(a=1).items() | list }}",
    "{% set ns = namespace(self=3) %}{{ ns.self }}",
    "  {% if true %}\n  x\n  {% endif %}\n  {# nothing #}\ny\n\n",
    "{%- for m in messages -%} {{ m['content'] | trim | replace('b', 'c') }} {%- endfor -%}",
    "{{ messages | map(attribute='role') | join(',') }} {{ messages[::-1][0].role }} {{ messages[-1]['content'][:3] }}",
    "{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m(1) }}{{ '%05d' % 7 }}{{ 7 // 2 }}{{ 'a' ~ 1 }}{{ 'x' in 'xy' }}",
    "{% set t = messages[1].content.split('</think>')[-1].lstrip('\\n') %}{{ t }}",
    "{{ raise_exception('no') }}",
    "{{ 1 / 0 }}",
    "{{ bos_token + 'x' }}",
    "{% set ns = namespace(_a=1) %}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{{ messages.append(1) }}",
    "{{ ''.__class__ }}",
    "{{ strftime_now() }}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{% endfor %}",
]


def in_transformers(template: str, **special: str) -> str | None:
    try:
        made, _ = render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=True, **special)
    except Exception:  # it refuses in many ways
        return None
    return made[0]


def here(template: str, **special: str) -> str | None:
    try:
        made = Template(template, special)
        made.now = datetime.now()
        return made.render(MESSAGES)
    except NoTurns as error:
        return str(error) if "\n" in str(error) else None


@pytest.mark.parametrize("template", CONSTRUCTS)
def test_a_construct_does_what_it_does_in_transformers(template):
    assert here(template) == in_transformers(template)


@pytest.mark.parametrize("name", KINDS)
def test_a_whole_template_renders_as_in_transformers(name):
    special = KINDS[name].special
    assert here(source(name), **special) == in_transformers(source(name), **special)
