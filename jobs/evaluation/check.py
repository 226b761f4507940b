"""Compute items of an evaluation by its own engine and by another one, and compare them one by one."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.results import CheckedItem, EngineCheck, EvaluateResult
from jobs.evaluation.engines.base import EvaluationEngine, PromptRequest
from jobs.evaluation.engines.choose import open_engine
from jobs.evaluation.ledger import check_stop
from jobs.evaluation.questions import Question, run_requests
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.reporter import JobSpec, Reporter

SHOWN_ITEMS = 50
NOT_COMPARED = frozenset({"sum_nll", "nll_per_token", "bits_per_byte", "brier", "likelihood_diff", "mc2"})
"""Values that are numbers in nats or follow from them: their difference is the log-likelihood's."""


def check_engines(
    spec: JobSpec[EvaluatePayload], reporter: Reporter, subject: EvaluatedNetwork, questions: Sequence[Question]
) -> EvaluateResult:
    """Return the differences of randomly chosen items, the largest first."""
    payload, config = spec.payload, spec.payload.config
    assert payload.check is not None
    count = min(payload.check.items or len(questions), len(questions))
    chosen = random.Random(f"check {config.seed}").sample(list(questions), count)
    reporter.progress(0, 2 * count, unit="items", message="Computing items twice")

    def stop() -> None:
        check_stop(reporter)

    own = _run(
        open_engine(config.engine, subject, batch_size=config.batch_size, check_stop=stop, job=spec.id),
        chosen,
        reporter,
        done=0,
    )
    other = _run(
        open_engine(payload.check.against, subject, batch_size=config.batch_size, check_stop=stop, job=spec.id),
        chosen,
        reporter,
        done=count,
    )
    items = [_compare(question, first, second) for question, first, second in zip(chosen, own, other, strict=True)]
    items.sort(key=lambda item: (not item.same_choice, not item.same_values, item.difference or 0.0), reverse=True)
    differences = [item.difference for item in items if item.difference is not None]
    return EvaluateResult(
        check=EngineCheck(
            against=payload.check.against,
            engine=config.engine,
            items=count,
            largest_difference=max(differences, default=None),
            other_choices=sum(not item.same_choice for item in items),
            other_values=sum(not item.same_values for item in items),
            shown=tuple(items[:SHOWN_ITEMS]),
        )
    )


def _run(engine: EvaluationEngine, questions: Sequence[Question], reporter: Reporter, *, done: int) -> list[Any]:
    results: dict[int, Any] = {}
    for batch in run_requests(engine, [question.request for question in questions]):
        results.update(batch)
        reporter.progress(done + len(results), 2 * len(questions), unit="items")
    return [results[index] for index in range(len(questions))]


def _compare(question: Question, first: Any, second: Any) -> CheckedItem:
    scored, again = question.finish(first), question.finish(second)
    same = [
        one.values.get(name) == two.values.get(name)
        for one, two in zip(scored, again, strict=True)
        for name in one.values
        if name not in NOT_COMPARED
    ]
    chosen = [(one.shown.get("chosen"), two.shown.get("chosen")) for one, two in zip(scored, again, strict=True)]
    if isinstance(question.request, PromptRequest):
        difference = None
        # the harness decodes an answer without its prompt, and tokenizers of SentencePiece's kind then drop a space at
        # its beginning
        chosen = [
            (one.text.removeprefix(" "), two.text.removeprefix(" ")) for one, two in zip(first, second, strict=True)
        ]
    elif isinstance(first, tuple):
        difference = max(abs(one.sum_logprob - two.sum_logprob) for one, two in zip(first, second, strict=True))
    else:
        difference = abs(first.sum_nll - second.sum_nll)
    if difference is not None and not math.isfinite(difference):
        difference = None  # one of the engines could not compute it
    return CheckedItem(
        item_hash=question.item.hash,
        position=question.item.position,
        difference=difference,
        same_choice=all(one == two for one, two in chosen),
        same_values=all(same),
    )
