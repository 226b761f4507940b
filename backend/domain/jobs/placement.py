"""The place a job runs at: the workers of the installation, or one that a compute provider starts for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.domain.jobs.records import FrozenRecord
from backend.domain.wording import plural
from backend.errors import InvalidInput

PROVIDERS = {"slurm": "Slurm", "kubernetes": "Kubernetes"}
"""Compute providers, with their names on pages."""
MAX_SUBMISSIONS = 3
"""Workers ordered for one attempt of a job, none of which took it, before the job fails."""


class SubmissionState(StrEnum):
    """A submission's state, as its provider reports it: advice, since a job's lease decides what runs."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


class Partition(FrozenRecord):
    """A part of a provider's machines that a job can be sent to."""

    name: str
    num_nodes: int = 0
    """0 where the provider does not tell."""
    num_gpus: int = 0
    """GPUs of one node."""
    is_up: bool = True

    @property
    def detail(self) -> str:
        """Return its nodes and GPUs as text."""
        gpus = plural(self.num_gpus, "GPU") if self.num_gpus else ""
        if not self.num_nodes:
            return f"{gpus} a node" if gpus else "CPUs"
        return plural(self.num_nodes, "node") + (f", {gpus} each" if gpus else "")

    def why_too_small(self, *, machines: int, gpus: int) -> str:
        """Return why no job of these machines with these GPUs each fits; empty if one does, or if nothing is known."""
        if 0 < self.num_nodes < machines:
            return f"has {plural(self.num_nodes, 'node')}, and this run needs {machines} machines"
        if 0 < self.num_gpus < gpus:
            return f"has {plural(self.num_gpus, 'GPU')} a node, and this run needs {gpus} on each machine"
        return ""


@dataclass(frozen=True)
class Placement:
    """A partition of a provider, stored as `slurm:gpu`."""

    provider: str
    partition: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.partition}"

    @property
    def title(self) -> str:
        """Return the provider's name on pages."""
        return PROVIDERS.get(self.provider, self.provider)

    @property
    def label(self) -> str:
        """Return the text of pages: `Slurm: gpu`."""
        return f"{self.title}: {self.partition}"


def parse_placement(text: str) -> Placement:
    """Read `slurm:gpu`. Raises InvalidInput."""
    provider, _, partition = text.partition(":")
    if provider not in PROVIDERS or not partition:
        raise InvalidInput(
            f"{text!r} is not a valid placement.",
            remedy=f"Give a provider ({', '.join(PROVIDERS)}) and a partition, such as slurm:gpu.",
            field="placement",
        )
    return Placement(provider, partition)


SHARDS = "-shards."


def shards_key(job_id: str, folder: str) -> str:
    """Return the name under which Slurm holds the tasks that read the shards of an import into a folder."""
    return f"roundhouse-{job_id}{SHARDS}{folder}"


def submission_key(job_id: str, number: int) -> str:
    """Return the name under which a provider holds the worker that was ordered for a job, as the nth."""
    return f"roundhouse-{job_id}-{number}"
