"""Leaderboard, verdicts, agreement and the export, from votes in a real database."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from backend.cli.rating import app
from backend.db.tables import Checkpoint, Vote
from backend.domain.battles.headlines import board_headline
from backend.domain.battles.rating_table import RatingOptions
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.vote_files.previews import preview_votes, read_storable_votes
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.battles.vote_files.tables import read_vote_file
from backend.services.battles.answers import list_answers
from backend.services.battles.assignment import VoteInput
from backend.services.battles.ballots import open_ballot, submit_vote, undo
from backend.services.battles.frozen_boards import export_board, freeze_board, verify_board
from backend.services.battles.quality import rater_qualities
from backend.services.battles.raters import Voter, list_raters, rater_for
from backend.services.battles.side_by_side import record_side_by_side_vote
from backend.services.battles.standings import board_fragility, export_votes_csv, standings
from backend.services.battles.views import list_campaigns
from backend.services.battles.vote_imports import import_votes
from backend.services.context import LOCAL, Context
from tests.support.battle_world import (
    answer,
    cast_vote,
    link_rater,
    next_battle,
    prefer,
    vote_in_turn,
)
from tests.support.scenario import Scenario


def test_a_campaign_without_votes_has_no_table(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    result = standings(ctx, campaign.id)
    assert (result.table, result.verdicts, result.agreement, result.num_votes) == (None, (), None, 0)
    assert set(result.unrated) == {"Oak", "Elm"}


def test_the_contestant_that_raters_prefer_leads_and_the_verdict_says_so(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=20, overlap_share=0)
    vote_in_turn(ctx, campaign.id, prefer("Elm"), each=2)
    result = standings(ctx, campaign.id)
    assert result.table is not None
    first, second = result.table.ratings
    assert (first.contestant, first.wins, first.votes) == ("Elm", 20, 20)
    assert first.low < first.rating < first.high
    assert first.rating > second.rating
    (verdict,) = result.verdicts
    assert (verdict.first, verdict.outcome, verdict.votes_needed) == ("Elm", "better", 0)
    assert verdict.for_these_raters == "better"
    assert result.median_s == pytest.approx(4.005)


def test_what_one_rater_prefers_decides_for_this_rater_alone(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=20)
    scenario.votes(campaign, "Elm")
    (verdict,) = standings(ctx, campaign.id).verdicts
    assert (verdict.first, verdict.outcome, verdict.for_these_raters) == ("Elm", "undecided", "better")
    assert "The one rater who voted prefers Elm; others may not" in verdict.sentence
    assert verdict.raters_needed > 0


def test_few_votes_leave_a_pair_undecided_with_the_votes_it_needs(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=6, smallest_gap=100.0)
    turns = iter("ABABAB")
    scenario.votes(campaign, lambda a, b: next(turns))
    (verdict,) = standings(ctx, campaign.id).verdicts
    assert verdict.outcome == "undecided"
    assert verdict.votes_needed > 20
    assert "100 rating points" in verdict.sentence


def test_times_of_a_rater_who_does_not_read_are_no_pace(ctx: Context, scenario: Scenario) -> None:
    """One of two raters votes after a millisecond and is flagged for it: the verdict's minutes are of the other."""
    campaign = scenario.campaign(num_prompts=24, dataset_rows=40, overlap_share=0)
    slow, fast = (link_rater(ctx, campaign.id, name) for name in ("slow", "fast"))
    scenario.votes(campaign, "Elm", rater=fast, limit=12)
    with ctx.db.write() as session:
        for vote in session.scalars(select(Vote)):
            vote.duration_ms = 1
    assert standings(ctx, campaign.id).median_s is None
    scenario.votes(campaign, "Oak", rater=slow, limit=12)
    assert "pace" in {flag.kind for flag in rater_qualities(ctx, campaign.id)[fast.id].flags}
    board = standings(ctx, campaign.id)
    assert board.median_s == pytest.approx(4.055)
    assert (board.num_timed, board.num_votes) == (12, 24)
    (verdict,) = board.verdicts
    assert verdict.seconds_needed == pytest.approx(verdict.votes_needed * board.median_s)


def test_identical_answers_count_as_ties_and_the_verdict_says_so(ctx: Context) -> None:
    (verdict,) = standings(ctx, equal_answers(ctx)).verdicts
    assert (verdict.first, verdict.votes, verdict.identical, verdict.ties) == ("Elm", 20, 16, 16)
    assert verdict.share.value == pytest.approx(0.8 * 0.5 + 0.2)
    assert "Elm earned 100 % of 4 votes" in verdict.sentence
    assert "60 % with 16 identical answers as ties" in verdict.sentence


def equal_answers(ctx: Context) -> str:
    """A campaign of 20 prompts, 16 with identical answers, all judged by one rater."""
    campaign = Scenario(ctx).campaign(
        num_prompts=20,
        write=lambda name, prompt: "Once." if int(prompt.split()[-1].rstrip(".")) < 16 else answer(name, prompt),
    )
    Scenario(ctx).votes(campaign, "Elm")
    return campaign.id


def test_only_cast_votes_are_called_votes(ctx: Context) -> None:
    campaign_id = equal_answers(ctx)
    board = standings(ctx, campaign_id)
    assert board.table is not None
    elm, oak = board.table.ratings
    assert (board.num_votes, elm.num_cast, elm.ties - elm.identical, oak.num_cast) == (4, 4, 0, 4)
    assert board.table.wins.share(0, 1) == 1.0
    assert board.table.pair("Elm", "Oak").num_cast == 4
    headline = board_headline(board.verdicts, board.table)
    assert headline is not None
    assert "100 % of 4 votes" in headline.sentence
    assert "16 more battles had identical answers and count as ties." in headline.notes
    answers = list_answers(ctx, campaign_id, limit=20)
    assert sorted(prompt.votes for prompt in answers.prompts) == [0] * 16 + [1] * 4
    by_votes = list_answers(ctx, campaign_id, order="votes", limit=20).prompts
    assert [prompt.votes for prompt in by_votes] == [1] * 4 + [0] * 16
    frozen = freeze_board(ctx, campaign_id, name="first", options=RatingOptions(), person=LOCAL)
    assert frozen.num_votes == 4
    assert [(row["votes"], row["identical"]) for row in frozen.ratings] == [(4, 16), (4, 16)]
    assert "4 votes." in export_board(frozen, form="html")
    assert verify_board(ctx, frozen.id).num_votes == 4
    fragile = board_fragility(ctx, campaign_id)
    assert fragile is not None
    assert fragile.fragility.votes is None or fragile.fragility.votes.share >= 0.25


def test_an_exported_campaign_keeps_its_identical_answers_apart(ctx: Context, tmp_path: Path) -> None:
    campaign_id = equal_answers(ctx)
    text = export_votes_csv(ctx, campaign_id)
    assert sum(vote.identical for vote in parse_votes(text)) == 16
    quick = read_vote_file(text.encode())
    assert quick.identical is not None
    assert int(quick.identical.sum()) == 16
    file = tmp_path / "votes.csv"
    file.write_text(text, encoding="utf-8")
    shown = CliRunner().invoke(app, ["verdict", str(file), "--first", "Elm", "--second", "Oak"])
    assert "Elm earned 100 % of 4 votes" in shown.output
    rated = CliRunner().invoke(app, ["fit", str(file)])
    assert [line.split()[6] for line in rated.output.splitlines()[1:3]] == ["4", "4"]
    preview = preview_votes(read_storable_votes(text))
    assert (preview.num_votes, preview.num_identical) == (4, 16)
    assert "16 more ties of identical answers, on which no one voted." in preview.notes
    again = import_votes(ctx, name="again", read=read_storable_votes(text), person=LOCAL)
    assert again.num_votes == 4
    (imported,), (own,) = standings(ctx, again.id).verdicts, standings(ctx, campaign_id).verdicts
    assert (imported.num_cast, imported.identical, imported.share) == (own.num_cast, own.identical, own.share)


def test_a_skipped_battle_is_no_vote_on_its_prompt(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=3, overlap_share=1.0, votes_per_minute=600)
    voter = Voter(campaign.id, link_rater(ctx, campaign.id, "choosy"))
    served = open_ballot(ctx, voter)
    while served.battles:
        served = submit_vote(ctx, voter, VoteInput(battle=served.battles[0].battle_id, label="SKIPPED"))
    cast = scenario.votes(campaign, "Oak")
    assert cast == 3
    assert [prompt.votes for prompt in list_answers(ctx, campaign.id).prompts] == [1, 1, 1]


def test_a_playground_prompt_asked_again_is_evidence_once(ctx: Context, scenario: Scenario) -> None:
    oak, elm = scenario.checkpoints("Oak", "Elm")
    for number in range(9):
        record_side_by_side_vote(
            ctx,
            messages=[{"role": "user", "content": "Tell me a story."}],
            answer_a=f"Oak {number}",
            answer_b=f"Elm {number}",
            checkpoint_a=oak,
            checkpoint_b=elm,
            label="A",
            person=LOCAL,
        )
    (verdict,) = standings(ctx, list_campaigns(ctx)[0].id).verdicts
    assert (verdict.votes, verdict.prompts, verdict.outcome) == (9, 1, "undecided")
    assert verdict.e_value < 2


def test_several_pairs_share_the_error_and_state_the_level(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign("Oak", "Elm", "Ash", num_prompts=6)
    scenario.votes(campaign, "Elm")
    verdicts = standings(ctx, campaign.id).verdicts
    assert [verdict.level for verdict in verdicts] == [pytest.approx(1 - 0.05 / 3)] * 3
    assert all("98.33 % interval for this rater, 3 pairs by Bonferroni" in verdict.sentence for verdict in verdicts)


def test_an_undone_vote_does_not_count(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    rater = rater_for(ctx, LOCAL)
    scenario.votes(campaign, "Oak", rater=rater, limit=3)
    undo(ctx, campaign.id, rater)
    assert standings(ctx, campaign.id).num_votes == 2


def test_agreement_is_read_by_contestant_and_not_by_side(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=10)
    for name in ("one", "two"):
        scenario.votes(campaign, "Oak", rater=link_rater(ctx, campaign.id, name), seed=hash(name) % 100)
    agreement = standings(ctx, campaign.id).agreement
    assert agreement is not None
    assert agreement.num_items == 10
    assert agreement.percent_agreement is not None
    assert agreement.percent_agreement.value == 1.0


def test_both_bad_votes_keep_their_own_rate(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=4)
    labels = iter(["BOTH_BAD", "A", "BOTH_BAD", "B"])
    scenario.votes(campaign, lambda a, b: next(labels))
    result = standings(ctx, campaign.id)
    assert result.both_bad_share == 0.5
    assert result.table is not None
    assert result.table.ratings[0].both_bad_rate == 0.5


def test_the_export_names_no_rater_and_rates_as_the_page_does(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=6)
    scenario.votes(campaign, lambda a, b: "A", rater=link_rater(ctx, campaign.id, "Secretive"))
    text = export_votes_csv(ctx, campaign.id)
    assert text.splitlines()[0].startswith("prompt,rater,a,b,winner")
    assert "Secretive" not in text
    again, table = fit_ratings(parse_votes(text)), standings(ctx, campaign.id).table
    assert table is not None
    assert [(row.contestant, row.votes) for row in again.ratings] == [
        (row.contestant, row.votes) for row in table.ratings
    ]
    assert [row.rating for row in again.ratings] == pytest.approx([row.rating for row in table.ratings])
    assert [row.low for row in again.ratings] == pytest.approx([row.low for row in table.ratings])


def test_the_numbers_of_raters_in_the_export_are_those_of_their_list(ctx: Context, scenario: Scenario) -> None:
    """“rater 1” could not be matched to a name."""
    campaign = scenario.campaign(num_prompts=6)
    link_rater(ctx, campaign.id, "Silent")
    for name, num_votes in (("Ada", 1), ("Bo", 3)):
        rater = link_rater(ctx, campaign.id, name)
        for _ in range(num_votes):
            ballot = next_battle(ctx, campaign.id, rater)
            assert ballot is not None
            cast_vote(ctx, ballot.battle_id, label="A", rater=rater)
    exported = Counter(row["rater"] for row in csv.DictReader(io.StringIO(export_votes_csv(ctx, campaign.id))))
    names = {row.label: row.rater.name for row in list_raters(ctx, campaign.id)}
    assert names == {"rater 1": "Silent", "rater 2": "Ada", "rater 3": "Bo"}
    assert {names[rater]: count for rater, count in exported.items()} == {"Ada": 1, "Bo": 3}


def test_a_rater_called_like_a_label_of_the_export_has_it(ctx: Context, scenario: Scenario) -> None:
    """Zoë was “rater 1” and Rater-1 was “rater 2”, so that the votes of one were taken for the other's."""
    campaign = scenario.campaign()
    for name in ("Zoë", "Rater-1", "rater 03", "Bo", "Rater 12345"):
        link_rater(ctx, campaign.id, name)
    labels = {row.rater.name: row.label for row in list_raters(ctx, campaign.id)}
    expected = {"Rater-1": 1, "Zoë": 2, "rater 03": 3, "Bo": 4, "Rater 12345": 5}
    assert labels == {name: f"rater {number}" for name, number in expected.items()}


def test_the_export_has_the_text_of_each_prompt(ctx: Context, scenario: Scenario) -> None:
    """“prompt 15” said nothing to who had the file alone."""
    campaign = scenario.campaign(num_prompts=2)
    scenario.votes(campaign, "Elm")
    asked = {pair.number: pair.messages[0][1] for pair in list_answers(ctx, campaign.id).prompts}
    exported = {
        row["prompt"]: row["prompt_text"] for row in csv.DictReader(io.StringIO(export_votes_csv(ctx, campaign.id)))
    }
    assert exported == {f"prompt {number}": text for number, text in asked.items()}


def test_the_export_has_what_raters_wrote_about_a_vote(ctx: Context, scenario: Scenario) -> None:
    """The file had the verdicts alone; notes, reasons and flags were to be read on the page, one prompt at a time."""
    campaign, rater = scenario.campaign(reasons=("wrong fact", "too long")), rater_for(ctx, LOCAL)
    note = '=1+1 is "odd",\nand too long'
    for remarks in ({"note": note, "reasons": ("wrong fact", "too long"), "flag": "Answer is cut off"}, {}):
        ballot = next_battle(ctx, campaign.id, rater)
        assert ballot is not None
        cast_vote(ctx, ballot.battle_id, label="A", rater=rater, **remarks)
    text = export_votes_csv(ctx, campaign.id)
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["note"], first["reasons"], first["flag"]) == (f"'{note}", "wrong fact; too long", "Answer is cut off")
    assert (second["note"], second["reasons"], second["flag"]) == ("", "", "")
    assert len(parse_votes(text)) == len(read_vote_file(text.encode())) == 2


def test_a_name_that_is_a_formula_is_exported_as_text(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    with ctx.db.write() as session:
        session.scalars(select(Checkpoint).where(Checkpoint.name == "Oak")).one().name = '=HYPERLINK("x")'
    rater = rater_for(ctx, LOCAL)
    ballot = next_battle(ctx, campaign.id, rater)
    assert ballot is not None
    cast_vote(ctx, ballot.battle_id, label="A", rater=rater)
    names = {row.a for row in parse_votes(export_votes_csv(ctx, campaign.id))} | {
        row.b for row in parse_votes(export_votes_csv(ctx, campaign.id))
    }
    assert names == {"Elm", '\'=HYPERLINK("x")'}


def test_rating_fit_reads_the_export_from_the_command_line(ctx: Context, scenario: Scenario, tmp_path: Path) -> None:
    campaign = scenario.campaign(num_prompts=6)
    scenario.votes(campaign, "Oak")
    file = tmp_path / "votes.csv"
    file.write_text(export_votes_csv(ctx, campaign.id))
    result = CliRunner().invoke(app, ["fit", str(file), "--json"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout)["ratings"]
    assert [row["contestant"] for row in rows] == ["Oak", "Elm"]
    assert set(rows[0]) >= {"contestant", "rating", "low", "high", "rank_low", "rank_high"}


def test_rating_fit_refuses_an_unknown_winner_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_text("prompt,rater,a,b,winner\np,r,x,y,z\n")
    result = CliRunner().invoke(app, ["fit", str(file), "--json"])
    assert result.exit_code == 2
    assert "Line 2" in json.loads(result.stdout)["error"]
