"""Compile the network with torch.compile if configured or worthwhile; fall back to eager mode with a log line."""

from __future__ import annotations

import os
import time

import torch

from backend.domain.training.execution import compiles
from jobs.batches.base import Batches
from jobs.modeling.devices import device_kind, fork_random, is_out_of_memory
from jobs.training.context import TrainingContext
from jobs.training.objectives.base import TrainingObjective

CACHE_FOLDER = "compiled"


def compile_network(
    network: torch.nn.Module, objective: TrainingObjective, batches: Batches, ctx: TrainingContext
) -> torch.nn.Module:
    """Return the compiled network, after one forward and backward pass to test it; the network itself if it is not to
    be compiled.

    The compiler's cache is kept among the artifacts for later runs. Weights and random state are preserved.
    """
    config, device = ctx.config, ctx.device
    size = sum(parameter.numel() for parameter in network.parameters())
    if not compiles(config, parameters=size, device=device_kind(device)):
        return network
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(ctx.spec.artifacts / CACHE_FOLDER))
    batch, started = batches.at_step(1)[0], time.perf_counter()
    is_dynamic = False if config.objective.pretrains else None
    ctx.reporter.log("Compiling the model: a minute or two, the first time on a machine.")
    try:
        compiled: torch.nn.Module = torch.compile(network, dynamic=is_dynamic)  # type: ignore[assignment]
        network.train()
        with fork_random(device):
            with torch.autocast(device.type, dtype=ctx.autocast, enabled=ctx.autocast is not None):
                output = objective.compute_loss(compiled, batch.to(device))
            torch.autograd.backward(output.total)
    # compilers fail in many ways (none installed, an unsupported operator), and eager mode computes the same
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        ctx.reporter.log(f"torch.compile is not used: {type(error).__name__}: {reason}")
        return network
    finally:
        network.zero_grad(set_to_none=True)
    ctx.reporter.log(f"The model is compiled ({time.perf_counter() - started:.0f} s).")
    return compiled
