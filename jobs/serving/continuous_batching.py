"""transformers' continuous batching behind one adapter: what of it is replaced, called or read below its public
surface.

The library reports neither when a request leaves its queue nor how much of a prompt its cache held, orders requests by
arrival alone, shares cached pages between all, and samples a whole batch one way. Twelve of its internals are
therefore replaced here and nowhere else, in the versions in which they were read (decision 0073).

Its loop ends with every request where a step raises. Here the requests of that step go back into its queue with the
tokens that they have, as after a full cache. A control of one token says whether the engine still computes; then each
runs alone until its next token. One that fails again ends; the others continue together where they were (`Isolation`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from backend.domain.serving.protocol import BATCH_FAILED, REQUEST_FAILED
from backend.errors import JobFailed
from jobs.serving.engine import Generation

KNOWN_VERSIONS = ("5.24",)
"""Minor versions of transformers whose internals were read; tests/jobs/serving compare their behaviour."""


def check_transformers(version: str = transformers.__version__) -> None:
    """Raise JobFailed for a version of transformers whose internals are not known here."""
    if ".".join(version.split(".")[:2]) not in KNOWN_VERSIONS:
        known = " and ".join(f"{minor}.x" for minor in KNOWN_VERSIONS)
        raise JobFailed(
            f"Continuous batching replaces internals of transformers {known}, and {version} is installed.",
            remedy=f"Install transformers {known}, or deploy with engine serial, which uses none of them.",
        )


class BatchedRequest:
    """A request of the coming step, as the library holds it."""

    def __init__(self, request: Any) -> None:
        self._request, self._state = request, request.state

    @property
    def generation(self) -> Generation:
        """The engine's record of it."""
        return generation_of(self._state)

    @property
    def request_id(self) -> str:
        """Its id."""
        return str(self._state.request_id)

    @property
    def num_tokens(self) -> int:
        """Tokens of it in the coming step."""
        return int(self._request.query_length)

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer so far."""
        tokens: list[int] = self._state.initial_tokens + self._state.generated_tokens
        return tokens

    @property
    def num_generated(self) -> int:
        """Tokens of the answer so far."""
        return int(self._state.generated_len())

    @property
    def num_left(self) -> int:
        """Tokens that the answer may still have."""
        return int(self._state._new_tokens_limit) - self.num_generated

    @property
    def is_decoding(self) -> bool:
        """Return whether the step generates its next token and does nothing else for it."""
        return bool(self._request.has_new_token and self.num_tokens == 1 and self.num_generated > 0)

    def is_ended_by(self, token: int) -> bool:
        """Return whether the library ends the answer at a token."""
        return token in self._state._eos_token_ids

    def add_draft(self, draft: list[int], cache: Any) -> bool:
        """Let the step check a draft behind the next token; False where the cache has no room for it."""
        if not draft or not cache.can_store_request_tokens(self._state, 1 + len(draft)):
            return False
        self._request.query_length = 1 + len(draft)
        self._state.tokens_to_process = [*self._state.tokens_to_process, *draft]
        return True

    def keep(self, tokens: list[int], cache: Any) -> None:
        """Undo what the library counted for rows behind the last right one; the next step overwrites their keys."""
        request, state = self._request, self._state
        state.position_offset -= request.query_length
        blocks = cache.count_new_complete_blocks(state, len(tokens))
        state.position_offset += len(tokens)
        state.generated_tokens += tokens[:-1]
        cache.mark_complete_blocks(state, blocks)  # now: the library marks none in a request's last step
        request.complete_blocks = {}


class StepHooks(Protocol):
    """Checks of drafts: called behind scheduling and around the update of states, on the library's thread."""

    @property
    def has_drafts(self) -> bool:
        """Return whether the present step checks drafts."""
        ...

    def begin(self) -> None:
        """Note that a step begins."""
        ...

    def extend(self, requests: Sequence[BatchedRequest], cache: Any) -> int:
        """Add drafts to a step; return how many tokens they have."""
        ...

    def keep_right(self, cache: Any) -> None:
        """Keep the drafted tokens that were right."""
        ...

    def note(self, num_requests: int) -> None:
        """Count a step that has ended."""
        ...

    def forget(self) -> None:
        """Drop what a failed step left behind."""
        ...


@dataclass(frozen=True)
class BatchHooks:
    """Answers of an engine where the library asks no one.

    `find` returns the record of an open request, None for one that was cancelled; `salt` the token ids under which
    pages of a prompt are shared; `in_turn` the order in which waiting requests leave the queue, given those that run;
    `choose` scores [rows, vocabulary] whose argmax is each row's next token; `control` a request of one token that says
    whether the engine computes; `before_step` gets the requests of the
    coming step.
    """

    find: Callable[[str], Generation | None]
    salt: Callable[[Generation, list[int]], list[int]]
    in_turn: Callable[[Iterable[tuple[Generation, Any]], Iterable[Generation]], list[Any]]
    choose: Callable[[torch.Tensor, list[Generation]], torch.Tensor]
    control: Callable[[], Generation]
    before_step: Callable[[list[BatchedRequest]], None] | None = None
    drafts: StepHooks | None = None


class RowSampler(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Hands each row's request to `choose`. The library calls `prepare_tensor_args`, then the sampler, on one thread.

    It has a row for every request of the batch, those that need a token first; it does not read the others, which are
    still being prefilled.
    """

    supported_kwargs: dict[str, type] = {"generation": Generation}  # noqa: RUF012 - the base class declares it so
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, choose: Callable[[torch.Tensor, list[Generation]], torch.Tensor]) -> None:
        self._choose = choose
        self._rows: list[Generation] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Fill the unused tensor argument of a row."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        """Remember the requests behind the rows of the coming batch."""
        self._rows = [generation_of(request.state) for request in requests_with_new_token]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Return scores [rows, vocabulary] whose argmax is each row's next token."""
        return self._choose(scores, self._rows)


class ContinuousBatching:
    """The library's manager for one network, with an engine's hooks in it. Raises the library's own errors for networks
    that it refuses, and JobFailed for another version of it."""

    def __init__(
        self, network: Any, hooks: BatchHooks, *, page_tokens: int, num_pages: int, max_tokens: int, **limits: int
    ) -> None:
        check_transformers()
        self._hooks = hooks
        config = ContinuousBatchingConfig(
            page_size=page_tokens,
            num_blocks=num_pages,
            use_async_batching=False,
            use_cuda_graph=False,
            auto_switch_to_flash=False,
            **limits,
        )
        # The manager uses only limits and eos; the checkpoint's own sampling defaults must not apply.
        generation = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=max_tokens)
        self._manager = network.init_continuous_batching(
            generation_config=generation, continuous_batching_config=config
        )
        sampler = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([RowSampler(hooks.choose)]))
        sampler.tensors_required = 1
        self._manager.logit_processor = sampler
        self.suspects: set[str] | None = None
        """Requests that ran when the library's loop failed: one of these may be the cause. None: it has not."""
        self.codes: dict[str, str] = {}
        """Error codes of requests that end by themselves, by id."""
        self._isolation = Isolation(
            control=hooks.control,
            note_code=self.codes.__setitem__,
            check_device=lambda: torch.zeros(1, device=network.device).item(),
            forget_step=None if hooks.drafts is None else hooks.drafts.forget,
        )
        self._recover_from_failures()
        self._prepare_processor()

    def start(self) -> None:
        """Start the library's thread."""
        with torch.inference_mode():
            self._manager.start()

    def stop(self, *, timeout_s: float) -> None:
        """End the library's thread."""
        self._manager.stop(block=True, timeout=timeout_s, hard_stop=True)

    def add(self, generation: Generation) -> bool:
        """Queue a request; False if the library has stopped."""
        accepted = self._manager.add_request(
            generation.context,
            request_id=generation.request_id,
            max_new_tokens=generation.num_left,
            streaming=True,
            eos_token_id=generation.stop_ids or -1,
            generation=generation,
        )
        return accepted is not None

    def cancel(self, request_id: str) -> None:
        """Cancel a request."""
        self._manager.cancel_request(request_id)

    def next_output(self, *, timeout_s: float) -> Any:
        """Return the next output of the library; None if there is none in time."""
        return self._manager.get_result(timeout=timeout_s)

    def is_running(self) -> bool:
        """Return whether the library's thread lives."""
        return bool(self._manager.is_running())

    @property
    def num_steps(self) -> int:
        """Steps since the start."""
        return getattr(self._manager, "current_batch", 0)

    @property
    def num_running(self) -> int:
        """Requests that have left the queue."""
        processor = self._manager.batch_processor
        return 0 if processor is None else len(processor.scheduler.active_requests)

    def has_begun(self, request_id: str) -> bool:
        """Return whether a request has left the queue."""
        processor = self._manager.batch_processor
        return processor is not None and request_id in processor.scheduler.active_requests

    def cache_ratio(self) -> float | None:
        """Return the share of pages that are held: by requests, and by prefixes that later requests may share."""
        processor = self._manager.batch_processor
        return None if processor is None else 1.0 - float(processor.cache.compute_free_capacity(relative=True))

    def _recover_from_failures(self) -> None:
        """Have a failed step end the request at fault alone. Where none is, one of those that ran may be the cause, and
        those that waited are not.
        """
        self._manager._generation_loop_body = self._isolation.guard(self._manager._generation_loop_body)
        end_all = self._manager._handle_critical_error

        def note_and_end_all(error: Exception, processor: Any) -> None:
            running = set() if processor is None else set(processor.scheduler.active_requests)
            self.suspects = running | self._isolation.suspects
            end_all(error, processor)

        self._manager._handle_critical_error = note_and_end_all

    def _prepare_processor(self) -> None:
        """Put the hooks into the library's processor, which its own thread creates."""
        create = self._manager._create_batch_processor

        def create_with_hooks() -> Any:
            processor = create()
            processor.scheduler.active_requests = _Begun(self._hooks.find)
            self._count_cached(processor.cache)
            self._mark_pages(processor.cache)
            self._take_turns(processor.scheduler)
            self._announce_steps(processor.inputs_and_outputs)
            if self._hooks.drafts is not None:
                _check_drafts(processor, self._hooks.drafts)
            return processor

        self._manager._create_batch_processor = create_with_hooks

    def _count_cached(self, cache: Any) -> None:
        """Search the cache for salted prompts, and note how much of each it held, which the library does not report."""
        search = cache.search_prefix_match

        def search_and_count(request_id: str, ids: list[int]) -> int:
            generation = self._hooks.find(request_id)
            if generation is None:  # it was cancelled meanwhile
                return int(search(request_id, [-1, *ids[1:]]))
            length = int(search(request_id, self._hooks.salt(generation, ids)))
            if not generation.draw.drawn:
                generation.cached_tokens = length
            return length

        cache.search_prefix_match = search_and_count

    def _mark_pages(self, cache: Any) -> None:
        """Mark pages by salted ids; also of a request whose first token is its last, which the library forgets."""

        def mark(state: Any, complete: dict[str, int]) -> None:
            ids = [*self._hooks.salt(generation_of(state), state.initial_tokens), *state.generated_tokens]
            for name, count in complete.items() if cache.allow_block_sharing else ():
                cache.cache_allocators[name].mark_complete_blocks(state.request_id, ids, count)

        cache.mark_complete_blocks = mark

    def _take_turns(self, scheduler: Any) -> None:
        """Order the waiting requests by the engine's turns; the library takes them by arrival."""
        candidates = scheduler._get_waiting_candidates

        def candidates_in_turn() -> list[Any]:
            if (alone := self._isolation.admissible(candidates())) is not None:
                return alone
            waiting = ((generation_of(state), state) for state in candidates())
            return self._hooks.in_turn(waiting, map(generation_of, scheduler.active_requests.values()))

        scheduler._get_waiting_candidates = candidates_in_turn

    def _announce_steps(self, inputs: Any) -> None:
        prepare, before_step = inputs.prepare_batch_tensors, self._hooks.before_step
        if before_step is None:
            return

        def announce_and_prepare(requests_in_batch: list[Any], *arguments: Any, **named: Any) -> None:
            before_step([BatchedRequest(request) for request in requests_in_batch])
            prepare(requests_in_batch, *arguments, **named)

        inputs.prepare_batch_tensors = announce_and_prepare


def _check_drafts(processor: Any, drafts: StepHooks) -> None:
    """Add drafts behind scheduling, read the logits of all rows, and keep what was right before states are updated."""
    scheduler, inputs, cache = processor.scheduler, processor.inputs_and_outputs, processor.cache
    schedule, get_arguments, update = scheduler.schedule_batch, inputs.get_model_kwargs, processor.update_batch

    def schedule_with_drafts(token_budget: int, cache_budget: int) -> Any:
        drafts.begin()
        requests, is_fast, num_tokens, num_read = schedule(token_budget, cache_budget)
        added = drafts.extend([BatchedRequest(request) for request in requests or ()], cache)
        return requests, is_fast, num_tokens + added, num_read

    def get_arguments_with_drafts(*arguments: Any, **named: Any) -> Any:
        batch = get_arguments(*arguments, **named)
        if drafts.has_drafts:
            batch["logits_indices"] = torch.arange(batch["input_ids"].shape[1], dtype=torch.int32)
        return batch

    def update_with_drafts() -> None:
        num_requests = len(inputs.requests_in_batch)
        drafts.keep_right(cache)
        update()
        drafts.note(num_requests)

    scheduler.schedule_batch = schedule_with_drafts
    inputs.get_model_kwargs = get_arguments_with_drafts
    processor.update_batch = update_with_drafts


def generation_of(state: Any) -> Generation:
    """Return the engine's record behind the library's state of a request."""
    generation: Generation = state.logit_processor_kwargs["generation"]
    return generation


class _Begun(dict[str, Any]):
    """The library's running requests by id; tells those that leave the queue, which the library does not report."""

    def __init__(self, find: Callable[[str], Generation | None]) -> None:
        super().__init__()
        self._find = find

    def __setitem__(self, request_id: str, state: Any) -> None:
        super().__setitem__(request_id, state)
        if (generation := self._find(request_id)) is not None:
            generation.begin()


logger = logging.getLogger(__name__)
CONTROL = "control"

Step = Callable[..., bool]


class Isolation:
    """Tries the requests of a failed step one by one. Runs on the library's thread.

    `control` makes the generation of the control; `note_code` takes the error code of a request before its end is
    delivered; `check_device` raises where the device itself fails; `forget_step` drops what a step left behind.
    """

    def __init__(
        self,
        *,
        control: Callable[[], Generation],
        note_code: Callable[[str, str], None],
        check_device: Callable[[], object],
        forget_step: Callable[[], None] | None,
    ) -> None:
        self._control, self._note_code = control, note_code
        self._check_device, self._forget_step = check_device, forget_step
        self._trials: deque[str] = deque()  # the first runs alone, until its next token
        self._acquitted: set[str] = set()  # failed in a batch, and not alone
        self.suspects: frozenset[str] = frozenset()
        """Requests of the last failed step."""

    def guard(self, step: Step) -> Step:
        """Return the library's step with recovery around it. Raises the error that no single request explains."""

        def guarded(processor: Any, bootstrapping: bool) -> bool:
            try:
                continues = step(processor, bootstrapping=bootstrapping)
            except Exception as error:
                self._recover(processor, error)
                return True
            self._advance(processor)
            return continues

        return guarded

    def admissible(self, waiting: list[Any]) -> list[Any] | None:
        """Return the waiting request that may run now, during trials; None where all may."""
        return [state for state in waiting if state.request_id == self._trials[0]] if self._trials else None

    def _recover(self, processor: Any, error: Exception) -> None:
        try:
            self._check_device()
        except Exception:
            raise error from None
        if self._forget_step is not None:
            self._forget_step()
        scheduler = processor.scheduler
        scheduler.block_new_requests, scheduler.starved_requests, scheduler._requests_to_fork = False, [], []
        if self._trials:
            self._convict(processor, self._trials.popleft(), error)
            self._advance(processor)
            return
        self._deliver_finished(processor)
        failed = dict(scheduler.active_requests)
        self.suspects = frozenset(failed)
        if not failed or (len(failed) > 1 and self.suspects <= self._acquitted):
            raise error
        logger.exception("A step of %d requests failed; each is tried alone.", len(failed))
        self._acquitted.clear()
        for state in failed.values():
            _requeue(processor, state, note_code=self._note_code, error=error)
        control = RequestState(
            request_id=CONTROL,
            initial_tokens=[0],
            max_new_tokens=1,
            logit_processor_kwargs={"generation": self._control()},
        )
        scheduler.add_waiting_request(control)
        self._trials = deque([CONTROL, *(name for name in failed if name in scheduler.waiting_requests)])

    def _advance(self, processor: Any) -> None:
        """Take the next trial once the present one has its token, or is gone."""
        scheduler = processor.scheduler
        while self._trials:
            name = self._trials[0]
            state = scheduler.active_requests.get(name)
            if name in scheduler.waiting_requests or (state is not None and not state.generated_tokens):
                return
            self._trials.popleft()
            if state is not None:
                self._acquitted.add(name)
                _requeue(processor, state, note_code=self._note_code, error=None)

    def _convict(self, processor: Any, name: str, error: Exception) -> None:
        """End the request that failed alone. Raises its error where it is the control: the engine fails on anything."""
        scheduler = processor.scheduler
        state = scheduler.active_requests.get(name) or scheduler.waiting_requests.get(name)
        _remove(scheduler, name)
        if name == CONTROL:
            raise error
        if state is not None:
            logger.error("Request %s fails by itself and ends: %s", name, error)
            self._note_code(name, REQUEST_FAILED)
            processor.output_router.fail_and_deliver(state, error)

    def _deliver_finished(self, processor: Any) -> None:
        """Deliver what ended in the failed step, whose answers the library had not passed on."""
        for request in getattr(processor.inputs_and_outputs, "requests_in_batch", ()):
            if request.state.status == RequestStatus.FINISHED:
                processor.output_router.deliver(request.state.to_generation_output())


def _requeue(processor: Any, state: Any, *, note_code: Callable[[str, str], None], error: Exception | None) -> None:
    """Put a running request back into the queue with its tokens; one whose draws went ahead of them goes elsewhere."""
    generation: Generation = state.logit_processor_kwargs["generation"]
    again = state.create_equivalent_initial_request()
    _remove(processor.scheduler, state.request_id)
    if generation.draw.drawn == len(again.initial_tokens) - len(generation.prompt):
        processor.scheduler.add_waiting_request(again)
    else:
        note_code(state.request_id, BATCH_FAILED)
        processor.output_router.fail_and_deliver(
            state, error or RuntimeError("its tokens are not those that were drawn")
        )


def _remove(scheduler: Any, name: str) -> None:
    scheduler.finish_request(name)
    if scheduler.waiting_requests.pop(name, None) is not None:
        scheduler.waiting_requests_order.remove(name)
