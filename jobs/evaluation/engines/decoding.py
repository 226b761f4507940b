"""Generate answers in batches that shrink: an answer that has ended leaves its batch, and what all prompts begin with
is computed once.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from jobs.evaluation.completions import GumbelNoise, end_tokens, read_answer
from jobs.evaluation.engines.base import Answer, CheckStop, Sampling
from jobs.evaluation.subject import EvaluatedNetwork

TAIL_TOKENS = 4
"""Tokens searched for a stop string beyond one for each of its characters: some tokens decode to nothing."""
MIN_SHARED_TOKENS = 16


@dataclass
class _Running:
    """An answer in the making: its place among the prompts, and its tokens."""

    index: int
    prompt: list[int]
    stops: Sequence[str]
    new: list[int] = field(default_factory=list)


class Decoder:
    """Answers prompts with one sampling."""

    def __init__(self, subject: EvaluatedNetwork, *, batch_size: int, check_stop: CheckStop) -> None:
        self._subject, self._batch_size, self._check_stop = subject, batch_size, check_stop
        self._cache_name = (
            "cache" if "cache" in inspect.signature(type(subject.network).forward).parameters else "past_key_values"
        )
        self._ends = end_tokens(subject)

    def answer(
        self, prompts: Sequence[list[int]], *, sampling: Sampling, stops: Sequence[Sequence[str]]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer), each as it ends. Prompts lose their beginning where `max_tokens` need the room."""
        room = self._subject.context - sampling.max_tokens
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for at in range(0, len(order), self._batch_size):
            running = [
                _Running(index, prompts[index][-room:], stops[index]) for index in order[at : at + self._batch_size]
            ]
            for one in self._run(running, sampling):
                text, tokens, reason = read_answer(self._subject.tokenizer, one.prompt, one.new, self._ends, one.stops)
                yield one.index, Answer(text, tokens, len(one.prompt), reason, max(0, len(prompts[one.index]) - room))

    @torch.inference_mode()
    def _run(self, running: list[_Running], sampling: Sampling) -> Iterator[_Running]:
        draw = GumbelNoise([one.prompt for one in running], sampling).rows if sampling.temperature > 0 else None
        cache, mask, logits = self._prefill(running)
        places = list(range(len(running)))
        for step in range(sampling.max_tokens):
            self._check_stop()
            if draw is not None:
                logits = draw(logits, places)
            tokens = logits.argmax(-1)
            listed = tokens.tolist()
            for one, token in zip(running, listed, strict=True):
                one.new.append(token)
            stopped, going = self._stopped(running), []
            for row, (one, token) in enumerate(zip(running, listed, strict=True)):
                if token in self._ends or step == sampling.max_tokens - 1 or stopped[row]:
                    yield one
                else:
                    going.append(row)
            if not going:
                return
            if len(going) < len(running):
                rows = torch.tensor(going, device=tokens.device)
                cache.batch_select_indices(rows)
                mask, tokens = mask[rows], tokens[rows]
                running, places = [running[row] for row in going], [places[row] for row in going]
            mask = torch.cat([mask, mask.new_ones(len(running), 1)], dim=1)
            positions = mask.sum(-1, keepdim=True) - 1
            logits = self._forward(tokens[:, None], mask, positions, cache)

    def _stopped(self, running: Sequence[_Running]) -> list[bool]:
        """Return which answers hold one of their stop strings near their end."""
        longest = max((len(stop) for one in running for stop in one.stops), default=0)
        if not longest:
            return [False] * len(running)
        tails = self._subject.tokenizer.batch_decode(
            [one.new[-longest - TAIL_TOKENS :] for one in running], skip_special_tokens=True
        )
        return [any(stop in tail for stop in one.stops) for one, tail in zip(running, tails, strict=True)]

    def _prefill(self, running: Sequence[_Running]) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
        """Return the cache after all prompts, their mask and next tokens' logits; padding follows a common prefix."""
        device, prompts, cache = self._subject.network.device, [one.prompt for one in running], DynamicCache()
        shared = _shared(prompts)
        if shared >= MIN_SHARED_TOKENS and len(prompts) > 1:
            head = torch.tensor([prompts[0][:shared]], device=device)
            self._forward(head, torch.ones_like(head), torch.arange(shared, device=device)[None], cache)
            cache.batch_repeat_interleave(len(prompts))
        else:
            shared = 0
        longest = max(len(ids) for ids in prompts) - shared
        rest = [ids[shared:] for ids in prompts]
        ids = torch.tensor([[0] * (longest - len(part)) + part for part in rest], device=device)
        mask = torch.tensor(
            [[1] * shared + [0] * (longest - len(part)) + [1] * len(part) for part in rest], device=device
        )
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        return cache, mask, self._forward(ids, mask, positions, cache)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """Return the logits after the last token of each row, in fp32."""
        more: dict[str, object] = {self._cache_name: cache}
        if ids.shape[1] == 1 and self._subject.network.config._attn_implementation == "sdpa":
            # a mask of four dimensions is taken as it is; of two, transformers makes one each time
            mask = mask[:, None, None, :].bool()
        output = self._subject.network(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1, **more
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def _shared(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens all prompts begin with, leaving each at least one of its own."""
    first, last = min(prompts), max(prompts)  # in the order of their tokens these two differ first
    length = min(min(len(ids) for ids in prompts) - 1, len(first))
    return next((at for at in range(length) if first[at] != last[at]), length)
