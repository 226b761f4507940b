"""torch.compile where it was asked for or pays, and works; eager otherwise, said in one sentence."""

from __future__ import annotations

import os
import time

import torch

from backend.domain.training.config import Objective
from backend.domain.training.execution import compiles
from jobs.batches.base import Batches
from jobs.modeling.devices import device_kind
from jobs.training.context import Parts
from jobs.training.objectives.base import Lesson

CACHE_FOLDER = "compiled"


def compile_network(network: torch.nn.Module, lesson: Lesson, batches: Batches, parts: Parts) -> torch.nn.Module:
    """Return the compiled form of a network, tried on one batch forward and backward; the network itself where that is not wanted.

    What was compiled is kept among the artifacts for the next run. Nothing is trained and no random number drawn.
    """
    config, device = parts.config, parts.device
    size = sum(parameter.numel() for parameter in network.parameters())
    if not compiles(config, parameters=size, device=device_kind(device)):
        return network
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(parts.spec.artifacts / CACHE_FOLDER))
    batch, started = batches.at_step(1)[0], time.perf_counter()
    static = config.objective is Objective.PRETRAIN
    try:
        compiled: torch.nn.Module = torch.compile(network, dynamic=False if static else None)  # type: ignore[assignment]
        network.train()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            with torch.autocast(device.type, dtype=parts.autocast, enabled=parts.autocast is not None):
                cost = lesson.cost(compiled, batch.to(device))
            torch.autograd.backward(cost.total)
    except Exception as error:  # whatever stops a compiler (none installed, an operator it lacks), eager computes the same
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        parts.reporter.log(f"torch.compile is not used: {type(error).__name__}: {reason}")
        return network
    finally:
        network.zero_grad(set_to_none=True)
    parts.reporter.log(f"The network is compiled ({time.perf_counter() - started:.0f} s).")
    return compiled
