"""Slurm as a compute provider, by its commands: sinfo, sbatch, squeue and scancel."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from backend.domain.jobs.placement import Partition, SubmissionState
from backend.errors import InvalidInput, Unavailable
from backend.infra.compute.base import SubmittedOrder, WorkerOrder

TIMEOUT_S = 30.0
LAST_LINES = 40
MAX_LOG_BYTES = 16_384
PREFIX = "roundhouse-"
GPUS = re.compile(r"gpu(?::[^:,()]+)?:(\d+)")
SILENT = (
    "unable to contact",
    "timed out",
    "connection refused",
    "connection reset",
    "connection failure",
    "connect failure",
    "is not connected",
    "communication shutdown",
    "authentication error",
    "authentication credential",
    "message receive failure",
    "message send failure",
    "zero bytes were transmitted or received",
    "unexpected message received",
    "in standby mode",
)
"""Phrases of a controller that is not there."""
BUSY = (
    "temporarily unable",
    "temporarily unavailable",
    "try again",
    "presently disabled",
    "required partition not available",
    "required node not available",
    "job violates accounting/qos policy",
    "maxsubmitjob",
    "grpsubmitjob",
)
"""Phrases of refusals that say nothing about the order, which is submitted again later."""
TOO_LARGE = re.compile(r"(?:qos|assoc)\w*(?:perjob|pernode|wallduration|min(?:cpu|gres|memory|node))")
"""Limits that the order itself breaks, among those of Slurm's accounting."""
STATES = {
    "PENDING": SubmissionState.WAITING,
    "CONFIGURING": SubmissionState.WAITING,
    "REQUEUED": SubmissionState.WAITING,
    "REQUEUE_HOLD": SubmissionState.WAITING,
    "REQUEUE_FED": SubmissionState.WAITING,
    "SPECIAL_EXIT": SubmissionState.WAITING,
    "RESV_DEL_HOLD": SubmissionState.WAITING,
    "RUNNING": SubmissionState.RUNNING,
    "COMPLETING": SubmissionState.RUNNING,
    "SUSPENDED": SubmissionState.RUNNING,
    "STOPPED": SubmissionState.RUNNING,
    "SIGNALING": SubmissionState.RUNNING,
    "STAGE_OUT": SubmissionState.RUNNING,
    "RESIZING": SubmissionState.RUNNING,
}
"""Slurm's states; all others are ends."""
HELD = "launch failed requeued held"
"""Reason of a pending job whose start failed on a node: it waits for an operator, and another can be submitted."""
SCRIPT = """#!/bin/sh
# Starts a worker of Roundhouse for one job on each node. srun, since Slurm asks steps to end before a preemption, not
# this script. A worker that dies ends the others, and with them this order.
set -eu
umask 077
export PATH="${{PATH:-/usr/local/bin:/usr/bin:/bin}}"
set -a
. {environment}
set +a
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$(((${{SLURM_CPUS_PER_TASK:-1}} + {ranks} - 1) / {ranks}))}}"
named='export ROUNDHOUSE_WORKER_HOST="${{SLURMD_NODENAME:-$(hostname)}}.$SLURM_JOB_ID"; exec "$@"'
exec srun --export=ALL --nodes={machines} --ntasks={machines} --kill-on-bad-exit=1 --wait=0 --cpu-bind=none \\
    --mpi=none sh -c "$named" worker {worker} --for {job} --until-idle {idle_s}s
"""


@dataclass(frozen=True)
class Slurm:
    """A Slurm cluster. `worker` is the command that starts a worker on a node, in `directory`; `environment` are the
    installation's settings, which reach it by a private file in `folder`, not through Slurm.
    """

    partitions: tuple[str, ...]
    worker: tuple[str, ...]
    directory: Path
    folder: Path
    environment: tuple[tuple[str, str], ...] = field(repr=False)
    account: str = ""
    options: tuple[str, ...] = ()
    idle_s: int = 600
    name: ClassVar[str] = "slurm"

    def check(self) -> Sequence[Partition]:
        """Return the partitions that are offered. Raises InvalidInput for one that Slurm does not have."""
        known: dict[str, Partition] = {}
        for line in run_slurm_command("sinfo", "--noheader", "--format=%R|%a|%D|%G").splitlines():
            name, up, nodes, gres = line.split("|", 3)
            before = known.get(name, Partition(name=name))
            known[name] = Partition(
                name=name,
                num_nodes=before.num_nodes + int(nodes),
                num_gpus=max(before.num_gpus, sum(int(count) for count in GPUS.findall(gres))),
                is_up=up.strip() == "up",
            )
        if self.partitions == ("*",):
            return tuple(known.values())
        if unknown := [name for name in self.partitions if name not in known]:
            raise InvalidInput(
                f"Slurm has no partition {unknown[0]!r}, which ROUNDHOUSE_SLURM_PARTITIONS names.",
                remedy=f"Name some of these, or * for all: {', '.join(known) or 'it shows this account none'}.",
            )
        return tuple(known[name] for name in self.partitions)

    def submit(self, order: WorkerOrder) -> str:
        """Submit a batch job whose name is the order's key."""
        self._write_environment()
        order.output.parent.mkdir(parents=True, exist_ok=True)
        command = [
            "sbatch",
            "--parsable",
            "--export=NIL",
            "--requeue",
            f"--nodes={order.num_machines}",
            f"--ntasks={order.num_machines}",
            f"--cpus-per-task={order.num_cpus}",
            f"--partition={order.partition}",
            f"--job-name={order.key}",
            f"--output={str(order.output).replace('%', '%%')}",
            "--open-mode=append",
            f"--chdir={self.directory}",
            *([f"--gres=gpu:{order.num_gpus}"] if order.num_gpus else []),
            *([f"--account={self.account}"] if self.account else []),
            *self.options,
        ]
        return run_slurm_command(*command, script=self._script(order)).strip().split(";")[0]

    def status(self) -> Sequence[SubmittedOrder]:
        """Return the jobs of this account whose name is a key, of an array of jobs each part that differs."""
        text = run_slurm_command("squeue", "--noheader", "--me", "--states=all", "--format=%F|%T|%r|%j")
        return [_read(line) for line in text.splitlines() if line.split("|", 3)[-1].startswith(PREFIX)]

    def log(self, key: str, output: Path) -> Sequence[str]:
        """Return the last lines of a job's output, which lies in the shared home."""
        try:
            with output.open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - MAX_LOG_BYTES))
                return file.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        except OSError:
            return ()

    def cancel(self, submission_id: str) -> None:
        """Cancel a job. One that Slurm has forgotten or that has ended is no error."""
        try:
            run_slurm_command("scancel", submission_id)
        except Unavailable as error:
            if not any(phrase in error.message.lower() for phrase in ("invalid job id", "already completing")):
                raise

    def _script(self, order: WorkerOrder) -> str:
        return SCRIPT.format(
            environment=shlex.quote(str(self._environment_file)),
            worker=shlex.join(self.worker),
            job=shlex.quote(order.job_id),
            machines=order.num_machines,
            ranks=max(order.num_gpus, order.num_cpus),
            idle_s=self.idle_s,
        )

    @property
    def _environment_file(self) -> Path:
        return self.folder / "worker.env"

    def _write_environment(self) -> None:
        lines = (f"{name}={shlex.quote(value)}\n" for name, value in self.environment)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"worker.env.{os.getpid()}"
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("".join(lines))
        partial.replace(self._environment_file)


def run_slurm_command(*command: str, script: str = "") -> str:
    """Run one of Slurm's commands; return what it prints. Raises Unavailable if Slurm does not answer or refuses for
    now, and InvalidInput for an order that it will never take.
    """
    try:
        done = subprocess.run(
            command, input=script, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise Unavailable(
            f"{command[0]!r} is not installed on this machine.",
            remedy="Install Slurm's client commands, or run this worker on a machine that has them.",
        ) from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"Slurm did not answer {command[0]} in {TIMEOUT_S:.0f} s.") from None
    if done.returncode == 0:
        return done.stdout
    raise explain_refusal(command[0], done.stderr, status=done.returncode)


def explain_refusal(command: str, output: str, *, status: int) -> Unavailable | InvalidInput:
    """Return the error for a command of Slurm that has failed: Unavailable if Slurm does not answer or refuses for now,
    InvalidInput for an order that it will never take.
    """
    text = " ".join(output.replace(f"{command}: error:", "").split())[:400].rstrip(".") or f"status {status}"
    if any(phrase in text.lower() for phrase in SILENT):
        return Unavailable(f"Slurm does not answer: {text}.", remedy="Look at slurmctld (`scontrol ping`).")
    if command != "sbatch" or (any(phrase in text.lower() for phrase in BUSY) and not TOO_LARGE.search(text.lower())):
        return Unavailable(f"Slurm refused for now ({command}): {text}")
    return InvalidInput(
        f"Slurm refused ({command}): {text}.",
        remedy="Correct the partition, or ROUNDHOUSE_SLURM_ACCOUNT and ROUNDHOUSE_SLURM_OPTIONS.",
    )


def _read(line: str) -> SubmittedOrder:
    number, word, reason, key = line.split("|", 3)
    return SubmittedOrder(
        id=number,
        key=key,
        state=SubmissionState.ENDED if HELD in reason else STATES.get(word, SubmissionState.ENDED),
        word=word,
        reason="" if reason == "None" else reason,
    )
