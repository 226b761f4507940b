"""Open the engine that a config names."""

from __future__ import annotations

from typing import Literal

import torch

from backend.errors import require_library
from jobs.evaluation.engines.base import CheckStop, EvaluationEngine, never_stop
from jobs.evaluation.engines.fast import FastEngine
from jobs.evaluation.engines.openai_http import EndpointEngine
from jobs.evaluation.engines.plain import PlainEngine
from jobs.evaluation.subject import EndpointSubject, EvaluatedNetwork
from jobs.modeling.devices import is_gpu


def open_engine(
    name: Literal["fast", "plain", "lm_eval"],
    subject: EvaluatedNetwork | EndpointSubject,
    *,
    batch_size: int = 0,
    check_stop: CheckStop = never_stop,
    job: str | None = None,
) -> EvaluationEngine:
    """Return an engine for a subject; the fast one uses every visible GPU. An endpoint has one engine; an own gateway
    gets `job`.
    """
    if isinstance(subject, EndpointSubject):
        target = subject.target
        own = job if target.is_own else None
        return EndpointEngine(
            target.url,
            model=target.model,
            key=subject.key,
            job=own,
            concurrency=target.concurrency,
            check_stop=check_stop,
        )
    if name == "plain":
        return PlainEngine(subject, batch_size=batch_size, check_stop=check_stop)
    if name == "lm_eval":
        require_library("lm_eval", extra="harness", needed_for="The engine lm_eval")
        from jobs.evaluation.engines.lm_eval import HarnessEngine  # slow to import

        return HarnessEngine(subject, batch_size=batch_size, check_stop=check_stop)
    device = subject.network.device
    devices = (
        [torch.device(device.type, index) for index in range(torch.accelerator.device_count())]
        if is_gpu(device)
        else []
    )
    return FastEngine(subject, batch_size=batch_size, devices=devices, check_stop=check_stop)
