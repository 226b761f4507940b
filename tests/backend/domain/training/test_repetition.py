"""A run is repeated by its YAML, and by the resumes that changed its steps; the learning rates are then the same."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.training.config import RunConfig, parse_run_config
from backend.domain.training.repetition import Stage, list_stages, repeat_run


def config(max_steps: int, **values: Any) -> RunConfig:
    subject = {"dataset": "d", "architecture": "a", "tokenizer": "t", "warmup_steps": 3}
    return RunConfig.model_validate({**subject, "max_steps": max_steps, **values})


def commands(*stages: Stage) -> list[str]:
    resumed = repeat_run("tiny's", stages[-1].config, list_stages(stages))
    return [line.replace("""'tiny'"'"'s repeated'""", "NAME") for line in resumed.commands]


def test_the_yaml_of_a_resumed_run_is_that_of_its_launch_and_names_the_resumes() -> None:
    launched = config(60, warmup_steps=None, warmup_ratio=0.05)
    stages = list_stages([Stage(None, launched), Stage(60, config(80)), Stage(80, config(1200))])
    resumed = repeat_run("tiny", config(1200), stages)
    assert parse_run_config(resumed.yaml).max_steps == 60
    assert parse_run_config(resumed.yaml).num_warmup_steps == 3
    assert parse_run_config(resumed.yaml).warmup_steps is None
    assert resumed.resumes == (
        "from step 60 with 80 steps instead of 60",
        "from step 80 with 1,200 steps instead of 80",
    )
    assert "no YAML alone repeats it" in resumed.sentence
    assert resumed.yaml.startswith(
        "# The run was resumed from step 60 with 80 steps instead of 60, then from step 80 with 1,200 steps instead of"
        " 80. This is its config at launch; to repeat the run:\n"
        "# roundhouse run launch run.yaml --name 'tiny repeated' --wait\n"
        "# roundhouse run resume 'tiny repeated' --max-steps 80 --wait\n"
        "# roundhouse run resume 'tiny repeated' --max-steps 1200 --wait\n"
        "objective"
    )


def test_a_run_that_was_stopped_before_its_steps_were_changed_is_stopped_there_again() -> None:
    assert commands(Stage(None, config(100)), Stage(40, config(80))) == [
        "roundhouse run launch run.yaml --name NAME",
        "# after step 40, unless the run ended there:",
        "roundhouse run cancel NAME --save",
        "roundhouse run resume NAME --max-steps 80 --wait",
    ]


def test_a_run_that_stopped_early_and_was_resumed_with_more_steps_would_stop_there_again() -> None:
    resumes = [Stage(None, config(100, schedule="constant", patience=2)), Stage(40, config(150, schedule="constant"))]
    assert len(list_stages(resumes)) == 2


def test_a_job_of_an_earlier_version_does_not_say_from_which_step() -> None:
    resumed = repeat_run("old", config(80), list_stages([Stage(None, config(60)), Stage(None, config(80))]))
    assert resumed.resumes == ("from a checkpoint with 80 steps instead of 60",)
    assert resumed.commands[-1].endswith("--max-steps 80 --wait")


@pytest.mark.parametrize(
    "attempts",
    [
        [Stage(None, config(80))],
        [Stage(None, config(80)), Stage(40, config(80))],
        [Stage(None, config(60)), Stage(0, config(80))],
        [Stage(None, config(60, schedule="constant")), Stage(60, config(80, schedule="constant"))],
        [Stage(None, config(60, schedule="inverse_sqrt")), Stage(60, config(80, schedule="inverse_sqrt"))],
        [Stage(None, config(60, schedule="wsd")), Stage(40, config(80, schedule="wsd"))],
        [Stage(None, config(60)), Stage(2, config(80))],
    ],
    ids=["once", "interrupted", "started again", "constant", "inverse_sqrt", "wsd before its decay", "warming up"],
)
def test_a_run_whose_steps_all_follow_its_last_config_is_repeated_by_its_yaml_alone(attempts: list[Stage]) -> None:
    (stage,) = list_stages(attempts)
    resumed = repeat_run("one", stage.config, [stage])
    assert resumed.resumes == ()
    assert resumed.commands == ("roundhouse run launch run.yaml",)
    assert parse_run_config(resumed.yaml).max_steps == 80


def test_steps_that_a_later_job_did_again_are_no_stage() -> None:
    """Resumed with 80, it ended before its next checkpoint; from the same one it was resumed with 100."""
    stages = list_stages([Stage(None, config(60)), Stage(60, config(80)), Stage(60, config(100))])
    assert [(stage.after_step, stage.config.max_steps) for stage in stages] == [(None, 60), (60, 100)]
