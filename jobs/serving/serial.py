"""The fallback engine: `network.generate`, one request at a time, for networks that continuous batching refuses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from backend.domain.serving.protocol import ENGINE_FAILED, SamplingParams
from backend.errors import Unavailable
from jobs.serving.adapters import AdapterBank
from jobs.serving.engine import (
    FIRST,
    Choice,
    EngineStats,
    Generation,
    GenerationMaker,
    Handle,
    OnEvent,
    RateMeter,
    TokenDecoder,
    read_limits,
    refuse_full,
)
from jobs.serving.sampling import choose_tokens, forced_scores

logger = logging.getLogger(__name__)


class _Sampler(LogitsProcessor):  # type: ignore[misc]
    """Returns scores whose argmax is the next token of the running request."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float()
        return forced_scores(scores, choose_tokens(scores, [self._generation.draw]))


class _Watch(StoppingCriteria):  # type: ignore[misc]
    """Emits each token and stops when the request has ended."""

    def __init__(self, generation: Generation, rate: RateMeter) -> None:
        self._generation, self._rate = generation, rate

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self._rate.add(1)
        self._generation.accept([int(input_ids[0, -1])])
        return torch.tensor([self._generation.is_over], device=input_ids.device)


class SerialEngine:
    """Serves requests one at a time. Same events, limits and sampling as the batching engine, at lower throughput."""

    name = "serial"

    def __init__(
        self,
        network: Any,
        tokenizer: TokenDecoder,
        *,
        context: int | None = None,
        max_waiting: int = 64,
        bank: AdapterBank | None = None,
    ) -> None:
        self.limits = read_limits(network, tokenizer, context=context)
        self.context_length = self.limits.context_length
        self._network, self._maker = network, GenerationMaker(self.limits, tokenizer)
        # `generate` takes unset fields from this config; the checkpoint's own sampling defaults must not apply.
        network.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
        self._max_waiting, self._bank = max_waiting, bank
        self._waiting: list[Generation] = []
        self._turns: dict[str, int] = {}  # the last turn of each tenant that waits
        self._changed = threading.Condition()
        self._current: Generation | None = None
        self._rate = RateMeter()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def check_room(self, tenant: str = "") -> None:
        """Raise QueueFull if no further request of a tenant fits."""
        with self._changed:
            tenants = [generation.choice.tenant for generation in self._waiting]
            refuse_full(tenants, tenant, max_running=0, max_waiting=self._max_waiting)

    def submit(
        self, ids: Sequence[int], params: SamplingParams, on_event: OnEvent, *, choice: Choice = FIRST
    ) -> Generation:
        """Queue a prompt; see Engine.submit."""
        # without `abort`: `_Watch` sees `is_over` at the next token
        generation = self._maker.make(ids, params, on_event, choice=choice, abort=lambda _: None)
        if not self.is_alive():
            raise Unavailable(
                "The engine has stopped.", remedy="It restarts automatically; try again in a few seconds."
            )
        self.check_room(choice.tenant)
        generation.catch_up()
        if not generation.is_over:
            with self._changed:
                self._waiting.append(generation)
                self._changed.notify()
        return generation

    def is_waiting(self, handle: Handle) -> bool:
        """Return whether a request is in the queue; see Engine.is_waiting."""
        return isinstance(handle, Generation) and not handle.is_over and handle is not self._current

    def stats(self) -> EngineStats:
        """Return the engine's counters; each step makes one token."""
        return EngineStats(
            running=int(self._current is not None),
            waiting=len(self._waiting),
            tokens_per_second=self._rate.per_second(),
            steps=self._rate.total,
            generated_tokens=self._rate.total,
            last_token_age_s=self._rate.last_age_s(),
        )

    def is_alive(self) -> bool:
        """Return False once the generating thread has ended."""
        return not self._closed.is_set() and self._thread.is_alive()

    def close(self) -> None:
        """Cancel the running request, fail the waiting ones and join the thread."""
        self._closed.set()
        if (current := self._current) is not None:
            current.cancel()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        try:
            while (generation := self._next()) is not None:
                self._current = generation
                if not generation.is_over:
                    generation.begin()
                    try:
                        with nullcontext() if self._bank is None else self._bank.use(generation.choice.adapter):
                            self._generate(generation)
                    except Exception as error:
                        generation.fail(f"The engine failed on this request: {error}", code=ENGINE_FAILED)
                        # raises where the device fails, and with it each request
                        torch.zeros(1, device=self._network.device).item()
                        logger.exception("The engine failed on a request, and continues with the others.")
                self._current = None
        finally:
            self._closed.set()
            self._fail_waiting()

    def _next(self) -> Generation | None:
        """Wait for a request and take it off the queue: of the tenant whose last turn is oldest. None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed.is_set())
            if self._closed.is_set():
                return None
            chosen = min(self._waiting, key=lambda generation: self._turns.get(generation.choice.tenant, 0))
            self._waiting.remove(chosen)
            tenants = {generation.choice.tenant for generation in self._waiting} | {chosen.choice.tenant}
            turn = 1 + max(self._turns.values(), default=0)
            self._turns = {tenant: last for tenant, last in self._turns.items() if tenant in tenants} | {
                chosen.choice.tenant: turn
            }
            return chosen

    def _fail_waiting(self) -> None:
        with self._changed:
            left = [generation for generation in (self._current, *self._waiting) if generation is not None]
            self._waiting.clear()
        for generation in left:
            generation.fail("The engine stopped before this completion finished.")

    @torch.inference_mode()
    def _generate(self, generation: Generation) -> None:
        ids = torch.tensor([generation.context], device=self._network.device)
        self._network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=generation.num_left,
            logits_processor=LogitsProcessorList([_Sampler(generation)]),
            stopping_criteria=StoppingCriteriaList([_Watch(generation, self._rate)]),
        )
