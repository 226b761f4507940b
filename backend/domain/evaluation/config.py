"""Config of an evaluation, and the settings that determine its score. Pure rules, no I/O.

Two evaluations may be compared item by item only if everything but the checkpoint was the same: `unlike_settings` says
what was not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from backend.domain.evaluation.safety.probes import METRICS as SAFETY_METRICS
from backend.domain.evaluation.tasks.definition import DEFAULT_METRIC, KIND_LABELS, RequestForm, TaskDefinition
from backend.domain.evaluation.tasks.metric_names import is_lower_better, metric_bound, metric_label
from backend.domain.fields import OPTION_ONLY, setting, unless, when
from backend.domain.validation import is_stored

SCORING_VERSION = 5
"""Bumped whenever scoring changes a number, so that old and new scores are never compared silently."""

PREFIX_POLICY: dict[str, str] = {
    "each_window": (
        "every window of the context's length begins after the begin token (or the end token, where there is none)"
        " alone"
    ),
    "first_window": "the begin token stands before each document only; later windows begin after the token before them",
}


class EvaluationKind(StrEnum):
    """Scoring method of a benchmark."""

    PERPLEXITY = "perplexity"
    MULTIPLE_CHOICE = "multiple_choice"
    GENERATION = "generation"


_LOWER_IS_SAFER = frozenset(name for name, metric in SAFETY_METRICS.items() if metric.higher_is_safer is False)


def score_name(score: str) -> str:
    """Return the name of a score within a sentence: `bits per byte`, `exact match (strict-match)`."""
    name, *suffix = re.split("[,:]", score, maxsplit=1)
    if score in SAFETY_METRICS:
        return SAFETY_METRICS[score].label
    label = SAFETY_METRICS[name].label if name in SAFETY_METRICS else metric_label(name).replace("_", " ")
    return f"{label} ({suffix[0]})" if suffix else label


def is_score_lower_better(score: str) -> bool:
    """Return whether less of a score is better. Filters and subgroups (`ter,strict`, `acc:physics`) change nothing."""
    return score in _LOWER_IS_SAFER or is_lower_better(re.split("[,:]", score, maxsplit=1)[0])


def is_right(score: str, value: float) -> bool:
    """Return whether an item's value of a score is as good as it can be: 0 where less is better, else the score's upper
    bound, and more than 0 for a score without one.
    """
    if is_score_lower_better(score):
        return value <= 0
    bound = metric_bound(re.split("[,:]", score, maxsplit=1)[0])
    return value > 0 if bound is None else value >= bound - 1e-9


SCORING = "Scoring"


class EvaluationConfig(BaseModel):
    """Settings of one evaluation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["auto", "perplexity", "multiple_choice", "generation"] = setting(
        "auto", "Scoring", "Scoring rule; auto takes the one that fits the dataset.", shown=OPTION_ONLY
    )
    split: Literal["auto", "all", "train", "val"] = setting(
        "auto",
        "Rows",
        "auto: all rows of a benchmark, the validation split of a text.",
        choices={"auto": "Automatic", "all": "All rows", "train": "Training split", "val": "Validation split"},
    )
    limit: int | None = setting(
        None, "Item limit", "Score only this many items, drawn with the seed.", ge=1, empty="All items"
    )
    seed: int = setting(1, "Seed", "Samples items and few-shot examples.", ge=0)
    shots: int = setting(
        0,
        "Few-shot examples",
        "Few-shot examples before each question; they are not scored.",
        ge=0,
        le=64,
        group=SCORING,
        used=(unless("kind", "perplexity"),),
    )
    chat: Literal["auto", "on", "off"] = setting(
        "auto",
        "Chat template",
        "auto: for generated answers and conversations, by checkpoints that have one.",
        group=SCORING,
        choices={"auto": "Automatic", "on": "On", "off": "Off"},
    )
    windows: Literal["each_window", "first_window"] = setting(
        "each_window",
        "Windows of long texts",
        "How a text longer than the context is split. Both predict every token once.",
        group=SCORING,
        used=(when("kind", "auto", "perplexity"),),
        choices={"each_window": "Non-overlapping", "first_window": "As in lm-evaluation-harness"},
    )
    max_tokens: int = setting(
        64,
        "Max new tokens",
        "Generation: longest answer, in tokens.",
        ge=1,
        le=8192,
        group=SCORING,
        used=(when("kind", "auto", "generation"),),
    )
    numeric: bool = setting(
        False,
        "Compare the last number",
        "Generation: also compare the last number, as arithmetic benchmarks such as GSM8K do.",
        group=SCORING,
        used=(when("kind", "auto", "generation"),),
    )
    engine: Literal["fast", "plain", "lm_eval"] = setting(
        "fast",
        "Engine",
        "fast: shared prefixes are computed once. plain: the shortest path. lm_eval: lm-evaluation-harness's own.",
        shown=OPTION_ONLY,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "Number format",
        "Number format of the weights. auto: the checkpoint's own; on a CPU float32, which holds it exactly.",
        shown=OPTION_ONLY,
    )
    audit_items: int = Field(
        default=4, ge=0, le=1000, description="Items that the plain engine computes again; the difference is shown."
    )
    batch_size: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Sequences in one forward pass; 0: as many as fit. Changes speed, not scores.",
    )
    task: TaskDefinition | None = Field(
        default=None, description="Task that renders and scores the rows. Empty: by the dataset's kind."
    )

    def main_metric(self, kind: EvaluationKind) -> str:
        """Return the headline: the task's first metric, or without a task the usual one of a kind."""
        return self.task.score_names[0] if self.task else DEFAULT_METRIC[kind]

    @model_validator(mode="after")
    def _check_parts(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if self.shots and self.kind == "perplexity":
            raise ValueError("perplexity shows no examples: shots must be 0")
        if self.task is not None and self.kind not in ("auto", self.task.kind):
            raise ValueError(f"the task is {self.task.kind.replace('_', ' ')}: kind must be auto")
        if self.task is not None and self.shots:
            raise ValueError(
                "a task says itself how many examples it shows: change fewshot.count, and leave shots at 0"
            )
        return self


def describe_scoring(config: EvaluationConfig, *, kind: EvaluationKind) -> str:
    """Return what is scored: a task with its metrics, `PIQA: accuracy`, or the way of scoring without a task."""
    if config.task is None:
        return KIND_LABELS[kind]
    return f"{config.task.shown_title}: {', '.join(metric_label(use.name) for use in config.task.metric_uses)}"


def describe_way(config: EvaluationConfig, *, kind: EvaluationKind | None = None) -> str:
    """Return what scores a benchmark in few words: a task's title, or the way of scoring without a task."""
    if config.task is not None:
        return config.task.shown_title
    kind = EvaluationKind(config.kind) if kind is None and config.kind != "auto" else kind
    return KIND_LABELS[kind] if kind else "its rows' kind"


def settings_of(
    config: EvaluationConfig, *, kind: EvaluationKind, dataset_hash: str, split: str, engine: str | None = None
) -> dict[str, object]:
    """Return the settings that determine a score, without unused ones of this kind. `engine`: an endpoint's."""
    settings: dict[str, object] = {
        "scoring_version": SCORING_VERSION,
        "kind": kind.value,
        "dataset_hash": dataset_hash,
        "split": split,
        "limit": config.limit,
        "chat": config.chat,
        "engine": engine or config.engine,
        "dtype": config.dtype,
    }
    if config.task is not None:
        return settings | _task_settings(config, config.task)
    if config.limit is not None or config.shots:
        settings["seed"] = config.seed
    if kind is EvaluationKind.PERPLEXITY:
        settings["windows"] = config.windows
    else:
        settings["shots"] = config.shots
    if kind is EvaluationKind.GENERATION:
        settings["max_tokens"] = config.max_tokens
        settings["numeric"] = config.numeric
    return settings


def _task_settings(config: EvaluationConfig, task: TaskDefinition) -> dict[str, object]:
    settings: dict[str, object] = {"task": task.hash, "task_name": task.name, "shots": task.fewshot.count}
    if config.chat == "auto":
        settings["chat"] = task.chat
    if config.limit is not None or (task.fewshot.count and task.fewshot.choose != "first") or task.temperature > 0:
        settings["seed"] = config.seed
    if task.form is RequestForm.ROLLING:
        settings["windows"] = config.windows
    return settings


def fingerprint_of(settings: Mapping[str, object], *, subject: str) -> str:
    """Return the SHA-256 of settings and subject (an id or endpoint identity): equal ones mean equal scores."""
    text = json.dumps({"checkpoint": subject, **settings}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


SETTING_WORDS: dict[str, str] = {
    "scoring_version": "the version of the scoring",
    "kind": "the way of scoring",
    "dataset_hash": "the benchmark or its version",
    "task": "the task's definition",
    "split": "the split",
    "limit": "the number of items",
    "seed": "the seed that draws items",
    "chat": "the use of the chat template",
    "windows": "the windows that documents are cut into",
    "shots": "the number of examples shown",
    "max_tokens": "the longest answer allowed",
    "numeric": "the comparison of numbers",
    "used_chat_template": "whether text went through a chat template",
    "unit": "what counts as one item",
    "judge": "the judge",
    "engine": "the engine",
    "dtype": "the number format asked for",
    "number_format": "the number format of the weights",
}


def unlike_settings(first: Mapping[str, object], second: Mapping[str, object]) -> list[str]:
    """Return every setting in which two evaluations differ, one phrase each. Empty: they are comparable."""
    names = [name for name in SETTING_WORDS if first.get(name) != second.get(name)]
    return [
        (
            SETTING_WORDS[name]
            if name in ("dataset_hash", "task")
            else f"{SETTING_WORDS[name]} ({_shown(first.get(name))} and {_shown(second.get(name))})"
        )
        for name in names
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "all"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
