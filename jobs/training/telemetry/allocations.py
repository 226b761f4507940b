"""Peak of tensor memory on the CPU, from the profiler's record of every allocation of one step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def allocated_peak(
    step: Callable[[], object], *, model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: Path
) -> int:
    """Return the peak bytes of tensors during a step: weights, optimizer state and what the step allocates.

    The record, some megabytes, is written to `folder` and deleted.
    """
    persistent = _persistent_bytes(model, optimizer)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    file = folder / "allocations.json"
    try:
        record.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    finally:
        file.unlink(missing_ok=True)
    allocated = [
        event["args"]["Total Allocated"]
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0
    ]
    return persistent + max(allocated, default=0)


def _persistent_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
