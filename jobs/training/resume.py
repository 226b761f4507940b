"""How a run goes on from a checkpoint: with what it had there, and with words for what can't be the same."""

from __future__ import annotations

import platform
from dataclasses import replace

import torch

from backend.domain.training.execution import keep_global_batch
from jobs.batches.base import Batches, StepBatches
from jobs.modeling.devices import device_name
from jobs.training.checkpoints.state import Counters
from jobs.training.context import Parts


def machine_in_words(device: torch.device, *, count: int = 1) -> str:
    """Return what the last digits of a run's numbers depend on besides its config."""
    if device.type == "cuda":
        return f"{count} x {device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {count} x {torch.get_num_threads()} threads, torch {torch.__version__}"


def with_global_batch(parts: Parts, counters: Counters) -> Parts:
    """Return the parts of a run that goes on, with as many sequences in a step, and validated on, as before.

    Raises InvalidInput if the devices can't share them evenly.
    """
    config = parts.config
    if counters.measured is not None:
        parts = replace(parts, measured=counters.measured)
    if counters.sequences is None:
        return parts
    kept = keep_global_batch(config, counters.sequences)
    if kept is not config:
        parts.reporter.log(
            f"A step keeps its {counters.sequences} sequences: {config.devices.count} x micro_batch {kept.micro_batch} x "
            f"{kept.grad_accum_steps}, where the config now says micro_batch {config.micro_batch} x {config.grad_accum_steps}."
        )
    return replace(parts, config=kept)


def with_epochs(parts: Parts, batches: Batches) -> Parts:
    """Return the parts with max_steps lowered to where max_epochs ends, which is said."""
    config = parts.config
    if not config.max_epochs or not isinstance(batches, StepBatches):
        return parts
    steps = batches.steps_for(config.max_epochs)
    if steps >= config.max_steps:
        return parts
    parts.reporter.log(f"max_epochs {config.max_epochs:g} ends after {steps:,} steps, before max_steps {config.max_steps:,}.")
    return replace(parts, config=config.model_copy(update={"max_steps": steps}))


def take_up(parts: Parts, batches: Batches, counters: Counters) -> None:
    """Cut batches as they were cut when the run was saved, and say what can't be the same here."""
    if counters.micro_batch is not None and isinstance(batches, StepBatches) and counters.micro_batch < batches.micro_batch:
        batches.cut_to(counters.micro_batch)
        parts.reporter.log(f"Micro-batches stay at {counters.micro_batch}, as larger ones did not fit into memory.")
    now = machine_in_words(parts.device, count=parts.team.count)
    if counters.machine is not None and counters.machine != now:
        parts.reporter.log(
            f"This run was saved on {counters.machine}, and goes on on {now}. Weights, optimizer, order of the data and learning rate are "
            "the same. Sums are rounded in another order, so losses agree closely but not bit for bit; dropout may drop other numbers."
        )
