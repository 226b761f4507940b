"""`roundhouse run` as a script sees it: JSON on stdout, words on stderr, 0/1/2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from backend.bootstrap import get_context
from backend.cli.main import app
from backend.domain.jobs.states import Status
from backend.services.context import Context
from backend.services.training.views import get_run
from tests.support.installation import PROJECT
from tests.support.jobs import list_jobs
from tests.support.run_world import claim, end, points, report, row_of
from tests.support.scenario import Scenario
from tests.support.settings import name_installation
from tests.support.training_rooms import Rooms

RECIPE = (
    "dataset: tales\narchitecture: small\ntokenizer: pieces\ncontext: 32\nmax_steps: 30\nwarmup_steps: 20\nname: by"
    " hand\n"
)


@pytest.fixture
def ctx(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """The context that the command line builds for itself from the environment."""
    name_installation(monkeypatch, home, ROUNDHOUSE_KEEP_FREE_MB="16")
    Scenario(get_context()).parts()
    yield get_context()
    get_context.cache_clear()


def roundhouse(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, list(arguments))


def test_a_recipe_becomes_a_queued_run(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    result = roundhouse("run", "launch", str(tmp_path / "recipe.yaml"), "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["name"], answer["status"], answer["max_steps"]) == ("by hand", "queued", 30)
    assert get_run(ctx, answer["run"]).name == "by hand"


def test_a_launched_run_is_named_and_its_state_said_once(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert roundhouse("run", "launch", str(tmp_path / "recipe.yaml")).stdout == "by hand: next in the queue.\n"


def test_launching_twice_with_one_key_is_one_run(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    answers = [
        json.loads(roundhouse("run", "launch", str(tmp_path / "recipe.yaml"), "--key", "k", "--json").stdout)
        for _ in range(2)
    ]
    assert answers[0]["run"] == answers[1]["run"]
    assert len(list_jobs(ctx, queue="train")) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset: tails\n" + RECIPE.split("\n", 1)[1], "tales"),
        (RECIPE + "max_stepz: 3\n", "max_stepz"),
        ("- a\n", "mapping"),
    ],
    ids=["unknown name", "unknown field", "no mapping"],
)
def test_a_recipe_with_a_mistake_ends_with_status_2_and_a_cure(
    ctx: Context, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    result = roundhouse("run", "launch", str(tmp_path / "recipe.yaml"), "--json")
    assert result.exit_code == 2
    assert words in json.loads(result.stdout)["error"]
    assert list_jobs(ctx, queue="train") == []


def test_a_probe_reports_memory_speed_and_time_and_leaves_no_run(ctx: Context, tmp_path: Path) -> None:
    rooms = Rooms(tmp_path / "rooms")
    shutil.copytree(rooms.root / "texts", ctx.artifacts.path("datasets/tales"))
    shutil.copytree(rooms.root / "tokenizer", ctx.artifacts.path("tokenizers/pieces"))
    shape = {
        "num_layers": 2,
        "width": 32,
        "num_heads": 2,
        "num_kv_heads": 2,
        "context": 64,
        "vocab_size": 320,
        "feed_forward": 64,
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("architecture: small", f"architecture: {json.dumps(shape)}"))
    command = [
        sys.executable,
        "-m",
        "backend.cli.main",
        "run",
        "probe",
        str(recipe),
        "--json",
    ]  # no worker: the work is done by a child
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["memory_source"], answer["fits"]) == ("probe", "yes")
    weights = 4 * 320 * 32  # the embedding in fp32: the least that training holds
    assert weights < answer["memory_bytes"] < 10 * answer["formula_bytes"]
    assert answer["seconds_low"] <= answer["seconds"] <= answer["seconds_high"]
    assert json.loads(roundhouse("run", "list", "--json").stdout)["runs"] == []


def test_a_run_is_shown_by_name_with_its_newest_values_and_checkpoints(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(*points(1, 20), name="by hand")
    scenario.checkpoint(run=run, step=20)
    answer = json.loads(roundhouse("run", "show", "by hand", "--json").stdout)
    assert answer["metrics"]["train_loss"] == {"step": 20, "value": 0.5}
    assert [line["step"] for line in answer["checkpoints"]] == [20]
    assert answer["config"]["max_steps"] == 100


def test_cancel_says_what_is_not_saved(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(name="by hand")
    claim(ctx, run)
    answer = roundhouse("run", "cancel", "by hand").stdout
    assert answer.endswith("No checkpoint is saved, and the run has none.\n")
    again = scenario.run(name="again")
    claim(ctx, again)
    scenario.checkpoint(run=again, step=20)
    answer = roundhouse("run", "cancel", "again").stdout
    assert answer.endswith("Nothing is saved now: its last checkpoint is that of step 20.\n")


def test_cancel_and_resume_report_the_new_status(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(name="by hand")
    taken = claim(ctx, run)
    assert json.loads(roundhouse("run", "cancel", "by hand", "--save", "--json").stdout)["status"] == "cancelling"
    scenario.checkpoint(run=run, step=20)
    end(ctx, taken, Status.CANCELLED)
    assert roundhouse("run", "cancel", "by hand").exit_code == 2
    assert json.loads(roundhouse("run", "list", "--json").stdout)["runs"][0]["status"] == "cancelled"
    assert "  stopped  " in roundhouse("run", "list").stdout, "the word of the pages"
    assert json.loads(roundhouse("run", "resume", "by hand", "--max-steps", "120", "--json").stdout)["max_steps"] == 120
    assert [run["status"] for run in json.loads(roundhouse("run", "list", "--json").stdout)["runs"]] == ["queued"]


def test_runs_are_listed_by_the_filter_of_the_page(scenario: Scenario) -> None:
    for name, rate in (("slow", 0.001), ("fast", 0.1), ("middle", 0.01)):
        scenario.run(name=name, learning_rate=rate)
    listed = roundhouse("run", "list", "--filter", "lr < 0.05", "--sort", "-learning_rate", "--json")
    assert [run["name"] for run in json.loads(listed.stdout)["runs"]] == ["middle", "slow"]
    assert "No run passes the filter." in roundhouse("run", "list", "--filter", "lr > 5").output
    none = roundhouse("run", "list", "--filter", "dataset = tal").output
    assert "No run has dataset tal. Did you mean tales@1?" in none
    wrong = roundhouse("run", "list", "--filter", "lr < 1 and lerning_rate < 2")
    assert wrong.exit_code == 2
    assert "At character 12: there is no field “lerning_rate”. Did you mean learning_rate?" in " ".join(
        wrong.output.split()
    )


def test_the_forecast_is_printed_before_the_launch(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    answer = json.loads(roundhouse("run", "forecast", str(tmp_path / "recipe.yaml"), "--json").stdout)
    assert (answer["steps"], answer["tokens"], answer["ahead"], answer["workers"]) == (30, 30 * 16 * 32, 0, 0)
    assert answer["memory_bytes"] > 0
    assert answer["disk_bytes"] > 0
    assert [warning["code"] for warning in answer["warnings"]] == ["warmup_long"]
    assert list_jobs(ctx, queue="train") == []


def test_a_script_gets_warnings_and_the_run_stores_them(ctx: Context, scenario: Scenario, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    parent = scenario.run(name="parent")
    result = roundhouse("run", "launch", str(tmp_path / "recipe.yaml"), "--parent", "parent", "--json")
    assert "warm-up of 20 steps takes more than half" in result.stderr
    answer = json.loads(result.stdout)
    assert [warning["field"] for warning in answer["warnings"]] == ["warmup_steps"]
    row, _ = row_of(ctx, get_run(ctx, answer["run"]))
    assert [warning.code for warning in row.warnings] == ["warmup_long"]
    assert row.parent_id == parent.id


SWEEP = """
name: rates
run: {dataset: tales, architecture: small, tokenizer: pieces, context: 32, max_steps: 100, warmup_steps: 5}
vary: {learning_rate: [1e-3, 3e-3, 1e-2]}
method: grid
parallel: 2
"""


def test_a_sweep_is_previewed_launched_once_shown_and_stopped(ctx: Context, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    preview = json.loads(roundhouse("run", "sweep", str(file), "--preview", "--json").stdout)
    assert [point["learning_rate"] for point in preview["points"]] == [0.001, 0.003, 0.01]
    assert (preview["forecast"]["runs"], preview["forecast"]["at_once"], preview["forecast"]["seconds"]) == (3, 2, None)
    assert list_jobs(ctx, queue="train") == []
    answers = [json.loads(roundhouse("run", "sweep", str(file), "--json").stdout) for _ in range(2)]
    assert answers[0]["sweep"] == answers[1]["sweep"]
    assert (answers[1]["planned"], answers[1]["launched"]) == (3, 2)
    assert [run["values"] for run in answers[1]["runs"]] == preview["points"][:2]
    assert json.loads(roundhouse("run", "sweep-stop", "rates", "--json").stdout) == {"stopped": 2}
    shown = roundhouse("run", "sweep-show", "rates").stdout
    assert "0 queued or running" in shown
    assert "learning_rate 0.003" in shown


def test_a_sweep_with_a_mistake_ends_with_status_2_and_the_field(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("learning_rate", "learning_rat"))
    result = roundhouse("run", "sweep", str(tmp_path / "sweep.yaml"), "--json")
    assert result.exit_code == 2
    assert "learning_rat" in json.loads(result.stdout)["error"]


def test_a_log_of_another_program_is_a_run_that_can_be_shown(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text(
        '{"log_history": [{"step": 5, "loss": 2.5}, {"step": 10, "loss": 2.25}]}'
    )
    made = roundhouse("run", "import", str(tmp_path / "trainer_state.json"), "--name", "theirs", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["runs"][0]["name"] == "theirs"
    shown = json.loads(roundhouse("run", "show", "theirs", "--json").stdout)
    assert shown["metrics"] == {"train_loss": {"step": 10, "value": 2.25}}
    assert roundhouse("run", "import", str(tmp_path / "absent.csv")).exit_code == 2


def test_show_prints_the_findings_of_a_run(ctx: Context, scenario: Scenario) -> None:
    one = scenario.run(name="wild", learning_rate=0.03)
    values = [5.6 - 0.04 * step if step < 50 else 3.6 + 0.05 * (step - 50) for step in range(1, 101)]
    report(
        ctx,
        claim(ctx, one),
        *(
            {"type": "metrics", "step": step, "time": 1.0, "values": {"train_loss": v}}
            for step, v in enumerate(values, 1)
        ),
    )
    (finding,) = json.loads(roundhouse("run", "show", "wild", "--json").stdout)["findings"]
    assert (finding["kind"], finding["changes"]) == ("diverged", {"learning_rate": 0.003})


def test_a_finished_run_that_diverged_or_learned_nothing_is_listed_and_shown_as_such(
    ctx: Context, scenario: Scenario
) -> None:
    for name, metric, value in (("wild", "train_loss", 900.0), ("idle", "grad_norm", 0.0), ("good", "grad_norm", 0.5)):
        taken = claim(ctx, scenario.run(name=name))
        report(ctx, taken, {"type": "metrics", "step": 1, "time": 1.0, "values": {metric: value}})
        end(ctx, taken, Status.FINISHED)
    states = {"wild": "finished, diverged", "idle": "finished, learned nothing", "good": "finished"}
    listed = roundhouse("run", "list").stdout.splitlines()
    for name, state in states.items():
        assert any(f"  {state}  " in f"{line} " and f"  {name}  " in line for line in listed), listed
        assert f"{name}  {state}  " in roundhouse("run", "show", name).stdout
    useless = {run["name"]: run["useless"] for run in json.loads(roundhouse("run", "list", "--json").stdout)["runs"]}
    assert useless == {"wild": "diverged", "idle": "learned nothing", "good": None}
    assert json.loads(roundhouse("run", "show", "wild", "--json").stdout)["useless"] == "diverged"
