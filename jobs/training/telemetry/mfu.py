"""Model FLOPs utilisation: the operations that a run's tokens need over the device's peak (arXiv 2204.02311, appendix
B).

A GPU's peak comes from a table. A CPU's depends on clock, threads and libraries, so it is measured: the best of a few
matrix products, stored among the artifacts, since a busy machine measures too low.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch

from backend.domain.architectures.flops import count_flops
from backend.domain.architectures.hf_config import read_shape
from backend.domain.estimates.device_peaks import peak_flops
from backend.domain.training.config import RunConfig
from jobs.modeling.devices import device_name, is_gpu

SIDE, SIDE_OF_MANY, MANY_THREADS = 512, 1024, 5
"""Sides of the matrices that are multiplied, and the number of threads that need the larger one to be busy."""
TRIES, ALIKE = 100, 1.03
FOLDER = "machines"


@dataclass(frozen=True)
class Utilisation:
    """Converts tokens per second to MFU: `flops_per_token` in training, `peak` operations per second of all devices."""

    flops_per_token: float
    peak: float

    def of(self, tokens_per_s: float) -> float:
        """Return the MFU, from 0 to about 1."""
        return tokens_per_s * self.flops_per_token / self.peak


def find_utilisation(model: Any, config: RunConfig, *, device: torch.device, artifacts: Path) -> Utilisation | None:
    """Return the utilisation of a pretraining run; None if the network's operations or the device's peak are unknown.

    None for other objectives, whose steps have passes and padding that their rate does not count.
    """
    if not config.objective.pretrains:
        return None
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    shape = read_shape(network.config.to_dict())
    if shape is None:
        return None
    rank = None if config.method == "full" else config.lora.rank
    flops = count_flops(shape, context=config.context, micro_batch=config.micro_batch, lora_rank=rank).training
    peak = peak_flops(device_name(device)) if is_gpu(device) else matmul_flops(artifacts)
    return None if peak is None else Utilisation(float(flops), peak * config.devices.count)


def matmul_flops(artifacts: Path) -> float:
    """Return the operations per second of fp32 matrix products on this CPU and its threads: the best so far."""
    machine = f"{platform.node()} {device_name(torch.device('cpu'))} {torch.get_num_threads()}"
    file = artifacts / FOLDER / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"
    known = 0.0
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = float(json.loads(file.read_text())["matmul_flops_per_s"])
    best = _measure_matmul()
    if best > known:
        with contextlib.suppress(OSError):  # without write permission later runs measure from scratch
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps({"machine": machine, "matmul_flops_per_s": best}) + "\n")
            os.replace(partial, file)
    return max(best, known)


@torch.no_grad()
def _measure_matmul() -> float:
    """Return the rate of the fastest product. Three that nothing interrupted and that take equally long were not
    disturbed, and further ones would take as long.
    """
    side = SIDE_OF_MANY if torch.get_num_threads() >= MANY_THREADS else SIDE
    left, right = (torch.ones(side, side) for _ in range(2))
    seconds: list[float] = []
    undisturbed: list[float] = []
    while len(seconds) < TRIES and sum(one < ALIKE * min(seconds) for one in undisturbed) < 3:
        interruptions, started = count_interruptions(), time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - started)
        if count_interruptions() == interruptions:
            undisturbed.append(seconds[-1])
    return 2 * side**3 / min(seconds)


def count_interruptions() -> int:
    """Return how often other processes have taken a core from this one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
