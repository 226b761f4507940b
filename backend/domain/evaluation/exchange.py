"""Results in the form of lm-evaluation-harness (0.4), out and in; files of others are hostile input. Pure.

A results file holds `results: {task: {"acc,none": value, "acc_stderr,none": error}}`; files of versions before 0.4,
such as those published in `evals/*.json`, name the metric alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from backend.domain.evaluation.config import is_score_lower_better
from backend.domain.evaluation.harness import exported_name, read_name
from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput

MAX_TASKS = 5000
NAME, MODEL = 160, 200


class StatedScore(BaseModel):
    """A metric as a file states it. `n` 0: not stated."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    metric: str
    value: float
    stderr: float | None = None
    n: int = 0


@dataclass(frozen=True)
class StatedScores:
    """A model's scores on one benchmark, as a file states them."""

    model: str
    benchmark: str
    harness: str
    scores: tuple[StatedScore, ...]
    config: JsonObject


def read_results(data: Any, *, source: str) -> list[StatedScores]:
    """Return every benchmark's scores in a results file. Numbers that are not finite are left out.

    Raises InvalidInput, naming what is missing, for a file that holds no such results.
    """
    results = data.get("results") if isinstance(data, dict) else None
    if not isinstance(results, dict) or not results:
        raise InvalidInput(
            f"{source} holds no results: it has no object `results` with a task in it.",
            remedy=(
                "Give a results file of lm-evaluation-harness, or JSON of the same form: {results: {task: {acc: 0.5}}}."
            ),
            field="file",
        )
    if len(results) > MAX_TASKS:
        raise InvalidInput(f"{source} has {len(results):,} tasks; at most {MAX_TASKS:,} are read.", field="file")
    model, harness = _model_of(data, source), _harness_of(data)
    rows = []
    for task, values in results.items():
        scores = _scores(values, n=_count(data, task)) if isinstance(values, dict) else ()
        if scores:
            if len(str(task)) > NAME:
                raise InvalidInput(
                    f"{source} names a task in {len(str(task)):,} characters: {str(task)[:60]}….",
                    remedy=f"Names of tasks have at most {NAME}.",
                    field="file",
                )
            rows.append(StatedScores(model, str(task), harness, scores, _config(data, task)))
    if not rows:
        raise InvalidInput(f"{source} names tasks, but none of them has a finite number.", field="file")
    return rows


def _scores(values: Mapping[str, Any], *, n: int) -> tuple[StatedScore, ...]:
    scores = []
    for key, value in values.items():
        metric, _, filter_name = str(key).partition(",")
        if metric.endswith("_stderr") or not _finite(value):
            continue
        suffix = f",{filter_name}" if filter_name else ""
        stderr = values.get(f"{metric}_stderr{suffix}")
        error = float(stderr) if _finite(stderr) and stderr is not None and stderr >= 0 else None
        scores.append(StatedScore(metric=read_name(metric, filter_name), value=float(value), stderr=error, n=n))
    return tuple(scores)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(data: Mapping[str, Any], task: str) -> int:
    counts = data.get("n-samples")
    counts = counts.get(task) if isinstance(counts, dict) else None
    count = counts.get("effective") if isinstance(counts, dict) else counts
    return int(count) if _finite(count) and count is not None and count > 0 else 0


def _model_of(data: Mapping[str, Any], source: str) -> str:
    config = data.get("config") if isinstance(data.get("config"), dict) else {}
    general = data.get("config_general") if isinstance(data.get("config_general"), dict) else {}
    assert isinstance(config, dict)
    assert isinstance(general, dict)
    arguments = str(config.get("model_args") or "")
    pretrained = next((part.partition("=")[2] for part in arguments.split(",") if part.startswith("pretrained=")), "")
    name = data.get("model_name") or general.get("model_name") or pretrained or config.get("model") or source
    return " ".join(str(name).split())[:MODEL] or source[:MODEL]


def _harness_of(data: Mapping[str, Any]) -> str:
    if data.get("lm_eval_version"):
        return f"lm-evaluation-harness {data['lm_eval_version']}"[:80]
    return "lighteval" if "config_general" in data else "lm-evaluation-harness" if "versions" in data else ""


def _config(data: Mapping[str, Any], task: str) -> dict[str, object]:
    """Return the few settings that say how the scores came about."""
    shots, versions = data.get("n-shot"), data.get("versions")
    config: dict[str, object] = {}
    if isinstance(shots, dict) and _finite(shots.get(task)):
        config["shots"] = int(shots[task])
    if isinstance(versions, dict) and task in versions:
        config["task_version"] = str(versions[task])[:40]
    return config


@dataclass(frozen=True)
class ItemRow:
    """An item for a samples file."""

    item_hash: str
    position: int
    values: Mapping[str, float]
    shown: Mapping[str, Any]


def write_results(
    *,
    task: str,
    model: str,
    scores: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    date: float,
    version: str,
) -> dict[str, object]:
    """Return one evaluation as the results object that lm-evaluation-harness 0.4 writes; a missing error is its `N/A`.

    A metric has the harness's name only where the definition is the same. A subgroup is a task of its own:
    `mmlu_astronomy`.
    """
    results: dict[str, dict[str, object]] = {task: {"alias": task}}
    for score in scores:
        name = f"{task}_{score['subgroup']}" if score.get("subgroup") else task
        values = results.setdefault(name, {"alias": f" - {score.get('subgroup')}"})
        key, _, filter_name = exported_name(str(score["metric"]), score.get("options")).partition(",")
        values[f"{key},{filter_name}"] = score["value"]
        values[f"{key}_stderr,{filter_name}"] = "N/A" if score.get("stderr") is None else score["stderr"]
    n = max((int(score["n"]) for score in scores), default=0)
    totals = [score for score in scores if not score.get("subgroup")]
    directions = {
        exported_name(str(score["metric"]), score.get("options")).partition(",")[0]: not is_score_lower_better(
            score["metric"]
        )
        for score in totals
    }
    return {
        "results": results,
        "group_subtasks": {task: [name for name in results if name != task]},
        "configs": {
            task: {"task": task, "num_fewshot": settings.get("shots", 0), "metadata": {"roundhouse": dict(settings)}}
        },
        "versions": {task: str(settings.get("scoring_version", ""))},
        "n-shot": {task: settings.get("shots", 0)},
        "higher_is_better": {task: directions},
        "n-samples": {task: {"original": n, "effective": n}},
        "config": {
            "model": "roundhouse",
            "model_args": f"pretrained={model}",
            "limit": settings.get("limit"),
            **dict(facts),
        },
        "date": date,
        "model_name": model,
        "model_source": "roundhouse",
        "harness": f"roundhouse {version}",
    }


def sample_line(item: ItemRow) -> dict[str, object]:
    """Return one item as a line of lm-evaluation-harness' samples file. What an evaluation did not keep is empty."""
    shown = item.shown
    logprobs, choices = list(shown.get("logprobs") or []), list(shown.get("choices") or [])
    context = str(shown.get("prompt") or shown.get("question") or shown.get("text") or "")
    arguments = {f"gen_args_{place}": {"arg_0": context, "arg_1": str(choice)} for place, choice in enumerate(choices)}
    responses: list[Any] = [[[value, None]] for value in logprobs] or [[str(shown.get("completion") or "")]]
    values = {exported_name(name).removesuffix(",none"): value for name, value in item.values.items()}
    target = choices.index(shown["answer"]) if choices and shown.get("answer") in choices else shown.get("answer", "")
    return {
        "doc_id": item.position,
        "doc": {key: shown[key] for key in ("question", "choices", "text") if key in shown},
        "target": target,
        "arguments": arguments or {"gen_args_0": {"arg_0": context}},
        "resps": responses,
        "filtered_resps": [one[0] for one in responses],
        "filter": "none",
        "metrics": list(values),
        "doc_hash": item.item_hash,
        "prompt_hash": str(shown.get("prompt_hash") or ""),
        "target_hash": "",
        **values,
    }
