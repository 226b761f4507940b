"""Steps of the batching engine that check drafts: a request's next token and its draft are computed together, and those
that the network would have chosen itself are kept.

Every position is chosen by `choose_tokens` from the network's own logits, in order, with the request's own state: a
draft changes how many positions a step computes, never what is chosen. The compiled library gives a row the same bits
whatever shares the step (0064).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from backend.domain.serving.drafts import MAX_REQUESTS
from jobs.serving.drafts.network import Draft, DraftRequest
from jobs.serving.drafts.pace import Pace
from jobs.serving.engine import Generation
from jobs.serving.sampling import SamplingState, choose_tokens, forced_scores


@dataclass
class Checked:
    """A request of a step: the library's record of it, its draft, and the tokens that were chosen."""

    request: Any
    draft: list[int]
    tokens: list[int] = field(default_factory=list)

    @property
    def generation(self) -> Generation:
        """The engine's record of the request."""
        generation: Generation = self.request.state.logit_processor_kwargs["generation"]
        return generation

    def goes_on(self, token: int) -> bool:
        """Note a chosen token; return whether the row behind it was computed for the right token."""
        position = len(self.tokens)
        self.tokens.append(token)
        return (
            position < len(self.draft)
            and token == self.draft[position]
            and token not in self.request.state._eos_token_ids
        )


class Speculation:
    """Drafts for the requests of a batching engine. Its hooks run on the library's thread; the counts may be read from
    any.
    """

    def __init__(self, draft: Draft, *, vocab_size: int, pace: Pace | None = None) -> None:
        self._draft, self._vocab_size, self.pace = draft, vocab_size, pace or Pace()
        self._step: list[Checked] = []
        self._length: int | None = None  # None: the step is none of those that are compared
        self._is_whole = True  # whether all its requests have drafts of that length
        self._began = 0.0
        self.drafted = self.accepted = 0

    def attach(self, processor: Any) -> None:
        """Put the hooks into a batch processor of the library: behind scheduling, before the network, and before the
        update of states.
        """
        scheduler, inputs = processor.scheduler, processor.inputs_and_outputs
        schedule, get_arguments, update = scheduler.schedule_batch, inputs.get_model_kwargs, processor.update_batch

        def schedule_with_drafts(token_budget: int, cache_budget: int) -> Any:
            self._began = time.thread_time()
            requests, is_fast, num_tokens, num_read = schedule(token_budget, cache_budget)
            return requests, is_fast, num_tokens + self._extend(requests or (), processor.cache), num_read

        def get_arguments_with_drafts(*arguments: Any, **named: Any) -> Any:
            batch = get_arguments(*arguments, **named)
            if self._step:
                batch["logits_indices"] = torch.arange(batch["input_ids"].shape[1], dtype=torch.int32)
            return batch

        def update_with_drafts() -> None:
            num_requests = len(inputs.requests_in_batch)
            for checked in self._step:
                _keep(checked, processor.cache)
            update()
            self._note(num_requests)

        scheduler.schedule_batch, inputs.get_model_kwargs, processor.update_batch = (
            schedule_with_drafts,
            get_arguments_with_drafts,
            update_with_drafts,
        )

    def choose(
        self, rows: torch.Tensor, draws: Sequence[SamplingState], otherwise: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """Choose the tokens of a step with drafts from all its rows [rows, vocabulary]; return scores whose first
        argmaxes are the requests' last tokens. `otherwise` answers for a step without drafts.
        """
        if not self._step:
            return otherwise()
        firsts = list(itertools.accumulate((1 + len(checked.draft) for checked in self._step), initial=0))
        open_ = list(range(len(self._step)))
        for position in itertools.count():
            chosen = choose_tokens(
                rows[[firsts[number] + position for number in open_]], [draws[number] for number in open_]
            )
            open_ = [number for number, token in zip(open_, chosen, strict=True) if self._step[number].goes_on(token)]
            if not open_:
                break
        last = [checked.tokens[-1] for checked in self._step]
        return forced_scores(rows, [*last, *(0 for _ in range(len(rows) - len(last)))])

    def _extend(self, requests: Sequence[Any], cache: Any) -> int:
        """Add drafts to a step's requests where all of them generate; return how many tokens were added."""
        self._step, self._length = [], None
        if not 0 < len(requests) <= MAX_REQUESTS or not all(map(_is_decoding, requests)):
            return 0
        step = [Checked(request, []) for request in requests]
        self._length, self._is_whole = self.pace.choose(len(step)), True
        if not self._length:
            return 0
        token_s = self.pace.token_s(len(step))
        states = [checked.request.state for checked in step]
        asks = [
            DraftRequest(
                state.request_id,
                state.initial_tokens + state.generated_tokens,
                checked.generation.draw,
                token_s * state.generated_len(),
            )
            for checked, state in zip(step, states, strict=True)
        ]
        drafts = self._draft.propose(asks, self._length, vocab_size=self._vocab_size)
        for checked, draft in zip(step, drafts, strict=True):
            state = checked.request.state
            draft = draft[: max(0, state._new_tokens_limit - state.generated_len() - 1)]
            if draft and cache.can_store_request_tokens(state, 1 + len(draft)):
                checked.draft, checked.request.query_length = draft, 1 + len(draft)
                state.tokens_to_process = [*state.tokens_to_process, *draft]
        added = sum(len(checked.draft) for checked in step)
        self._is_whole = added == self._length * len(step)
        self._step = step if added else []
        return added

    def _note(self, num_requests: int) -> None:
        """Count a step that has ended."""
        right = sum(len(checked.tokens) - 1 for checked in self._step)
        self.drafted += sum(len(checked.draft) for checked in self._step)
        self.accepted += right
        if self._length is not None:
            wrong = sum(len(checked.tokens) <= len(checked.draft) for checked in self._step)
            seconds = time.thread_time() - self._began  # of the processor: other processes make no length look slow
            self.pace.note(
                num_requests, self._length, right=right, wrong=wrong, seconds=seconds if self._is_whole else None
            )
        self._step = []


def _is_decoding(request: Any) -> bool:
    return bool(request.has_new_token and request.query_length == 1 and request.state.generated_len() > 0)


def _keep(checked: Checked, cache: Any) -> None:
    """Undo what the library counted for rows behind the last right one; their keys are overwritten by the next step."""
    request, new = checked.request, checked.tokens
    state = request.state
    state.position_offset -= request.query_length
    blocks = cache.count_new_complete_blocks(state, len(new))
    state.position_offset += len(new)
    state.generated_tokens += new[:-1]
    cache.mark_complete_blocks(state, blocks)  # now: the library marks none in a request's last step
    request.complete_blocks = {}
