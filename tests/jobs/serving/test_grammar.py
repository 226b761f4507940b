"""Constraints by llguidance on tokenizers of any size."""

from __future__ import annotations

import json
import random
import string
import time
from typing import Any

import pytest

from backend.domain.serving.protocol import Constraint
from backend.errors import InvalidInput
from jobs.serving.grammar import SEARCH_CPU_S, GrammarMatcher, Grammars
from tests.support.networks.serving_networks import END_ID, make_tokenizer

LETTERS = frozenset(make_tokenizer()(string.ascii_lowercase + string.digits)["input_ids"])


@pytest.mark.parametrize("size", [260, 287, 288, 289, 320])
@pytest.mark.parametrize("vocab_size", [260, 288, 384])
def test_a_mask_covers_the_networks_vocabulary_whatever_the_tokenizers_size(size: int, vocab_size: int) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<extra{number}>" for number in range(size - len(tokenizer))])
    assert len(tokenizer) == size
    matcher = Grammars(tokenizer, vocab_size=vocab_size, end_ids=[END_ID]).matcher(Constraint(kind="json_object"))
    allowed = matcher.allowed()
    assert allowed.shape == (vocab_size,)
    brace = tokenizer("{")["input_ids"][0]
    assert allowed.nonzero().flatten().tolist() == [brace]


def test_the_tokens_of_an_answer_lead_to_its_end() -> None:
    tokenizer = make_tokenizer()
    schema = json.dumps(
        {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    )
    matcher = Grammars(tokenizer, vocab_size=260, end_ids=[END_ID]).matcher(
        Constraint(kind="json_schema", value=schema)
    )
    for token in tokenizer('{"a": 2}')["input_ids"]:
        assert matcher.allowed()[token]
        matcher.take(token)
    assert matcher.complete_at == len('{"a": 2}')


def _matcher(kind: str, value: str) -> GrammarMatcher:
    return Grammars(make_tokenizer(), vocab_size=260, end_ids=[END_ID]).matcher(
        Constraint.model_validate({"kind": kind, "value": value})
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (
            "json_schema",
            json.dumps({"allOf": [{"type": "string", "pattern": f"a{{{n},}}b{{{n},}}"} for n in range(60)]}),
        ),
        ("json_schema", '{"type": "integer", "multipleOf": 999983}'),
        ("lark", "start: A\nA: " + " & ".join(f"/.*[a-z]{{{n}}}.*/" for n in range(3, 30))),
    ],
    ids=["intersected patterns", "a large multiple", "intersected terminals"],
)
def test_a_constraint_that_takes_minutes_to_read_is_refused(
    kind: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.serving.grammar_cost.MAX_CPU_S", 2)
    with pytest.raises(InvalidInput, match="takes too long to read"):
        _matcher(kind, value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", '{"type": "number", "multipleOf": 0.01}'),
        ("json_schema", '{"type": "string", "pattern": "^[A-Z]{2}[0-9]{2,30}$"}'),
        ("regex", r"\d{4}-\d{2}-\d{2}"),
    ],
)
def test_a_usual_repetition_or_multiple_is_read(kind: str, value: str) -> None:
    assert _matcher(kind, value).allowed().any()


def test_a_constraint_that_holds_the_engine_up_ends_its_answer_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.serving.grammar.FREE_CPU_S", 0.5)
    matcher = _matcher("regex", "a" * 150_000)
    matcher.budget = 400
    with pytest.raises(InvalidInput, match=r"took .* s of the engine|can't be enforced further"):
        _write(matcher, ord("a"), count=400)


SELF = {"$ref": "#"}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", json.dumps({"type": "object", "properties": {"a": SELF}, "required": ["a"]})),
        ("json_schema", json.dumps(SELF)),
        ("json_schema", json.dumps({"type": "array", "minItems": 1, "items": SELF})),
        ("lark", 'start: "a" start'),
    ],
    ids=["its own property", "itself", "its own item", "a rule of itself"],
)
def test_a_form_that_requires_itself_is_refused_before_the_answer(kind: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=r"can't be enforced: .*requires itself"):
        _matcher(kind, value)


def test_a_form_with_a_mistake_is_refused_with_it_and_no_cure_of_another() -> None:
    for kind, value, reason in (("json_schema", '{"type": "banana"}', "banana"), ("regex", "(", "unclosed")):
        with pytest.raises(InvalidInput, match=reason) as caught:
            _matcher(kind, value)
        assert not caught.value.remedy


def test_a_form_that_may_hold_itself_is_enforced() -> None:
    node = {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"n": SELF}, "required": ["n"]}]}
    matcher = _matcher("json_schema", json.dumps(node))
    assert matcher.allowed().any()


def test_an_answer_whose_form_fails_on_the_way_is_not_complete() -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#/$defs/endless"}}, "required": ["a"]}
    schema = {"anyOf": [{"const": 1}, {"$ref": "#/$defs/endless"}], "$defs": {"endless": endless}}
    matcher = _matcher("json_schema", json.dumps(schema))
    for token in make_tokenizer()('{"')["input_ids"]:
        assert matcher.allowed()[token]
        matcher.take(token)
    with pytest.raises(InvalidInput, match="can't be enforced further"):
        matcher.allowed()
    assert matcher.complete_at is None


def _write(matcher: GrammarMatcher, token: int, *, count: int) -> None:
    for _ in range(count):
        matcher.allowed()
        matcher.take(token)


FORMS: dict[str, Any] = {
    "email": {"type": "string", "format": "email"},
    "duration": {"type": "string", "format": "duration"},
    "date-time": {"type": "string", "format": "date-time"},
    "uri": {"type": "string", "format": "uri"},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 1},
    "multiple of 100": {"type": "integer", "multipleOf": 100, "minimum": 1},
    "part of a pattern": {"type": "string", "pattern": "^[a-c]+-[0-9]{3,}x$"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("budget", [45, 70, 200])
def test_a_form_that_must_contain_a_rare_character_is_closed_before_the_tokens_run_out(form: Any, budget: int) -> None:
    nested = {"type": "object", "properties": {"a": form, "n": {"type": "integer"}}, "required": ["a", "n"]}
    for value in (form, nested):
        for seed in range(4):
            matcher = _matcher("json_schema", json.dumps(value))
            matcher.budget = budget
            answer = _draw(matcher, seed=seed)
            assert matcher.complete_at is not None, answer
            last = json.loads(answer)
            last = last if value is form else last["a"]
            assert "multipleOf" not in form or last % form["multipleOf"] == 0


def _object(**properties: Any) -> str:
    return json.dumps({"type": "object", "properties": properties, "required": list(properties)})


EMAIL = {"type": "string", "format": "email"}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", _object(a={"type": "string", "minLength": 1000})),
        ("json_schema", _object(**{f"k{number}": EMAIL for number in range(40)})),
        ("json_schema", json.dumps({"type": "array", "items": {"type": "integer"}, "minItems": 300})),
        ("regex", "[a-z]{450}Z"),
    ],
    ids=["a long string", "many addresses", "a long array", "a long pattern"],
)
def test_a_form_that_cannot_fit_is_cut_off_and_holds_the_engine_for_moments(kind: str, value: str) -> None:
    """A search for its end at every token took the engine 3 s for 13 tokens, and then the request failed."""
    matcher = _matcher(kind, value)
    matcher.budget = 400
    drawn, longest_s = random.Random(0), 0.0
    for _ in range(400):
        began_s = time.thread_time()
        allowed = matcher.allowed()
        longest_s = max(longest_s, time.thread_time() - began_s)
        matcher.take(drawn.choice(allowed.nonzero().flatten().tolist()))
    assert matcher.complete_at is None
    assert longest_s < SEARCH_CPU_S + 0.05


def test_each_of_several_values_with_a_rare_character_is_closed_before_the_tokens_run_out() -> None:
    matcher = _matcher("json_schema", _object(a=EMAIL, b=EMAIL, c=EMAIL))
    matcher.budget = 150
    answer = _draw(matcher, seed=0)
    assert matcher.complete_at is not None, answer
    assert all("@" in value for value in json.loads(answer).values())


def _draw(matcher: GrammarMatcher, *, seed: int) -> str:
    """Draw the tokens of an answer: letters and digits more often than what ends a text."""
    drawn, tokens = random.Random(seed), list[int]()
    for _ in range(matcher.budget or 0):
        allowed = matcher.allowed().nonzero().flatten().tolist()
        tokens.append(drawn.choice([token for token in allowed if token in LETTERS] or allowed))
        matcher.take(tokens[-1])
        if matcher.complete_at is not None:
            break
    return make_tokenizer().decode(tokens, skip_special_tokens=True)


def test_a_constraint_is_read_once_for_all_answers_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(make_tokenizer(), vocab_size=260, end_ids=[END_ID])
    constraint = Constraint(kind="regex", value="ab")
    first = grammars.matcher(constraint)
    monkeypatch.setattr("jobs.serving.grammar._grammar", lambda _: pytest.fail("read again"))
    second = grammars.matcher(constraint)
    a = int(first.allowed().nonzero()[0, 0])
    first.take(a)
    assert not first.allowed()[a]
    assert second.allowed()[a], "each answer is at its own place"
