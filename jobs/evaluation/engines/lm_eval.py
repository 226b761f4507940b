"""lm-evaluation-harness 0.4.13 as an engine: its own HFLM computes the requests, with its own batches and tokenisation.

This is the one module that imports it. Its task index is never built, so it starts at once; nothing is fetched.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

os.environ["DISABLE_MULTIPROC"] = "1"  # its bootstrap forks, which a worker's process may not

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from backend.errors import InvalidInput
from jobs.evaluation.engines.base import (
    Answer,
    Answers,
    Batch,
    CheckStop,
    EngineFacts,
    PromptRequest,
    ScoreRequest,
    Scores,
    WindowPolicy,
    never_stop,
)
from jobs.evaluation.engines.plain import prompt_ids, subject_facts
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.modeling.loglikelihood import plan_pairs, plan_windows, sum_windows, window_nll
from jobs.modeling.scores import ContinuationScore, Pair, TextNll
from jobs.modeling.tokenizers import count_token_bytes

REQUESTS_AT_ONCE, BATCH_SIZE = 64, 16


class _StoppableHFLM(HFLM):  # type: ignore[misc]
    """HFLM that looks for a stop request before every forward pass."""

    check_stop: CheckStop = staticmethod(never_stop)

    def _model_call(self, *args: Any, **values: Any) -> torch.Tensor:
        self.check_stop()
        logits: torch.Tensor = super()._model_call(*args, **values)
        return logits

    def _model_generate(self, *args: Any, **values: Any) -> torch.Tensor:
        self.check_stop()
        ids: torch.Tensor = super()._model_generate(*args, **values)
        return ids


class HarnessEngine:
    """Scores a subject through lm-evaluation-harness."""

    name = "lm_eval"

    def __init__(self, subject: EvaluatedNetwork, *, batch_size: int = 0, check_stop: CheckStop = never_stop) -> None:
        self._subject = subject
        self._harness = _StoppableHFLM(
            pretrained=subject.network,
            tokenizer=subject.tokenizer,
            batch_size=batch_size or BATCH_SIZE,
            max_length=subject.context,
        )
        self._harness.check_stop = check_stop

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Batch[Scores]]:
        """Yield log-likelihoods; see Engine.score."""
        for at in range(0, len(requests), REQUESTS_AT_ONCE):
            part = requests[at : at + REQUESTS_AT_ONCE]
            pairs = [pair for request in part for pair in request.pairs]
            scores = iter(self._score(pairs))
            yield [(at + place, tuple(next(scores) for _ in request.pairs)) for place, request in enumerate(part)]

    def _score(self, pairs: Sequence[Pair]) -> list[ContinuationScore]:
        """Return the scores of pairs; one longer than the context, which the harness refuses, has none (NaN)."""
        sequences = plan_pairs(self._subject.tokenizer, pairs, longest=self._subject.context)
        fitting = [place for place, sequence in enumerate(sequences) if sequence.scored < self._subject.context]
        chosen = [pairs[place] for place in fitting]
        if all(isinstance(pair[0], str) for pair in chosen):
            results = self._harness.loglikelihood(_instances("loglikelihood", chosen), disable_tqdm=True)
        else:
            results = self._harness._loglikelihood_tokens([(None, *pair) for pair in chosen], disable_tqdm=True)
        computed = dict(zip(fitting, results, strict=True))
        none = (math.nan, False)
        scores = [(one, *computed.get(place, none)) for place, one in enumerate(sequences)]
        return [ContinuationScore(float(total), one.scored, bool(greedy), one.cut) for one, total, greedy in scores]

    def generate(self, requests: Sequence[PromptRequest]) -> Iterator[Batch[Answers]]:
        """Yield greedy answers; see Engine.generate. Raises InvalidInput for sampled ones, whose draws it does not seed
        by prompt.
        """
        if any(request.samples > 1 or request.sampling.temperature > 0 for request in requests):
            raise InvalidInput(
                "lm_eval answers greedily here.", remedy="Choose the engine fast, or temperature 0.", field="engine"
            )
        for at in range(0, len(requests), REQUESTS_AT_ONCE):
            part = requests[at : at + REQUESTS_AT_ONCE]
            arguments = [
                (
                    self._text(request),
                    {"until": list(request.stop), "max_gen_toks": request.sampling.max_tokens, "do_sample": False},
                )
                for request in part
            ]
            texts = self._harness.generate_until(_instances("generate_until", arguments), disable_tqdm=True)
            yield [
                (at + place, (self._answer(request, text),))
                for place, (request, text) in enumerate(zip(part, texts, strict=True))
            ]

    def _text(self, request: PromptRequest) -> str:
        if isinstance(request.prompt, str):
            return request.prompt
        ids = prompt_ids(self._subject, request.prompt)
        return str(self._subject.tokenizer.decode(ids, skip_special_tokens=False))

    def _answer(self, request: PromptRequest, text: str) -> Answer:
        tokenizer, longest = self._subject.tokenizer, request.sampling.max_tokens
        size = len(tokenizer.encode(text, add_special_tokens=False, verbose=False))
        prompt = prompt_ids(self._subject, request.prompt)
        cut = max(0, len(prompt) + longest - self._subject.context)
        return Answer(text, size, len(prompt) - cut, "length" if size >= longest else "stop", cut)

    def roll(self, texts: Sequence[str], *, policy: WindowPolicy = "each_window") -> Iterator[Batch[TextNll]]:
        """Yield negative log-likelihoods; see Engine.roll. `policy` plans the windows; the harness scores."""
        network, tokenizer = self._subject.network, self._subject.tokenizer
        lengths = count_token_bytes(tokenizer, vocab_size=network.get_input_embeddings().num_embeddings)
        for at in range(0, len(texts), REQUESTS_AT_ONCE):
            windows, sizes = plan_windows(
                tokenizer, texts[at : at + REQUESTS_AT_ONCE], longest=self._subject.context, policy=policy
            )
            pairs = [(None, one.ids[: -one.scored].tolist(), one.ids[-one.scored :].tolist()) for one in windows]
            results = self._harness._loglikelihood_tokens(pairs, disable_tqdm=True) if pairs else []
            own: list[list[TextNll]] = [[] for _ in sizes]
            for window, (total, _) in zip(windows, results, strict=True):
                own[window.owner].append(window_nll(window, float(total), lengths))
            yield [
                (at + place, sum_windows(parts, size))
                for place, (parts, size) in enumerate(zip(own, sizes, strict=True))
            ]

    def facts(self) -> EngineFacts:
        """Return what the engine computes with."""
        return replace(subject_facts(self._subject, name=self.name, batch_tokens=0), batch_tokens=None)


def _instances(kind: str, arguments: Sequence[Any]) -> list[Any]:
    return [Instance(kind, {}, argument, index) for index, argument in enumerate(arguments)]
