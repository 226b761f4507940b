"""torch.compile where it was asked for and works; eager otherwise, said in one sentence."""

from __future__ import annotations

import torch

from backend.domain.run_config import RunConfig
from jobs.reporter import Reporter
from jobs.training.batches import MicroBatch


def compile_network(
    model: torch.nn.Module, *, config: RunConfig, batch: MicroBatch, device: torch.device, reporter: Reporter
) -> torch.nn.Module | None:
    """Return the compiled form of a network, tried on one batch forward and backward; None for eager.

    `auto` compiles on a GPU only: on a CPU the minutes of compiling seldom come back. Nothing is trained and no random number drawn.
    """
    if config.compile == "off" or (config.compile == "auto" and device.type != "cuda"):
        return None
    batch = batch.to(device)
    try:
        compiled: torch.nn.Module = torch.compile(model)  # type: ignore[assignment]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            logits = compiled(**batch.arguments).logits
            logits.float().mean().backward()
    except Exception as error:  # whatever stops a compiler (none installed, an operator it lacks), eager computes the same
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        reporter.log(f"torch.compile is not used: {type(error).__name__}: {reason}")
        return None
    finally:
        model.zero_grad(set_to_none=True)
    reporter.log("The network is compiled.")
    return compiled
