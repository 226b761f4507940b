"""The board by options, without excluded raters, frozen; and the answers that raters compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli.rating import app
from backend.db.tables import Battle, FrozenBoard, Vote
from backend.domain.battles.rating_table import RatingOptions
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.battles.answers import count_flagged_battles, list_answers
from backend.services.battles.frozen_boards import export_board, freeze_board, get_frozen_board, verify_board
from backend.services.battles.quality import exclude_rater, include_rater, list_exclusions
from backend.services.battles.raters import RaterView, rater_for
from backend.services.battles.standings import board_fragility, standings
from backend.services.context import LOCAL, Context, Person
from tests.support.battle_world import cast_vote, link_rater, next_battle, prefer
from tests.support.scenario import Scenario

RATER_ROLE = Person(id=None, name="guest", role="rater")


def two_raters(ctx: Context) -> tuple[str, RaterView]:
    """A campaign in which one rater prefers Elm and another, who is fast, always Oak."""
    campaign = Scenario(ctx).campaign(num_prompts=8)
    Scenario(ctx).votes(campaign, "Elm")
    fast = link_rater(ctx, campaign.id, "fast")
    Scenario(ctx).votes(campaign, "Oak", rater=fast)
    return campaign.id, fast


def test_an_excluded_rater_leaves_the_board_and_the_trace_says_why(ctx: Context) -> None:
    campaign_id, fast = two_raters(ctx)
    assert standings(ctx, campaign_id).num_votes == 16
    exclude_rater(ctx, campaign_id, fast.id, reason="votes in half a second", person=LOCAL)
    board = standings(ctx, campaign_id)
    assert (board.num_votes, board.num_excluded_votes, board.excluded) == (8, 8, ("fast",))
    assert board.table is not None
    assert board.table.ratings[0].contestant == "Elm"
    assert standings(ctx, campaign_id, with_excluded=True).num_votes == 16
    include_rater(ctx, campaign_id, fast.id, person=LOCAL)
    assert standings(ctx, campaign_id).num_votes == 16
    assert [(row.excluded, row.reason) for row in list_exclusions(ctx, campaign_id)] == [
        (False, ""),
        (True, "votes in half a second"),
    ]


def test_an_exclusion_needs_a_reason_a_rater_of_the_campaign_and_a_builder(ctx: Context) -> None:
    campaign_id, fast = two_raters(ctx)
    with pytest.raises(InvalidInput, match="reason"):
        exclude_rater(ctx, campaign_id, fast.id, reason=" ", person=LOCAL)
    with pytest.raises(NotFound):
        exclude_rater(ctx, campaign_id, "stranger", reason="unknown", person=LOCAL)
    with pytest.raises(NotAllowed):
        exclude_rater(ctx, campaign_id, fast.id, reason="unknown", person=RATER_ROLE)
    with pytest.raises(Conflict, match="not excluded"):
        include_rater(ctx, campaign_id, fast.id, person=LOCAL)


def test_a_board_is_remembered_until_the_next_vote(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=4)
    rater = rater_for(ctx, LOCAL)
    ballot = next_battle(ctx, campaign.id, rater)
    assert ballot is not None
    cast_vote(ctx, ballot.battle_id, label="A", rater=rater)
    first = standings(ctx, campaign.id)
    assert standings(ctx, campaign.id) is first
    ballot = next_battle(ctx, campaign.id, rater)
    assert ballot is not None
    cast_vote(ctx, ballot.battle_id, label="B", rater=rater)
    assert standings(ctx, campaign.id).num_votes == 2


def test_options_change_the_method(ctx: Context) -> None:
    campaign_id, _ = two_raters(ctx)
    board = standings(ctx, campaign_id, options=RatingOptions(method="davidson", cluster_by="prompt"))
    assert board.table is not None
    assert "Davidson" in board.table.method


def test_the_rater_who_decides_first_place_is_named(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=8)
    assert board_fragility(ctx, campaign.id) is None
    scenario.votes(campaign, "Elm", limit=6)
    scenario.votes(campaign, "Oak", rater=link_rater(ctx, campaign.id, "Mei"), limit=5)
    scenario.votes(campaign, lambda a, b: "TIE", rater=link_rater(ctx, campaign.id, "Ines"), limit=4)
    board = board_fragility(ctx, campaign.id)
    assert board is not None
    removal = board.fragility.raters
    assert removal is not None
    assert (removal.first, removal.new_first, [board.raters[str(rater)] for rater in removal.members]) == (
        "Elm",
        "Oak",
        ["you"],
    )
    assert {row.first for row in board.without} == {("Elm",), ("Oak",)}


def test_a_frozen_board_keeps_its_votes_and_verifies(ctx: Context) -> None:
    campaign_id, fast = two_raters(ctx)
    exclude_rater(ctx, campaign_id, fast.id, reason="votes in half a second", person=LOCAL)
    board = freeze_board(ctx, campaign_id, name="before", options=RatingOptions(), person=LOCAL)
    include_rater(ctx, campaign_id, fast.id, person=LOCAL)
    again = get_frozen_board(ctx, board.id)
    assert (len(again.document["votes"]), again.document["excluded"]) == (8, [{"reason": "votes in half a second"}])
    assert verify_board(ctx, board.id).passed
    with pytest.raises(Conflict, match="already"):
        freeze_board(ctx, campaign_id, name="before", options=RatingOptions(), person=LOCAL)
    with ctx.db.write() as session:
        row = session.get_one(FrozenBoard, board.id)
        row.document = {**row.document, "campaign": "another"}
    result = verify_board(ctx, board.id)
    assert (result.passed, result.digest_matches, result.reproduced) == (False, False, True)


def test_exports_escape_what_a_reader_would_run(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign("=cmd()", "<script>alert(1)</script>", num_prompts=3)
    scenario.votes(campaign, "=cmd")
    board = freeze_board(ctx, campaign.id, name="b", options=RatingOptions(), person=LOCAL)
    assert "\n'=cmd()," in export_board(board, form="csv")
    page = export_board(board, form="html")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_command_line_freezes_a_file_and_notices_a_change(tmp_path: Path) -> None:
    votes, board = tmp_path / "votes.csv", tmp_path / "board.json"
    rows = [f"p{number % 5},r{number % 2},x,y,{'A' if number % 3 else 'B'}" for number in range(30)]
    votes.write_text("prompt,rater,a,b,winner\n" + "\n".join(rows) + "\n")
    run = CliRunner()
    result = run.invoke(app, ["freeze", str(votes), "--name", "first", "--to", str(board), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["votes"] == 30
    assert json.loads(run.invoke(app, ["verify", str(board), "--json"]).stdout)["passed"] is True
    stored = json.loads(board.read_text())
    stored["document"]["votes"] = stored["document"]["votes"][:-1]
    board.write_text(json.dumps(stored))
    changed = run.invoke(app, ["verify", str(board), "--json"])
    assert (changed.exit_code, json.loads(changed.stdout)["digest_matches"]) == (1, False)


def test_answers_show_texts_votes_and_notes_by_contestant_and_not_by_side(ctx: Context) -> None:
    campaign_id, _ = two_raters(ctx)
    with ctx.db.write() as session:
        vote = session.query(Vote).join(Battle, Battle.id == Vote.battle_id).order_by(Vote.created_at).first()
        assert vote is not None
        vote.note, vote.reasons, prompt_id = (
            "invents a fact",
            ["wrong"],
            session.get_one(Battle, vote.battle_id).prompt_id,
        )
    page = list_answers(ctx, campaign_id)
    assert (page.total, [prompt.number for prompt in page.prompts]) == (8, list(range(1, 9)))
    for prompt in page.prompts:
        (pair,) = prompt.pairs
        assert (pair.first, pair.second, pair.first_wins, pair.second_wins) == ("Elm", "Oak", 1, 1)
        assert pair.first_text.startswith("Elm answers")
    (remarked,) = list_answers(ctx, campaign_id, remarks="remarked").prompts
    assert remarked.prompt_id == prompt_id
    assert [(remark.note, remark.reasons) for remark in remarked.pairs[0].remarks] == [("invents a fact", ("wrong",))]


def test_flagged_battles_are_counted_by_rater_and_listed_also_where_they_were_skipped(
    ctx: Context, scenario: Scenario
) -> None:
    campaign = scenario.campaign(num_prompts=4)
    owl, fox = (link_rater(ctx, campaign.id, name) for name in ("owl", "fox"))
    for rater, label, flag in ((owl, "A", "Answer is cut off"), (owl, "SKIPPED", "Unsafe"), (fox, "B", "")):
        ballot = next_battle(ctx, campaign.id, rater)
        assert ballot is not None
        cast_vote(ctx, ballot.battle_id, label=label, rater=rater, flag=flag)
    assert count_flagged_battles(ctx, campaign.id) == {owl.id: 2}
    page = list_answers(ctx, campaign.id, remarks="flagged")
    remarks = [remark for prompt in page.prompts for pair in prompt.pairs for remark in pair.remarks]
    assert sorted((remark.flag, remark.preferred == "skipped") for remark in remarks) == [
        ("Answer is cut off", False),
        ("Unsafe", True),
    ]


def test_the_most_split_prompt_comes_first(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=3)
    scenario.votes(campaign, "Elm")
    scenario.votes(
        campaign,
        lambda a, b: prefer("Oak")(a, b) if "number 1" in a else prefer("Elm")(a, b),
        rater=link_rater(ctx, campaign.id, "other"),
    )
    page = list_answers(ctx, campaign.id, order="split", limit=1)
    assert page.total == 3
    assert "number 1" in page.prompts[0].messages[0][1]
