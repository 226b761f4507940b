"""Rows that a task scores and the examples before each: limits, draws for each item, and what lm-evaluation-harness
draws.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.reading import shipped_definition
from backend.domain.evaluation.tasks.rendering import subgroup_of
from backend.domain.evaluation.tasks.selection import render_row, select_rows
from backend.errors import InvalidInput

ROWS = [{"question": f"Question {n}?", "answer": str(n), "subject": "ab"[n % 2]} for n in range(12)]


def task(**changes: Any) -> TaskDefinition:
    values = {"name": "sums", "kind": "generation", "prompt": "{{question}}", "target": "{{answer}}"}
    return TaskDefinition.model_validate(values | {"fewshot": {"count": 3, "choose": "per_item"}} | changes)


def test_a_limit_of_xstest_draws_safe_and_unsafe_prompts_in_turn() -> None:
    """With three items XSTest ended with "No item has a score", as none of them was unsafe."""
    xstest = shipped_definition("xstest")
    assert isinstance(xstest, TaskDefinition)
    rows = [
        {"prompt": f"Prompt {n}", "type": "contrast_privacy" if n > 80 else "privacy", "label": "x", "focus": "y"}
        for n in range(100)
    ]
    for seed in range(5):
        scored = select_rows(xstest, rows, limit=4, seed=seed).scored
        assert [at > 80 for at in scored] == [False, False, True, True]


def test_examples_of_each_item_are_drawn_for_it_and_never_show_it() -> None:
    selection = select_rows(task(), ROWS, limit=None, seed=1)
    assert selection.scored == tuple(range(12)), "no row is spent on examples"
    shown = [selection.examples_for(row, None) for row in ROWS]
    assert len({tuple(example["answer"] for example in part) for part in shown}) > 8
    assert all(row not in part for row, part in zip(ROWS, shown, strict=True))
    assert render_row(task(), ROWS[0], selection).context.count("Question") == 4


def test_a_limit_changes_no_items_examples() -> None:
    whole, part = (select_rows(task(), ROWS, limit=limit, seed=1) for limit in (None, 4))
    assert all(whole.examples_for(ROWS[at], None) == part.examples_for(ROWS[at], None) for at in part.scored)


def test_the_draws_are_those_of_lm_evaluation_harness() -> None:
    samplers = pytest.importorskip("lm_eval.api.samplers")
    theirs = samplers.ContextSampler(ROWS, rnd=1234)
    selection = select_rows(task(), ROWS, limit=None, seed=1234)
    assert [list(selection.examples_for(row, None)) for row in ROWS] == [
        list(theirs.sample(3, eval_doc=row)) for row in ROWS
    ]
    apart = samplers.ContextSampler(ROWS[6:], rnd=1234)
    selection = select_rows(task(), ROWS[:6], limit=None, seed=1234, pool=ROWS[6:])
    assert [list(selection.examples_for(row, None)) for row in ROWS[:6]] == [list(apart.sample(3)) for _ in range(6)]


def test_examples_of_a_subgroup_come_from_it() -> None:
    chosen = task(subgroup="subject", fewshot={"count": 2, "choose": "per_item", "same_subgroup": True})
    selection = select_rows(chosen, ROWS, limit=None, seed=random.Random(0).randrange(100))
    for row in ROWS:
        assert {example["subject"] for example in selection.examples_for(row, subgroup_of(chosen, row))} == {
            row["subject"]
        }
    with pytest.raises(InvalidInput, match="3 examples of “a” are needed, and the source of examples has 1"):
        select_rows(
            task(subgroup="subject", fewshot={"count": 3, "choose": "per_item", "same_subgroup": True}),
            ROWS[:4],
            limit=None,
            seed=1,
        )
    with pytest.raises(InvalidInput, match=r"the rows name none\. Import the benchmark's files together"):
        select_rows(chosen, [{**row, "subject": ""} for row in ROWS], limit=None, seed=1, pool=ROWS)
