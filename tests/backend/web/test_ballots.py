"""The ballot's HTTP interface: signed, blind, and strict about what it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from httpx2 import Response
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.testclient import TestClient

from backend.db.tables import AnswerRating, Battle, Completion, Contestant, Vote
from backend.services.battles.campaigns import close_campaign
from backend.services.battles.raters import ballot_token, list_raters, rater_for, revoke_rater_link
from backend.services.battles.views import CampaignView, valid_votes
from backend.services.context import LOCAL, Context
from backend.web.ballots import ballot_routes
from tests.support.battle_world import link_rater
from tests.support.scenario import Scenario

FORM = {
    "reasons": ("Clearer", "Safer"),
    "dimensions": ({"name": "accuracy", "question": "Which is right?"},),
    "rewrite": True,
}


@dataclass
class Browser:
    """A client with its token, which it may exchange."""

    client: TestClient
    token: str

    def get(self) -> dict[str, Any]:
        answer = self.client.get("/ballot/api/next", headers={"authorization": f"Bearer {self.token}"})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def post(self, what: str, body: Any, **headers: str) -> Response:
        sent = {"authorization": f"Bearer {self.token}", "content-type": "application/json", **headers}
        return self.client.post(f"/ballot/api/{what}", content=json.dumps(body), headers=sent)

    def vote(self, battle: str, label: str = "A", **fields: Any) -> dict[str, Any]:
        answer = self.post("vote", {"battle": battle, "label": label, "duration_ms": 900, **fields})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture
def client(ctx: Context) -> Iterator[TestClient]:
    with TestClient(Starlette(routes=ballot_routes(lambda: ctx))) as client:
        yield client


def browser_of(client: TestClient, ctx: Context, campaign: CampaignView, name: str = "guest") -> Browser:
    return Browser(client, ballot_token(ctx, campaign.id, link_rater(ctx, campaign.id, name)))


def labels(ctx: Context) -> list[str]:
    with ctx.db.read() as session:
        return list(session.scalars(select(Vote.label).order_by(Vote.created_at)))


def test_a_browser_gets_two_battles_and_after_each_vote_the_next_one(client: TestClient, ctx: Context) -> None:
    browser = browser_of(client, ctx, Scenario(ctx).campaign(num_prompts=4))
    ballot = browser.get()
    current, prefetched = ballot["battles"]
    assert ballot["progress"] == {
        "done": 0,
        "skipped": 0,
        "total": 4,
        "median_s": None,
        "can_undo": False,
        "more_to_come": False,
        "is_queued": False,
        "closed": False,
    }
    assert ballot["form"]["question"] == "Which answer is better?"
    met = [current["id"], prefetched["id"]]
    answer = browser.vote(current["id"])
    while answer["next"] is not None:
        met.append(answer["next"]["id"])
        answer = browser.vote(met[-2])
    answer = browser.vote(met[-1])
    assert len(set(met)) == 4
    assert answer["next"] is None
    assert (answer["progress"]["done"], answer["progress"]["total"]) == (4, 4)


def test_a_browser_that_lost_its_next_battle_gets_it_again(client: TestClient, ctx: Context) -> None:
    browser = browser_of(client, ctx, Scenario(ctx).campaign(num_prompts=4))
    current, prefetched = browser.get()["battles"]
    assert browser.vote(current["id"], holds=["lost"])["next"]["id"] == prefetched["id"]


def test_nothing_sent_to_a_browser_reveals_contestant_purpose_or_probability(client: TestClient, ctx: Context) -> None:
    campaign = Scenario(ctx).campaign(
        "Oak-7B", "Elm-3B", write=lambda name, prompt: f"As {name}, I say {len(prompt)} {hash(name)}"
    )
    browser = browser_of(client, ctx, campaign)
    sent = json.dumps([browser.get(), browser.vote(browser.get()["battles"][0]["id"])])
    with ctx.db.read() as session:
        ids = [*session.scalars(select(Contestant.id)), *session.scalars(select(Completion.id))]
    for secret in ("Oak-7B", "Elm-3B", "purpose", "probability", *ids):
        assert secret not in sent
    assert "As [name], I say" in sent


@pytest.mark.parametrize("change", ["", "x", "forged", "other purpose"])
def test_a_request_without_a_genuine_token_is_refused(client: TestClient, ctx: Context, change: str) -> None:
    campaign = Scenario(ctx).campaign()
    browser = browser_of(client, ctx, campaign)
    battle = browser.get()["battles"][0]["id"]
    browser.token = {"": "", "x": browser.token + "x", "forged": "eyJhIjoxfQ.x.y", "other purpose": "e30.aGk.x"}[change]
    answer = browser.post("vote", {"battle": battle, "label": "A"})
    assert answer.status_code in (401, 403)
    assert set(answer.json()) == {"error", "remedy"}
    assert labels(ctx) == []


def test_a_battle_of_another_rater_or_campaign_takes_no_vote(client: TestClient, ctx: Context) -> None:
    campaign = Scenario(ctx).campaign()
    one, other = browser_of(client, ctx, campaign, "one"), browser_of(client, ctx, campaign, "two")
    battle = one.get()["battles"][0]["id"]
    assert other.post("vote", {"battle": battle, "label": "A"}).status_code == 404
    assert one.post("vote", {"battle": "nobodyknows2", "label": "A"}).status_code == 404
    one.token = ballot_token(ctx, "anothercampaign", rater_for(ctx, LOCAL))
    assert one.post("vote", {"battle": battle, "label": "A"}).status_code == 404
    assert labels(ctx) == []


def test_a_token_stops_with_its_link(client: TestClient, ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    browser = browser_of(client, ctx, campaign)
    battle = browser.get()["battles"][0]["id"]
    with ctx.db.read() as session:
        rater = session.get_one(Battle, battle).rater_id
    revoke_rater_link(ctx, rater, person=LOCAL)
    assert browser.post("vote", {"battle": battle, "label": "A"}).status_code == 403


def test_a_replayed_vote_is_one_vote_and_another_label_is_refused(client: TestClient, ctx: Context) -> None:
    browser = browser_of(client, ctx, Scenario(ctx).campaign())
    battle = browser.get()["battles"][0]["id"]
    browser.vote(battle, "A")
    browser.vote(battle, "A")
    assert browser.post("vote", {"battle": battle, "label": "B"}).status_code == 409
    assert labels(ctx) == ["A"]


def test_a_form_of_another_site_can_send_no_vote(client: TestClient, ctx: Context, scenario: Scenario) -> None:
    browser = browser_of(client, ctx, scenario.campaign())
    battle = browser.get()["battles"][0]["id"]
    body = {"battle": battle, "label": "A"}
    assert client.post("/ballot/api/vote", json=body).status_code == 401
    assert browser.post("vote", body, **{"content-type": "text/plain"}).status_code == 415
    assert browser.post("vote", {**body, "note": "x" * 400_000}).status_code == 413
    assert labels(ctx) == []


def test_a_script_that_votes_faster_than_allowed_is_refused_and_can_continue_later(
    client: TestClient, ctx: Context
) -> None:
    browser = browser_of(client, ctx, Scenario(ctx).campaign(num_prompts=9, votes_per_minute=3))
    for _ in range(3):
        browser.vote(browser.get()["battles"][0]["id"])
    refused = browser.post("vote", {"battle": browser.get()["battles"][0]["id"], "label": "A"})
    assert (refused.status_code, refused.json()["error"]) == (429, "That is more than 3 votes a minute.")
    assert len(labels(ctx)) == 3


def test_a_claimed_duration_is_at_most_the_time_since_the_battle_was_served(client: TestClient, ctx: Context) -> None:
    browser = browser_of(client, ctx, Scenario(ctx).campaign())
    browser.vote(browser.get()["battles"][0]["id"], duration_ms=3_600_000)
    with ctx.db.read() as session:
        assert 0 <= (session.scalars(select(Vote.duration_ms)).one() or 0) < 60_000


def test_reasons_rubric_note_rewrite_and_flag_are_stored(client: TestClient, ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(**FORM)
    browser = browser_of(client, ctx, campaign)
    ballot = browser.get()
    assert ballot["form"]["dimensions"] == [{"name": "accuracy", "question": "Which is right?"}]
    browser.vote(
        ballot["battles"][0]["id"],
        reasons=["Clearer"],
        dimensions={"accuracy": "TIE"},
        note="both right",
        rewrite="A better story.",
        flag="not English",
    )
    with ctx.db.read() as session:
        vote = session.scalars(select(Vote)).one()
    assert (vote.reasons, vote.dimensions, vote.note) == (["Clearer"], {"accuracy": "TIE"}, "both right")
    assert (vote.rewrite, vote.flag) == ("A better story.", "not English")


def test_reasons_can_be_added_to_a_vote_and_taken_away_again(client: TestClient, ctx: Context) -> None:
    browser = browser_of(client, ctx, Scenario(ctx).campaign(**FORM))
    battle = browser.get()["battles"][0]["id"]
    browser.vote(battle, "B", note="kind")
    for reasons in (["Clearer"], ["Clearer", "Safer"], ["Clearer", "Safer"], []):
        browser.vote(battle, "B", note="kind", reasons=reasons, amends=True)
    browser.vote(battle, "B")  # a delayed copy of the first request
    assert browser.post("vote", {"battle": battle, "label": "A", "amends": True}).status_code == 409
    with ctx.db.read() as session:
        votes = session.scalars(select(Vote).order_by(Vote.revision)).all()
    assert [vote.reasons for vote in votes] == [[], ["Clearer"], ["Clearer", "Safer"], []]
    assert {vote.note for vote in votes} == {"kind"}
    assert browser.get()["progress"]["done"] == 1


def test_a_single_answer_can_be_skipped_and_the_skip_undone(client: TestClient, ctx: Context) -> None:
    browser = browser_of(client, ctx, Scenario(ctx).campaign(rating="thumbs"))
    battle = browser.get()["battles"][0]["id"]
    assert browser.vote(battle, "SKIPPED")["progress"]["done"] == 1
    assert browser.post("undo", {}).json()["battle"]["id"] == battle
    assert labels(ctx) == ["SKIPPED", "UNDONE"]
    with ctx.db.read() as session:
        assert session.scalars(select(AnswerRating)).all() == []


def test_answers_come_as_text_and_as_nodes_without_markup(client: TestClient, ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(
        num_prompts=1, write=lambda name, prompt: f"**{len(name)}** <img src=x> {name == 'Oak'}"
    )
    (battle,) = browser_of(client, ctx, campaign).get()["battles"]
    assert battle["a_nodes"][0][0] == "p"
    assert battle["a_nodes"][0][1][0] == ["strong", ["3"], ""]
    assert " <img src=x> " in battle["a_nodes"][0][1][1]
    assert battle["prompt_nodes"] == [[["p", [battle["prompt"][0][1]], ""]]]


@pytest.mark.parametrize(
    "fields",
    [
        {"reasons": ["Funnier"]},
        {"dimensions": {"style": "A"}},
        {"dimensions": {"accuracy": "BOTH"}},
        {"label": "UNDONE"},
        {"extra": 1},
    ],
    ids=["reason", "dimension", "verdict", "label", "field"],
)
def test_a_vote_that_the_form_does_not_offer_is_refused(
    client: TestClient, ctx: Context, fields: dict[str, Any]
) -> None:
    browser = browser_of(client, ctx, Scenario(ctx).campaign(**FORM))
    battle = browser.get()["battles"][0]["id"]
    answer = browser.post("vote", {"battle": battle, "label": "A", **fields})
    assert answer.status_code == 422
    assert labels(ctx) == []


def test_a_skipped_battle_counts_for_no_one_and_can_be_undone(client: TestClient, ctx: Context) -> None:
    campaign = Scenario(ctx).campaign(num_prompts=3)
    browser = browser_of(client, ctx, campaign)
    battle = browser.get()["battles"][0]["id"]
    progress = browser.vote(battle, "SKIPPED")["progress"]
    assert (progress["done"], progress["skipped"]) == (1, 1)
    with ctx.db.read() as session:
        assert valid_votes(session, campaign.id) == []
    assert [(row.num_votes, row.num_skipped) for row in list_raters(ctx, campaign.id)] == [(0, 1)]
    undone = browser.post("undo", {}).json()
    progress = undone["progress"]
    assert (undone["battle"]["id"], progress["done"], progress["skipped"]) == (battle, 0, 0)
    assert [row.num_skipped for row in list_raters(ctx, campaign.id)] == [0]
    assert browser.post("undo", {}).status_code == 409


def test_a_closed_campaign_says_so(client: TestClient, ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    browser = browser_of(client, ctx, campaign)
    battle = browser.get()["battles"][0]["id"]
    close_campaign(ctx, campaign.id, person=LOCAL)
    ballot = browser.get()
    assert (ballot["battles"], ballot["progress"]["closed"]) == ([], True)
    assert browser.post("vote", {"battle": battle, "label": "A"}).status_code == 409


def test_single_answers_are_graded_and_a_later_grade_supersedes(client: TestClient, ctx: Context) -> None:
    campaign = Scenario(ctx).campaign(num_prompts=2, rating="stars")
    browser = browser_of(client, ctx, campaign)
    ballot = browser.get()
    assert ballot["progress"]["total"] == 4
    assert all(battle["single"] and battle["a"] == battle["b"] for battle in ballot["battles"])
    battle = ballot["battles"][0]["id"]
    for value in (2, 5):
        assert browser.post("rate", {"battle": battle, "value": value, "note": "ok"}).status_code == 200
    assert browser.post("undo", {}).json()["battle"]["id"] == battle
    assert browser.post("rate", {"battle": battle, "value": 6}).status_code == 422
    assert browser.post("vote", {"battle": battle, "label": "A"}).status_code == 422
    with ctx.db.read() as session:
        assert list(session.scalars(select(AnswerRating.value).order_by(AnswerRating.revision))) == [2, 5, 0]
        assert valid_votes(session, campaign.id) == []
