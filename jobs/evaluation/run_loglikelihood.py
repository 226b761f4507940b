"""Entry of a log-likelihood job: log-probabilities of continuations given contexts, from a file.

Payload: `checkpoint` (folder) and `rows_file` (JSONL of {context, continuation}, relative to the artifacts). The result
names `items_file`, JSONL in the same order: {sum_logprob, tokens, greedy}.
"""

from __future__ import annotations

import json

from backend.domain.jobs.payloads import LoglikelihoodPayload
from backend.domain.jobs.results import LoglikelihoodResult
from backend.errors import InvalidInput
from jobs.evaluation.ledger import check_stop
from jobs.evaluation.subject import load_subject
from jobs.modeling.devices import set_threads
from jobs.modeling.loglikelihood import score_continuations
from jobs.reporter import JobSpec, Reporter

BATCH_TOKENS = 4096


def run(spec: JobSpec[LoglikelihoodPayload], reporter: Reporter) -> LoglikelihoodResult:
    """Score the pairs; see the module's first lines. Raises InvalidInput naming the line."""
    set_threads(spec.payload.threads)
    lines = spec.path(spec.payload.rows_file).read_text(encoding="utf-8").split("\n")
    pairs = [_pair(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    reporter.progress(0, len(pairs), unit="items", message="Loading the model")
    subject = load_subject(spec.path(spec.payload.checkpoint))

    def progress(done: int, total: int) -> bool:
        check_stop(reporter)
        reporter.progress(done, total, unit="items")
        return False

    scores = score_continuations(
        subject.network, subject.tokenizer, pairs, batch_tokens=BATCH_TOKENS, progress=progress
    )
    file = spec.folder / "loglikelihoods.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for score in scores:
            out.write(
                json.dumps({"sum_logprob": score.sum_logprob, "tokens": score.tokens, "greedy": score.greedy}) + "\n"
            )
    return LoglikelihoodResult(
        count=len(scores), tokens=sum(score.tokens for score in scores), items_file=spec.relative(file)
    )


def _pair(line: str, number: int) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidInput(f"Line {number} is not JSON: {error}.", field="file") from error
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("continuation"), str)
        or not isinstance(row.get("context", ""), str)
    ):
        raise InvalidInput(f'Line {number} is not {{"context": text, "continuation": text}}.', field="file")
    return row.get("context", ""), row["continuation"]
