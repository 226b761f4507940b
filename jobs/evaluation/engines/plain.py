"""The plain engine: one padded batch after another through the network's own forward pass and `generate`.

The reference that faster engines are audited by, and what computes for networks whose state they don't know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from jobs.evaluation.completions import complete
from jobs.evaluation.engines.base import (
    Answer,
    Answers,
    Batch,
    CheckStop,
    EngineFacts,
    Messages,
    PromptRequest,
    Sampling,
    ScoreRequest,
    Scores,
    WindowPolicy,
    never_stop,
)
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.modeling.loglikelihood import rolling_nll, score_continuations
from jobs.modeling.scores import TextNll
from jobs.modeling.tokenizers import encode_plain_prompt

BATCH_TOKENS = 4096
REQUESTS = 16


class PlainEngine:
    """Scores a subject by the shortest path. `batch_tokens` bounds a forward pass, `batch_size` the prompts."""

    name = "plain"

    def __init__(
        self,
        subject: EvaluatedNetwork,
        *,
        batch_size: int = 0,
        batch_tokens: int = BATCH_TOKENS,
        check_stop: CheckStop = never_stop,
    ) -> None:
        self._subject, self._batch_size, self._batch_tokens, self._check_stop = (
            subject,
            batch_size or REQUESTS,
            batch_tokens,
            check_stop,
        )

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Batch[Scores]]:
        """Yield log-likelihoods; see Engine.score."""
        for at in range(0, len(requests), self._batch_size):
            part = requests[at : at + self._batch_size]
            pairs = [pair for request in part for pair in request.pairs]
            results = iter(
                score_continuations(
                    self._subject.network,
                    self._subject.tokenizer,
                    pairs,
                    batch_tokens=self._batch_tokens,
                    progress=lambda *_: self._check_stop() is not None,
                )
            )
            yield [(at + place, tuple(next(results) for _ in request.pairs)) for place, request in enumerate(part)]

    def generate(self, requests: Sequence[PromptRequest]) -> Iterator[Batch[Answers]]:
        """Yield answers; see Engine.generate."""
        yield from answer_by_sampling(self._subject, requests, self._complete)

    def _complete(
        self, prompts: Sequence[list[int]], *, sampling: Sampling, stops: Sequence[Sequence[str]]
    ) -> Iterator[Batch[Answer]]:
        return complete(
            self._subject,
            prompts,
            sampling=sampling,
            stops=stops,
            batch_size=self._batch_size,
            check_stop=self._check_stop,
        )

    def roll(self, texts: Sequence[str], *, policy: WindowPolicy = "each_window") -> Iterator[Batch[TextNll]]:
        """Yield negative log-likelihoods; see Engine.roll."""
        for at in range(0, len(texts), self._batch_size):
            results = rolling_nll(
                self._subject.network,
                self._subject.tokenizer,
                texts[at : at + self._batch_size],
                policy=policy,
                batch_tokens=self._batch_tokens,
                progress=lambda *_: self._check_stop() is not None,
            )
            yield list(enumerate(results, at))

    def facts(self) -> EngineFacts:
        """Return what the engine computes with."""
        return subject_facts(self._subject, name=self.name, batch_tokens=self._batch_tokens)


class Completer(Protocol):
    """Answers prompts of token ids with one sampling."""

    def __call__(
        self, prompts: Sequence[list[int]], *, sampling: Sampling, stops: Sequence[Sequence[str]]
    ) -> Iterator[Batch[Answer]]:
        """Yield (index, answer) in batches."""


def answer_by_sampling(
    subject: EvaluatedNetwork, requests: Sequence[PromptRequest], answer: Completer
) -> Iterator[Batch[Answers]]:
    """Answer requests that share a sampling together; yield each request with all its samples."""
    drawn = [(index, sample) for index, request in enumerate(requests) for sample in range(request.samples)]
    answers: dict[int, dict[int, Answer]] = {}
    for sampling in dict.fromkeys(sample_sampling(requests[index].sampling, sample) for index, sample in drawn):
        own = [(i, s) for i, s in drawn if sample_sampling(requests[i].sampling, s) == sampling]
        prompts = [prompt_ids(subject, requests[index].prompt) for index, _ in own]
        for batch in answer(prompts, sampling=sampling, stops=[requests[index].stop for index, _ in own]):
            finished = []
            for place, one in batch:
                index, sample = own[place]
                answers.setdefault(index, {})[sample] = one
                if len(answers[index]) == requests[index].samples:
                    finished.append((index, tuple(part for _, part in sorted(answers.pop(index).items()))))
            if finished:
                yield finished


def subject_facts(subject: EvaluatedNetwork, *, name: str, batch_tokens: int) -> EngineFacts:
    """Return the facts of an engine that runs a subject's network itself."""
    return EngineFacts(
        name=name,
        dtype=subject.number_format,
        device=subject.network.device.type,
        batch_tokens=batch_tokens,
        context=subject.context,
        bos=subject.begins_with_bos,
        weights_hash=subject.weights_hash,
    )


def prompt_ids(subject: EvaluatedNetwork, prompt: str | list[int] | Messages) -> list[int]:
    """Return a prompt's token ids."""
    if isinstance(prompt, tuple):
        return subject.prompt_ids(prompt, chat=True)
    return encode_plain_prompt(subject.tokenizer, prompt) if isinstance(prompt, str) else prompt


def sample_sampling(sampling: Sampling, sample: int) -> Sampling:
    """Return the sampling of one of several answers: the first has the seed itself."""
    if sample == 0 or sampling.temperature == 0:
        return sampling
    digest = hashlib.sha256(f"{sampling.seed} sample {sample}".encode()).digest()
    return replace(sampling, seed=int.from_bytes(digest[:6], "big"))
