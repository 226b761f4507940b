"""Entry of a judge's job: ask every question, record each answer, and sum up the verdicts.

Answers are appended to the job's folder batch by batch; a later attempt asks only what is left.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from backend.domain.evaluation.judge_verdicts import JudgeAnswer, item_verdicts, summarise_judgement
from backend.domain.evaluation.judges import SHOWN_CHARACTERS, JudgeItem, JudgeQuestion, VerdictRecord, questions
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.results import JudgeResult
from backend.domain.openai_servers import JOB_KEY, JUDGE_KEY
from backend.domain.wording import plural
from backend.errors import JobFailed
from backend.infra.openai_api.calls import ApiClient, CallFailed, read_counts
from jobs.evaluation.engines.base import PromptRequest, Sampling
from jobs.evaluation.ledger import check_stop
from jobs.reporter import JobSpec, Reporter

ATTEMPTS, CONCURRENT = 4, 4
MESSAGE = re.compile(r'"message":\s*"((?:[^"\\]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*)')
"""The message in an API's error, whose JSON may be cut, in the middle of an escape too."""
ANSWERS, VERDICTS = "judge_answers.jsonl", "verdicts.jsonl"


def run(spec: JobSpec[JudgePayload], reporter: Reporter) -> JudgeResult:
    """Judge the items; see the module's first lines. Raises RoundhouseError subclasses."""
    payload, file = spec.payload, spec.folder / ANSWERS
    items = [
        JudgeItem.model_validate_json(line)
        for line in spec.path(payload.items_file).read_text(encoding="utf-8").split("\n")
        if line
    ]
    answers = _read_answers(file)
    everything = list(questions(items, payload.config))
    left = [question for question in everything if question.key not in answers or answers[question.key].failed]
    reporter.progress(len(everything) - len(left), len(everything), unit="questions", message="Asking the judge")
    for batch in _ask(payload, spec, left, reporter):
        with file.open("a", encoding="utf-8") as out:
            for answer in batch:
                answers[answer.key] = answer
                out.write(json.dumps(asdict(answer)) + "\n")
        reporter.progress(len(answers), len(everything), unit="questions")
    verdicts = spec.folder / VERDICTS
    _write_verdicts(verdicts, items, answers, payload)
    summary = summarise_judgement(items, answers, payload.config)
    if summary.missing == summary.items:
        reason = summary.reason or f"{payload.judge} answered without a verdict"
        remedy = (
            "Correct that and judge again, or choose another judge."
            if summary.reason
            else "Choose another judge: one that follows instructions."
        )
        raise JobFailed(f"None of {plural(summary.items, 'item')} has a verdict: {reason.rstrip('.')}.", remedy=remedy)
    return JudgeResult(
        judge=payload.judge, mode=payload.config.mode, summary=summary, verdicts_file=spec.relative(verdicts)
    )


def _ask(
    payload: JudgePayload, spec: JobSpec[JudgePayload], left: Sequence[JudgeQuestion], reporter: Reporter
) -> Iterator[list[JudgeAnswer]]:
    if not left:
        return
    if payload.url is not None:
        key = os.environ.get(JOB_KEY if payload.is_own else JUDGE_KEY) if payload.uses_key else None
        client = ApiClient(
            payload.url,
            model=payload.model,
            key=key,
            job=spec.id if payload.is_own else None,
            name=f"The judge {payload.judge}",
            connections=CONCURRENT,
        )
        yield from _ask_endpoint(client, payload, left, reporter)
        return
    yield from _ask_checkpoint(spec.path(payload.checkpoint or ""), payload, left, reporter)


def _ask_endpoint(
    client: ApiClient, payload: JudgePayload, left: Sequence[JudgeQuestion], reporter: Reporter
) -> Iterator[list[JudgeAnswer]]:
    """Yield the answers of an endpoint, several questions at once. Raises Unavailable if it can't be reached at all, or
    refuses key, address or model.
    """

    def ask(question: JudgeQuestion) -> JudgeAnswer:
        body = {"messages": list(question.messages), "max_tokens": payload.config.max_tokens, "temperature": 0}
        try:
            record = client.call("chat/completions", body, attempts=ATTEMPTS)
            text = str(record["choices"][0]["message"]["content"] or "")
        except CallFailed as error:
            return JudgeAnswer(question.key, "", failed=_reason(payload.judge, error))
        except (KeyError, IndexError, TypeError, AttributeError):
            return JudgeAnswer(question.key, "", failed=f"no chat completion: {record}"[:300])
        tokens, prompt_tokens = read_counts(record)
        return JudgeAnswer(question.key, text, prompt_tokens, tokens)

    try:
        with ThreadPoolExecutor(CONCURRENT) as pool:
            for begin in range(0, len(left), CONCURRENT):
                check_stop(reporter)
                yield list(pool.map(ask, left[begin : begin + CONCURRENT]))
    finally:
        client.close()


def _ask_checkpoint(
    folder: Path, payload: JudgePayload, left: Sequence[JudgeQuestion], reporter: Reporter
) -> Iterator[list[JudgeAnswer]]:
    from jobs.evaluation.engines.plain import PlainEngine
    from jobs.evaluation.subject import load_subject
    from jobs.modeling.devices import set_threads

    set_threads(payload.threads)
    subject = load_subject(folder)
    chat = subject.uses_chat("auto")
    sampling = Sampling(max_tokens=payload.config.max_tokens)
    requests = [PromptRequest(subject.prompt_ids(question.messages, chat=chat), sampling=sampling) for question in left]
    engine = PlainEngine(subject, check_stop=lambda: check_stop(reporter))
    for batch in engine.generate(requests):
        replies = []
        for index, (answer, *_) in batch:
            failed = answer.failed or (
                f"{payload.judge} has a context of {subject.context:,} tokens; a question with its answer needs"
                f" {subject.context + answer.cut:,}"
                if answer.cut
                else ""
            )
            replies.append(
                JudgeAnswer(
                    left[index].key, "" if failed else answer.text, answer.prompt_tokens, answer.tokens, failed=failed
                )
            )
        yield replies


def _reason(judge: str, error: CallFailed) -> str:
    """Return why a judge gave no answer: the message of its error in place of the JSON around it. What can't be printed
    is left out, as a NUL and half a surrogate pair, which no database holds.
    """
    problem = str(error)
    if message := MESSAGE.search(problem):
        problem = json.loads(f'"{message[1]}"', strict=False)
    text = "".join(character if character.isprintable() else " " for character in problem)
    return f"{judge} {'refused' if error.is_final else 'did not answer'} a question: {text}"[:300]


def _read_answers(file: Path) -> dict[str, JudgeAnswer]:
    answers: dict[str, JudgeAnswer] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            answer = JudgeAnswer(**json.loads(line))
        except (ValueError, TypeError):
            continue  # incomplete line of a killed attempt
        answers[answer.key] = answer
    return answers


def _write_verdicts(
    file: Path, items: Sequence[JudgeItem], answers: dict[str, JudgeAnswer], payload: JudgePayload
) -> None:
    with file.open("w", encoding="utf-8") as out:
        for item, verdict in zip(items, item_verdicts(items, answers, payload.config), strict=True):
            orders = ("single",) if payload.config.mode == "rubric" else ("ab", "ba")
            replies = [answers.get(f"item:{order}:{item.id}") for order in orders]
            record: VerdictRecord = {
                "id": item.id,
                "prompt": item.prompt[:SHOWN_CHARACTERS],
                "answers": [text[:SHOWN_CHARACTERS] for text in (item.answer, item.answer_b) if text is not None],
                "groups": [item.group, item.group_b],
                "verdict": verdict.value,
                "orders": verdict.orders,
                "inconsistent": verdict.inconsistent,
                "human": item.human,
                "judge": [None if reply is None else reply.failed or reply.text for reply in replies],
            }
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
