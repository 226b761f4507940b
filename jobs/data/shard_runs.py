"""Have the shards of an import read, by processes of this machine or by Slurm; watch, stop and resume them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from backend.domain.data.import_options import HERE
from backend.domain.jobs.payloads import ShardCluster
from backend.domain.jobs.placement import SHARDS, parse_placement, shards_key
from backend.domain.jobs.records import FrozenRecord
from backend.domain.jobs.states import JobKind
from backend.errors import InvalidInput, JobFailed, NotFound, RoundhouseError, Unavailable, require_library
from backend.infra.compute.slurm import explain_refusal, run_slurm_command
from backend.infra.devices import count_usable_cores
from jobs.data.checkpoint import STATE
from jobs.data.sharding import ShardPlan, TokenPlan
from jobs.environment import child_environment
from jobs.modeling.publishing import publish_text
from jobs.reporter import Reporter

ROOT = Path(__file__).parents[2]
ORDER = "order.json"
SUBMIT_LOG = "submit.log"
ENTRY = ("-c", "from jobs.data.shard_tasks import main; main()")
POLL_S, ASK_S, AGAIN_S, TOUCH_S = 0.25, 2.0, 10.0, 60.0
ONE_CORE = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
MAX_DEATHS = 3
"""Ends of a process or of all tasks in Slurm, without a shard that was finished since, before the import fails."""
ERRORS = {error.__name__: error for error in (InvalidInput, JobFailed, NotFound, Unavailable)}


def read_plan(folder: Path) -> ShardPlan | TokenPlan:
    """Read the plan of a folder: of reading a source, or of making tokens."""
    return TokenPlan.load(folder) if TokenPlan.is_in(folder) else ShardPlan.load(folder)


class ShardOrder(FrozenRecord):
    """The way in which shards are run, for the processes that read or submit them."""

    parent: int
    workers: int
    partition: str = ""
    name: str = ""
    account: str = ""
    options: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> ShardOrder:
        """Read the order of a folder."""
        return cls.model_validate_json((folder / ORDER).read_bytes())

    def save(self, folder: Path) -> None:
        """Write it to a folder."""
        publish_text(folder / ORDER, self.model_dump_json())


def log_folder(folder: Path) -> Path:
    """Return datatrove's folder: a file for each finished shard, and the logs."""
    return folder / "tasks"


def error_file(folder: Path, number: int) -> Path:
    """Return where a shard leaves its error."""
    return folder / f"error-{number:05d}.json"


class ShardRunner(Protocol):
    """The processes or tasks that read shards."""

    def keep(self) -> str:
        """Start what is missing; return what is said of those that run. Raises JobFailed if they keep ending."""

    def stop(self) -> None:
        """End all that run."""


@dataclass(frozen=True)
class ShardOptions:
    """The number of shards of an import, and where they run: `local`, or `slurm:PARTITION` by `cluster`."""

    shards: int
    workers: int = 1
    executor: str = HERE
    cluster: ShardCluster | None = None


def run_shards(folder: Path, plan: ShardPlan | TokenPlan, options: ShardOptions, reporter: Reporter) -> None:
    """Have all shards read that are not finished. Reports progress by shards.

    Raises Unavailable without datatrove or Slurm's commands, JobFailed on a stop request or if shards keep dying, and
    the error of the first shard that has one.
    """
    require_library("datatrove", extra="corpora", needed_for="An import in shards")
    plan.save(folder)
    (folder / STATE).touch()  # keeps the folder for the next attempt
    for old in folder.glob("error-*.json"):
        old.unlink()
    workers = min(options.workers, plan.num_shards)
    if options.executor == HERE:
        workers = min(workers, count_usable_cores())
    order = ShardOrder(parent=os.getpid(), workers=workers)
    if options.executor != HERE:
        if shutil.which("sbatch") is None:
            raise Unavailable(
                "sbatch is not installed on the machine of this worker.",
                remedy="Run a worker that takes imports on a machine with Slurm's client commands.",
            )
        cluster, partition = options.cluster or ShardCluster(), parse_placement(options.executor).partition
        order = order.model_copy(
            update={
                "partition": partition,
                "name": shards_key(cluster.job_id, folder.name.rpartition("-")[2]),
                "account": cluster.account,
                "options": cluster.options,
            }
        )
    order.save(folder)
    watch = _Watch(folder, plan.num_shards, reporter)
    if watch.num_done:
        reporter.log(f"{watch.num_done:,} of {plan.num_shards:,} shards were finished by an earlier attempt.")
    with _running(folder, order, watch, reporter) as runner:
        while watch.num_done < plan.num_shards:
            said = runner.keep()
            watch.look(said)
            time.sleep(POLL_S)


@contextmanager
def _running(folder: Path, order: ShardOrder, watch: _Watch, reporter: Reporter) -> Iterator[ShardRunner]:
    runner: ShardRunner = (
        _InSlurm(folder, order, watch, reporter) if order.partition else _Here(folder, order, watch, reporter)
    )
    try:
        yield runner
    finally:
        runner.stop()


class _Watch:
    """Counts finished shards, reports them, and raises errors and stop requests."""

    def __init__(self, folder: Path, num_shards: int, reporter: Reporter) -> None:
        self._folder, self._num_shards, self._reporter = folder, num_shards, reporter
        self.num_done = self._first = self._count()
        self._began = self._touched = time.monotonic()

    def _count(self) -> int:
        completions = log_folder(self._folder) / "completions"
        completions.mkdir(parents=True, exist_ok=True)
        marker = completions / f".{os.getpid()}"
        marker.touch()  # a client of a network's file system lists a folder again that it has changed itself
        marker.unlink()
        return sum(not entry.name.startswith(".") for entry in os.scandir(completions))  # not markers

    def look(self, said: str) -> None:
        """Count and report. Raises the first shard's error, JobFailed on a stop request."""
        for path in sorted(self._folder.glob("error-*.json")):
            raise _read_error(path)
        num_done = self._count()
        self.num_done, now = num_done, time.monotonic()
        if now - self._touched > TOUCH_S:
            os.utime(self._folder)  # unused folders are removed after a day
            self._touched = now
        lasted = now - self._began
        rate = (num_done - self._first) / lasted if lasted else 0.0
        self._reporter.progress(num_done, self._num_shards, unit="shard", rate=rate or None, message=said)
        if self._reporter.should_stop():
            raise JobFailed(
                "The import was stopped on request.",
                remedy="Finished shards are kept for a day: import the same source again to resume.",
            )


def _read_error(path: Path) -> RoundhouseError:
    record = json.loads(path.read_text(encoding="utf-8"))
    return ERRORS.get(record["type"], JobFailed)(record["cause"], remedy=record["remedy"], field=record["field"])


@dataclass
class _Patience:
    """Counts ends without progress."""

    folder: Path
    watch: _Watch
    deaths: int = 0
    num_done: int = -1

    def count(self, what: str) -> None:
        """Count an end. Raises JobFailed at the third since a shard was finished."""
        if self.watch.num_done != self.num_done:
            self.deaths, self.num_done = 0, self.watch.num_done
        self.deaths += 1
        if self.deaths >= MAX_DEATHS:
            raise JobFailed(
                f"{what} {MAX_DEATHS} times without finishing a shard.{self._last_words()}",
                remedy="Often memory is short: take more shards, or fewer at a time. Finished ones are kept for a day.",
            )

    def _last_words(self) -> str:
        logs = sorted(
            [*self.folder.glob("worker-*.log"), *(log_folder(self.folder)).glob("*/*.out")],
            key=lambda path: path.stat().st_mtime,
        )
        lines = logs[-1].read_text(encoding="utf-8", errors="replace").strip().splitlines() if logs else []
        return f" The last line of its log: {lines[-1][:300]}" if lines else ""


def _start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process that has no keys of the Hub and of stores, which an import's own process has."""
    log = folder / (f"worker-{arguments[0]}.log" if arguments else SUBMIT_LOG)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *ENTRY, str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**child_environment(JobKind.DATA_REPORT), **ONE_CORE},
        )


@dataclass
class _Here:
    """Processes of this machine, each with its share of the shards. One that is killed is started again."""

    folder: Path
    order: ShardOrder
    watch: _Watch
    reporter: Reporter
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.patience = _Patience(self.folder, self.watch)

    def keep(self) -> str:
        for worker in range(self.order.workers):
            process = self.processes.get(worker)
            status = None if process is None else process.poll()
            if process is not None and status is None:
                continue
            if status:
                self.watch.look("")
                self.patience.count("The process of a shard ended")
                self.reporter.log(f"A process ended with status {status} while it read a shard; another continues.")
            if process is None or status:
                self.processes[worker] = _start(self.folder, str(worker))
        return ""

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()


@dataclass
class _InSlurm:
    """Tasks of Slurm, under the name of job and folder. Those that ended without a finished shard are submitted again,
    once those of an ended import into the same folder are gone. While Slurm does not answer or refuses for now, what it
    says is the message, and it is asked again.
    """

    folder: Path
    order: ShardOrder
    watch: _Watch
    reporter: Reporter
    due_at: float = 0.0
    said: str = ""

    def __post_init__(self) -> None:
        self.patience = _Patience(self.folder, self.watch)
        self.submitted = False

    def keep(self) -> str:
        if time.monotonic() < self.due_at:
            return self.said
        pause = ASK_S
        try:
            states = self._states() or self._submit_missing()
            counts = ", ".join(f"{count:,} {word}" for word, count in states.items())
            self.said = f"Slurm: {counts}" if counts else ""
        except Unavailable as error:
            pause, self.said = AGAIN_S, error.message
        self.due_at = time.monotonic() + pause
        return self.said

    def _states(self) -> Counter[str]:
        """Return how many tasks wait, with Slurm's reason, and run."""
        text = run_slurm_command("squeue", "--noheader", "--me", "--array", "--format=%T|%r|%j")
        states: Counter[str] = Counter()
        folder = SHARDS + self.order.name.partition(SHARDS)[2]
        for word, reason, _ in (line.split("|", 2) for line in text.splitlines() if line.endswith(folder)):
            states[word.lower() + (f" ({reason})" if reason not in ("", "None") else "")] += 1
        return states

    def _submit_missing(self) -> Counter[str]:
        """Submit the shards that are not finished, if any; return the states. Raises Unavailable if Slurm refuses for
        now, InvalidInput if it refuses the order.
        """
        self.watch.look(self.said)
        if self.watch.num_done == read_plan(self.folder).num_shards:
            return Counter()
        if self.submitted:
            self.submitted = False  # these ends are counted, however often Slurm refuses what follows
            self.patience.count("The tasks in Slurm ended")
            self.reporter.log("Tasks in Slurm ended without their shards; they are submitted again.")
        log = self.folder / SUBMIT_LOG
        log.unlink(missing_ok=True)
        if status := self._await(_start(self.folder)):
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            refusal = [line for line in lines if line.startswith("sbatch: ")] or lines[-1:]
            raise explain_refusal("sbatch", "\n".join(refusal), status=status)
        self.submitted = True
        return self._states()

    def _await(self, process: subprocess.Popen[bytes]) -> int:
        """Return the status of what submits; it may hang as long as Slurm does. Raises JobFailed on a stop request."""
        try:
            while process.poll() is None:
                self.watch.look(self.said)
                time.sleep(POLL_S)
        finally:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            status = process.wait()
        return status

    def stop(self) -> None:
        if self.watch.num_done < read_plan(self.folder).num_shards:
            with contextlib.suppress(RoundhouseError):
                run_slurm_command("scancel", "--me", f"--name={self.order.name}")
