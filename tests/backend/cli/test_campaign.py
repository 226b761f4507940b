"""`roundhouse campaign`: a campaign from a YAML file to its votes, in a shell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.battles.campaign import parse_campaign, render_campaign
from backend.errors import InvalidInput
from backend.services.battles.raters import rater_from_link
from backend.services.battles.views import list_rematches
from backend.services.context import Context
from tests.support.command_line import roundhouse
from tests.support.scenario import Scenario

YAML = """name: Two writers
num_prompts: 2
overlap_share: 0.5
reasons: [Clearer, Funnier]
dimensions:
  - {name: accuracy, question: "Which is right?"}
gold:
  - {prompt: "1 + 1?", better: "2", worse: "3"}
contestants:
  - {file: answers.jsonl, column: human}
  - {file: answers.jsonl, column: model, name: Ours}
"""


def test_a_campaign_file_is_read_and_written_alike() -> None:
    campaign = parse_campaign(YAML)
    assert (campaign.name, campaign.config.overlap_share, campaign.contestants[1].label) == ("Two writers", 0.5, "Ours")
    assert parse_campaign(render_campaign(campaign)) == campaign


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- 1", "not a mapping"),
        (
            "name: x\ncontestants: [{file: a}]\nnum_promts: 3",
            "num_promts is not a field of a campaign.*Did you mean num_prompts",
        ),
        ("contestants: [{file: a}]", "name: is missing"),
        ("name: x\ncontestants: [{file: a, checkpoint: b}]", "give one of checkpoint"),
        ("name: x\ncontestants: [{url: ftp://x, model: m}]", "begins with https"),
        ("name: x\ncontestants: [{file: a}]\ngold: [{prompt: p, better: x, worse: 'x '}]", "are equal"),
    ],
)
def test_a_campaign_file_with_a_mistake_names_its_field(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_campaign(text)
    assert re.search(problem, str(caught.value))


def test_a_campaign_runs_from_its_file_to_its_end(command_line: Context, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"p{n}", "human": f"h{n}", "model": f"m{n}"}) for n in range(2))
    )
    (tmp_path / "campaign.yaml").write_text(YAML)
    started = roundhouse("campaign", "create", str(tmp_path / "campaign.yaml"))
    assert (started["open"], started["prompts"], started["completions"]) == (True, 2, 4)
    assert [row["id"] for row in roundhouse("campaign", "list")["campaigns"]] == [started["id"]]
    shown = roundhouse("campaign", "show", "Two writers")
    assert shown["config"]["reasons"] == ["Clearer", "Funnier"]
    link = roundhouse("campaign", "link", started["id"], "--rater", "Owl", "--single-use")
    said = CliRunner().invoke(app, ["campaign", "link", started["id"], "--rater", "Wren"])
    assert (said.stdout.count("/ballot?link="), "ROUNDHOUSE_PUBLIC_URL" in said.stderr) == (1, True)
    assert rater_from_link(command_line, link["url"].split("link=")[1], browser="b").name == "Owl"
    assert roundhouse("campaign", "close", "Two writers")["open"] is False
    assert "no campaign “Three”" in roundhouse("campaign", "show", "Three", status=2)["error"]


def test_votes_are_imported_from_a_shell(command_line: Context, tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text("prompt,rater,a,b,winner\n1,ann,x,y,A\n")
    imported = roundhouse("campaign", "import-votes", str(tmp_path / "votes.csv"), "--name", "Elsewhere")
    assert (imported["open"], imported["votes"], imported["raters"]) == (False, 1, 1)


def test_words_for_the_winner_are_named_from_a_shell(command_line: Context, tmp_path: Path) -> None:
    """The page asked what “links” means; a command refused the file."""
    file = tmp_path / "votes.csv"
    file.write_text("prompt,rater,a,b,winner\n1,ann,x,y,links\n2,ann,x,y,unentschieden\n")
    load = ("campaign", "import-votes", str(file), "--name", "Elsewhere")
    assert "`--winner WORD=A`" in roundhouse(*load, status=2)["error"]
    assert "--winner 'links=left' names no label" in roundhouse(*load, "--winner", "links=left", status=2)["error"]
    words = ("--winner", "links=A", "--winner", "unentschieden=TIE")
    assert roundhouse(*load, *words, "--preview")["labels"] == {"A": 1, "TIE": 1}
    assert roundhouse(*load, *words)["votes"] == 2
    for command in (("fit",), ("agreement",), ("verdict", "--first", "x", "--second", "y")):
        assert roundhouse("rating", command[0], str(file), *command[1:], *words), command


def test_votes_are_trained_on_after_a_preview_of_rows_and_config(command_line: Context) -> None:
    campaign = Scenario(command_line).campaign(num_prompts=8, dataset_rows=40)
    Scenario(command_line).votes(campaign, "Elm")
    preview = roundhouse("campaign", "train", "Stories", "--preview")
    assert (preview["pairs"], preview["base"]) == (8, "Elm")
    assert "objective: dpo" in preview["config"]
    assert list_rematches(command_line, campaign.id) == []
    launched = roundhouse("campaign", "train", "Stories", "--base", "Oak")
    assert (launched["base"], launched["rows"]) == ("Oak", 8)
    assert [rematch.name for rematch in list_rematches(command_line, campaign.id)] == [launched["rematch"]]
