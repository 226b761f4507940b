"""Compute providers: clusters that start workers for one job on request. They never run a job themselves: its lease,
events, stop and resume belong to the worker, and what a provider says of its own jobs is advice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backend.domain.jobs.placement import Partition, SubmissionState


@dataclass(frozen=True)
class WorkerOrder:
    """A worker for one job on each of `num_machines`, which start together, with this many GPUs and cores each. The
    provider holds them under `key`; `output` is a file of the home for what they print, where nodes share that.
    """

    key: str
    job_id: str
    partition: str
    num_gpus: int
    num_cpus: int
    output: Path
    num_machines: int = 1


@dataclass(frozen=True)
class SubmittedOrder:
    """An order as its provider sees it. `word` is the state in the provider's language, `reason` why it waits."""

    id: str
    key: str
    state: SubmissionState
    word: str
    reason: str


class ComputeProvider(Protocol):
    """A cluster. Every method raises Unavailable if it does not answer."""

    @property
    def name(self) -> str:
        """Return its name in placements."""

    def check(self) -> Sequence[Partition]:
        """Return the partitions that jobs may be sent to. Raises InvalidInput for one that does not exist."""

    def submit(self, order: WorkerOrder) -> str:
        """Order workers under a key that no other order has; return the provider's id of it. Raises InvalidInput with
        the provider's text if it refuses this order, and Unavailable if it may take it later.
        """

    def status(self) -> Sequence[SubmittedOrder]:
        """Return the orders of this installation that the provider knows, with those that ended a short while ago."""

    def log(self, key: str, output: Path) -> Sequence[str]:
        """Return the last lines that an order's worker wrote, before it took a job or instead."""

    def cancel(self, submission_id: str) -> None:
        """Withdraw an order, or end its workers. One that is over already is no error."""
