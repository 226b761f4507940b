"""Choose the rows of a dataset that a task scores, and the examples that stand before each of them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.domain.evaluation.instructions import instructions_of
from backend.domain.evaluation.metrics.items import INSTRUCTIONS
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.metric_names import METRIC_NAMES
from backend.domain.evaluation.tasks.rendering import UNNAMED, Rendered, balanced_value, is_chosen, render, subgroup_of
from backend.domain.evaluation.tasks.templates import TemplateFault
from backend.domain.json_values import RowMapping
from backend.errors import InvalidInput


@dataclass(frozen=True)
class Selection:
    """Rows to score, by index, in the dataset's order; and the examples of each subgroup (None: of every row)."""

    scored: tuple[int, ...]
    examples: Mapping[str | None, tuple[RowMapping, ...]]
    own_examples: Mapping[str, tuple[RowMapping, ...]] = field(default_factory=dict)
    """Examples drawn for one item each, by the fingerprint of its row."""

    def examples_for(self, row: RowMapping, subgroup: str | None) -> tuple[RowMapping, ...]:
        """Return the examples that stand before an item: its own, or those of its subgroup."""
        if self.own_examples:
            return self.own_examples[_fingerprint(row)]
        return self.examples.get(subgroup, self.examples.get(None, ()))


def select_rows(
    task: TaskDefinition,
    rows: Sequence[RowMapping],
    *,
    limit: int | None,
    seed: int,
    pool: Sequence[RowMapping] | None = None,
) -> Selection:
    """Choose the rows to score and the examples, drawn with the seed; no example is scored.

    `rows` hold the columns that templates read; `pool` those of another split or dataset that examples come from.
    Raises InvalidInput if no row remains or there are too few examples, TemplateFault for a condition that fails.
    """
    chosen = _meeting(task, rows, where=task.data.where, path="data.where")
    if not chosen:
        raise InvalidInput(_no_rows(task, rows), remedy="Choose another dataset, or change `data.where`.", field="task")
    examples, used = _examples(task, rows, chosen, seed=seed, pool=pool)
    own_examples = (
        _draw_for_items(task, rows, chosen, seed=seed, pool=pool) if task.fewshot.choose == "per_item" else {}
    )
    left = [at for at in chosen if at not in used]
    if not left:
        raise InvalidInput(
            f"All {len(chosen)} rows serve as examples, and none is left to score.",
            remedy="Give fewer examples, or take them from another split: fewshot.split, fewshot.where.",
            field="fewshot.count",
        )
    if limit is not None and limit < len(left):
        left = sorted(_draw(task, rows, left, count=limit, seed=seed))
    return Selection(tuple(left), examples, own_examples)


def _draw(
    task: TaskDefinition, rows: Sequence[RowMapping], places: Sequence[int], *, count: int, seed: int
) -> list[int]:
    """Return places drawn with the seed, in turn from the rows of each value of `data.balance`."""
    shuffled = random.Random(f"items {seed}").sample(places, len(places) if task.data.balance else count)
    if not task.data.balance:
        return shuffled
    turns: dict[str, int] = {}
    order = []
    for at in shuffled:
        try:
            value = balanced_value(task, rows[at])
        except TemplateFault as fault:
            raise name_row(fault, at) from fault
        turns[value] = turns.get(value, 0) + 1
        order.append((turns[value], at))
    return [at for _, at in sorted(order, key=lambda turn: turn[0])[:count]]


def render_row(task: TaskDefinition, row: RowMapping, selection: Selection) -> Rendered:
    """Render a row behind its examples. Raises TemplateFault, also for a row without what a metric reads."""
    if task.kind == "generation":
        _check_metrics(task, row)
    return render(task, row, selection.examples_for(row, subgroup_of(task, row)))


def _check_metrics(task: TaskDefinition, row: RowMapping) -> None:
    names = [use.name for use in task.metric_uses]
    comparing = [name for name in names if name not in METRIC_NAMES]
    if comparing and not (task.references or task.target or task.runs_code):
        raise TemplateFault(
            f"The metric {comparing[0]} compares with right answers, and the task names none.",
            path="references",
            remedy="Give `references`, such as answers, or `target`; or choose another metric.",
        )
    if INSTRUCTIONS in names:
        try:
            instructions_of(row)
        except InvalidInput as error:
            raise TemplateFault(
                f"The metric {INSTRUCTIONS} can't score it: {error.message}",
                path="metrics",
                remedy=f"{error.remedy} Or choose another metric.",
            ) from error


def _no_rows(task: TaskDefinition, rows: Sequence[RowMapping]) -> str:
    if not rows:
        return "The dataset has no rows in this split."
    return f"None of the {len(rows):,} rows meets the condition of “{task.shown_title}”: {task.data.where}."


def _meeting(task: TaskDefinition, rows: Sequence[RowMapping], *, where: str, path: str) -> Sequence[int]:
    """Return the indices of the rows that meet a condition. No row is read for an empty one."""
    if not where:
        return range(len(rows))
    indices = []
    for at, row in enumerate(rows):
        try:
            if is_chosen(task, row, where=where, path=path):
                indices.append(at)
        except TemplateFault as fault:
            raise name_row(fault, at) from fault
    return indices


def name_row(fault: TemplateFault, at: int) -> TemplateFault:
    """Return the fault with the number of the row, counted from 1, before its message."""
    return TemplateFault(f"Row {at + 1}: {fault.message}", path=fault.path, line=fault.line, remedy=fault.remedy)


def _examples(
    task: TaskDefinition,
    rows: Sequence[RowMapping],
    chosen: Sequence[int],
    *,
    seed: int,
    pool: Sequence[RowMapping] | None,
) -> tuple[dict[str | None, tuple[RowMapping, ...]], set[int]]:
    """Return the examples by subgroup, and the indices of scored rows that serve as such."""
    count = task.fewshot.count
    if not count or task.fewshot.choose == "per_item":
        return {}, set()
    source, own, by_subgroup = _source(task, rows, chosen, pool=pool)
    picked = {name: _pick(task, part, seed=seed) for name, part in by_subgroup.items()}
    if task.fewshot.same_subgroup:
        _check_enough(task, rows, chosen, picked)
    elif len(picked.get(None, ())) < count:
        raise _too_few(count, len(picked.get(None, ())), subgroup=None)
    used = {at for part in picked.values() for at in part} if own else set()
    return {name: tuple(source[at] for at in part) for name, part in picked.items()}, used


def _source(
    task: TaskDefinition, rows: Sequence[RowMapping], chosen: Sequence[int], *, pool: Sequence[RowMapping] | None
) -> tuple[Sequence[RowMapping], bool, dict[str | None, list[int]]]:
    """Return the rows that examples come from, whether they are the scored ones, and the places of those that may
    serve, by subgroup.
    """
    source: Sequence[RowMapping] = task.fewshot.examples or (rows if pool is None else pool)
    own = not task.fewshot.examples and pool is None
    where = "" if task.fewshot.examples else task.fewshot.where
    places = _meeting(task, source, where=where, path="fewshot.where")
    if own and not where:
        scored = set(chosen)
        places = [at for at in places if at in scored]
    by_subgroup: dict[str | None, list[int]] = {}
    for at in places:
        by_subgroup.setdefault(subgroup_of(task, source[at]) if task.fewshot.same_subgroup else None, []).append(at)
    return source, own, by_subgroup


def _draw_for_items(
    task: TaskDefinition,
    rows: Sequence[RowMapping],
    chosen: Sequence[int],
    *,
    seed: int,
    pool: Sequence[RowMapping] | None,
) -> dict[str, tuple[RowMapping, ...]]:
    """Return the examples of each item, drawn in the items' order, so that a limit changes none of them; an item never
    shows itself.

    The draws are those of the default sampler of lm-evaluation-harness 0.4.13, whose usual seed is 1234, with one
    generator a subgroup.
    """
    count = task.fewshot.count
    if not count:
        return {}
    source, own, by_subgroup = _source(task, rows, chosen, pool=pool)
    names = {at: subgroup_of(task, rows[at]) if task.fewshot.same_subgroup else None for at in chosen}
    generators = {name: random.Random(seed) for name in names.values()}
    docs_by_subgroup = {name: [source[place] for place in by_subgroup.get(name, ())] for name in generators}
    inside = {place for places in by_subgroup.values() for place in places} if own else set()
    drawn = {}
    for at, name in names.items():
        docs, is_inside = docs_by_subgroup[name], at in inside
        sample = generators[name].sample(docs, min(len(docs), count + is_inside))
        others = [row for row in sample if not is_inside or row != rows[at]]
        if len(others) < count:  # too few, or the row stands in the source more than once
            left = [row for row in docs if not is_inside or row != rows[at]]
            if len(left) < count:
                raise _too_few(count, len(left), subgroup=name)
            others = generators[name].sample(left, count)
        drawn[_fingerprint(rows[at])] = tuple(others[:count])
    return drawn


def _too_few(count: int, num_rows: int, *, subgroup: str | None) -> InvalidInput:
    if subgroup == UNNAMED:
        return InvalidInput(
            "The task's examples are of the row's own subgroup, and the rows name none.",
            remedy="Import the benchmark's files together, so that their names are kept, or choose another task.",
            field="fewshot.count",
        )
    if subgroup is not None:
        return InvalidInput(
            f"{count} examples of “{subgroup}” are needed, and the source of examples has {num_rows}.",
            remedy="Give fewer examples, or set fewshot.same_subgroup to false.",
            field="fewshot.count",
        )
    return InvalidInput(
        f"{count} examples are needed, and the source of examples has {num_rows} rows.",
        remedy="Give fewer examples, or another source: fewshot.split, fewshot.where, fewshot.examples.",
        field="fewshot.count",
    )


def _fingerprint(row: RowMapping) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def _pick(task: TaskDefinition, places: Sequence[int], *, seed: int) -> tuple[int, ...]:
    count = task.fewshot.count
    if task.fewshot.choose == "first" or len(places) <= count:
        return tuple(places[:count])
    return tuple(random.Random(f"examples {seed}").sample(places, count))


def _check_enough(
    task: TaskDefinition,
    rows: Sequence[RowMapping],
    chosen: Sequence[int],
    picked: Mapping[str | None, tuple[int, ...]],
) -> None:
    for subgroup in dict.fromkeys(subgroup_of(task, rows[at]) for at in chosen):
        if (have := len(picked.get(subgroup, ()))) < task.fewshot.count:
            raise _too_few(task.fewshot.count, have, subgroup=subgroup)
