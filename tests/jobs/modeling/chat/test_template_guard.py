"""Chat templates are untrusted: they render as in transformers, and can neither hang, exhaust memory nor leave the sandbox."""

from __future__ import annotations

import time
from typing import Any

import jinja2
import pytest

from backend.domain.checkpoints.chat_templates import CHAT_TEMPLATE, PLAIN_TEMPLATE, TEXT_TEMPLATE
from backend.errors import InvalidInput
from jobs.modeling.chat import template_guard
from jobs.modeling.chat.render import LONGEST_CHARACTERS, ConversationRefused, encode_prompt, render_chat
from jobs.modeling.chat.template_guard import TemplateTooCostly, render_template
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.chat_styles import STYLES

HI = [{"role": "user", "content": "hi"}]
GROW = "{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = HOW %}{% endfor %}{{ ns.s|length }}"
COSTLY = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long output": "{% for a in range(99999) %}{% for b in range(99999) %}aaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
    "multiplied text": "{{ 'a' * 10000000000 }}",
    "multiplied list": "{{ [1] * 10000000000 }}",
    "text that doubles": GROW.replace("HOW", "ns.s ~ ns.s"),
    "text that is added": GROW.replace("HOW", "ns.s + ns.s"),
    "text that is replaced": GROW.replace("HOW", "ns.s|replace('a', 'aaaaaaaaa')"),
    "text that is replaced by its method": GROW.replace("HOW", "ns.s.replace('a', 'aaaaaaaaa')"),
    "a list that doubles": GROW.replace("'ab'", "[1]").replace("HOW", "ns.s + ns.s"),
    "a wide centre": "{{ 'a'|center(10000000000) }}",
    "a wide method": "{{ 'a'.ljust(10000000000) }}",
    "a wide format": "{{ '%10000000000d' % 1 }}",
    "a wide format method": "{{ '{:>10000000000}'.format(1) }}",
    "a width from elsewhere": "{{ '{:>{}}'.format(1, 10000000000) }}",
    "a wide format filter": "{{ '%10000000000d'|format(1) }}",
    "a deep indent": "{{ 'a\\nb'|indent(10000000000) }}",
    "wide JSON": "{{ [1]|tojson(indent=1000000000) }}",
    "a long join": "{{ range(99999)|map('string')|join('a' * 100000) }}",
    "many slices": "{% set s = 'a' * 4000000 %}{% for i in range(99999) %}{% set t = s[1:] %}{% endfor %}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nested deeply": "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
    "a huge template": "x" * 300_000,
}
FORBIDDEN = {
    "a class": "{{ ''.__class__.__mro__ }}",
    "an append": "{{ messages.append(1) }}",
    "an item set": "{{ messages[0].update(role='x') }}",
    "an underscore": "{% set ns = namespace(_x=1) %}",
    "an import": "{% import 'os' as os %}",
    "a wrong type": "{{ messages[0].content + 1 }}",
    "something undefined": "{{ nothing.at.all }}",
    "a wide range": "{% for i in range(10000000) %}{% endfor %}",
    "bad syntax": "{% for %}",
    "its own refusal": "{{ raise_exception('No, please') }}",
}


@pytest.mark.parametrize("source", COSTLY.values(), ids=COSTLY)
def test_a_template_that_exhausts_time_or_memory_is_stopped(source: str) -> None:
    with pytest.raises(TemplateTooCostly):
        render_template(source, messages=HI)


def test_the_clock_stops_what_the_counters_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_guard, "MAX_SECONDS", 0.05)
    slow = "{% set s = 'a' * 7000000 %}{% for i in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}"
    began = time.monotonic()
    with pytest.raises(TemplateTooCostly, match="takes longer than"):
        render_template(slow, messages=HI)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("source", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_failing_template_gives_a_readable_error(source: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source
    with pytest.raises(ConversationRefused, match=r"^The checkpoint's chat template refuses the conversation \(user\): .+"):
        encode_prompt(tokenizer, HI)


def test_a_stopped_template_fails_the_checkpoint_and_not_the_row() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = COSTLY["loops in loops"]
    with pytest.raises(InvalidInput, match="chat template was stopped: it takes more than 2,000,000 steps") as caught:
        encode_prompt(tokenizer, HI)
    assert not isinstance(caught.value, ConversationRefused)


def test_an_overlong_conversation_is_refused() -> None:
    with pytest.raises(ConversationRefused, match="2,000,001 characters"):
        render_chat(byte_tokenizer(), [{"role": "user", "content": "a" * (LONGEST_CHARACTERS + 1)}])
    assert len(render_chat(byte_tokenizer(), [{"role": "user", "content": "a" * LONGEST_CHARACTERS}])) > LONGEST_CHARACTERS


TRICKS = {
    "loop variables": "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.last }} {{ loop.previtem is defined }} {{ loop.nextitem is defined }};{% endfor %}",
    "a filtered loop": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}",
    "break and continue": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }}{% if loop.index0 == 2 %}{% break %}{% endif %}{% endfor %}",
    "slices and negatives": "{{ messages[1:][0].role }}{{ messages[-1]['content'][:2] }}{{ messages[::-1]|length }}",
    "a macro": "{% macro show(m, mark='*') %}{{ mark }}{{ m.role }}{% endmacro %}{% for m in messages %}{{ show(m) }}{% endfor %}",
    "generation marks": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "filters": "{{ messages|map(attribute='role')|join(', ') }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ 'a-b'|replace('-', '+')|upper }} {{ '%s/%d' % ('x', 3) }} {{ '{} {}'.format('a', 1) }} {{ {'b': 1, 'a': ['é']}|tojson(indent=2) }} {{ {'b': 1}|dictsort }} {{ [3, 1]|sort|first }} {{ ' x '|trim }} {{ 'abc'|indent(2, true) }}",
    "white space": "  {% if true %}\n  a\n  {% endif %}\n\n  {{- 'b' -}}  \n c",
    "names and numbers": "{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ dict(a=1).a }} {{ 'é' ~ 1 ~ none }} {{ x is defined }} {{ bos_token }}",
}


@pytest.mark.parametrize("source", TRICKS.values(), ids=TRICKS)
def test_templates_render_to_the_text_of_transformers(source: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source
    messages: list[dict[str, Any]] = [*HI, {"role": "assistant", "content": "Grüß dich"}, {"role": "user", "content": "again"}]
    assert render_chat(tokenizer, messages) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_templates_of_the_product_and_of_the_styles_compile_only_once() -> None:
    for source in (CHAT_TEMPLATE, PLAIN_TEMPLATE, TEXT_TEMPLATE, *(style.template for style in STYLES.values() if style.template)):
        assert template_guard._compiled(source) is template_guard._compiled(source)
        assert isinstance(template_guard._compiled(source), jinja2.Template)
