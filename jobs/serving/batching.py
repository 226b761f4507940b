"""The default engine: transformers' continuous batching, on CPU or GPU, every request with its own sampling.

The library samples a whole batch one way (`do_sample` is a property of the batch), so it takes the argmax, and a
logits processor of our own, which knows each row's request, returns scores whose argmax is that row's choice
(`sampling.py`). Batches run synchronously and without CUDA graphs, because such a processor runs Python between network
and argmax. What is changed of the library stands in `continuous_batching.py`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from backend.domain.serving.memory import FREE_SHARE, MAX_RUNNING, PAGE_TOKENS, cache_pages
from backend.domain.serving.protocol import LEAVING, REQUEST_FAILED, SamplingParams, code_of_failure
from backend.domain.wording import format_bytes
from backend.errors import InvalidInput, Unavailable
from jobs.modeling.devices import free_bytes
from jobs.modeling.kv_shape import read_kv_shape
from jobs.serving.adapters import AdapterBank, CacheSalts, groups_of
from jobs.serving.continuous_batching import CONTROL, BatchedRequest, BatchHooks, ContinuousBatching
from jobs.serving.drafts import Draft, Speculation
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
    in_turn,
    most_running,
    read_limits,
    refuse_full,
)
from jobs.serving.sampling import choose_tokens, forced_scores

MAX_BATCH_TOKENS = 512  # longer prompts are prefilled in chunks, so that other requests keep getting tokens


class BatchingEngine:
    """Continuous batching over a loaded causal network. Raises the library's errors for networks that it refuses."""

    name = "batching"

    def __init__(
        self,
        network: Any,
        tokenizer: TokenDecoder,
        *,
        context: int | None = None,
        max_running: int = MAX_RUNNING,
        max_waiting: int = 64,
        cache_tokens: int | None = None,
        bank: AdapterBank | None = None,
        draft: Draft | None = None,
    ) -> None:
        self.limits = read_limits(network, tokenizer, context=context)
        self.context_length = self.limits.context_length
        self._maker = GenerationMaker(self.limits, tokenizer)
        self._max_running, self._max_waiting = max_running, max_waiting
        self._salts = CacheSalts()
        self._open: dict[str, Generation] = {}
        self._lock = threading.Lock()
        self._rate = RateMeter()
        self._bank, self._device = bank, network.device
        self.speculation = None if draft is None else Speculation(draft, vocab_size=self.limits.vocab_size)
        self._closed = threading.Event()
        self._has_ended = threading.Event()
        hooks = BatchHooks(
            find=self._find,
            salt=self._salt,
            in_turn=self._in_turn,
            choose=self._choose,
            control=self._control,
            before_step=None if bank is None else self._activate_adapters,
            drafts=self.speculation,
        )
        self._batches = ContinuousBatching(
            network,
            hooks,
            page_tokens=PAGE_TOKENS,
            num_pages=_num_pages(network, cache_tokens or self.context_length * max_running, self.context_length),
            max_tokens=self.context_length,
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_requests_per_batch=max_running,
        )
        self._batches.start()
        self._dispatcher = threading.Thread(target=self._dispatch, name="engine-results", daemon=True)
        self._dispatcher.start()

    def check_room(self, tenant: str = "") -> None:
        """Raise QueueFull if no further request of a tenant fits."""
        with self._lock:
            self._check_room(tenant)

    def _check_room(self, tenant: str) -> None:
        tenants = [generation.choice.tenant for generation in self._open.values()]
        refuse_full(tenants, tenant, max_running=self._max_running, max_waiting=self._max_waiting)

    def submit(
        self, ids: Sequence[int], params: SamplingParams, on_event: OnEvent, *, choice: Choice = FIRST
    ) -> Generation:
        """Queue a prompt; see Engine.submit."""
        generation = self._maker.make(ids, params, on_event, choice=choice, abort=self._abort)
        generation.catch_up()
        if generation.is_over:
            return generation
        with self._lock:
            self._check_room(choice.tenant)
            self._open[generation.request_id] = generation
        if not self._batches.add(generation):
            self._forget(generation)
            raise Unavailable(
                "The engine has stopped.", remedy="It restarts automatically; try again in a few seconds."
            )
        return generation

    def is_waiting(self, handle: Handle) -> bool:
        """Return whether a request is in the queue; see Engine.is_waiting."""
        if not isinstance(handle, Generation) or handle.is_over or handle.num_own:
            return False
        return not self._batches.has_begun(handle.request_id)

    def stats(self) -> EngineStats:
        """Return the engine's counters."""
        running = self._batches.num_running
        with self._lock:
            num_open = len(self._open)
        return EngineStats(
            running=min(running, num_open),
            waiting=max(0, num_open - running),
            tokens_per_second=self._rate.per_second(),
            steps=self._batches.num_steps,
            generated_tokens=self._rate.total,
            last_token_age_s=self._rate.last_age_s(),
            cache_ratio=self._batches.cache_ratio(),
            drafted_tokens=None if self.speculation is None else self.speculation.drafted,
            accepted_tokens=None if self.speculation is None else self.speculation.accepted,
        )

    def is_alive(self) -> bool:
        """Return False once the generation thread has died or was closed."""
        return not self._has_ended.is_set() and self._batches.is_running()

    def close(self) -> None:
        """Cancel every request and join the library's threads."""
        if self._closed.is_set():
            return
        with self._lock:
            waiting = list(self._open.values())
        for generation in waiting:
            generation.cancel()
        self._closed.set()
        self._batches.stop(timeout_s=30)
        self._dispatcher.join(timeout=5)

    def _find(self, request_id: str) -> Generation | None:
        with self._lock:
            return self._open.get(request_id)

    def _salt(self, generation: Generation, ids: list[int]) -> list[int]:
        """Return ids under which pages are kept apart between tenants and adapters."""
        return self._salts.salt(ids, adapter=generation.choice.adapter, tenant=generation.choice.tenant)

    def _in_turn(self, waiting: Iterable[tuple[Generation, Any]], running: Iterable[Generation]) -> list[Any]:
        """Order the waiting requests by tenant in turn."""
        counts = Counter(generation.choice.tenant for generation in running)
        by_tenant = ((generation.choice.tenant, state) for generation, state in waiting)
        return in_turn(by_tenant, running=counts, most=most_running(self._max_running))

    def _choose(self, scores: torch.Tensor, requests: list[Generation]) -> torch.Tensor:
        """Return scores whose first argmaxes are the requests' next tokens. A step with drafts has more rows, which are
        chosen from in order."""
        draws = [generation.draw for generation in requests]
        if self.speculation is not None and self.speculation.has_drafts:
            return self.speculation.choose(scores, draws)
        if not draws:
            return scores
        rows = scores[: len(draws)]
        return torch.cat([forced_scores(rows, choose_tokens(rows, draws)), scores[len(draws) :]])

    def _activate_adapters(self, requests: list[BatchedRequest]) -> None:
        """Tell the layers which tokens of the coming step have which adapter."""
        assert self._bank is not None
        counts = [(request.generation.choice.adapter, request.num_tokens) for request in requests]
        self._bank.activate(groups_of(counts, device=self._device))

    def _control(self) -> Generation:
        """Return a request of one token that says whether the engine computes; it has no client."""
        return Generation(
            request_id=CONTROL,
            prompt=[0],
            params=SamplingParams(max_tokens=1, temperature=0),
            max_tokens=1,
            end_ids=frozenset(),
            decoder=self._maker.decoder,
            texts=self._maker.texts,
            on_event=lambda _: None,
            abort=lambda _: None,
        )

    def _code_of_error(self, request_id: str) -> str:
        if (code := self._batches.codes.pop(request_id, None)) is not None:
            return code
        suspects = self._batches.suspects
        if suspects is None:
            return REQUEST_FAILED  # the loop continues without it
        return code_of_failure(batched=len(suspects)) if request_id in suspects else LEAVING

    def _abort(self, generation: Generation) -> None:
        self._batches.cancel(generation.request_id)
        self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        with self._lock:
            self._open.pop(generation.request_id, None)

    def _dispatch(self) -> None:
        """Turn the library's results into events until the engine closes or its generation thread dies."""
        try:
            while not self._closed.is_set():
                output = self._batches.next_output(timeout_s=0.2)
                if output is not None:
                    self._deliver(output)
                elif not self._batches.is_running():
                    break
        finally:
            self._has_ended.set()
            with self._lock:
                left = list(self._open.values())
                self._open.clear()
            for generation in left:
                generation.fail("The engine stopped before this completion finished.")

    def _deliver(self, output: Any) -> None:
        with self._lock:
            generation = self._open.get(output.request_id)
        if generation is None:
            return  # it was cancelled
        if output.error is not None:
            generation.fail(
                f"The engine failed on this request: {output.error}", code=self._code_of_error(output.request_id)
            )
        else:
            new = output.generated_tokens[generation.num_own :]
            self._rate.add(len(new))
            for token in new:  # a stop string, or a constraint's end, may lie before the last one
                generation.accept([token])
        if generation.is_over or output.is_finished():
            self._forget(generation)


def _num_pages(network: Any, tokens: int, context_length: int) -> int:
    """Return the cache's size in pages: room for `tokens` within the memory budget, and always for one full context."""
    page_bytes = PAGE_TOKENS * read_kv_shape(network.config).token_bytes(network.dtype.itemsize)
    free = free_bytes(network.device)
    pages = cache_pages(
        page_bytes,
        tokens=tokens,
        context=context_length,
        device=network.device.type,
        budget_bytes=None if free is None else int(FREE_SHARE * free),
    )
    if free is not None and pages * page_bytes > free:
        raise InvalidInput(
            f"The KV cache of one full context of {context_length:,} tokens takes {format_bytes(pages * page_bytes)}, "
            f"and {format_bytes(free)} of the GPU's memory are free beside the weights.",
            remedy="Deploy with a shorter context (--context), or on a larger GPU.",
            field="context",
        )
    return pages
