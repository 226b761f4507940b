"""The fallback engine: `network.generate`, one request at a time, for networks that continuous batching refuses."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from backend.domain.serving.protocol import ENGINE_FAILED, SamplingParams
from backend.errors import Unavailable
from jobs.serving.adapters.bank import AdapterBank
from jobs.serving.detokenize import Decoder, TokenTexts
from jobs.serving.engine import FIRST, Choice, EngineStats, Generation, Handle, OnEvent, QueueFull, RateMeter, read_limits
from jobs.serving.sampling import choose_tokens, scores_of

logger = logging.getLogger(__name__)


class _Sampler(LogitsProcessor):  # type: ignore[misc]
    """Returns scores whose argmax is the next token of the running request."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        del input_ids
        scores = scores.float()
        return scores_of(scores, choose_tokens(scores, [self._generation.draw]))


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

    def __init__(self, network: Any, tokenizer: Decoder, *, max_waiting: int = 64, bank: AdapterBank | None = None) -> None:
        self.limits = read_limits(network, tokenizer)
        self.context_length = self.limits.context_length
        self._network, self._decoder, self._texts = network, tokenizer, TokenTexts(tokenizer)
        # `generate` takes unset fields from this config; the checkpoint's own sampling defaults must not apply.
        network.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
        self._max_waiting, self._bank = max_waiting, bank
        self._queue: queue.Queue[Generation | None] = queue.Queue()
        self._current: Generation | None = None
        self._ids = itertools.count()
        self._rate = RateMeter()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def check_room(self) -> None:
        """Raise QueueFull if no further request fits."""
        if self._queue.qsize() >= self._max_waiting:
            raise QueueFull(f"{self._queue.qsize()} requests are already waiting.", remedy="Try again in a moment.")

    def submit(self, ids: Sequence[int], params: SamplingParams, on_event: OnEvent, *, choice: Choice = FIRST) -> Generation:
        """Queue a prompt; see Engine.submit."""
        max_tokens = self.limits.check(ids, params)
        if not self.is_alive():
            raise Unavailable("The engine has stopped.", remedy="It restarts automatically; try again in a few seconds.")
        self.check_room()
        generation = Generation(
            request_id=f"r{next(self._ids)}",
            prompt=list(ids),
            params=params,
            max_tokens=max_tokens,
            end_ids=self.limits.end_ids | (choice.adapter.end_ids if choice.adapter else frozenset()),
            decoder=self._decoder,
            texts=self._texts,
            choice=choice,
            on_event=on_event,
            abort=lambda _: None,  # `_Watch` sees `is_over` at the next token
        )
        generation.catch_up()
        if not generation.is_over:
            self._queue.put(generation)
        return generation

    def is_waiting(self, handle: Handle) -> bool:
        """Return whether a request is in the queue; see Engine.is_waiting."""
        return isinstance(handle, Generation) and not handle.is_over and handle is not self._current

    def stats(self) -> EngineStats:
        """Return the engine's counters; each step makes one token."""
        return EngineStats(
            running=int(self._current is not None),
            waiting=self._queue.qsize(),
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
        self._queue.put(None)
        self._thread.join(timeout=30)

    def _work(self) -> None:
        try:
            while (generation := self._queue.get()) is not None:
                self._current = generation
                if self._closed.is_set():
                    break
                if not generation.is_over:
                    generation.begin()
                    try:
                        with nullcontext() if self._bank is None else self._bank.use(generation.choice.adapter):
                            self._generate(generation)
                    except Exception as error:
                        generation.fail(f"The engine failed on this request: {error}", code=ENGINE_FAILED)
                        torch.zeros(1, device=self._network.device).item()  # raises where the device fails, and with it each request
                        logger.exception("The engine failed on a request, and continues with the others.")
                self._current = None
        finally:
            self._closed.set()
            self._fail_waiting()

    def _fail_waiting(self) -> None:
        left = [self._current] if self._current is not None else []
        while not self._queue.empty():
            if (waiting := self._queue.get_nowait()) is not None:
                left.append(waiting)
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
