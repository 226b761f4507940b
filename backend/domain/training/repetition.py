"""Repeat a run: by its YAML, or, if it was resumed with other steps, by that of its launch and the same resumes.

Pure.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from backend.domain.training.config import RunConfig
from backend.domain.training.schedule import learning_rate_at
from backend.domain.wording import plural


@dataclass(frozen=True)
class Stage:
    """Steps of a run under one config, the first of which is the one after `after_step`. None: it continues a
    checkpoint, of a version that did not store which.
    """

    after_step: int | None
    config: RunConfig


@dataclass(frozen=True)
class Repetition:
    """`resumes`: where and how the run's steps were changed, one phrase each; empty if `yaml` alone repeats it.
    `sentence` states what `yaml` and `commands` do together.
    """

    resumes: tuple[str, ...]
    sentence: str
    commands: tuple[str, ...]
    yaml: str


def list_stages(attempts: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages of which a run consists, oldest first, given all of its jobs.

    Steps that a later job did again are left out. Jobs are one stage if the later config has the learning rates that
    the steps before had: it was merely interrupted, or its schedule depends on no last step.
    """
    stages: list[Stage] = []
    for attempt in reversed(attempts):
        if not stages:
            stages.append(attempt)
            continue
        later = stages[0]
        if later.after_step is not None and (attempt.after_step or 0) >= later.after_step:
            continue
        if _schedules_agree(attempt.config, later):
            stages[0] = Stage(attempt.after_step, later.config)
        else:
            stages.insert(0, attempt)
    return tuple(stages)


def repeat_run(name: str, config: RunConfig, stages: Sequence[Stage]) -> Repetition:
    """Return how to repeat a run of this name and config that consists of these stages, at least one."""
    first, *later = stages
    if not later:
        return Repetition(
            (),
            "This YAML, saved as `run.yaml`, launches the same run:",
            ("roundhouse run launch run.yaml",),
            config.to_yaml(),
        )
    resumes = tuple(
        f"from {_step(stage)} with {plural(stage.config.max_steps, 'step')} instead of {before.config.max_steps:,}"
        for before, stage in pairwise(stages)
    )
    changes = f"The run was resumed {', then '.join(resumes)}"
    commands = _commands(name, stages)
    launched = config.model_copy(
        update={"max_steps": first.config.max_steps, "warmup_steps": first.config.warmup_steps}
    )
    head = [f"{changes}. This is its config at launch; to repeat the run:", *commands]
    comment = "".join(f"# {line}\n" for text in head for line in text.splitlines())
    sentence = (
        f"{changes}, and its learning rate followed the schedule of each in turn, so no YAML alone repeats it. Save"
        " this one, its config at launch, as `run.yaml`, then launch and resume:"
    )
    return Repetition(resumes, sentence, commands, comment + launched.to_yaml())


def _schedules_agree(config: RunConfig, later: Stage) -> bool:
    """Return whether the steps before a stage are those of its config too: their learning rates, and no early stop.

    All schedules that agree at the last of these steps agree before it: while warming up, at the peak, or everywhere.
    """
    if config.max_steps == later.config.max_steps:
        return True
    if config.patience:
        return False
    last = config.max_steps if later.after_step is None else later.after_step
    return learning_rate_at(last, config) == learning_rate_at(last, later.config)


def _step(stage: Stage) -> str:
    return "a checkpoint" if stage.after_step is None else f"step {stage.after_step:,}"


def _commands(name: str, stages: Sequence[Stage]) -> tuple[str, ...]:
    """Return the commands that launch `run.yaml` and resume it, under another name: the first would be that of both."""
    again = shlex.quote(f"{name[:100].rstrip()} repeated")
    commands = [f"roundhouse run launch run.yaml --name {again} --wait"]
    for before, stage in pairwise(stages):
        if stage.after_step is not None and stage.after_step != before.config.max_steps:
            commands[-1] = commands[-1].removesuffix(" --wait")
            note = f"# after {_step(stage)}, unless the run ended there:"
            commands += [note, f"roundhouse run cancel {again} --save"]
        commands.append(f"roundhouse run resume {again} --max-steps {stage.config.max_steps} --wait")
    return tuple(commands)
