"""The request log: what it keeps, redaction, retention, and datasets made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from backend.db.tables import Feedback, LoggedRequest
from backend.domain.data.versions.provenance import TrafficProvenance
from backend.domain.serving.request_log import LoggedBody, LogMode, RequestLogConfig, TrafficRules, redact
from backend.errors import InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.serving.feedback import store_feedback
from backend.services.serving.request_log.browse import RequestFilter, browse_requests
from backend.services.serving.request_log.datasets import make_traffic_dataset, preview_traffic
from backend.services.serving.request_log.policies import forget_requests, log_modes, set_log_policy
from backend.services.serving.usage import UsageRow, add_usage
from tests.support.scenario import Scenario


@pytest.fixture
def ctx(any_ctx: Context) -> Context:
    Scenario(any_ctx).endpoint()
    return any_ctx


def ask(
    ctx: Context, name: str, prompt: str, answer: str, *, age_days: float = 0.0, finish_reason: str = "stop"
) -> None:
    body = LoggedBody("chat", {"temperature": 0.5}, [{"role": "user", "content": prompt}])
    body.add(answer)
    at = ctx.now() - timedelta(days=age_days)
    add_usage(
        ctx,
        [UsageRow(name, "tales", None, None, 3, 4, 5.0, 6.0, "finished", at, logged=body, finish_reason=finish_reason)],
    )


def log(ctx: Context, mode: LogMode, **values: object) -> None:
    set_log_policy(ctx, "tales", RequestLogConfig(mode=mode, **values), person=LOCAL)  # type: ignore[arg-type]


def test_a_null_character_in_an_answer_keeps_no_request_from_being_stored(ctx: Context) -> None:
    log(ctx, "bodies")
    ask(ctx, "null", "a\x00b", "c\x00d")
    (request,) = browse_requests(ctx, RequestFilter(endpoint="tales"), person=LOCAL).rows
    assert request.answer == "cd"


def test_the_mode_decides_what_is_kept_and_a_stricter_one_erases_what_was(ctx: Context) -> None:
    ask(ctx, "none", "Hello", "Hi")
    log(ctx, "bodies")
    ask(ctx, "all", "I am ada@example.org, card 4111 1111 1111 1111", "Call +49 30 1234567, key sk-abcdefghijklmnop")
    assert log_modes(ctx) == {"tales": "bodies"}
    newest = {
        request.id: request for request in browse_requests(ctx, RequestFilter(endpoint="tales"), person=LOCAL).rows
    }
    assert newest["none"].messages is None
    assert newest["all"].messages == [{"role": "user", "content": "I am [EMAIL], card [CARD]"}]
    assert newest["all"].answer == "Call [PHONE], key [KEY]"
    log(ctx, "metadata")
    ask(ctx, "meta", "secret", "secret")
    with ctx.db.read() as session:
        rows = {row.id: (row.messages, row.answer, row.params) for row in session.scalars(select(LoggedRequest))}
    assert rows == {"all": (None, None, {"temperature": 0.5}), "meta": (None, None, {"temperature": 0.5})}
    log(ctx, "off")
    with ctx.db.read() as session:
        assert session.scalars(select(LoggedRequest)).all() == []


def test_requests_are_erased_past_their_time(ctx: Context) -> None:
    log(ctx, "bodies", retention_days=7)
    ask(ctx, "new", "a", "b", age_days=6)
    ask(ctx, "old", "c", "d", age_days=8)
    assert forget_requests(ctx) == 1
    log(ctx, "bodies", retention_days=3)  # a shorter time holds for what is stored, too
    assert forget_requests(ctx) == 1


def test_redaction_replaces_patterns_keeps_other_text_and_fails_closed() -> None:
    config = RequestLogConfig(patterns=(r"Project \w+",))
    assert redact("Project Falcon at 10.0.0.1 in 2026, chapter 12.", config) == (
        "[REDACTED] at [IP] in 2026, chapter 12.",
        2,
    )
    assert redact("ada@example.org", RequestLogConfig(redact=False)) == ("ada@example.org", 0)
    slow = RequestLogConfig(redact=False, patterns=(r"(?:a|aa|aaa|b)+c(?=d)e",))
    assert redact("a" * 5000, slow)[0] in {"[REDACTED]", "a" * 5000}
    with pytest.raises(ValidationError, match="not a regular expression"):
        RequestLogConfig(patterns=("(",))
    with pytest.raises(ValidationError, match="empty text"):
        RequestLogConfig(patterns=("x*",))


def test_feedback_is_its_own_keys_replaces_the_last_and_keeps_a_copy(ctx: Context) -> None:
    log(ctx, "bodies")
    ask(ctx, "r", "2 + 2?", "5")
    assert not store_feedback(ctx, "r", key_id="another", rating=1)
    assert not store_feedback(ctx, "unknown", key_id=None, rating=1)
    assert store_feedback(ctx, "r", key_id=None, rating=1)
    assert store_feedback(ctx, "r", key_id=None, rating=-1, correction="4")
    with ctx.db.read() as session:
        (row,) = session.scalars(select(Feedback))
    assert (row.rating, row.correction, row.answer) == (-1, "4", "5")


def test_traffic_becomes_rows_of_each_kind_with_the_requests_behind_them(ctx: Context) -> None:
    log(ctx, "bodies", redact=False)
    for name, prompt, answer in (
        ("a", "2 + 2?", "5"),
        ("b", "Hi", "Hello ada@example.org"),
        ("c", "Hi", "Go away"),
        ("d", "Bye", "Bye"),
    ):
        ask(ctx, name, prompt, answer)
    store_feedback(ctx, "a", key_id=None, rating=-1, correction="4")
    store_feedback(ctx, "b", key_id=None, rating=1)
    store_feedback(ctx, "c", key_id=None, rating=-1)
    rules = TrafficRules()

    def rows(objective: str, **values: object) -> list[str]:
        preview = preview_traffic(
            ctx, "tales", objective=objective, rules=rules.model_copy(update=values), person=LOCAL
        )  # type: ignore[arg-type]
        assert len(preview.rows) == len(preview.provenance)
        return [json.dumps(row) for row in preview.rows]

    def user(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    def said(text: str) -> dict[str, str]:
        return {"role": "assistant", "content": text}

    chats = [{"messages": [user(p), said(a)]} for p, a in (("2 + 2?", "4"), ("Hi", "Hello [EMAIL]"), ("Bye", "Bye"))]
    assert sorted(rows("sft")) == sorted(json.dumps(chat) for chat in chats)
    labels = [("2 + 2?", "5", False), ("Hi", "Hello [EMAIL]", True), ("Hi", "Go away", False)]
    made = [{"prompt": [user(p)], "completion": [said(a)], "label": good} for p, a, good in labels]
    assert sorted(rows("kto")) == sorted(map(json.dumps, made))
    pairs = [("2 + 2?", "4", "5"), ("Hi", "Hello [EMAIL]", "Go away")]
    made = [{"prompt": [user(p)], "chosen": [said(c)], "rejected": [said(r)]} for p, c, r in pairs]
    assert sorted(rows("preference")) == sorted(map(json.dumps, made))
    assert len(rows("sft", rating="up")) == 1
    assert len(rows("sft", exclude=("d",))) == 2
    assert len(rows("kto", sample=2)) <= 2
    assert rows("sft", sample=2, seed=3) == rows("sft", sample=2, seed=3)


def test_what_an_answer_that_was_cut_off_says_is_learned_by_no_row(ctx: Context) -> None:
    log(ctx, "bodies")
    for name in ("plain", "good", "bad", "corrected"):
        ask(ctx, name, f"Is this {name}?", "She played outsid", finish_reason="length")
    ask(ctx, "whole", "Is this whole?", "Yes.")
    store_feedback(ctx, "good", key_id=None, rating=1)
    store_feedback(ctx, "bad", key_id=None, rating=-1)
    store_feedback(ctx, "corrected", key_id=None, rating=-1, correction="She played outside.")
    sft, kto, pairs = (
        preview_traffic(ctx, "tales", objective=objective, rules=TrafficRules(), person=LOCAL)
        for objective in ("sft", "kto", "preference")
    )
    assert [row["requests"] for row in sft.provenance] == [["corrected"], ["whole"]]
    assert sft.left_out == {"answer cut off": 3}
    assert [row["requests"] for row in kto.provenance] == [["bad"], ["corrected"]]
    assert [row["requests"] for row in pairs.provenance] == [["corrected"]]


def test_a_dataset_of_traffic_names_endpoint_rules_and_requests(ctx: Context) -> None:
    with pytest.raises(InvalidInput, match="No request"):
        make_traffic_dataset(ctx, "tales", name="logged", objective="sft", rules=TrafficRules(), person=LOCAL)
    log(ctx, "bodies")
    ask(ctx, "a", "Hi", "Hello")
    version, count = make_traffic_dataset(
        ctx, "tales", name="logged", objective="sft", rules=TrafficRules(), person=LOCAL
    )
    assert count == 1
    provenance = version.provenance
    assert isinstance(provenance, TrafficProvenance)
    assert (provenance.endpoint, provenance.rows[0]["requests"]) == ("tales", ["a"])
    assert (
        preview_traffic(
            replace(ctx, now=lambda: ctx.now() + timedelta(days=40)),
            "tales",
            objective="sft",
            rules=TrafficRules(),
            person=LOCAL,
        ).rows
        == ()
    )
