"""Campaigns: drawing prompts, entering contestants, recording completions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import select

from backend.db.tables import CampaignPrompt, Completion, Contestant
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.jobs.events import CompletionEvent
from backend.domain.jobs.states import Status
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services import job_events as outcomes
from backend.services.battles.campaigns import add_contestant, close_campaign, create_campaign, retry_generation
from backend.services.battles.views import get_campaign, list_campaigns
from backend.services.context import LOCAL, Context
from backend.services.jobs.jobs import get_job, request_stop
from tests.support.battle_world import add_checkpoint, add_prompts, claim_generation, make_campaign, write_all, write_completions


def test_a_campaign_asks_every_contestant_the_same_prompts(ctx: Context) -> None:
    campaign = make_campaign(ctx, contestants=("Oak", "Elm", "Ash"), num_prompts=5, dataset_rows=20, write=False, temperature=0.5)
    payloads = [claim_generation(ctx, contestant.id).payload for contestant in campaign.contestants]
    prompt_ids = [[prompt.id for prompt in payload.prompts] for payload in payloads]
    assert len(prompt_ids[0]) == 5
    assert prompt_ids[0] == prompt_ids[1] == prompt_ids[2]
    assert payloads[0].prompts[0].messages[0]["content"].startswith("Tell a story about the number")
    assert {(payload.temperature, payload.seed) for payload in payloads} == {(0.5, 1)}
    assert len({payload.checkpoint for payload in payloads}) == 3


def test_the_same_seed_draws_the_same_prompts(ctx: Context) -> None:
    ids, dataset = [add_checkpoint(ctx, name) for name in ("Oak", "Elm")], add_prompts(ctx, num=40)
    config = CampaignConfig(num_prompts=6, seed=3)
    drawn = []
    for name, its in (("one", config), ("two", config), ("three", config.model_copy(update={"seed": 4}))):
        campaign = create_campaign(ctx, name=name, checkpoint_ids=ids, dataset=dataset, config=its, person=LOCAL)
        with ctx.db.read() as session:
            drawn.append(sorted(session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == campaign.id))))
    assert drawn[0] == drawn[1] != drawn[2]


def test_progress_counts_completions_until_all_are_there(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=3, write=False)
    assert (campaign.completions, campaign.expected_completions, campaign.is_writing) == (0, 6, True)
    write_all(ctx, campaign.id)
    campaign = get_campaign(ctx, campaign.id)
    assert (campaign.completions, campaign.expected_completions, campaign.is_writing) == (6, 6, False)


def test_a_completion_that_a_second_attempt_repeats_keeps_its_first_text(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=2, write=False)
    contestant = campaign.contestants[0]
    claim = claim_generation(ctx, contestant.id)
    first = CompletionEvent(prompt_id=claim.payload.prompts[0].id, text="first\x00", tokens=1)
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [first, first.model_copy(update={"text": "second"})])
    with ctx.db.read() as session:
        assert list(session.scalars(select(Completion.text).where(Completion.contestant_id == contestant.id))) == ["first"]


def test_a_completion_for_a_prompt_of_another_campaign_is_not_stored(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=2, write=False)
    other = create_campaign(
        ctx,
        name="Other",
        checkpoint_ids=[c.checkpoint_id for c in campaign.contestants],
        dataset="prompts",
        config=CampaignConfig(),
        person=LOCAL,
    )
    foreign = claim_generation(ctx, other.contestants[0].id).payload.prompts[0].id
    claim = claim_generation(ctx, campaign.contestants[0].id)
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [CompletionEvent(prompt_id=foreign, text="x")])
        assert session.scalars(select(Completion)).all() == []


def test_a_contestant_entered_later_answers_the_prompts_of_the_others(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=3)
    campaign = add_contestant(ctx, campaign.id, add_checkpoint(ctx, "Ash"), person=LOCAL)
    late = next(contestant for contestant in campaign.contestants if contestant.name == "Ash")
    assert len(claim_generation(ctx, late.id).payload.prompts) == 3
    with pytest.raises(Conflict, match="already in this campaign"):
        add_contestant(ctx, campaign.id, late.checkpoint_id, person=LOCAL)


def test_a_retried_generation_completes_only_missing_prompts(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=3, write=False)
    contestant = campaign.contestants[0]
    claim = claim_generation(ctx, contestant.id)
    half = claim.with_payload(claim.payload.model_copy(update={"prompts": claim.payload.prompts[:2]}))
    write_completions(ctx, half, lambda prompt: "a story")
    with ctx.db.read() as session:
        assert get_job(ctx, session.get_one(Contestant, contestant.id).job_id or "").result["owed"] == 1
    again = retry_generation(ctx, contestant.id, person=LOCAL)
    assert len(claim_generation(ctx, contestant.id).payload.prompts) == 1
    with pytest.raises(Conflict, match="being generated"):
        retry_generation(ctx, contestant.id, person=LOCAL)
    assert next(c for c in again.contestants if c.id == contestant.id).completions == 2


def test_a_cancelled_generation_shows_as_failed_and_can_be_retried(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=2, write=False)
    contestant = campaign.contestants[0]
    assert contestant.job is not None
    request_stop(ctx, contestant.job.id)
    assert get_campaign(ctx, campaign.id).contestants[0].failed
    retried = retry_generation(ctx, contestant.id, person=LOCAL).contestants[0]
    assert retried.job is not None
    assert retried.job.status is Status.QUEUED


@pytest.mark.parametrize(("name", "problem"), [("", "needs a name"), ("Is oak better?", "tells raters"), ("a@b", "character")])
def test_a_campaign_name_is_required_and_must_not_reveal_a_contestant(ctx: Context, name: str, problem: str) -> None:
    ids, dataset = [add_checkpoint(ctx, name) for name in ("Oak", "Elm")], add_prompts(ctx, num=3)
    with pytest.raises(InvalidInput, match=problem):
        create_campaign(ctx, name=name, checkpoint_ids=ids, dataset=dataset, config=CampaignConfig(), person=LOCAL)
    assert list_campaigns(ctx) == []


def test_one_contestant_or_a_dataset_of_running_text_makes_no_campaign(ctx: Context) -> None:
    oak, elm = add_checkpoint(ctx, "Oak"), add_checkpoint(ctx, "Elm")
    dataset, text = add_prompts(ctx, num=3), add_prompts(ctx, num=3, name="novel", kind="text")
    with pytest.raises(InvalidInput, match="at least two"):
        create_campaign(ctx, name="x", checkpoint_ids=[oak, oak], dataset=dataset, config=CampaignConfig(), person=LOCAL)
    with pytest.raises(InvalidInput, match="have no prompts"):
        create_campaign(ctx, name="x", checkpoint_ids=[oak, elm], dataset=text, config=CampaignConfig(), person=LOCAL)


def test_a_taken_name_is_a_conflict_and_leaves_no_second_campaign(ctx: Context) -> None:
    campaign = make_campaign(ctx)
    ids = [contestant.checkpoint_id for contestant in campaign.contestants]
    with pytest.raises(Conflict, match="already a campaign"):
        create_campaign(ctx, name="Stories", checkpoint_ids=ids, dataset="prompts", config=CampaignConfig(), person=LOCAL)
    assert len(list_campaigns(ctx)) == 1


def test_a_rater_can_neither_create_nor_close_a_campaign(ctx: Context) -> None:
    campaign = make_campaign(ctx)
    rater = replace(LOCAL, name="Rita", role="rater")
    with pytest.raises(NotAllowed):
        close_campaign(ctx, campaign.id, person=rater)
    with pytest.raises(NotAllowed):
        add_contestant(ctx, campaign.id, campaign.contestants[0].checkpoint_id, person=rater)
    assert get_campaign(ctx, campaign.id).is_open
