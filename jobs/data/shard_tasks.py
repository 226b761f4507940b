"""Shards as tasks of datatrove, which keeps the record of finished ones, a log of each, and submits them to Slurm.

`main` is the entry of processes that a worker starts (jobs.data.shard_runs); nothing else imports datatrove.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor

from backend.errors import RoundhouseError
from backend.infra.processes import die_with_parent
from jobs.data.shard_runs import ROOT, ShardOrder, error_file, log_folder, read_plan
from jobs.data.sharding import TokenPlan, read_shard
from jobs.modeling.publishing import publish_text

SIZES = ("--mem", "--cpus", "--gres", "--gpus", "--ntasks", "--nodes", "--array", "-c", "-G", "-n", "-N", "-a")
"""Options of Slurm for runs that say nothing about shards, each of which takes one CPU."""


@dataclass(frozen=True)
class ReadShard:
    """The step of a task: read the shard of its rank. An error of ours is left in a file."""

    folder: Path

    def __call__(self, data: object, rank: int, world_size: int) -> None:
        """Read a shard, or make its tokens."""
        try:
            if TokenPlan.is_in(self.folder):
                import_module("jobs.data.token_shards").make_shard(self.folder, rank)  # imports transformers
            else:
                read_shard(self.folder, rank)
        except RoundhouseError as error:
            record = {
                "type": type(error).__name__,
                "cause": error.message,
                "remedy": error.remedy,
                "field": error.field,
            }
            publish_text(error_file(self.folder, rank), json.dumps(record))
            raise


class LocalShards(LocalPipelineExecutor):
    """Every `workers`-th of the shards that are not finished, one after another, in this process.

    datatrove's own pool of processes waits for ever if one of them is killed, and its manager outlives a killed parent.
    """

    def run_every(self, first: int, step: int) -> None:
        """Read the shards whose number leaves this remainder."""
        for rank in self.get_incomplete_ranks(range(first, self.tasks, step)):
            self._run_for_rank(rank)


class SlurmShards(SlurmPipelineExecutor):
    """An array of jobs with this installation's options, and without datatrove's job that adds up statistics."""

    options: tuple[str, ...] = ()

    def launch_merge_stats(self) -> None:
        """Submit nothing."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, object]:
        """Leave what datatrove presumes, memory, time limit and quality of service, to the cluster and the options."""
        given = super().get_sbatch_args(max_array)
        return {name: value for name, value in given.items() if name not in ("mem-per-cpu", "time", "qos")}

    def get_launch_file_contents(self, sbatch_args: dict[str, object], run_script: str) -> str:
        """Add the options."""
        first, _, rest = super().get_launch_file_contents(sbatch_args, run_script).partition("\n")
        return "\n".join([first, *(f"#SBATCH {option}" for option in self.options), rest])


def shard_options(options: Sequence[str]) -> tuple[str, ...]:
    """Return the options of Slurm that hold for shards too, each with its value."""
    joined: list[str] = []
    for option in options:
        if joined and not option.startswith("-") and "=" not in joined[-1]:
            joined[-1] += f"={option}" if joined[-1].startswith("--") else f" {option}"
        else:
            joined.append(option)
    return tuple(option for option in joined if not option.startswith(SIZES))


def run_local(folder: Path, worker: int) -> None:
    """Read this worker's share of the shards."""
    order, plan = ShardOrder.load(folder), read_plan(folder)
    die_with_parent(parent=order.parent)
    executor = LocalShards([ReadShard(folder)], tasks=plan.num_shards, workers=1, logging_dir=str(log_folder(folder)))
    executor.run_every(worker, order.workers)


def submit(folder: Path) -> None:
    """Submit the shards that are not finished to Slurm."""
    order, plan = ShardOrder.load(folder), read_plan(folder)
    programs = shlex.quote(str(Path(sys.executable).parent))
    executor = SlurmShards(
        [ReadShard(folder)],
        tasks=plan.num_shards,
        workers=order.workers,
        time="",
        qos="",
        partition=order.partition,
        job_name=order.name,
        logging_dir=str(log_folder(folder)),
        env_command=f"export PATH={programs}:$PATH PYTHONPATH={shlex.quote(str(ROOT))}",
        srun_args={"mpi": "none", "cpu-bind": "none"},
    )
    executor.options = shard_options([*([f"--account={order.account}"] if order.account else []), *order.options])
    executor.run()


def main() -> None:
    """Entry of the processes: FOLDER and the number of a local worker, or FOLDER alone to submit."""
    folder = Path(sys.argv[1])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if len(sys.argv) > 2:
        run_local(folder, int(sys.argv[2]))
    else:
        submit(folder)
