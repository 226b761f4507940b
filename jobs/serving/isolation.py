"""Recovery from a failed step of continuous batching: the request at fault ends, and the others continue.

The library's loop ends with every request where a step raises. Here the requests of that step go back into its queue
with the tokens that they have, as after a full cache. A control of one token says whether the engine still computes;
then each runs alone until its next token. One that fails again ends; the others continue together where they were.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from transformers.generation.continuous_batching.requests import RequestState, RequestStatus

from backend.domain.serving.protocol import BATCH_FAILED, REQUEST_FAILED
from jobs.serving.engine import Generation

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
