"""Score a file of answers by a metric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from backend.domain.evaluation.extraction import AnswerFilter, extract_answer
from backend.domain.evaluation.metrics.registry import Metric, MetricKind, bind_checker, get_metric
from backend.domain.evaluation.metrics.score import AnswerRow, MetricScore, read_answer_rows, score_rows
from backend.errors import InvalidInput
from backend.infra.expressions import math_checker
from backend.infra.files.paths import text_file


@dataclass(frozen=True)
class FileScore:
    """The score of a file. `unparsed` counts answers in which no filter found one: they are wrong, and empty for a
    corpus metric. None: not filtered.
    """

    score: MetricScore
    unparsed: int | None = None


def score_file(
    file: Path, *, metric: Metric, correct: str | None = None, filters: tuple[AnswerFilter, ...] = (), seed: int = 0
) -> FileScore:
    """Score JSON lines {prediction, references} by a metric; `correct` names the metric that decides whether one sample
    is right.

    Raises NotFound for a missing file, InvalidInput with the line of a row that can't be read.
    """
    judge = None if correct is None else bind_checker(get_metric(correct), math_checker().equal)
    metric = bind_checker(metric, math_checker().equal)
    if judge is not None and judge.kind is not MetricKind.MEAN:
        raise InvalidInput(
            f"{judge.name} can't decide whether one sample is right.", remedy="Use exact_match, numeric or accuracy."
        )
    with text_file(file), file.open(encoding="utf-8-sig") as lines:
        rows = read_answer_rows(lines, metric)
    if not filters:
        return FileScore(score_rows(metric, rows, correct=judge, seed=seed))
    rows, unparsed = _extract(rows, filters)
    return FileScore(score_rows(metric, rows, correct=judge, seed=seed), unparsed)


def _extract(rows: list[AnswerRow], filters: tuple[AnswerFilter, ...]) -> tuple[list[AnswerRow], int]:
    unparsed = 0

    def answer_in(text: str) -> str | None:
        nonlocal unparsed
        extracted = extract_answer(text, filters)
        unparsed += extracted.text is None
        return extracted.text

    filtered = []
    for row in rows:
        if isinstance(row.prediction, str):
            filtered.append(replace(row, prediction=answer_in(row.prediction)))
        elif all(isinstance(sample, str) for sample in row.prediction):
            filtered.append(replace(row, prediction=[answer_in(sample) for sample in row.prediction]))
        else:
            raise InvalidInput(
                "Filters read texts, and these predictions are none.", remedy="Leave the filter out.", field="extract"
            )
    return filtered, unparsed
