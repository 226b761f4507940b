"""`roundhouse plan`: plans, fits and studies in JSON, and misuse in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.scaling.laws import PUBLISHED
from backend.domain.training.config import parse_run_config
from backend.services.context import Context
from backend.services.scaling.studies import study_yaml
from tests.support.command_line import roundhouse
from tests.support.scaling_world import STUDY
from tests.support.scenario import Scenario


@pytest.fixture
def runs_csv(tmp_path: Path) -> Path:
    law, file = PUBLISHED["hoffmann-2022"], tmp_path / "runs.csv"
    lines = ["parameters,tokens,loss"]
    for budget in (1e17, 1e18, 1e19):
        for share in (0.25, 0.5, 1.0, 2.0, 4.0):
            n = law.optimum(budget).parameters * share
            lines.append(f"{n:.0f},{budget / 6 / n:.0f},{law.loss(n, budget / 6 / n):.5f}")
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_plan_in_three_currencies(command_line: Context) -> None:
    flops = roundhouse("plan", "--flops", "5.76e23", "--context", "2048")
    assert flops["optimum"]["parameters"] == pytest.approx(7.22e10, rel=0.01)
    assert flops["loss"]["low"] < flops["loss"]["value"] < flops["loss"]["high"]
    hours = roundhouse("plan", "--gpu-hours", "100", "--flops-per-s", "4e14")
    money = roundhouse("plan", "--money", "250", "--price", "2.5", "--flops-per-s", "4e14")
    assert hours["parameters"] == money["parameters"]
    assert money["cost_usd"] == pytest.approx(250, rel=0.02)
    hoffmann = roundhouse("plan", "--flops", "5.76e23", "--law", "hoffmann-2022-unrounded")
    assert hoffmann["optimum"]["parameters"] == pytest.approx(40.3e9, rel=0.01)


def test_misuse_exits_with_2_and_a_message(command_line: Context, tmp_path: Path) -> None:
    assert "one budget" in roundhouse("plan", status=2)["error"]
    assert "no run or probe" in roundhouse("plan", "--device-hours", "1", status=2)["error"]
    assert "nowhere" in roundhouse("plan", "--flops", "1e15", "--dataset", "nowhere", status=2)["error"]
    assert "no file" in roundhouse("plan", "fit", str(tmp_path / "none.csv"), status=2)["error"]
    (tmp_path / "bad.csv").write_text("parameters,tokens,loss\n1e6,x,3\n")
    assert "Line 2" in roundhouse("plan", "fit", str(tmp_path / "bad.csv"), status=2)["error"]


def test_a_fit_recovers_the_law_with_intervals_and_the_optimum(command_line: Context, runs_csv: Path) -> None:
    result = roundhouse("plan", "fit", str(runs_csv), "--flops", "1e21")
    for name, value in PUBLISHED["hoffmann-2022"].constants.items():
        assert result["constants"][name]["low"] <= value <= result["constants"][name]["high"], name
    assert result["points"] == 15
    assert len(result["isoflop"]["profiles"]) == 3
    assert result["optimum"]["parameters"]["value"] == pytest.approx(
        PUBLISHED["hoffmann-2022"].optimum(1e21).parameters, rel=0.02
    )
    assert "alpha" in CliRunner().invoke(app, ["plan", "fit", str(runs_csv)]).output


def test_a_written_recipe_can_be_launched(command_line: Context, tmp_path: Path) -> None:
    Scenario(command_line).parts()
    recipe = tmp_path / "run.yaml"
    plan = roundhouse(
        "plan",
        "--flops",
        "1e13",
        "--dataset",
        "tales",
        "--tokenizer",
        "pieces",
        "--context",
        "64",
        "--recipe",
        str(recipe),
    )
    assert parse_run_config(recipe.read_text()).max_steps == plan["steps"]
    launched = roundhouse("run", "launch", str(recipe))
    assert launched["max_steps"] == plan["steps"]


def test_a_study_is_shown_and_launched(command_line: Context, tmp_path: Path) -> None:
    Scenario(command_line).parts()
    file = tmp_path / "study.yaml"
    file.write_text(study_yaml(STUDY))
    shown = roundhouse("plan", "study", str(file))
    assert len(shown["runs"]) == 15
    assert "launched" not in shown
    assert roundhouse("plan", "study", str(file), "--launch")["launched"] == 15
    assert roundhouse("plan", "show", "sizes")["active"] == 15
    file.write_text(yaml.safe_dump({"name": "x"}))
    assert "dataset" in roundhouse("plan", "study", str(file), status=2)["error"]


def test_laws_are_listed(command_line: Context) -> None:
    assert [law["law"] for law in roundhouse("plan", "laws")["laws"]] == list(PUBLISHED)
