"""Lengths of a sample of a benchmark's prompts in a checkpoint's tokens, known before the launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from backend.domain.data.splits import SPLITS
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.json_values import Row
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context
from backend.services.data.row_pages import read_version_rows
from backend.services.data.views import VersionView
from backend.services.evaluation.evaluations import Plan
from backend.services.evaluation.task_fit import render_numbered, select_task_rows
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens

SAMPLED = 64
"""Prompts that are tokenized: a benchmark that is cut as a whole shows it in a few."""
MAX_REMEMBERED = 200
_prompts: dict[tuple[object, ...], tuple[str, ...]] = {}
_lengths: dict[tuple[object, ...], tuple[int, ...]] = {}
T = TypeVar("T")


def prompt_lengths(
    ctx: Context, checkpoint: CheckpointView, version: VersionView, plan: Plan, config: EvaluationConfig
) -> tuple[int, ...]:
    """Return the lengths of some prompts in a checkpoint's tokens; of multiple choice each with its longest choice.

    Where no task renders them, the first rows stand for the examples that the job draws. Remembered. Raises a
    RoundhouseError where rows or tokenizer can't be read.
    """
    task = config.task
    sample: tuple[object, ...] = (version.id, version.content_hash, plan.kind, plan.split, config.shots, config.seed)
    if task is not None:
        sample = (*sample, task.hash, task.fewshot.dataset)
    key = (*sample, checkpoint.folder)
    if key not in _lengths:
        if sample not in _prompts:
            _remember(_prompts, sample, _sample(ctx, version, plan, config))
        counted = count_tokens(ctx, resolve_source(ctx, f"checkpoint:{checkpoint.id}"), _prompts[sample])
        _remember(_lengths, key, tuple(counted))
    return _lengths[key]


def _remember(memory: dict[tuple[object, ...], T], key: tuple[object, ...], value: T) -> None:
    if len(memory) >= MAX_REMEMBERED:
        memory.clear()
    memory[key] = value


def _sample(ctx: Context, version: VersionView, plan: Plan, config: EvaluationConfig) -> tuple[str, ...]:
    if config.task is not None:
        rows, selection = select_task_rows(ctx, config.task, version, split=plan.split, seed=config.seed)
        step = max(1, len(selection.scored) // SAMPLED)
        shown = [render_numbered(config.task, rows, at, selection) for at in selection.scored[::step][:SAMPLED]]
        return tuple(
            max((context + end for context, end in one.pairs()), key=len, default=one.context) for one in shown
        )
    folder, rows = version.folder or "", list[Row]()
    for split in SPLITS if plan.split == "all" else (plan.split,):
        missing = config.shots + SAMPLED - len(rows)
        rows += read_version_rows(ctx, folder, split=split, limit=missing) if missing > 0 else []
    examples = "".join(f"{row.get('question', '')} {_answer(row)}\n\n" for row in rows[: config.shots])
    return tuple(
        f"{examples}{row['question']}{_longest(row, plan.kind)}" for row in rows[config.shots :] if "question" in row
    )


def _answer(row: Row) -> str:
    if row.get("answers"):
        return str(row["answers"][0])
    choices: Sequence[object] = row.get("choices") or ()
    at = int(row.get("answer") or 0)
    return str(choices[at]) if 0 <= at < len(choices) else ""


def _longest(row: Row, kind: EvaluationKind) -> str:
    """Return what is scored behind a question: its longest choice."""
    if kind is not EvaluationKind.MULTIPLE_CHOICE:
        return ""
    return max((f" {choice}" for choice in row.get("choices") or ()), key=len, default="")
