"""Votes cast elsewhere become a closed campaign with the same board."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from backend.db.tables import CampaignPrompt, Completion
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services.battles.admission import ballot_token, voter_of_token
from backend.services.battles.campaigns import close_campaign
from backend.services.battles.raters import list_raters
from backend.services.battles.standings import standings
from backend.services.battles.views import valid_votes
from backend.services.battles.vote_imports import import_votes
from backend.services.context import LOCAL, Context

CSV = """prompt,rater,a,b,winner,prompt_text,answer_a,answer_b
q1,ann,Oak,Elm,A,Who?,me,you
q1,bob,Elm,Oak,B,Who?,you,me
q2,ann,Oak,Ash,TIE,,,
q2,ann,Oak,Ash,BOTH_BAD,,,
"""


def test_votes_texts_and_raters_are_stored_and_rated(any_ctx: Context) -> None:
    campaign = import_votes(any_ctx, name="Elsewhere", text=CSV, person=LOCAL)
    assert (campaign.is_open, campaign.num_votes, campaign.num_raters) == (False, 4, 2)
    assert sorted(contestant.name for contestant in campaign.contestants) == ["Ash", "Elm", "Oak"]
    table = standings(any_ctx, campaign.id).table
    assert table is not None
    assert (table.rating("Oak").votes, table.rating("Oak").wins, table.num_prompts) == (4, 2, 2)
    with any_ctx.db.read() as session:
        votes = valid_votes(session, campaign.id)
        texts = {row.id: row.text for row in session.scalars(select(Completion))}
        prompts = [row.messages[0]["content"] for row in session.scalars(select(CampaignPrompt).order_by(CampaignPrompt.position))]
    shown = {(texts[vote.completion_a_id], texts[vote.completion_b_id]) for vote in votes}
    assert shown == {("me", "you"), ("you", "me"), ("", "")}
    assert prompts[0] == "Who?"
    assert {row.rater.name: row.num_votes for row in list_raters(any_ctx, campaign.id)} == {"ann": 3, "bob": 1}


def test_two_votes_of_a_rater_on_one_prompt_and_pair_are_one_cluster(ctx: Context) -> None:
    campaign = import_votes(ctx, name="Elsewhere", text=CSV, person=LOCAL)
    with ctx.db.read() as session:
        keys = [vote.prompt_key for vote in valid_votes(session, campaign.id)]
    assert len(keys) == 4
    assert len(set(keys)) == 2


def test_json_lines_in_mt_benchs_columns_are_read(ctx: Context) -> None:
    row = {"question_id": 81, "judge": "expert_1", "model_a": "x", "model_b": "y", "winner": "model_b"}
    text = "\n".join(json.dumps({**row, "turn": turn}) for turn in (1, 2))
    campaign = import_votes(ctx, name="MT", text=text, person=LOCAL)
    assert campaign.num_votes == 2
    with ctx.db.read() as session:
        assert len({vote.prompt_key for vote in valid_votes(session, campaign.id)}) == 1


def test_an_imported_campaign_takes_no_votes_and_its_raters_no_token(ctx: Context) -> None:
    campaign = import_votes(ctx, name="Elsewhere", text=CSV, person=LOCAL)
    with pytest.raises(Conflict, match="no ballot"):
        close_campaign(ctx, campaign.id, person=LOCAL, closed=False)
    rater = list_raters(ctx, campaign.id)[0].rater
    with pytest.raises(NotAllowed):
        voter_of_token(ctx, ballot_token(ctx, campaign.id, rater))


def test_a_file_that_is_no_votes_is_refused_and_leaves_nothing(ctx: Context) -> None:
    with pytest.raises(InvalidInput, match="lack the column"):
        import_votes(ctx, name="Elsewhere", text="prompt,rater\n1,2\n", person=LOCAL)
    import_votes(ctx, name="Elsewhere", text=CSV, person=LOCAL)
    with pytest.raises(Conflict, match="already a campaign"):
        import_votes(ctx, name="Elsewhere", text=CSV, person=LOCAL)
