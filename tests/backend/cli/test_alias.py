"""`roundhouse alias`, `promote` and `lineage`: names that move by recorded decisions, and where a checkpoint comes
from.
"""

from __future__ import annotations

from typer.testing import CliRunner

from backend.cli.main import app
from backend.services.context import Context
from tests.support.battle_world import prefer, vote_in_turn
from tests.support.command_line import roundhouse
from tests.support.scenario import Scenario

ALIAS = "storyteller@production"


def test_an_alias_is_set_listed_rolled_back_and_keeps_its_history(command_line: Context) -> None:
    Scenario(command_line).checkpoints("Oak", "Elm")
    assert roundhouse("alias", "list") == {"aliases": []}
    assert roundhouse("alias", "set", ALIAS, "Oak", "--reason", "the first")["checkpoint"] == "Oak"
    moved = roundhouse("alias", "set", ALIAS, "Elm", "--reason", "larger")
    assert (moved["checkpoint"], moved["previous"]) == ("Elm", "Oak")
    assert [(row["alias"], row["checkpoint"]) for row in roundhouse("alias", "list")["aliases"]] == [(ALIAS, "Elm")]
    assert roundhouse("alias", "rollback", ALIAS, "--reason", "worse")["checkpoint"] == "Oak"
    history = roundhouse("alias", "history", ALIAS)["history"]
    assert [(row["checkpoint"], row["reason"]) for row in history] == [
        ("Oak", "worse"),
        ("Elm", "larger"),
        ("Oak", "the first"),
    ]
    assert "nowhere@production" in roundhouse("alias", "history", "nowhere@production", status=2)["error"]


def test_a_verdict_is_the_evidence_of_a_promotion_and_a_reason_is_asked_where_it_speaks_against_it(
    command_line: Context,
) -> None:
    campaign = Scenario(command_line).campaign(num_prompts=20, overlap_share=0)
    vote_in_turn(command_line, campaign.id, prefer("Elm"), each=2)
    promoted = roundhouse("promote", "Elm", "--alias", ALIAS, "--campaign", campaign.id)
    assert (promoted["decision"], promoted["against_evidence"]) == ("promote", [])
    refused = roundhouse("promote", "Oak", "--alias", ALIAS, "--campaign", campaign.id, status=2)
    assert "reason" in refused["error"]
    assert roundhouse("alias", "list")["aliases"][0]["checkpoint"] == "Elm"
    against = roundhouse("promote", "Oak", "--alias", ALIAS, "--campaign", campaign.id, "--reason", "cheaper to serve")
    assert (against["checkpoint"], bool(against["against_evidence"])) == ("Oak", True)
    rejected = roundhouse(
        "promote", "Elm", "--alias", ALIAS, "--campaign", campaign.id, "--reject", "--reason", "too slow"
    )
    assert (rejected["decision"], roundhouse("alias", "list")["aliases"][0]["checkpoint"]) == ("reject", "Oak")


def test_the_lineage_of_an_alias_is_a_document_and_a_tree(command_line: Context) -> None:
    Scenario(command_line).checkpoint("Oak", source="/models/oak")
    roundhouse("alias", "set", ALIAS, "Oak")
    document = roundhouse("lineage", ALIAS)
    assert {node["name"] for node in document["nodes"]} == {"Oak", "oak", ALIAS}
    lines = CliRunner().invoke(app, ["lineage", "Oak"]).stdout.splitlines()
    assert lines[0].startswith("checkpoint Oak")
    assert lines[1].startswith("  added from: file oak")
    assert "nowhere" in roundhouse("lineage", "nowhere", status=2)["error"]
