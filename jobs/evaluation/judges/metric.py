"""A judge that grades the answers of a task as they come, before they are recorded, so that an item is judged once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from backend.domain.evaluation.endpoints import JudgeTarget
from backend.domain.evaluation.judges import (
    JUDGE,
    SHOWN_CHARACTERS,
    JudgeItem,
    JudgeMetric,
    questions,
    read_score,
)
from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.results import JudgeFacts
from backend.domain.openai_servers import price_tokens
from backend.errors import RoundhouseError
from backend.infra.keys import read_key
from jobs.evaluation.engines.base import Answer, CheckStop, EvaluationEngine, Messages, PromptRequest, Sampling
from jobs.evaluation.engines.openai_http import EndpointEngine
from jobs.evaluation.engines.plain import PlainEngine
from jobs.evaluation.items import ScoredItem
from jobs.evaluation.subject import EndpointSubject, load_subject
from jobs.modeling.chat import Message
from jobs.reporter import JobSpec

TOGETHER = 16
"""Answers that are judged at once, and that a lost worker costs."""
UNJUDGED, PROMPT_TOKENS, COMPLETION_TOKENS = "unjudged", "judge_prompt_tokens", "judge_completion_tokens"
ToPrompt = Callable[[Sequence[Message]], "str | list[int] | Messages"]


class TaskJudge:
    """Grades answers by a rubric. A verdict that can't be read, or a failed call, leaves the item without the metric,
    and is counted.
    """

    def __init__(self, metric: JudgeMetric, engine: EvaluationEngine, to_prompt: ToPrompt) -> None:
        self._metric, self._engine, self._to_prompt = metric, engine, to_prompt

    def grade(self, batch: Sequence[ScoredItem]) -> list[ScoredItem]:
        """Return scored items with the value `judge`, a share of the scale, and the judge's text. Several samples: the
        first is judged.
        """
        answered = [one for one in batch if "missing" not in one.values and "completion" in one.shown]
        items = [
            JudgeItem(
                id=one.hash,
                prompt=_prompt(one.shown),
                answer=str(one.shown["completion"]),
                reference=_reference(one.shown),
            )
            for one in answered
        ]
        sampling = Sampling(max_tokens=self._metric.max_tokens)
        requests = [
            PromptRequest(self._to_prompt(each.messages), sampling=sampling)
            for each in questions(items, self._metric.config)
        ]
        replies = {index: answers[0] for results in self._engine.generate(requests) for index, answers in results}
        graded = {one.hash: self._with_verdict(one, replies[index]) for index, one in enumerate(answered)}
        return [graded.get(one.hash, one) for one in batch]

    def _with_verdict(self, one: ScoredItem, reply: Answer) -> ScoredItem:
        cut = f"the question is {reply.cut} tokens longer than the judge's context" if reply.cut else ""
        problem = reply.failed or cut
        score = None if problem else read_score(reply.text, self._metric.config)
        values = {UNJUDGED: 1.0} if score is None else {JUDGE: self._metric.share(score)}
        values |= {PROMPT_TOKENS: float(reply.prompt_tokens), COMPLETION_TOKENS: float(reply.tokens)}
        shown = {"judge": (problem or reply.text)[:SHOWN_CHARACTERS], "judge_score": score}
        return replace(one, values=one.values | values, shown=one.shown | shown)


def open_judge(spec: JobSpec[EvaluatePayload], *, check_stop: CheckStop) -> TaskJudge | None:
    """Return the judge of the payload's task, None where it names none. Raises Unavailable without its key."""
    payload, target = spec.payload, spec.payload.judge
    metric = payload.config.task.judge if payload.config.task is not None else None
    if metric is None or target is None:
        return None
    if target.endpoint is not None:
        remote = target.endpoint
        key = read_key(key_env=remote.key_env, key_file=remote.key_file)
        job = spec.id if remote.is_own else None
        engine = EndpointEngine(
            remote.url, model=remote.model, key=key, job=job, concurrency=remote.concurrency, check_stop=check_stop
        )
        return TaskJudge(metric, engine, EndpointSubject(remote).prompt_messages)
    subject = load_subject(spec.path(target.checkpoint or ""))
    chat = subject.uses_chat("auto")
    return TaskJudge(
        metric, PlainEngine(subject, check_stop=check_stop), lambda messages: subject.prompt_ids(messages, chat=chat)
    )


def graded(batches: Iterable[list[ScoredItem]], judge: TaskJudge | None) -> Iterator[list[ScoredItem]]:
    """Yield batches of scored items, graded by a judge if there is one, enough at a time to ask it in parallel."""
    waiting: list[ScoredItem] = []
    try:
        for batch in batches:
            waiting += batch
            if judge is None or len(waiting) >= TOGETHER:
                ready, waiting = waiting, []
                yield ready if judge is None else judge.grade(ready)
    except RoundhouseError:
        if judge is not None and waiting:
            yield judge.grade(waiting)  # answers that were paid for are recorded before the work ends
        raise
    if judge is not None and waiting:
        yield judge.grade(waiting)


def judge_facts(target: JudgeTarget | None, values: Sequence[Mapping[str, float]]) -> JudgeFacts | None:
    """Return the verdicts that are missing, and the tokens and the price of the others; None without a judge."""
    if target is None:
        return None
    prompt, completion = (int(sum(item.get(name, 0) for item in values)) for name in (PROMPT_TOKENS, COMPLETION_TOKENS))
    remote = target.endpoint
    price = remote and price_tokens(
        prompt, completion, input_price=remote.input_price, output_price=remote.output_price
    )
    missing = sum(1 for item in values if item.get(UNJUDGED))
    return JudgeFacts(
        name=target.name, missing=missing, prompt_tokens=prompt, completion_tokens=completion, price_usd=price
    )


def _prompt(shown: Mapping[str, Any]) -> str:
    return str(shown.get("question") or "")


def _reference(shown: Mapping[str, Any]) -> str:
    answer = shown.get("answer")
    return str(answer[0]) if isinstance(answer, list) and answer else str(answer or "")
