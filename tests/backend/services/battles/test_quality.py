"""Quality of raters from a campaign in a real database."""

from __future__ import annotations

import pytest

from backend.errors import NotFound
from backend.services.battles.quality import rater_qualities
from backend.services.battles.raters import create_rater_link, rater_for, rater_from_link
from backend.services.context import LOCAL, Context
from tests.support.battle_world import make_campaign, prefer, vote_all, write_all


def test_a_script_is_flagged_and_a_person_is_not(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=30)
    link = create_rater_link(ctx, campaign.id, name="script", person=LOCAL).url.split("link=")[1]
    script, person = rater_from_link(ctx, link), rater_for(ctx, LOCAL)
    vote_all(ctx, campaign.id, person, prefer("Elm"))
    vote_all(ctx, campaign.id, script, lambda a, b: "A", seed=2)
    rows = rater_qualities(ctx, campaign.id)
    assert {flag.kind for flag in rows[script.id].flags} >= {"side", "streak"}
    assert not {flag.kind for flag in rows[person.id].flags} & {"side", "streak", "copy", "replay"}
    assert rows[person.id].agreement is not None
    assert rows[script.id].num_votes == 30


def test_votes_faster_than_the_answers_can_be_read_are_flagged(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=15, write=False)
    write_all(ctx, campaign.id, text=lambda name, prompt: f"{name} answers: {prompt} " + "Once upon a time. " * 30)
    rater = rater_for(ctx, LOCAL)
    vote_all(ctx, campaign.id, rater, prefer("Elm"))
    row = rater_qualities(ctx, campaign.id)[rater.id]
    assert row.unread is not None
    assert row.unread.value == 1.0
    assert "pace" in {flag.kind for flag in row.flags}


def test_a_campaign_without_votes_has_no_quality_and_an_unknown_one_is_an_error(ctx: Context) -> None:
    assert rater_qualities(ctx, make_campaign(ctx).id) == {}
    with pytest.raises(NotFound):
        rater_qualities(ctx, "nowhere")
