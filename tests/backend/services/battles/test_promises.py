"""The number of battles that a ballot promises is the number that it has."""

from __future__ import annotations

from random import Random

import pytest

from backend.domain.battles.campaign import GoldPair
from backend.domain.jobs.events import CompletionEvent
from backend.services.battles.assignment import VoteInput
from backend.services.battles.ballots import ballot_progress, open_ballot, submit_vote
from backend.services.battles.raters import Voter, rater_for
from backend.services.context import LOCAL, Context
from backend.services.job_events import record_events
from tests.support.battle_world import claim_generation
from tests.support.scenario import Scenario


@pytest.mark.parametrize("skips", [False, True], ids=["votes", "skips some"])
@pytest.mark.parametrize("seed", range(5))
def test_the_promise_of_a_ballot_with_repeats_and_gold_pairs_is_kept(ctx: Context, seed: int, skips: bool) -> None:
    gold = tuple(GoldPair(prompt=f"What is 1 + {n}?", better=str(n + 1), worse="5") for n in range(2, 4))
    campaign = Scenario(ctx).campaign(
        num_prompts=18, repeat_share=0.25, gold=gold, gold_share=0.1, votes_per_minute=600
    )
    voter, rng, promises = Voter(campaign.id, rater_for(ctx, LOCAL)), Random(seed), []
    served = open_ballot(ctx, voter)
    while served.battles:
        promises.append(served.progress.total)
        label = "SKIPPED" if skips and rng.random() < 0.2 else "A"
        served = submit_vote(ctx, voter, VoteInput(battle=served.battles[0].battle_id, label=label))
    end = served.progress
    assert promises[0] == 27
    assert promises == sorted(promises, reverse=True)
    assert end.done == end.total <= 27
    assert skips or end.total == 27


def test_the_promise_of_a_ballot_counts_the_answers_that_are_still_generated(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign("Oak", "Elm", "Ash", num_prompts=6, write=False)
    assert ballot_progress(ctx, campaign.id, rater_for(ctx, LOCAL)).is_queued, "other jobs run first"
    rater, promises, claims = (
        rater_for(ctx, LOCAL),
        [],
        [claim_generation(ctx, contestant.id) for contestant in campaign.contestants],
    )
    for number in range(6):
        for claim in claims:
            prompt = claim.payload.prompts[number]
            with ctx.db.write() as session:
                event = CompletionEvent(
                    prompt_id=prompt.id, text=f"{claim.job_id} {number}", tokens=3, finish_reason="stop"
                )
                record_events(session, ctx, claim, [event])
        served = open_ballot(ctx, Voter(campaign.id, rater))
        promises.append(served.progress.total)
    assert served.progress.more_to_come
    assert not served.progress.is_queued
    assert promises == [18] * 6


def test_a_raters_quota_ends_the_ballot(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=9, votes_per_rater=4)
    rater = rater_for(ctx, LOCAL)
    assert open_ballot(ctx, Voter(campaign.id, rater)).progress.total == 4
    assert scenario.votes(campaign, "Elm", rater=rater) == 4
    progress = ballot_progress(ctx, campaign.id, rater)
    assert (progress.done, progress.total, progress.more_to_come) == (4, 4, False)
    assert progress.median_s == pytest.approx(4.015)
