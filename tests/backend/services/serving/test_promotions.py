"""Aliases move by recorded decisions; endpoints that follow them are deployed again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from backend.db.tables import Campaign, Contestant, Deployment, Gate, GateResult, Promotion
from backend.domain.serving.canary import CanaryRules
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.checkpoints.checkpoints import delete_checkpoint, resolve_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.lineage import lineage_of
from backend.services.serving.aliases import explain_alias, get_alias, list_aliases
from backend.services.serving.canaries import promote_canary, start_canary
from backend.services.serving.deployments import (
    deploy,
    rollback_endpoint,
    start_endpoint,
    stop_endpoint,
    swap_checkpoint,
)
from backend.services.serving.endpoints import get_endpoint, resolve_endpoint
from backend.services.serving.promotions import gather_evidence, promote, reject, rollback
from backend.services.serving.replicas import ready_targets
from tests.support.battle_world import prefer, vote_in_turn
from tests.support.scenario import Scenario

ALIAS = "storyteller@production"


def won_campaign(ctx: Context, *, winner: str = "Elm", votes: int = 30) -> str:
    """A campaign of Oak and Elm in which one wins every vote."""
    campaign = Scenario(ctx).campaign(num_prompts=30, dataset_rows=40, overlap_share=0)
    vote_in_turn(ctx, campaign.id, prefer(winner), raters=min(10, votes), each=max(1, votes // 10))
    return campaign.id


def test_one_raters_votes_are_no_evidence_for_a_promotion(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=30, dataset_rows=40)
    scenario.votes(campaign, "Elm")
    with pytest.raises(InvalidInput, match="The one rater who voted prefers Elm; others may not"):
        promote(ctx, "Elm", alias=ALIAS, campaign_id=campaign.id, person=LOCAL)
    moved = promote(ctx, "Elm", alias=ALIAS, campaign_id=campaign.id, reason="it is the only rater", person=LOCAL)
    verdict = moved.evidence.verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.for_these_raters, verdict.raters) == ("undecided", "better", 1)
    assert verdict.e_value >= verdict.threshold > verdict.rater_e_value


def test_a_verdict_promotes_and_the_history_holds_who_when_why_and_the_evidence(ctx: Context) -> None:
    campaign_id = won_campaign(ctx)
    promote(ctx, "Oak", alias=ALIAS, reason="the first", person=LOCAL)
    moved = promote(ctx, "Elm", alias=ALIAS, campaign_id=campaign_id, reason="Tells better stories", person=LOCAL)
    assert (moved.decision, moved.checkpoint, moved.previous, moved.against) == ("promote", "Elm", "Oak", ())
    assert moved.evidence.verdict is not None
    assert (moved.evidence.verdict.outcome, moved.evidence.verdict.votes) == ("better", 30)
    view = get_alias(ctx, ALIAS)
    assert (view.checkpoint, view.rollback) == ("Elm", "Oak")
    assert [(row.decision, row.reason) for row in view.history] == [
        ("promote", "Tells better stories"),
        ("promote", "the first"),
    ]
    assert resolve_checkpoint(ctx, ALIAS).name == "Elm"
    with pytest.raises(Conflict, match="holds storyteller@production already"):
        promote(ctx, "Elm", alias=ALIAS, reason="the first", person=LOCAL)


@pytest.mark.parametrize(
    ("winner", "votes", "words", "fact"),
    [("Oak", 30, "evidence speaks against", "against it"), ("Elm", 2, "evidence does not decide", "decides nothing")],
    ids=["worse", "undecided"],
)
def test_a_promotion_against_the_evidence_needs_a_reason_and_says_so(
    ctx: Context, winner: str, votes: int, words: str, fact: str
) -> None:
    campaign_id = won_campaign(ctx, winner=winner, votes=votes)
    with pytest.raises(InvalidInput, match=words):
        promote(ctx, "Elm", alias=ALIAS, campaign_id=campaign_id, person=LOCAL)
    assert list_aliases(ctx) == []
    moved = promote(ctx, "Elm", alias=ALIAS, campaign_id=campaign_id, reason="Oak is too slow", person=LOCAL)
    assert len(moved.against) == 1
    assert moved.reason == "Oak is too slow"
    assert moved.evidence.speaks_against == (fact == "against it")
    deploy(ctx, checkpoint_id=moved.checkpoint_id, name="tales", alias=ALIAS, person=LOCAL)
    facts = next(dict(node.facts) for node in lineage_of(ctx, "tales").nodes if node.kind == "promotion")
    assert facts["Evidence"] == fact, "undecided is not against it"
    assert not [value for value in facts.values() if value.endswith(".")], "facts are joined with commas"


def test_the_evidence_names_every_contestant_and_a_leader_that_is_no_checkpoint(
    ctx: Context, scenario: Scenario
) -> None:
    """An endpoint led the board, and a lead saw the pair of the two checkpoints alone: "ahead, 75 %"."""
    scenario.checkpoints("Oak", "Elm", "Fir")
    campaign = scenario.campaign("Oak", "Elm", "Fir", num_prompts=60, dataset_rows=60, overlap_share=0)
    with ctx.db.write() as session:
        fir = select(Contestant).where(Contestant.checkpoint_id == resolve_checkpoint(ctx, "Fir").id)
        contestant = session.scalars(fir).one()
        contestant.checkpoint_id, contestant.kind, contestant.label = None, "endpoint", "Fir"
    order = ("Fir", "Elm", "Oak")
    vote_in_turn(
        ctx, campaign.id, lambda a, b: "A" if order.index(a[:3]) < order.index(b[:3]) else "B", raters=12, each=15
    )
    evidence = gather_evidence(ctx, resolve_checkpoint(ctx, "Elm").id, campaign_id=campaign.id)
    assert [one.opponent for one in evidence.verdicts] == ["Fir", "Oak"]
    assert [one.outcome for one in evidence.verdicts] == ["worse", "better"]
    assert (evidence.rank, evidence.num_rated) == (2, 3)
    promote(ctx, "Oak", alias=ALIAS, reason="the first", person=LOCAL)
    held = resolve_checkpoint(ctx, "Oak").id
    evidence = gather_evidence(ctx, resolve_checkpoint(ctx, "Elm").id, campaign_id=campaign.id, against_id=held)
    assert [(one.opponent, one.outcome) for one in evidence.verdicts] == [("Oak", "better"), ("Fir", "worse")]
    assert evidence.speaks_against
    with pytest.raises(InvalidInput, match="Fir is better than Elm"):
        promote(ctx, "Elm", alias=ALIAS, campaign_id=campaign.id, person=LOCAL)


def test_a_promotion_without_any_evidence_needs_a_reason_as_an_undecided_one_does(ctx: Context) -> None:
    elm = Scenario(ctx).checkpoint("Elm")
    with pytest.raises(InvalidInput, match="No votes and no gate support it"):
        promote(ctx, "Elm", alias=ALIAS, person=LOCAL)
    moved = promote(ctx, "Elm", alias=ALIAS, reason="the first", person=LOCAL)
    assert moved.against == ("No votes and no gate support it.",)
    oak = Scenario(ctx).checkpoint("Oak")
    with ctx.db.write() as session:
        gate = Gate(name="facts", config={"champion": "Elm", "benchmarks": [{"benchmark": "facts"}]})
        session.add(gate)
        session.flush()
        session.add(
            GateResult(gate_id=gate.id, checkpoint_id=oak, champion_id=elm, verdict="PASS", created_at=ctx.now())
        )
    assert promote(ctx, "Oak", alias=ALIAS, person=LOCAL).against == ()


def test_a_gate_that_fails_is_evidence_against_a_promotion(ctx: Context, scenario: Scenario) -> None:
    elm, oak = scenario.checkpoints("Elm", "Oak")
    with ctx.db.write() as session:
        gate = Gate(name="facts", config={"champion": "Oak", "benchmarks": [{"benchmark": "facts"}]})
        session.add(gate)
        session.flush()
        for verdict in ("PASS", "FAIL"):
            session.add(
                GateResult(gate_id=gate.id, checkpoint_id=elm, champion_id=oak, verdict=verdict, created_at=ctx.now())
            )
    with pytest.raises(InvalidInput, match="The gate “facts” fails it"):
        promote(ctx, "Elm", alias=ALIAS, person=LOCAL)


def test_rollback_goes_back_one_promotion_at_a_time(ctx: Context, scenario: Scenario) -> None:
    for name in ("Ash", "Birch", "Cedar"):
        scenario.checkpoint(name)
        promote(ctx, name, alias=ALIAS, reason="the first", person=LOCAL)
    assert rollback(ctx, ALIAS, person=LOCAL, reason="regression").checkpoint == "Birch"
    assert rollback(ctx, ALIAS, person=LOCAL).checkpoint == "Ash"
    with pytest.raises(Conflict, match="nothing to go back to"):
        rollback(ctx, ALIAS, person=LOCAL)
    promote(ctx, "Cedar", alias=ALIAS, reason="the first", person=LOCAL)
    assert rollback(ctx, ALIAS, person=LOCAL).checkpoint == "Ash"
    history = get_alias(ctx, ALIAS).history
    assert [(row.decision, row.checkpoint, row.rolled_back_at is not None) for row in history] == [
        ("rollback", "Ash", False),
        ("promote", "Cedar", True),
        ("rollback", "Ash", False),
        ("rollback", "Birch", False),
        ("promote", "Cedar", True),
        ("promote", "Birch", True),
        ("promote", "Ash", False),
    ]


def test_a_rejection_is_recorded_and_moves_nothing(ctx: Context) -> None:
    campaign_id = won_campaign(ctx, winner="Oak")
    promote(ctx, "Oak", alias=ALIAS, reason="the first", person=LOCAL)
    refused = reject(ctx, "Elm", alias=ALIAS, campaign_id=campaign_id, reason="loses", person=LOCAL)
    assert (refused.decision, refused.checkpoint, refused.evidence.verdict.outcome) == ("reject", "Elm", "worse")
    view = get_alias(ctx, ALIAS)
    assert (view.checkpoint, view.rollback) == ("Oak", None)


def test_an_endpoint_that_follows_an_alias_is_deployed_again_when_it_moves(ctx: Context, scenario: Scenario) -> None:
    elm, oak = scenario.checkpoints("Elm", "Oak")
    promote(ctx, "Oak", alias=ALIAS, reason="the first", person=LOCAL)
    deploy(ctx, checkpoint_id=oak, name="tales", num_replicas=2, alias=ALIAS, person=LOCAL)
    deploy(ctx, checkpoint_id=oak, name="fixed", person=LOCAL)
    promote(ctx, "Elm", alias=ALIAS, reason="the first", person=LOCAL)
    assert [
        (get_endpoint(ctx, name).checkpoint_id, get_endpoint(ctx, name).config.alias) for name in ("tales", "fixed")
    ] == [
        (elm, ALIAS),
        (oak, None),
    ]
    with ctx.db.read() as session:
        assert [
            row.num_replicas for row in session.scalars(select(Deployment).where(Deployment.checkpoint_id == elm))
        ] == [2]
    assert set(ready_targets(ctx)) == {"tales", "fixed", ALIAS}
    stop_endpoint(ctx, "tales", person=LOCAL)
    assert ALIAS not in ready_targets(ctx), "no endpoint serves what it names"
    rollback(ctx, ALIAS, person=LOCAL)
    assert ALIAS in ready_targets(ctx), "the other endpoint serves what it names now"
    assert start_endpoint(ctx, "tales", person=LOCAL).checkpoint_id == oak, "a start follows the alias"


@pytest.mark.parametrize("change", ["canary", "swap"])
def test_an_alias_answers_by_its_endpoint_after_a_canary_or_swap_and_after_the_way_back(
    ctx: Context, scenario: Scenario, change: str
) -> None:
    """A promoted canary cut the endpoint off its alias, whose name then answered 404, also after a rollback."""
    elm, oak = scenario.checkpoints("Elm", "Oak")
    fir = scenario.checkpoint("Fir")
    promote(ctx, "Oak", alias=ALIAS, reason="the first", person=LOCAL)
    deploy(ctx, checkpoint_id=oak, name="tales", alias=ALIAS, person=LOCAL)
    if change == "canary":
        start_canary(ctx, "tales", checkpoint_id=elm, rules=CanaryRules(percent=40), person=LOCAL)
        assert get_alias(ctx, ALIAS).apart == {}, "a share of the requests is no other revision"
        promote_canary(ctx, "tales", person=LOCAL)
    else:
        swap_checkpoint(ctx, "tales", checkpoint_id=elm, person=LOCAL)
    view = get_alias(ctx, ALIAS)
    assert (view.checkpoint, view.endpoints, view.apart) == ("Oak", ("tales",), {"tales": "Elm"})
    assert ALIAS in ready_targets(ctx)
    assert resolve_endpoint(ctx, ALIAS).checkpoint_id == elm
    assert explain_alias(ctx, ALIAS, served="Elm") == (
        f"Requests to {ALIAS} get Elm too, though Oak holds the alias until it is moved."
    )
    stop_endpoint(ctx, "tales", person=LOCAL)
    assert start_endpoint(ctx, "tales", person=LOCAL).checkpoint_id == elm, "the alias has not moved in the meantime"
    rollback_endpoint(ctx, "tales", revision=1, person=LOCAL)
    view = get_alias(ctx, ALIAS)
    assert (view.endpoints, view.apart, resolve_endpoint(ctx, ALIAS).checkpoint_id) == (("tales",), {}, oak)
    promote(ctx, "Fir", alias=ALIAS, reason="the next", person=LOCAL)
    assert get_endpoint(ctx, "tales").checkpoint_id == fir, "a later promotion reaches it"


def test_an_endpoint_leaves_its_alias_when_another_checkpoint_is_deployed_to_it(ctx: Context) -> None:
    elm, oak = Scenario(ctx).checkpoints("Elm", "Oak")
    promote(ctx, "Oak", alias=ALIAS, reason="the first", person=LOCAL)
    with pytest.raises(Conflict, match="not held by this checkpoint"):
        deploy(ctx, checkpoint_id=elm, name="tales", alias=ALIAS, person=LOCAL)
    deploy(ctx, checkpoint_id=oak, name="tales", alias=ALIAS, person=LOCAL)
    deploy(ctx, checkpoint_id=elm, name="tales", person=LOCAL)
    assert get_endpoint(ctx, "tales").config.alias is None
    assert get_alias(ctx, ALIAS).endpoints == ()
    for _ in range(2):  # in the middle of the rollout, then after it
        rollback_endpoint(ctx, "tales", revision=1, person=LOCAL)
        view = get_alias(ctx, ALIAS)
        assert (view.endpoints, view.apart) == (("tales",), {}), "the way back restores what was"
        deploy(ctx, checkpoint_id=elm, name="tales", person=LOCAL)
        stop_endpoint(ctx, "tales", person=LOCAL)
        start_endpoint(ctx, "tales", person=LOCAL)


@pytest.mark.parametrize("name", ["storyteller", "@production", "a@", "a b@c", "a@b@c", "x" * 80 + "@p", "a@b/c"])
def test_an_alias_has_a_name_and_a_stage(ctx: Context, scenario: Scenario, name: str) -> None:
    scenario.checkpoint("Oak")
    with pytest.raises(InvalidInput, match="can't be an alias"):
        promote(ctx, "Oak", alias=name, reason="the first", person=LOCAL)


def test_only_who_may_build_decides(ctx: Context, scenario: Scenario) -> None:
    scenario.checkpoint("Oak")
    rater = replace(LOCAL, role="rater")
    for decide in (promote, reject):
        with pytest.raises(NotAllowed):
            decide(ctx, "Oak", alias=ALIAS, person=rater)
    with pytest.raises(NotAllowed):
        rollback(ctx, ALIAS, person=rater)
    with pytest.raises(NotFound, match="no alias"):
        rollback(ctx, ALIAS, person=LOCAL)
    with pytest.raises(NotFound, match="no such campaign"):
        promote(ctx, "Oak", alias=ALIAS, campaign_id="nothere", person=LOCAL)
    with ctx.db.read() as session:
        assert session.scalars(select(Promotion)).all() == []
        assert session.scalars(select(Campaign)).all() == []


def test_the_files_of_a_checkpoint_that_holds_an_alias_stay(ctx: Context, scenario: Scenario) -> None:
    oak = scenario.checkpoint("Oak")
    promote(ctx, "Oak", alias=ALIAS, reason="the first", person=LOCAL)
    with pytest.raises(Conflict, match="alias “storyteller@production”"):
        delete_checkpoint(ctx, oak, person=LOCAL)
