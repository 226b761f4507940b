"""Open the engine that a config names."""

from __future__ import annotations

from typing import Literal

import torch

from jobs.evaluation.engines.base import CheckStop, Engine, never_stop
from jobs.evaluation.engines.fast import FastEngine
from jobs.evaluation.engines.plain import PlainEngine
from jobs.evaluation.subject import Subject


def open_engine(
    name: Literal["fast", "plain", "lm_eval"], subject: Subject, *, batch_size: int = 0, check_stop: CheckStop = never_stop
) -> Engine:
    """Return an engine for a subject; the fast one uses every visible GPU."""
    if name == "plain":
        return PlainEngine(subject, batch_size=batch_size, check_stop=check_stop)
    if name == "lm_eval":
        from jobs.evaluation.engines.lm_eval import HarnessEngine  # slow to import

        return HarnessEngine(subject, batch_size=batch_size, check_stop=check_stop)
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if subject.network.device.type == "cuda" else []
    return FastEngine(subject, batch_size=batch_size, devices=devices, check_stop=check_stop)
