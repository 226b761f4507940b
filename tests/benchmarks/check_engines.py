"""Does the fast engine give every item what lm-evaluation-harness gives it? Items of the published files by both.

    python -m tests.benchmarks.check_engines FOLDER_OF_BENCHMARKS CHECKPOINT... [--items 20] [--tasks NAME...]

For each checkpoint and task: the largest difference of a log-likelihood; items with another choice; and accuracy by
both. `check_task_prompts.py` compares the prompts themselves.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.domain.evaluation.tasks.definition import RequestForm
from backend.domain.evaluation.tasks.selection import select_rows
from jobs.evaluation.engines.base import EvaluationEngine, ScoreRequest
from jobs.evaluation.engines.fast import FastEngine
from jobs.evaluation.engines.lm_eval import HarnessEngine
from jobs.evaluation.items import Item
from jobs.evaluation.questions import Question, run_requests
from jobs.evaluation.subject import EvaluatedNetwork, load_subject
from jobs.evaluation.task_questions import TaskQuestions
from jobs.modeling.loglikelihood import prefix_token
from tests.benchmarks.check_task_prompts import imported, shipped

FILES: dict[str, tuple[str, str | None]] = {
    "blimp": ("blimp", None),
    "mmlu": ("mmlu", None),
    "truthfulqa_mc1": ("truthfulqa/TruthfulQA.csv", None),
    "truthfulqa_mc2": ("truthfulqa/TruthfulQA.csv", None),
    "bbq": ("bbq", None),
    "winogender": ("winogender/all_sentences.tsv", None),
    "lambada": ("lambada/lambada_development_plain_text.txt", "records"),
    "gsm8k": ("gsm8k/test.jsonl", None),
    "bbh_boolean_expressions": ("bbh/boolean_expressions.json", None),
}


def questions(name: str, rows: Sequence[dict[str, Any]], subject: EvaluatedNetwork, count: int) -> list[Question]:
    """Return the requests of randomly drawn items."""
    task = shipped(name)
    selection = select_rows(task, rows, limit=None, seed=1)
    maker = TaskQuestions(task, subject, selection, chat=False, seed=1, windows="first_window")
    chosen = random.Random(1).sample(list(selection.scored), min(count, len(selection.scored)))
    return [maker.question(Item(str(at), at, dict(rows[at]))) for at in chosen]


def results(engine: EvaluationEngine, asking: Sequence[Question]) -> list[Any]:
    """Return an engine's results in the order of the questions."""
    found = dict(pair for batch in run_requests(engine, [question.request for question in asking]) for pair in batch)
    return [found[index] for index in range(len(asking))]


def has_context(question: Question) -> bool:
    """Return whether every continuation of a question stands behind some text."""
    return not isinstance(question.request, ScoreRequest) or all(context for context, _ in question.request.pairs)


def compare(name: str, subject: EvaluatedNetwork, asking: Sequence[Question]) -> bool:
    """Print the comparison of a task; return whether both agree."""
    if prefix_token(subject.tokenizer) is None:
        asking = [question for question in asking if has_context(question)]
        if not asking:
            print(
                f"  {name:26} without context, which the harness refuses of a tokenizer with neither begin nor end"
                " token",
                flush=True,
            )
            return True
    ours, theirs = results(FastEngine(subject), asking), results(HarnessEngine(subject, batch_size=4), asking)
    scored = [(q.finish(a)[0], q.finish(b)[0]) for q, a, b in zip(asking, ours, theirs, strict=True)]
    if shipped(name).form is RequestForm.GENERATE:
        texts = [(a[0].text, b[0].text) for a, b in zip(ours, theirs, strict=True)]
        # HFLM's decoding drops a space at the beginning
        other = sum(a.removeprefix(" ") != b.removeprefix(" ") for a, b in texts)
        spaces, metric = sum(a != b for a, b in texts) - other, shipped(name).metric_uses[0].name
        means = [np.mean([one.values.get(metric, np.nan) for one in side]) for side in zip(*scored, strict=True)]
        answers = f"{other} other answers ({spaces} but for a space before)"
        print(f"  {name:26} {len(asking):4} items, {answers}, {metric} {means[0]:.4f} {means[1]:.4f}", flush=True)
        return other == 0
    pairs = [(a, b) for mine, reference in zip(ours, theirs, strict=True) for a, b in zip(mine, reference, strict=True)]
    # the harness refuses continuations longer than the context
    pairs = [(a, b) for a, b in pairs if np.isfinite(b.sum_logprob)]
    gap = max(abs(a.sum_logprob - b.sum_logprob) for a, b in pairs)
    other = sum(a.shown.get("chosen") != b.shown.get("chosen") for a, b in scored)
    metric = shipped(name).metric_uses[0].name
    means = [np.mean([one.values.get(metric, np.nan) for one in side]) for side in zip(*scored, strict=True)]
    print(
        f"  {name:26} {len(asking):4} items, largest difference {gap:.1e}, {other} other choices, {metric}"
        f" {means[0]:.4f} {means[1]:.4f}",
        flush=True,
    )
    return gap <= 1e-4 and other == 0


def main() -> int:
    """Compare every task on every checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--tasks", nargs="*", default=list(FILES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: imported(args.folder / FILES[name][0], FILES[name][1]) for name in args.tasks}
    agree = True
    for folder in args.checkpoints:
        subject = load_subject(folder)
        print(f"{folder.name}: context {subject.context}", flush=True)
        for name in args.tasks:
            agree &= compare(name, subject, questions(name, rows[name], subject, args.items))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
