"""Items of two evaluations side by side (fixed, broken, wrong in both), and where a judge disagrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select

from backend.db.tables import Job
from backend.domain.evaluation.config import is_right, is_score_lower_better
from backend.domain.evaluation.judges import SHOWN_CHARACTERS, JudgeConfig
from backend.domain.jobs.states import Status
from backend.errors import NotFound
from backend.services.context import Context
from backend.services.evaluation.comparisons import Pair
from backend.services.evaluation.evaluations import EvaluationView
from backend.services.evaluation.items import ItemView, all_items, read_index, read_items, search_items
from backend.services.evaluation.judgements import list_judgements, read_verdicts
from backend.services.evaluation.pairing import item_metric

Verdicts = dict[tuple[str, ...], float]
"""A verdict by texts (question, answers): of one answer 1 good, -1 bad; of two 1 where the second is better, -1 the
first; 0 neither.
"""
MAX_CHANGED = 200
PairChoice = Literal["broken", "fixed", "both_wrong", "both_right"]


@dataclass(frozen=True)
class Flip:
    """One item on which two evaluations differ, as each saw it."""

    first: ItemView
    second: ItemView


def group_pairs(ctx: Context, pair: Pair, *, text: str = "") -> dict[PairChoice, list[str]]:
    """Return the hashes, in the order of the benchmark, of the items that the second broke or fixed, or that both have
    wrong or right; with `text` those where one of the two contains it.
    """
    metric = item_metric(pair.metric)
    sign = -1 if is_score_lower_better(metric) else 1
    having = _containing(ctx, pair, text) if text.strip() else None
    groups: dict[PairChoice, list[str]] = {"broken": [], "fixed": [], "both_wrong": [], "both_right": []}
    for key, before, after in _common(ctx, pair):
        if having is not None and key not in having:
            continue
        if before != after:
            groups["fixed" if sign * after > sign * before else "broken"].append(key)
        else:
            groups["both_right" if is_right(metric, before) else "both_wrong"].append(key)
    return groups


def list_changed(ctx: Context, pair: Pair) -> list[str]:
    """Return the hashes of the items that differ, the largest differences first."""
    changes = {key: abs(after - before) for key, before, after in _common(ctx, pair) if after != before}
    return sorted(changes, key=lambda key: -changes[key])[:MAX_CHANGED]


def _common(ctx: Context, pair: Pair) -> Iterator[tuple[str, float, float]]:
    """Yield hash and both values of each item that both evaluations have, in the order of the benchmark."""
    first, second = read_index(ctx, pair.first), read_index(ctx, pair.second)
    before, after = (index.columns.get(item_metric(pair.metric), [None] * len(index)) for index in (first, second))
    for key, value in zip(first.hashes, before, strict=True):
        then = after[second.rows[key]] if key in second.rows else None
        if value is not None and then is not None:
            yield key, value, then


def _containing(ctx: Context, pair: Pair, text: str) -> set[str]:
    hashes = set[str]()
    for side in (pair.first, pair.second):
        index, having = read_index(ctx, side), search_items(ctx, side, text)
        hashes.update(key for key, position in zip(index.hashes, index.positions, strict=True) if position in having)
    return hashes


def read_paired_items(ctx: Context, pair: Pair, hashes: Sequence[str]) -> list[Flip]:
    """Return items of both evaluations by their hashes, in that order."""
    indices = [read_index(ctx, side) for side in (pair.first, pair.second)]
    first, second = (read_items(ctx, index, [index.rows[key] for key in hashes]) for index in indices)
    return [Flip(one, other) for one, other in zip(first, second, strict=True)]


def disagreeing_items(ctx: Context, evaluation: EvaluationView) -> frozenset[int] | None:
    """Return the positions of the items whose judged answer is good though scored wrong, or bad though scored right.

    None where no judgement has one of its answers. A score at the middle of the judge's scale is neither good nor bad.
    """
    verdicts = _read_all(ctx, mode="rubric")
    items = all_items(ctx, evaluation) if verdicts else []
    metric = item_metric(evaluation.main_metric)
    judged = [(item, side) for item in items if (side := _find(verdicts, item)) is not None and metric in item.values]
    if not judged:
        return None
    return frozenset(
        item.position for item, side in judged if side and (side > 0) != is_right(metric, item.values[metric])
    )


def disagreeing_pairs(ctx: Context, comparison: Pair) -> list[str] | None:
    """Return the hashes of the items on which a pairwise judge does not prefer the better score's side; None where none
    was judged.
    """
    verdicts = _read_all(ctx, mode="pairwise")
    if not verdicts:
        return None
    sides = (comparison.first, comparison.second)
    first, second = ({item.item_hash: item for item in all_items(ctx, side)} for side in sides)
    metric = item_metric(comparison.metric)
    sign = -1.0 if is_score_lower_better(metric) else 1.0
    judged, disagreeing = 0, []
    for key, before in first.items():
        after = second.get(key)
        if after is None or metric not in before.values or metric not in after.values:
            continue
        verdict = _find(verdicts, before, after)
        if verdict is None:
            continue
        judged += 1
        change = sign * (after.values[metric] - before.values[metric])
        if verdict != (change > 0) - (change < 0):
            disagreeing.append(key)
    return disagreeing if judged else None


def _read_all(ctx: Context, *, mode: str) -> Verdicts:
    """Return the verdicts of all finished judgements; the newest counts where an answer was judged twice."""
    verdicts: Verdicts = {}
    for judgement in list_judgements(ctx):
        if judgement.mode == mode and judgement.job.status is Status.FINISHED:
            for key, side in _sides(ctx, judgement.job.id):
                verdicts.setdefault(key, side)
    return verdicts


def _sides(ctx: Context, job_id: str) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield the texts and the side of each verdict of a judgement."""
    with ctx.db.read() as session:
        payload = session.scalar(select(Job.payload).where(Job.id == job_id))
    config = JudgeConfig.model_validate((payload or {})["config"])
    try:
        records = read_verdicts(ctx, job_id)
    except NotFound:  # its folder was deleted
        return
    for record in records:
        if record["verdict"] is not None:
            yield (
                tuple(text.strip() for text in (record["prompt"], *record["answers"])),
                _side(record["verdict"], config),
            )


def _side(verdict: Any, config: JudgeConfig) -> float:
    if config.mode == "pairwise":
        return {"A": -1.0, "B": 1.0}.get(verdict, 0.0)
    if config.labels:
        return 1.0 if verdict == config.labels[0] else -1.0
    middle = (config.low + config.high) / 2
    return float((verdict > middle) - (verdict < middle))


def _find(verdicts: Verdicts, *sides: ItemView) -> float | None:
    """Return the verdict on the answers of one item, which may have been judged in the other order."""
    answers = [
        str(side.shown.get("completion") or side.shown.get("chosen") or "").strip()[:SHOWN_CHARACTERS] for side in sides
    ]
    for name in ("question", "prompt"):
        prompt = str(sides[0].shown.get(name) or "").strip()[:SHOWN_CHARACTERS]
        if (prompt, *answers) in verdicts:
            return verdicts[(prompt, *answers)]
        if len(answers) == 2 and (prompt, *answers[::-1]) in verdicts:
            return -verdicts[(prompt, *answers[::-1])]
    return None
