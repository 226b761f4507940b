"""Complete prompts in batches. The same prompt and seed give the same text, whatever else is in the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from backend.errors import InvalidInput
from jobs.evaluation.engines.base import Answer, CheckStop, Sampling, never_stop
from jobs.evaluation.subject import EvaluatedNetwork


def complete(
    subject: EvaluatedNetwork,
    prompts: Sequence[list[int]],
    *,
    sampling: Sampling,
    stops: Sequence[Sequence[str]] | None = None,
    batch_size: int = 16,
    check_stop: CheckStop = never_stop,
) -> Iterator[list[tuple[int, Answer]]]:
    """Complete each prompt of token ids; yield (index, answer) batch by batch, similar lengths together.

    A prompt that leaves no room for `max_tokens` in the context is truncated at its beginning. An answer ends before
    the first of its prompt's `stops`. `check_stop` runs for each token and may raise to end the work. Raises
    InvalidInput for an empty prompt, or if `max_tokens` alone fills the context.
    """
    check_prompt_lengths(subject, prompts, max_tokens=sampling.max_tokens)
    room, ends = subject.context - sampling.max_tokens, end_tokens(subject)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for at in range(0, len(order), batch_size):
        check_stop()
        chosen = order[at : at + batch_size]
        outputs = _complete_batch(
            subject, [prompts[index][-room:] for index in chosen], sampling=sampling, check_stop=check_stop
        )
        answers = [
            read_answer(subject.tokenizer, prompts[index][-room:], new, ends, stops[index] if stops else ())
            for index, new in zip(chosen, outputs, strict=True)
        ]
        yield [
            (index, Answer(text, tokens, min(len(prompts[index]), room), reason, max(0, len(prompts[index]) - room)))
            for index, (text, tokens, reason) in zip(chosen, answers, strict=True)
        ]


def check_prompt_lengths(subject: EvaluatedNetwork, prompts: Sequence[list[int]], *, max_tokens: int) -> None:
    """Raise InvalidInput for an empty prompt, or if `max_tokens` alone fills the context."""
    if subject.context - max_tokens < 1:
        raise InvalidInput(
            f"{max_tokens} tokens of answer leave no room for the prompt in a context of {subject.context}.",
            remedy=f"Ask for at most {subject.context - 1}.",
            field="max_tokens",
        )
    if any(not ids for ids in prompts):
        raise InvalidInput("A prompt holds no token.", remedy="Write at least one character.", field="prompt")


@torch.inference_mode()
def _complete_batch(
    subject: EvaluatedNetwork, prompts: list[list[int]], *, sampling: Sampling, check_stop: Callable[[], None]
) -> list[list[int]]:
    """Return the new tokens of each prompt, with what follows an end token."""
    network, ends = subject.network, end_tokens(subject)
    longest = max(len(ids) for ids in prompts)
    pad = subject.tokenizer.pad_token_id if subject.tokenizer.pad_token_id is not None else 0
    inputs = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=network.device)
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=network.device)
    plain = GenerationConfig(
        do_sample=False,
        max_new_tokens=sampling.max_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
        use_cache=True,
    )
    network.generation_config = plain  # a checkpoint's own defaults (penalties, sampling) must not reach the answer
    output = network.generate(
        inputs,
        attention_mask=mask,
        generation_config=plain,
        logits_processor=LogitsProcessorList([GumbelNoise(prompts, sampling)] if sampling.temperature > 0 else []),
        stopping_criteria=StoppingCriteriaList([_CheckStop(check_stop)]),
    )
    new: list[list[int]] = output[:, longest:].tolist()
    return new


def end_tokens(subject: EvaluatedNetwork) -> frozenset[int]:
    """Return the end tokens: the tokenizer's, and those of the checkpoint's config."""
    named = getattr(subject.network.config, "eos_token_id", None)
    ids = {
        subject.tokenizer.eos_token_id,
        *(named if isinstance(named, list | tuple) else [named]),
        *subject.configured_ends,
    }
    return frozenset(int(i) for i in ids if i is not None)


def read_answer(
    tokenizer: PreTrainedTokenizerBase,
    prompt: list[int],
    new: list[int],
    ends: frozenset[int],
    stops: Sequence[str] = (),
) -> tuple[str, int, Literal["stop", "length"]]:
    """Return (text, tokens, finish reason) of an answer, cut at its end token and before the first stop string."""
    stop = next((index for index, token in enumerate(new) if token in ends), None)
    answer = new if stop is None else new[:stop]
    text = decode_after(tokenizer, prompt, answer)
    if not any(mark in text for mark in stops):
        return text, len(answer) + (stop is not None), "length" if stop is None else "stop"
    needed = next(
        n
        for n in range(1, len(answer) + 1)
        if any(mark in decode_after(tokenizer, prompt, answer[:n]) for mark in stops)
    )
    return text[: min(text.index(mark) for mark in stops if mark in text)], needed, "stop"


def decode_after(tokenizer: PreTrainedTokenizerBase, prompt: list[int], answer: list[int]) -> str:
    """Decode an answer after its prompt, since some tokenizers drop a space at the beginning of a text."""
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    both = tokenizer.decode([*prompt, *answer], skip_special_tokens=True)
    return both[len(before) :] if both.startswith(before) else str(tokenizer.decode(answer, skip_special_tokens=True))


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]
    """Add Gumbel noise, so that the argmax of the scores is a sample from softmax(logits / temperature) within `top_p`.

    Each row has its own generator, seeded by the run's seed and the prompt, so a row's draws do not depend on its
    neighbours.
    """

    def __init__(self, prompts: list[list[int]], sampling: Sampling) -> None:
        self._sampling = sampling
        self._generators = []
        for ids in prompts:
            digest = hashlib.sha256(f"{sampling.seed} {ids}".encode()).digest()
            self._generators.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of shape [rows, vocabulary]."""
        return self.rows(scores, range(len(self._generators)))

    def rows(self, scores: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        """Return scores of some of the prompts, shape [rows, vocabulary]; `places` names the prompt of each row."""
        scores = scores.float() / max(self._sampling.temperature, 1e-4)
        if self._sampling.top_p < 1.0:
            ordered, order = torch.sort(scores, descending=True, dim=-1)
            shares = torch.softmax(ordered, dim=-1)
            beyond = shares.cumsum(-1) - shares >= self._sampling.top_p  # the token that crosses top_p stays
            scores = scores.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
        noise = torch.stack(
            [
                torch.empty(scores.shape[-1])
                .exponential_(generator=self._generators[place])
                .clamp_min_(1e-30)
                .log_()
                .neg_()
                for place in places
            ]
        )
        return scores + noise.to(scores)


class _CheckStop(StoppingCriteria):  # type: ignore[misc]
    """Run the stop check during generation; the check raises to end a long answer."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        """Return False for every row."""
        self._check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
