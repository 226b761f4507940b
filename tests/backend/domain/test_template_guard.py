"""Chat templates are untrusted: they render as in transformers, and can neither hang, exhaust memory nor leave the
sandbox.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jinja2
import pytest

from backend.domain import template_costs, template_guard
from backend.domain.checkpoints.chat_templates import CHAT_TEMPLATE, PLAIN_TEMPLATE, TEXT_TEMPLATE
from backend.domain.template_costs import TemplateTooCostly
from backend.domain.template_guard import render_template
from backend.errors import InvalidInput
from jobs.modeling.chat import MAX_CHARACTERS, ConversationRefused, encode_prompt, render_chat
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.installation import PROJECT
from tests.support.networks.chat_styles import STYLES

HI = [{"role": "user", "content": "hi"}]
GROW = "{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = HOW %}{% endfor %}{{ ns.s|length }}"
NESTED = "{% set ns = namespace(l=[0]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
COSTLY = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long output": (
        "{% for a in range(99999) %}{% for b in range(99999) %}aaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}"
    ),
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
    "a long mark between long parts": "{% set s = ('b' * 10000).join('a' * 40000) %}{{ s|length }}",
    "a mark between the parts of a range": "{{ range(99999)|join('a' * 20000) }}",
    "a four-digit width": "{{ '%9999d' % 1 }}",
    "many fields of three digits": "{{ ('%999d' * 40000) % ((1,) * 40000) }}",
    "a four-digit width of a method": "{{ '{:9999}'.format('a') }}",
    "a four-digit precision": "{{ '%.9999f' % 1 }}",
    "a width as an argument": "{{ '%*d' % (99999999, 1) }}",
    "one argument written often": "{% set s = 'a' * 1000000 %}{{ '%(a)s' * 1000 % {'a': s} }}",
    "one argument written often by a method": "{% set s = 'a' * 1000000 %}{{ ('{0}' * 1000).format(s) }}",
    "a date with a width": "{{ strftime_now('%9999999Y') }}",
    "nested lists as text": NESTED + "{{ ns.l|string|length }}",
    "nested lists printed": NESTED + "{{ ns.l }}",
    "nested lists in a format": NESTED + "{{ '%s' % (ns.l,) }}",
    "nested lists in a format method": NESTED + "{{ '{}'.format(ns.l) }}",
    "nested lists joined": NESTED + "{{ ns.l ~ '' }}",
    "nested lists as JSON": NESTED + "{{ ns.l|tojson }}",
    "nested lists compared": NESTED + NESTED.replace("ns", "other") + "{{ ns.l == other.l }}",
    "nested lists searched": NESTED + NESTED.replace("ns", "other") + "{{ [ns.l] is in [other.l] }}",
    "nested lists sorted": NESTED + NESTED.replace("ns", "other") + "{{ [ns.l, other.l]|sort|length }}",
    "nested tuples as a key": NESTED.replace("[", "(").replace("]", ")") + "{{ {ns.l: 1} }}",
    "nested tuples looked up": NESTED.replace("[", "(").replace("]", ")") + "{{ {}[ns.l] }}",
    "nested values of a dictionary": NESTED.replace("[ns.l, ns.l]", "{'a': ns.l, 'b': ns.l}") + "{{ ns.l.values() }}",
    "nested namespaces": (
        "{% set ns = namespace(l=0) %}{% for i in range(40) %}{% set ns.l = namespace(a=ns.l, b=ns.l) %}{% endfor %}{{"
        " ns.l }}"
    ),
    "a namespace in itself": "{% set ns = namespace(a=[]) %}{% set ns.a = [ns, ns, ns] %}{{ ns.a|string }}",
    "nested turns of a loop compared": (
        NESTED + NESTED.replace("ns", "other") + "{% for l in [ns.l, other.l] %}{{ loop.changed(l) }}{% endfor %}"
    ),
    "a wide filler": "{{ 'a'.rjust(40000000, 'é') }}",
    "a wide centre of four digits, often": "{% for i in range(90000) %}{% set x = 'a'|center(9000) %}{% endfor %}",
    "indented lines": "{% set s = '\\n' * 100000 %}{{ s|indent(9999, true, true)|length }}",
    "indented by a text": "{% set s = '\\n' * 100000 %}{{ s|indent('a' * 9999, true, true)|length }}",
    "lines of other kinds": (
        "{% set s = '\\x0b' * 1000000 %}{{ s.splitlines()|length }}{{ s|indent(99, true, true)|length }}"
    ),
    "a list repeated": "{% set l = [1] * 1000000 %}{% for i in range(99999) %}{% set l = l * 2 %}{% endfor %}",
    "a list of characters": "{% set s = 'é' * 4000000 %}{{ s|list|length }}",
    "many parts": "{% set s = 'a ' * 4000000 %}{{ s.split()|length }}",
    "many parts by a letter": "{% set s = 'a' * 8000000 %}{{ s.split('a')|length }}",
    "a wide batch": "{{ [1]|batch(100000000, 'a')|list|length }}",
    "many slices of a list": "{{ [1]|slice(100000000)|list|length }}",
    "titles": "{% set s = '- ' * 4000000 %}{{ s|title|length }}",
    "a power by rounding": "{{ 1.5|round(1000000000, 'ceil') }}",
    "lists summed up": "{{ ([[1]] * 90000)|sum(start=[])|length }}",
    "a huge number read": "{% set n = ('f' * 4000000)|int(0, 16) %}{{ n * n }}",
    "a block that is caught": (
        "{% set s %}{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endset %}{{ s|length }}"
    ),
    "a macro's text": (
        "{% macro m() %}{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endmacro %}{{ m()|length }}"
    ),
    "escapes": (
        "{% set ns = namespace(s='<'|escape) %}{% for i in range(99) %}{% set ns.s = ns.s|forceescape ~ ns.s %}{%"
        " endfor %}{{ ns.s|length }}"
    ),
    "texts kept": (
        "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l, i ~ 'a' * 30000] %}{% endfor %}"
    ),
    "many parts of a program": "{{ x }}" * 20000,
    "slices of a long text": (
        "{% set ns = namespace(l=[]) %}{% set s = 'a' * 8000000 %}{% for i in range(99) %}{% set ns.l = ns.l + [s[i:]]"
        " %}{% endfor %}"
    ),
}
NOT_THERE = {
    "bytes": "{{ 'a'.encode() * 100000000 }}",
    "a translation": "{{ ('a' * 1000000).translate({97: 'b' * 10000})|length }}",
    "bytes of a number": "{{ (1).to_bytes(1000000000, 'big') }}",
    "keys of a class": "{{ {}.fromkeys(range(99999)) }}",
    "links": "{{ ('www.example.org ' * 100000)|urlize }}",
}
"""What no chat template needs and what has no bound here."""
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


MEASURE = """
import resource, sys, time, jinja2
from backend.domain.template_guard import render_template
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
render_template("{{ 1 }}")
before = peak()
try:
    render_template(sys.stdin.read(), messages=[{"role": "user", "content": "hi"}])
    outcome = "rendered"
except jinja2.TemplateError as error:
    outcome = f"{type(error).__name__}: {error}"
print(f"{peak() - before}|{outcome}")
"""
"""Renders a template and prints MB of memory and how it ended."""


@pytest.mark.parametrize("source", COSTLY.values(), ids=COSTLY)
def test_a_template_that_exhausts_time_or_memory_is_stopped_before_it_does(source: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=source,
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=250,
        check=True,
    )
    megabytes, outcome = child.stdout.strip().split("|", 1)
    assert outcome.startswith("TemplateTooCostly"), outcome
    assert int(megabytes) < 160, "each of these took hundreds of MB before every operation was counted"


@pytest.mark.parametrize("source", NOT_THERE.values(), ids=NOT_THERE)
def test_an_operation_without_a_bound_is_missing(source: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=r"no need of|No filter named"):
        render_template(source, messages=HI)


def test_the_clock_stops_what_the_counters_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_costs, "MAX_SECONDS", 0.05)
    slow = "{% set s = 'a' * 7000000 %}{% for i in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}"
    with pytest.raises(TemplateTooCostly, match="takes longer than"):
        render_template(slow, messages=HI)


@pytest.mark.parametrize("source", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_failing_template_gives_a_readable_error(source: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source
    with pytest.raises(
        ConversationRefused, match=r"^The checkpoint's chat template refuses the conversation \(user\): .+"
    ):
        encode_prompt(tokenizer, HI)


def test_a_stopped_template_fails_the_checkpoint_and_not_the_row() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = COSTLY["loops in loops"]
    with pytest.raises(InvalidInput, match="chat template was stopped: it takes more than 2,000,000 steps") as caught:
        encode_prompt(tokenizer, HI)
    assert not isinstance(caught.value, ConversationRefused)


def test_an_overlong_conversation_is_refused() -> None:
    with pytest.raises(ConversationRefused, match="2,000,001 characters"):
        render_chat(byte_tokenizer(), [{"role": "user", "content": "a" * (MAX_CHARACTERS + 1)}])
    assert len(render_chat(byte_tokenizer(), [{"role": "user", "content": "a" * MAX_CHARACTERS}])) > MAX_CHARACTERS


TRICKS = {
    "loop variables": (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.last }} {{ loop.previtem is defined }} {{ "
        "loop.nextitem is defined }};{% endfor %}"
    ),
    "a filtered loop": "{% for m in messages if m.role == 'user' %}{{ m.content }}{% else %}none{% endfor %}",
    "break and continue": (
        "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }}{% if loop.index0 == 2"
        " %}{% break %}{% endif %}{% endfor %}"
    ),
    "slices and negatives": "{{ messages[1:][0].role }}{{ messages[-1]['content'][:2] }}{{ messages[::-1]|length }}",
    "a macro": (
        "{% macro show(m, mark='*') %}{{ mark }}{{ m.role }}{% endmacro %}{% for m in messages %}{{ show(m) }}{%"
        " endfor %}"
    ),
    "generation marks": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "filters": (
        "{{ messages|map(attribute='role')|join(', ') }} {{ messages|selectattr('role', 'equalto', 'user')|list|length"
        " }} {{ 'a-b'|replace('-', '+')|upper }} {{ '%s/%d' % ('x', 3) }} {{ '{} {}'.format('a', 1) }} {{ {'b': 1, 'a':"
        " ['é']}|tojson(indent=2) }} {{ {'b': 1}|dictsort }} {{ [3, 1]|sort|first }} {{ ' x '|trim }} {{"
        " 'abc'|indent(2, true) }}"
    ),
    "white space": "  {% if true %}\n  a\n  {% endif %}\n\n  {{- 'b' -}}  \n c",
    "names and numbers": (
        "{{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ dict(a=1).a }} {{ 'é' ~ 1 ~ none }} {{ x is defined }} {{ bos_token }}"
    ),
}


@pytest.mark.parametrize("source", TRICKS.values(), ids=TRICKS)
def test_templates_render_to_the_text_of_transformers(source: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source
    messages: list[dict[str, Any]] = [
        *HI,
        {"role": "assistant", "content": "Grüß dich"},
        {"role": "user", "content": "again"},
    ]
    assert render_chat(tokenizer, messages) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_templates_of_the_product_and_of_the_styles_compile_only_once() -> None:
    for source in (
        CHAT_TEMPLATE,
        PLAIN_TEMPLATE,
        TEXT_TEMPLATE,
        *(style.template for style in STYLES.values() if style.template),
    ):
        assert template_guard._compiled(source) is template_guard._compiled(source)
        assert isinstance(template_guard._compiled(source), jinja2.Template)
