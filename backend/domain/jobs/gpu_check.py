"""Checks of a device by `roundhouse doctor --gpu`: their names, time limits and cures, and the result of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.results import ProbeResult
from backend.domain.serving.engines import SERVERS
from backend.domain.training.config import RunConfig

GpuVerdict = Literal["pass", "fail", "not here", "not run"]
"""`not here`: the machine has no device, library or kernel for it. `not run`: the time was up."""

LOWER_PRECISION = "Train with precision fp32 until it is resolved, and report the driver, the GPU and torch's version."
OTHER_KERNEL = (
    "Install a torch built for this driver (`nvidia-smi` names the newest CUDA it takes); until then choose attention"
    " eager."
)
OTHER_RANKS = (
    "Repeat with NCCL_DEBUG=INFO and read the check's log. Usual causes: no peer access (NCCL_P2P_DISABLE=1), or too"
    " little shared memory in a container (--shm-size)."
)
ESTIMATE_OFF = (
    "Probe a run before its launch. To correct the estimates by these peaks: roundhouse doctor --gpu --record."
)
ENDPOINT_LOST = "Read the check's log, and deploy with another engine until it is resolved."
ENDPOINT_ENGINES = ("batching", "serial", *SERVERS)


@dataclass(frozen=True)
class GpuCheck:
    """A check: the time after which it is ended, in seconds, and the cure where its figure is off or it crashed."""

    limit_s: float
    cure: str


GPU_CHECKS: dict[str, GpuCheck] = {
    "fp32": GpuCheck(90, "The device computes wrong numbers: update its driver, and test its memory."),
    "tf32": GpuCheck(90, "Unset NVIDIA_TF32_OVERRIDE. " + LOWER_PRECISION),
    "bf16": GpuCheck(90, LOWER_PRECISION),
    "fp16": GpuCheck(90, LOWER_PRECISION),
    "sdpa-math": GpuCheck(60, OTHER_KERNEL),
    "sdpa-flash": GpuCheck(60, OTHER_KERNEL),
    "sdpa-efficient": GpuCheck(60, OTHER_KERNEL),
    "sdpa-cudnn": GpuCheck(60, OTHER_KERNEL),
    "compile": GpuCheck(
        240,
        "Install a C++ compiler and Python's headers (Debian, Ubuntu: `apt install g++ python3-dev`), or set compile"
        " off.",
    ),
    "qlora": GpuCheck(120, "Install a bitsandbytes built for this CUDA, or choose method lora."),
    "adamw-8bit": GpuCheck(90, "Install a bitsandbytes built for this CUDA, or choose optimizer adafactor or lion."),
    "resume": GpuCheck(90, "A resumed run differs from an undisturbed one: report it, with the check's log."),
    "ddp": GpuCheck(150, OTHER_RANKS),
    "fsdp2": GpuCheck(150, OTHER_RANKS),
    "memory": GpuCheck(120, ESTIMATE_OFF),
    "memory-recompute": GpuCheck(120, ESTIMATE_OFF),
    "memory-lora": GpuCheck(120, ESTIMATE_OFF),
    "mfu": GpuCheck(
        240,
        "Look for another program on the device, a power limit or heat (`nvidia-smi -q -d PERFORMANCE`), and for"
        " compile in the check's log.",
    ),
    **{
        f"endpoint-{engine}": GpuCheck(SERVERS[engine].check_s if engine in SERVERS else 120, ENDPOINT_LOST)
        for engine in ENDPOINT_ENGINES
    },
}
"""The checks by name, in the order in which they run."""

GPU_CHECKS_S = 600.0
"""Seconds after which no further check starts."""


class MeasuredSetting(BaseModel):
    """A probe that a check made: the run's config, the network's shape, and what was measured."""

    model_config = ConfigDict(frozen=True)

    config: RunConfig
    shape: ArchitectureConfig
    result: ProbeResult


class GpuCheckResult(BaseModel):
    """The result of one check. `device` is the product name of the device that it ran on, `figure` what it measured
    or why it failed. `cure` is empty if it passed.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    device: str
    verdict: GpuVerdict
    figure: str
    cure: str = ""
    seconds: float = 0.0
    measured: MeasuredSetting | None = None
