"""Requests in pages: filters in SQL, who may see which, and files without formulas."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from backend.db.tables import ApiKey, Deployment, Replica, Usage, User
from backend.domain.serving.protocol import ChatMessage, Role
from backend.domain.serving.request_log import LoggedBody, RequestLogConfig, TrafficRules
from backend.errors import NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.serving.costs import read_price_ledger
from backend.services.serving.feedback import give_feedback, store_feedback
from backend.services.serving.monitoring.traffic import find_window, read_traffic
from backend.services.serving.request_log.browse import (
    RequestFilter,
    browse_requests,
    get_request,
    requests_csv,
    requests_jsonl,
)
from backend.services.serving.request_log.datasets import preview_traffic
from backend.services.serving.request_log.policies import set_log_policy
from backend.services.serving.usage import UsageRow, UsageStatus, add_usage
from tests.support.scenario import Scenario, add_row
from tests.support.serving.stored_chat import add_message, start_conversation

ADA, BEN = Person("ada", "Ada", "engineer"), Person("ben", "Ben", "engineer")


@pytest.fixture
def ctx(any_ctx: Context) -> Context:
    """Ada deployed `tales`; Ben has a key."""
    for person in (ADA, BEN):
        add_row(any_ctx, User(id=person.id, name=person.name, role=person.role, password_hash="x"))
    add_row(any_ctx, ApiKey(id="k", name="=1+1", key_hash="h", hint="abcd", user_id="ben"))
    Scenario(any_ctx).endpoint(created_by="ada")
    set_log_policy(any_ctx, "tales", RequestLogConfig(mode="bodies"), person=LOCAL)
    return any_ctx


def ask(
    ctx: Context,
    number: int,
    *,
    key: str | None = None,
    status: UsageStatus = "finished",
    total_ms: float = 9.0,
    itl_ms: float | None = None,
    prompt: str = "Hi",
) -> str:
    body = LoggedBody("chat", {"temperature": 0.5}, [{"role": "user", "content": prompt}])
    body.add("Grüße 100%")
    at = ctx.now() - timedelta(seconds=number // 2)  # two share each moment
    row = UsageRow(f"r{number:03}", "tales", key, None, 3, 5, 5.0, total_ms, status, at, logged=body, itl_ms=itl_ms)
    add_usage(ctx, [row])
    return row.id


def ids(ctx: Context, person: Person = LOCAL, **values: object) -> list[str]:
    return [row.id for row in browse_requests(ctx, RequestFilter(**values), person=person).rows]  # type: ignore[arg-type]


def test_pages_hold_every_request_once_newest_first(ctx: Context) -> None:
    for number in range(7):
        ask(ctx, number)
    pages, after = [], None
    while True:
        page = browse_requests(ctx, RequestFilter(), person=LOCAL, after=after, limit=3)
        pages.append([row.id for row in page.rows])
        if (after := page.next) is None:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    assert sorted(id_ for page in pages for id_ in page) == [f"r{number:03}" for number in range(7)]
    times = [row.created_at for row in browse_requests(ctx, RequestFilter(), person=LOCAL).rows]
    assert times == sorted(times, reverse=True)


def test_filters_limit_by_result_time_latency_key_and_text_of_any_script(ctx: Context) -> None:
    ask(ctx, 0, prompt="Für Ada")
    slow = ask(ctx, 1, status="lost", total_ms=900.0, key="k")
    assert ids(ctx, status="lost") == ids(ctx, min_total_ms=100.0) == ids(ctx, key_id="k") == [slow]
    assert ids(ctx, text="r ADA") == ["r000"]
    assert ids(ctx, text="Für") == ids(ctx, text="F\0ür") == ["r000"]
    assert len(ids(ctx, text="Grüße 100%")) == 2
    assert ids(ctx, text="100_") == [], "a wildcard is a letter"
    assert ids(ctx, text=slow) == [slow]
    assert ids(ctx, endpoint="other") == []
    assert ids(ctx, since=ctx.now() + timedelta(hours=1)) == []
    assert len(ids(ctx, variant="stable")) == 2


def test_others_see_requests_of_their_keys_and_of_endpoints_that_they_deployed(ctx: Context) -> None:
    own, other = ask(ctx, 0, key="k"), ask(ctx, 1)
    assert ids(ctx, BEN) == [own]
    assert sorted(ids(ctx, ADA)) == [own, other]
    with ctx.db.write() as session:
        deployment = session.query(Deployment.id).scalar()
        session.add(Replica(id="rep", deployment_id=deployment, url="http://10.0.0.7:4711", internal_token="t"))
        session.get_one(Usage, own).replica_id = "rep"
    assert get_request(ctx, own, person=BEN).row.key == "=1+1"
    assert (get_request(ctx, own, person=BEN).address, get_request(ctx, own, person=LOCAL).address) == (
        None,
        "http://10.0.0.7:4711",
    )
    assert get_request(ctx, own, person=ADA).row.key is None, "the key of another person"
    assert get_request(ctx, own, person=BEN).replica == "replica 1 of revision 1"
    with pytest.raises(NotFound):
        get_request(ctx, other, person=BEN)
    with pytest.raises(NotAllowed):
        ids(ctx, Person("r", "Rater", "rater"))
    with pytest.raises(NotAllowed):
        preview_traffic(ctx, "tales", objective="sft", rules=TrafficRules(), person=BEN)
    assert len(preview_traffic(ctx, "tales", objective="sft", rules=TrafficRules(only=(own,)), person=ADA).rows) == 1


def test_a_request_log_is_set_by_the_owner_of_its_endpoint_and_admins(ctx: Context) -> None:
    ask(ctx, 0, key="k")
    with pytest.raises(NotAllowed, match="was deployed by Ada"):
        set_log_policy(ctx, "tales", RequestLogConfig(mode="off"), person=BEN)
    assert get_request(ctx, "r000", person=ADA).row.answer == "Grüße 100%", "nothing was erased"
    set_log_policy(ctx, "tales", RequestLogConfig(mode="off"), person=ADA)
    assert get_request(ctx, "r000", person=ADA).row.answer is None
    set_log_policy(ctx, "tales", RequestLogConfig(mode="bodies"), person=LOCAL)


def test_one_request_has_its_timings_parameters_texts_and_thumb(ctx: Context) -> None:
    id_ = ask(ctx, 0, key="k", total_ms=45.0, itl_ms=10.0)
    store_feedback(ctx, id_, key_id="k", rating=-1, correction="Better")
    detail = get_request(ctx, id_, person=LOCAL)
    assert detail.decode_tokens_per_s == pytest.approx(4 / 0.040)
    assert (detail.params, detail.row.rating, detail.correction) == ({"temperature": 0.5}, -1, "Better")
    assert detail.row.answer == "Grüße 100%"
    assert browse_requests(ctx, RequestFilter(), person=LOCAL).rows[0].rating == -1


def test_an_answer_that_arrived_in_one_piece_or_within_10_ms_has_no_rate(ctx: Context) -> None:
    whole, burst = ask(ctx, 0, total_ms=45.0), ask(ctx, 1, total_ms=14.9, itl_ms=2.0)
    assert [get_request(ctx, request, person=LOCAL).decode_tokens_per_s for request in (whole, burst)] == [None, None]


def test_a_thumb_given_in_the_playground_is_that_of_the_request_behind_its_message(ctx: Context) -> None:
    id_ = ask(ctx, 0)
    ask(ctx, 1, prompt="unrated")
    conversation = start_conversation(ctx, endpoint="tales", person=ADA)
    answer = add_message(
        ctx, conversation.id, role="assistant", content="Grüße 100%", usage={"request_id": id_}, person=ADA
    )
    asked = [ChatMessage(role=Role.USER, content="Hi")]
    give_feedback(
        ctx,
        source="playground",
        source_id=answer,
        endpoint="tales",
        checkpoint_id=None,
        messages=asked,
        answer="Grüße 100%",
        value=-1,
        person=ADA,
    )
    assert [row.rating for row in browse_requests(ctx, RequestFilter(), person=LOCAL).rows] == [None, -1]
    assert get_request(ctx, id_, person=LOCAL).row.rating == -1
    listed = preview_traffic(
        ctx, "tales", objective="kto", rules=TrafficRules(only=(id_,), source="playground"), person=LOCAL
    )
    assert [row["label"] for row in listed.rows] == [False], "a dataset of what a list shows has the thumb too"


def test_files_hold_what_the_list_shows_and_no_formula(ctx: Context) -> None:
    ask(ctx, 0, key="k")
    (row,) = csv.DictReader(requests_csv(ctx, RequestFilter(), person=LOCAL).splitlines())
    assert (row["id"], row["key"]) == ("r000", "'=1+1")
    assert json.loads(requests_jsonl(ctx, RequestFilter(), person=LOCAL))["answer"] == "Grüße 100%"


def test_requests_refused_in_a_loop_are_one_row_and_every_figure_counts_them_all(ctx: Context) -> None:
    ask(ctx, 0)
    at = ctx.now()
    row = UsageRow("many", "tales", "k", None, 0, 0, None, 1.0, "refused", at, finish_reason="rate_limit_exceeded")
    add_usage(ctx, [replace(row, requests=480)])
    (refused,) = browse_requests(ctx, RequestFilter(status="refused"), person=LOCAL).rows
    assert refused.requests == 480
    total = read_traffic(ctx, find_window("1 h"), endpoint="tales").total
    assert (total.requests, total.refused) == (481, 480)
    ledger = read_price_ledger(ctx, since=at - timedelta(hours=1), until=at + timedelta(hours=1))
    assert sum(line.requests for line in ledger.keys) == 481
