"""An item as the request that an engine answers, and what becomes of it: the common path of all kinds and tasks."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from backend.domain.evaluation.cost import longest_answer
from jobs.evaluation.engines.base import (
    Answers,
    Batch,
    EvaluationEngine,
    Messages,
    PromptRequest,
    ScoreRequest,
    WindowPolicy,
    renumbered,
)
from jobs.evaluation.engines.plain import prompt_ids
from jobs.evaluation.items import Item, ScoredItem
from jobs.evaluation.subject import EndpointSubject, EvaluatedNetwork
from jobs.modeling.tokenizers import lost_bytes

TIE = 1e-6
"""Log-likelihoods closer than this (nats) count as equal; fp32 sums differ by about as much between batch shapes."""


@dataclass(frozen=True)
class RollRequest:
    """A whole text to score; for `policy` see `rolling_nll`."""

    text: str
    policy: WindowPolicy


Request = ScoreRequest | PromptRequest | RollRequest

SHOWN_PROMPT = 4000
"""Characters of a prompt that an item keeps: its end, which holds the question."""


def longest_for(
    subject: EvaluatedNetwork | EndpointSubject, prompt: str | list[int] | Messages, *, max_tokens: int
) -> int:
    """Return how many tokens an answer to a prompt may have in a known context of the subject; see `longest_answer`."""
    if isinstance(subject, EndpointSubject):
        return max_tokens
    return longest_answer(max_tokens, prompt=len(prompt_ids(subject, prompt)), context=subject.context)


def counts_of(answers: Answers, *, longest: int, max_tokens: int) -> dict[str, float]:
    """Return `cut`, a prompt's tokens that the context left out, and `capped`, 1 where it ended an answer; without
    those that are 0.
    """
    cut = max(answer.cut for answer in answers)
    counts = {"cut": float(cut)} if cut else {}
    if longest < max_tokens and any(answer.finish_reason == "length" for answer in answers):
        counts["capped"] = 1.0
    return counts


@dataclass(frozen=True)
class Question:
    """An item with its request. `finish` turns the engine's result into scored items, several where a text's windows
    are the items.
    """

    item: Item
    request: Request
    finish: Callable[[Any], list[ScoredItem]]

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of what the network is shown or asked to score."""
        match self.request:
            case ScoreRequest(pairs=pairs):
                shown: Any = pairs
            case PromptRequest(prompt=prompt):
                shown = prompt
            case RollRequest(text=text):
                shown = text
        return hashlib.sha256(json.dumps(shown, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()

    def prompt_text(self, tokenizer: PreTrainedTokenizerBase | None) -> str:
        """Return the end of what the network is shown before it answers, examples and template included; empty for a
        scored text.
        """
        match self.request:
            case ScoreRequest(pairs=pairs):
                shown: str | list[int] | Messages = pairs[0][0] if pairs else ""
            case PromptRequest(prompt=prompt):
                shown = prompt
            case RollRequest():
                return ""
        if isinstance(shown, tuple):
            shown = "\n\n".join(f"{message['role']}: {message['content']}" for message in shown)
        elif not isinstance(shown, str):
            shown = tokenizer.decode(shown) if tokenizer is not None else ""
        return shown if len(shown) <= SHOWN_PROMPT else f"… {shown[-SHOWN_PROMPT:]}"

    @property
    def texts(self) -> list[str]:
        """The texts of the request that are text, each once."""
        match self.request:
            case ScoreRequest(pairs=pairs):
                return [
                    part
                    for part in dict.fromkeys(part for pair in pairs for part in pair if isinstance(part, str))
                    if part
                ]
            case PromptRequest(prompt=prompt):
                return [prompt] if isinstance(prompt, str) else []
            case RollRequest():
                return []  # the result counts its tokens itself


@dataclass
class Audit:
    """Some results of an engine, to be computed again by the plain one. `difference` is the largest one in nats."""

    chosen: frozenset[str]
    results: list[tuple[Question, Any]] = field(default_factory=list)

    @classmethod
    def draw(cls, questions: Sequence[Question], *, count: int, seed: int) -> Audit:
        """Choose questions to score twice; answers that are generated are left out."""
        hashes = [question.item.hash for question in questions if not isinstance(question.request, PromptRequest)]
        return cls(frozenset(random.Random(f"audit {seed}").sample(hashes, min(count, len(hashes)))))

    def difference(self, plain: EvaluationEngine) -> float | None:
        """Return the largest difference between recorded results and the plain engine's, None without."""
        worst = None
        for (_, recorded), again in zip(
            self.results, _results(plain, [question for question, _ in self.results]), strict=True
        ):
            pairs = zip(recorded, again, strict=True) if isinstance(recorded, tuple) else [(recorded, again)]
            gaps = [abs(_nats(first) - _nats(second)) for first, second in pairs]
            worst = max([worst or 0.0, *gaps])
        return worst


def _nats(result: Any) -> float:
    return float(result.sum_logprob if hasattr(result, "sum_logprob") else result.sum_nll)


def _results(engine: EvaluationEngine, questions: Sequence[Question]) -> list[Any]:
    results = dict(
        pair for batch in run_requests(engine, [question.request for question in questions]) for pair in batch
    )
    return [results[index] for index in range(len(questions))]


def no_tokens(_: object) -> dict[str, float]:
    """Return nothing: the tokens of an engine that counts none for a request."""
    return {}


def answer_questions(
    engine: EvaluationEngine,
    tokenizer: PreTrainedTokenizerBase | None,
    questions: Sequence[Question],
    *,
    audit: Audit | None = None,
    spent: Callable[[object], dict[str, float]] = no_tokens,
) -> Iterator[list[ScoredItem]]:
    """Yield scored items batch by batch, each with its prompt's hash and, where there are any, bytes that the tokenizer
    lost.

    `spent` gives the tokens that an endpoint counted for a request.
    """
    for batch in run_requests(engine, [question.request for question in questions]):
        scored: list[ScoredItem] = []
        for index, result in batch:
            question = questions[index]
            if audit is not None and question.item.hash in audit.chosen:
                audit.results.append((question, result))
            lost = sum(lost_bytes(tokenizer, text) for text in question.texts) if tokenizer is not None else 0
            more = ({"lost_bytes": float(lost)} if lost else {}) | spent(question.request)
            shown = {"prompt_hash": question.prompt_hash, "prompt": question.prompt_text(tokenizer)}
            scored += [
                replace(one, values=more | one.values, shown=one.shown | shown) for one in question.finish(result)
            ]
        yield scored


def run_requests(engine: EvaluationEngine, requests: Sequence[Request]) -> Iterator[Batch[Any]]:
    """Yield the results of requests of any kind, by index."""
    scores = [index for index, request in enumerate(requests) if isinstance(request, ScoreRequest)]
    if scores:
        yield from renumbered(engine.score([requests[index] for index in scores]), scores)  # type: ignore[misc]
    answers = [index for index, request in enumerate(requests) if isinstance(request, PromptRequest)]
    if answers:
        yield from renumbered(engine.generate([requests[index] for index in answers]), answers)  # type: ignore[misc]
    texts = [(index, request) for index, request in enumerate(requests) if isinstance(request, RollRequest)]
    for policy in dict.fromkeys(request.policy for _, request in texts):
        own = [(index, request.text) for index, request in texts if request.policy == policy]
        yield from renumbered(engine.roll([text for _, text in own], policy=policy), [index for index, _ in own])


def credit(scores: Sequence[float], right: Sequence[int] | int, *, tie: float = TIE) -> float:
    """Return the share of the highest scores that are right: 1 if a right choice alone has it, 1/k if it ties with k -
    1 wrong ones.
    """
    best, gold = max(scores), {right} if isinstance(right, int) else set(right)
    top = [index for index, score in enumerate(scores) if best - score <= tie]
    return len(gold & set(top)) / len(top) if top else 0.0
