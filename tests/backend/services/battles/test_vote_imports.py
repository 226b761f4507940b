"""Votes cast elsewhere become a closed campaign with the same board."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from backend.db.tables import CampaignPrompt, Completion
from backend.domain.battles.vote_files.previews import read_storable_votes
from backend.domain.battles.vote_files.rows import parse_votes
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services.battles.answers import list_answers
from backend.services.battles.campaigns import close_campaign
from backend.services.battles.quality import rater_qualities
from backend.services.battles.raters import ballot_token, list_raters, voter_of_token
from backend.services.battles.standings import export_votes_csv, standings
from backend.services.battles.views import list_campaigns, valid_votes
from backend.services.battles.vote_imports import import_votes
from backend.services.context import LOCAL, Context
from tests.support.queries import count_selects

CSV = """prompt,rater,a,b,winner,prompt_text,answer_a,answer_b
q1,ann,Oak,Elm,A,Who?,me,you
q1,bob,Elm,Oak,B,Who?,you,me
q2,ann,Oak,Ash,TIE,,,
q2,ann,Oak,Ash,BOTH_BAD,,,
"""


def test_votes_texts_and_raters_are_stored_and_rated(any_ctx: Context) -> None:
    campaign = import_votes(any_ctx, name="Elsewhere", read=read_storable_votes(CSV), person=LOCAL)
    assert (campaign.is_open, campaign.num_votes, campaign.num_raters) == (False, 4, 2)
    assert sorted(contestant.name for contestant in campaign.contestants) == ["Ash", "Elm", "Oak"]
    table = standings(any_ctx, campaign.id).table
    assert table is not None
    assert (table.rating("Oak").votes, table.rating("Oak").wins, table.num_prompts) == (4, 2, 2)
    with any_ctx.db.read() as session:
        votes = valid_votes(session, campaign.id)
        texts = {row.id: row.text for row in session.scalars(select(Completion))}
        prompts = [
            row.messages[0]["content"]
            for row in session.scalars(select(CampaignPrompt).order_by(CampaignPrompt.position))
        ]
    shown = {(texts[vote.completion_a_id], texts[vote.completion_b_id]) for vote in votes}
    assert shown == {("me", "you"), ("you", "me"), ("", "")}
    assert prompts[0] == "Who?"
    assert {row.rater.name: row.num_votes for row in list_raters(any_ctx, campaign.id)} == {"ann": 3, "bob": 1}


def test_the_board_of_votes_without_times_reads_no_answer(ctx: Context) -> None:
    campaign = import_votes(ctx, name="Elsewhere", read=read_storable_votes(CSV), person=LOCAL)
    with count_selects(ctx.db.engine) as selects:
        assert standings(ctx, campaign.id).table is not None
    assert selects["completions"] == 1, "their ids, and no texts"


def test_two_votes_of_a_rater_on_one_prompt_and_pair_are_one_cluster(ctx: Context) -> None:
    campaign = import_votes(ctx, name="Elsewhere", read=read_storable_votes(CSV), person=LOCAL)
    with ctx.db.read() as session:
        keys = [vote.prompt_key for vote in valid_votes(session, campaign.id)]
    assert len(keys) == 4
    assert len(set(keys)) == 2


def test_json_lines_in_mt_benchs_columns_are_read(ctx: Context) -> None:
    row = {"question_id": 81, "judge": "expert_1", "model_a": "x", "model_b": "y", "winner": "model_b"}
    text = "\n".join(json.dumps({**row, "turn": turn}) for turn in (1, 2))
    campaign = import_votes(ctx, name="MT", read=read_storable_votes(text), person=LOCAL)
    assert campaign.num_votes == 2
    with ctx.db.read() as session:
        assert len({vote.prompt_key for vote in valid_votes(session, campaign.id)}) == 1


def test_an_imported_campaign_takes_no_votes_and_its_raters_no_token(ctx: Context) -> None:
    campaign = import_votes(ctx, name="Elsewhere", read=read_storable_votes(CSV), person=LOCAL)
    with pytest.raises(Conflict, match="no ballot"):
        close_campaign(ctx, campaign.id, person=LOCAL, closed=False)
    rater = list_raters(ctx, campaign.id)[0].rater
    with pytest.raises(NotAllowed):
        voter_of_token(ctx, ballot_token(ctx, campaign.id, rater))


def test_a_file_that_is_no_votes_is_refused_and_leaves_nothing(ctx: Context) -> None:
    with pytest.raises(InvalidInput, match="lack the column"):
        import_votes(ctx, name="Elsewhere", read=read_storable_votes("prompt,rater\n1,2\n"), person=LOCAL)
    import_votes(ctx, name="Elsewhere", read=read_storable_votes(CSV), person=LOCAL)
    with pytest.raises(Conflict, match="already a campaign"):
        import_votes(ctx, name="Elsewhere", read=read_storable_votes(CSV), person=LOCAL)


def mt_bench() -> str:
    """MT-bench's votes: three raters, ten questions of two turns, two models; columns and labels as published."""
    rows = [
        {
            "judge": f"expert_{rater}",
            "model_a": "x",
            "model_b": "y",
            "question_id": 81 + number,
            "turn": turn,
            "winner": "model_b",
        }
        for rater in range(3)
        for number in range(10)
        for turn in (1, 2)
    ]
    return "\n".join(map(json.dumps, rows))


def test_the_turns_of_mt_bench_are_two_prompts_to_raters_and_one_cluster_to_intervals(any_ctx: Context) -> None:
    campaign = import_votes(any_ctx, name="MT", read=read_storable_votes(mt_bench()), person=LOCAL)
    assert (campaign.num_prompts, campaign.num_votes) == (20, 60)
    flags = {flag.kind for quality in rater_qualities(any_ctx, campaign.id).values() for flag in quality.flags}
    assert not flags & {"replay", "consistency"}
    page = list_answers(any_ctx, campaign.id, limit=20)
    assert [prompt.messages[0][1] for prompt in page.prompts[:2]] == ["81, turn 1", "81, turn 2"]
    (verdict,) = standings(any_ctx, campaign.id).verdicts
    assert (verdict.votes, verdict.prompts) == (60, 10)
    assert parse_votes(export_votes_csv(any_ctx, campaign.id))[1].turn == "2"


def test_imported_votes_without_answers_say_so_and_are_no_tie(ctx: Context) -> None:
    campaign = import_votes(ctx, name="MT", read=read_storable_votes(mt_bench()), person=LOCAL)
    (pair,) = list_answers(ctx, campaign.id, limit=1).prompts[0].pairs
    assert (pair.has_texts, pair.is_identical, pair.first_wins + pair.second_wins, pair.ties) == (False, False, 3, 0)
    texts = import_votes(ctx, name="Texts", read=read_storable_votes(CSV), person=LOCAL)
    pairs = [pair for prompt in list_answers(ctx, texts.id).prompts for pair in prompt.pairs]
    assert {(pair.first, pair.has_texts) for pair in pairs} == {("Elm", True), ("Ash", False)}


def test_columns_of_other_names_are_mapped_and_a_missing_prompt_or_rater_is_said(ctx: Context) -> None:
    text = "item,who,left,right,winner\n1,ann,Oak,Elm,left\n2,bob,Elm,Oak,Oak\n"
    with pytest.raises(InvalidInput, match="lack the columns prompt, rater"):
        import_votes(ctx, name="Named", read=read_storable_votes(text), person=LOCAL)
    campaign = import_votes(
        ctx, name="Named", read=read_storable_votes(text, mapping={"prompt": "item", "rater": "who"}), person=LOCAL
    )
    assert (campaign.num_prompts, campaign.num_raters) == (2, 2)
    unnamed = import_votes(
        ctx, name="Unnamed", read=read_storable_votes(text, mapping={"prompt": "", "rater": ""}), person=LOCAL
    )
    assert (unnamed.num_prompts, unnamed.num_raters) == (2, 1)
    with pytest.raises(InvalidInput, match="no column 'rater'"):
        import_votes(
            ctx,
            name="Wrong",
            read=read_storable_votes(text, mapping={"prompt": "item", "rater": "rater"}),
            person=LOCAL,
        )


@pytest.mark.parametrize(
    ("field", "text", "what"),
    [
        ("rater", "r" * 81, "rater"),
        ("a", "c" * 121, "contestant"),
        ("category", "k" * 81, "category"),
        ("turn", "9" * 21, "turn"),
    ],
)
def test_a_name_that_is_too_long_is_refused_and_never_cut(ctx: Context, field: str, text: str, what: str) -> None:
    """Two raters, or contestants, whose first 80 or 120 characters were equal were shown as one."""
    row = {"prompt": "p", "rater": "ann", "a": "Oak", "b": "Elm", "winner": "A", field: text}
    with pytest.raises(InvalidInput, match=f"The {what} “{text[:60]}…” has {len(text)} characters") as caught:
        import_votes(ctx, name="Elsewhere", read=read_storable_votes(json.dumps(row)), person=LOCAL)
    assert caught.value.field == field
    import_votes(ctx, name="Elsewhere", read=read_storable_votes(json.dumps({**row, field: text[:-1]})), person=LOCAL)
    (campaign,) = list_campaigns(ctx)
    assert campaign.num_votes == 1
