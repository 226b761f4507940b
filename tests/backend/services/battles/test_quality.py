"""Quality of raters from a campaign in a real database."""

from __future__ import annotations

import pytest

from backend.errors import NotFound
from backend.services.battles import quality
from backend.services.battles.quality import exclude_rater, last_rater_qualities, rater_qualities
from backend.services.battles.raters import rater_for
from backend.services.battles.standings import standings
from backend.services.context import LOCAL, Context
from tests.support.battle_world import link_rater
from tests.support.installation import wait_until
from tests.support.scenario import Scenario


def test_a_script_is_flagged_and_a_person_is_not(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=30)
    script, person = link_rater(ctx, campaign.id, "script"), rater_for(ctx, LOCAL)
    scenario.votes(campaign, "Elm", rater=person)
    scenario.votes(campaign, lambda a, b: "A", rater=script, seed=2)
    rows = rater_qualities(ctx, campaign.id)
    assert {flag.kind for flag in rows[script.id].flags} >= {"side", "streak"}
    assert not {flag.kind for flag in rows[person.id].flags} & {"side", "streak", "copy", "replay"}
    assert rows[person.id].agreement is not None
    assert rows[script.id].num_votes == 30


def test_two_raters_agree_with_each_other_as_the_board_says(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=12)
    one, other, lazy = (link_rater(ctx, campaign.id, name) for name in ("one", "other", "lazy"))
    scenario.votes(campaign, lambda a, b: "TIE", rater=one)
    scenario.votes(campaign, lambda a, b: "BOTH_BAD", rater=other, limit=7)
    scenario.votes(campaign, "Elm", rater=other)
    scenario.votes(campaign, lambda a, b: "A", rater=lazy)
    exclude_rater(ctx, campaign.id, lazy.id, reason="always side A", person=LOCAL)
    board, rows = standings(ctx, campaign.id).agreement, rater_qualities(ctx, campaign.id)
    agreements = [board.percent_agreement if board else None, *(rows[rater.id].agreement for rater in (one, other))]
    assert [agreement.value if agreement else None for agreement in agreements] == [pytest.approx(7 / 12)] * 3
    assert rows[lazy.id].agreement is not None


def test_votes_faster_than_the_answers_can_be_read_are_flagged(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(
        num_prompts=15, write=lambda name, prompt: f"{name} answers: {prompt} " + "Once upon a time. " * 30
    )
    rater = rater_for(ctx, LOCAL)
    scenario.votes(campaign, "Elm", rater=rater)
    row = rater_qualities(ctx, campaign.id)[rater.id]
    assert row.unread is not None
    assert row.unread.value == 1.0
    assert "pace" in {flag.kind for flag in row.flags}


def test_while_people_vote_a_board_waits_for_no_measurement_that_takes_long(
    ctx: Context, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = scenario.campaign(num_prompts=12)
    one, other = link_rater(ctx, campaign.id, "one"), link_rater(ctx, campaign.id, "other")
    scenario.votes(campaign, "Elm", rater=one)
    assert set(last_rater_qualities(ctx, campaign.id)) == {one.id}
    monkeypatch.setattr(quality, "QUICK_S", -1.0)
    monkeypatch.setattr(quality, "RESTS", 0)
    scenario.votes(campaign, "Elm", rater=other)
    assert set(last_rater_qualities(ctx, campaign.id)) == {one.id}
    wait_until(lambda: set(last_rater_qualities(ctx, campaign.id)) == {one.id, other.id}, what="the newer measurement")
    with pytest.raises(NotFound):
        last_rater_qualities(ctx, "nowhere")


def test_a_campaign_without_votes_has_no_quality_and_an_unknown_one_is_an_error(ctx: Context) -> None:
    assert rater_qualities(ctx, Scenario(ctx).campaign().id) == {}
    with pytest.raises(NotFound):
        rater_qualities(ctx, "nowhere")
