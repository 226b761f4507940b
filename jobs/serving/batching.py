"""The default engine: transformers' continuous batching, on CPU or GPU, every request with its own sampling.

The library samples a whole batch one way (`do_sample` is a property of the batch), so it takes the argmax, and a logits
processor of our own, which knows each row's request, returns scores whose argmax is that row's choice (`sampling.py`).
Batches run synchronously and without CUDA graphs, because such a processor runs Python between network and argmax.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from backend.domain.serving.memory import FREE_SHARE, MAX_RUNNING, PAGE_TOKENS, cache_pages
from backend.domain.serving.protocol import LEAVING, REQUEST_FAILED, SamplingParams, code_of_failure
from backend.domain.wording import format_bytes
from backend.errors import InvalidInput, Unavailable
from jobs.modeling.devices import free_bytes
from jobs.serving.adapters.bank import AdapterBank, CacheSalts, groups_of
from jobs.serving.detokenize import TokenDecoder, TokenTexts
from jobs.serving.drafts.batch import Speculation
from jobs.serving.drafts.network import Draft
from jobs.serving.engine import (
    FIRST,
    Choice,
    EngineStats,
    Generation,
    Handle,
    OnEvent,
    QueueFull,
    RateMeter,
    read_limits,
)
from jobs.serving.sampling import SamplingState, choose_tokens, forced_scores
from jobs.serving.turns import in_turn, most_open, most_running

MAX_BATCH_TOKENS = 512  # longer prompts are prefilled in chunks, so that other requests keep getting tokens


class RowSampler(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Hands each row's request to `prepare_scores`. The library calls `prepare_tensor_args` and then the sampler, on
    one thread.
    """

    supported_kwargs: dict[str, type] = {"generation": Generation}  # noqa: RUF012 - the base class declares it so
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, speculation: Speculation | None = None) -> None:
        self._draws: list[SamplingState] = []
        self._speculation = speculation

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Fill the unused tensor argument of a row."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Remember the requests behind the rows of the coming batch."""
        self._draws = [_generation(request.state).draw for request in requests_with_new_token]
        return torch.zeros(len(self._draws), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Return scores [rows, vocabulary] whose argmax is each row's next token.

        The library has a row for every request of the batch, those that need a token first; it does not read the
        others, which are still being prefilled. A step with drafts has more rows, which are chosen from in order.
        """
        if self._speculation is not None:
            return self._speculation.choose(scores, self._draws, lambda: self._choose(scores))
        return self._choose(scores)

    def _choose(self, scores: torch.Tensor) -> torch.Tensor:
        rows = scores[: len(self._draws)]
        return (
            torch.cat([forced_scores(rows, choose_tokens(rows, self._draws)), scores[len(self._draws) :]])
            if self._draws
            else scores
        )


class BatchingEngine:
    """Continuous batching over a loaded causal network. Raises the library's own errors for networks that it
    refuses.
    """

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
        self._decoder, self._texts = tokenizer, TokenTexts(tokenizer)
        self._max_open, self._max_running = max_running + max_waiting, max_running
        self._most_open = most_open(max_running, max_waiting)
        self._salts = CacheSalts()
        self._open: dict[str, Generation] = {}
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._rate = RateMeter()
        self._bank, self._device = bank, network.device
        self.speculation = None if draft is None else Speculation(draft, vocab_size=self.limits.vocab_size)
        self._closed = threading.Event()
        self._has_ended = threading.Event()
        config = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=_num_pages(network, cache_tokens or self.context_length * max_running, self.context_length),
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_requests_per_batch=max_running,
            use_async_batching=False,
            use_cuda_graph=False,
            auto_switch_to_flash=False,
        )
        # The manager uses only limits and eos; the checkpoint's own sampling defaults must not apply.
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=self.context_length)
        self._manager = network.init_continuous_batching(
            generation_config=generation, continuous_batching_config=config
        )
        sampler = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([RowSampler(self.speculation)]))
        sampler.tensors_required = 1
        self._manager.logit_processor = sampler
        self._suspects: set[str] | None = None  # None: the loop has not failed
        self._note_suspects()
        self._prepare_processor()
        with torch.inference_mode():
            self._manager.start()
        self._dispatcher = threading.Thread(target=self._dispatch, name="engine-results", daemon=True)
        self._dispatcher.start()

    def check_room(self, tenant: str = "") -> None:
        """Raise QueueFull if no further request of a tenant fits."""
        with self._lock:
            self._check_room(tenant)

    def _check_room(self, tenant: str) -> None:
        if len(self._open) >= self._max_open:
            raise QueueFull(
                f"{len(self._open)} requests are already being answered or waiting.", remedy="Try again in a moment."
            )
        own = sum(generation.choice.tenant == tenant for generation in self._open.values()) if tenant else 0
        if own >= self._most_open:
            raise QueueFull(
                f"{own} requests of this account are already being answered or waiting.",
                remedy="Try again in a moment.",
            )

    def submit(
        self, ids: Sequence[int], params: SamplingParams, on_event: OnEvent, *, choice: Choice = FIRST
    ) -> Generation:
        """Queue a prompt; see Engine.submit."""
        max_tokens = self.limits.check(ids, params)
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
            abort=self._abort,
        )
        generation.catch_up()
        if generation.is_over:
            return generation
        with self._lock:
            self._check_room(choice.tenant)
            self._open[generation.request_id] = generation
        accepted = self._manager.add_request(
            generation.context,
            request_id=generation.request_id,
            max_new_tokens=generation.num_left,
            streaming=True,
            eos_token_id=generation.stop_ids or -1,
            generation=generation,
        )
        if accepted is None:
            self._forget(generation)
            raise Unavailable(
                "The engine has stopped.", remedy="It restarts automatically; try again in a few seconds."
            )
        return generation

    def is_waiting(self, handle: Handle) -> bool:
        """Return whether a request is in the queue; see Engine.is_waiting."""
        processor = self._manager.batch_processor
        if not isinstance(handle, Generation) or handle.is_over or handle.num_own:
            return False
        return processor is None or handle.request_id not in processor.scheduler.active_requests

    def stats(self) -> EngineStats:
        """Return the engine's counters."""
        processor = self._manager.batch_processor
        running = len(processor.scheduler.active_requests) if processor is not None else 0
        with self._lock:
            num_open = len(self._open)
        return EngineStats(
            running=min(running, num_open),
            waiting=max(0, num_open - running),
            tokens_per_second=self._rate.per_second(),
            steps=getattr(self._manager, "current_batch", 0),
            generated_tokens=self._rate.total,
            last_token_age_s=self._rate.last_age_s(),
            cache_ratio=_used_share(processor.cache) if processor is not None else None,
            drafted_tokens=None if self.speculation is None else self.speculation.drafted,
            accepted_tokens=None if self.speculation is None else self.speculation.accepted,
        )

    def is_alive(self) -> bool:
        """Return False once the generation thread has died or was closed."""
        return not self._has_ended.is_set() and self._manager.is_running()

    def close(self) -> None:
        """Cancel every request and join the library's threads."""
        if self._closed.is_set():
            return
        with self._lock:
            waiting = list(self._open.values())
        for generation in waiting:
            generation.cancel()
        self._closed.set()
        self._manager.stop(block=True, timeout=30, hard_stop=True)
        self._dispatcher.join(timeout=5)

    def _prepare_processor(self) -> None:
        """Have the library's processor take turns between tenants, keep their cached pages and those of adapters apart,
        and note for each request how much of its prompt was found in the cache, which the library does not report.
        """
        create = self._manager._create_batch_processor

        def create_counting() -> Any:
            processor = create()
            search = processor.cache.search_prefix_match

            def search_and_count(request_id: str, ids: list[int]) -> int:
                length = int(search(request_id, self._salted(request_id, ids)))
                with self._lock:
                    generation = self._open.get(request_id)
                if generation is not None and not generation.draw.drawn:
                    generation.cached_tokens = length
                return length

            processor.cache.search_prefix_match = search_and_count
            processor.scheduler.active_requests = _Begun(self._begin)
            self._take_turns(processor.scheduler)
            self._mark_pages(processor.cache)
            if self._bank is not None:
                self._note_adapters(processor, self._bank)
            if self.speculation is not None:
                self.speculation.attach(processor)
            return processor

        self._manager._create_batch_processor = create_counting

    def _note_suspects(self) -> None:
        """Note what runs when the library's loop fails: one of these may be the cause, those that wait are not."""
        end_all = self._manager._handle_critical_error

        def note_and_end_all(error: Exception, processor: Any) -> None:
            self._suspects = set() if processor is None else set(processor.scheduler.active_requests)
            end_all(error, processor)

        self._manager._handle_critical_error = note_and_end_all

    def _code_of_error(self, request_id: str) -> str:
        if self._suspects is None:
            return REQUEST_FAILED  # the loop continues without it
        return code_of_failure(batched=len(self._suspects)) if request_id in self._suspects else LEAVING

    def _begin(self, request_id: str) -> None:
        with self._lock:
            generation = self._open.get(request_id)
        if generation is not None:
            generation.begin()

    def _note_adapters(self, processor: Any, bank: AdapterBank) -> None:
        """Tell the layers before each step which tokens have which adapter."""
        prepare = processor.inputs_and_outputs.prepare_batch_tensors

        def prepare_with_adapters(requests_in_batch: list[Any], *arguments: Any, **named: Any) -> None:
            states = [(_generation(request.state), request.query_length) for request in requests_in_batch]
            bank.activate(
                groups_of([(generation.choice.adapter, count) for generation, count in states], device=self._device)
            )
            prepare(requests_in_batch, *arguments, **named)

        processor.inputs_and_outputs.prepare_batch_tensors = prepare_with_adapters

    def _mark_pages(self, cache: Any) -> None:
        """Keep the pages of adapters and tenants apart, and those of a request whose first token is its last, which the
        library forgets.
        """

        def mark(state: Any, complete: dict[str, int]) -> None:
            choice = _generation(state).choice
            ids = [
                *self._salts.salt(state.initial_tokens, adapter=choice.adapter, tenant=choice.tenant),
                *state.generated_tokens,
            ]
            for name, count in complete.items() if cache.allow_block_sharing else ():
                cache.cache_allocators[name].mark_complete_blocks(state.request_id, ids, count)

        cache.mark_complete_blocks = mark

    def _take_turns(self, scheduler: Any) -> None:
        """Order the waiting requests by tenant in turn; the library takes them by arrival."""
        candidates = scheduler._get_waiting_candidates
        most = most_running(self._max_running)

        def candidates_in_turn() -> list[Any]:
            running = Counter(_generation(state).choice.tenant for state in scheduler.active_requests.values())
            return in_turn(
                ((_generation(state).choice.tenant, state) for state in candidates()), running=running, most=most
            )

        scheduler._get_waiting_candidates = candidates_in_turn

    def _salted(self, request_id: str, ids: list[int]) -> list[int]:
        with self._lock:
            generation = self._open.get(request_id)
        if generation is None:  # it was cancelled meanwhile
            return [-1, *ids[1:]]
        return self._salts.salt(ids, adapter=generation.choice.adapter, tenant=generation.choice.tenant)

    def _abort(self, generation: Generation) -> None:
        self._manager.cancel_request(generation.request_id)
        self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        with self._lock:
            self._open.pop(generation.request_id, None)

    def _dispatch(self) -> None:
        """Turn the library's results into events until the engine closes or its generation thread dies."""
        try:
            while not self._closed.is_set():
                output = self._manager.get_result(timeout=0.2)
                if output is not None:
                    self._deliver(output)
                elif not self._manager.is_running():
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


def _generation(state: Any) -> Generation:
    """Return the request behind the library's state of it."""
    generation: Generation = state.logit_processor_kwargs["generation"]
    return generation


def _num_pages(network: Any, tokens: int, context_length: int) -> int:
    """Return the cache's size in pages: room for `tokens` within the memory budget, and always for one full context."""
    config = network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    page_bytes = 2 * config.num_hidden_layers * heads * head_dim * network.dtype.itemsize * PAGE_TOKENS
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
            f"The KV cache of one full context of {context_length:,} tokens takes {format_bytes(pages * page_bytes)},"
            f" and {format_bytes(free)} of the GPU's memory are free beside the weights.",
            remedy="Deploy with a shorter context (--context), or on a larger GPU.",
            field="context",
        )
    return int(pages)


class _Begun(dict[str, Any]):
    """The library's running requests by id; tells which one left the queue, which the library does not report."""

    def __init__(self, on_begin: Callable[[str], None]) -> None:
        super().__init__()
        self._on_begin = on_begin

    def __setitem__(self, request_id: str, state: Any) -> None:
        super().__setitem__(request_id, state)
        self._on_begin(request_id)


def _used_share(cache: Any) -> float:
    """Return the share of a cache's pages that are held: by requests, and by prefixes that later requests may share."""
    return 1.0 - float(cache.compute_free_capacity(relative=True))
