"""A run on several devices: `torchrun` starts one process a device, and the first of them speaks for all.

The job's process starts them, passes on what the first reports and what the user asks, and ends with the run's result or the first
error. `python -m torch.distributed.run ... -m jobs.training.distributed.launch FOLDER` is how they start, on every machine that takes part; the
folder lies in the artifacts, which all machines see.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.domain.training.config_sections import DeviceConfig
from backend.errors import InvalidInput, JobFailed, RoundhouseError
from jobs.reporter import FileReporter, JobSpec, Reporter, StopRequest

TICK_S = 0.1
PR_SET_PDEATHSIG = 1


def run_ranks(spec: JobSpec, reporter: Reporter, *, devices: DeviceConfig) -> dict[str, Any]:
    """Run a training job in one process a device; return its result. With several nodes the log says what to start on the others.

    Raises InvalidInput or JobFailed as a run in one process does; JobFailed names the process that died without a word.
    """
    folder = spec.folder / f"ranks-{spec.attempt}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    record = {**asdict(spec), "artifacts": str(spec.artifacts), "folder": str(spec.folder)}
    (folder / "spec.json").write_text(json.dumps(record))
    command = torchrun(folder, devices, job=spec.id)
    reporter.log(f"Starting {devices.per_node} processes, one a device.")
    if devices.nodes > 1:
        reporter.log(
            f"They wait for {devices.nodes - 1} more machines. Run there, in Roundhouse's folder: {shlex.join(['python', *command])}"
        )
    child = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, env=rank_environment(devices.per_node)
    )
    try:
        _relay_until_exit(child, folder, reporter)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    return outcome(folder, code=child.returncode)


def torchrun(folder: Path, devices: DeviceConfig, *, job: str) -> list[str]:
    """Return what Python is told on each machine."""
    if devices.nodes == 1:
        place = ["--standalone"]
    else:
        meeting = devices.rendezvous or f"{socket.gethostname()}:29400"
        place = ["--nnodes", str(devices.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting, "--rdzv-id", job]
    processes = ["--nproc-per-node", str(devices.per_node), "--max-restarts", "0"]
    return ["-m", "torch.distributed.run", *place, *processes, "-m", "jobs.training.distributed.launch", str(folder)]


def rank_environment(count: int) -> dict[str, str]:
    """Return the environment of the processes: the cores are shared out, where nobody has said otherwise."""
    return {"OMP_NUM_THREADS": str(threads_of_rank(count)), **os.environ}


def threads_of_rank(count: int) -> int:
    """Return how many threads each of `count` processes computes with on the CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // count)


def die_with_parent() -> None:
    """Be killed when the parent dies: a killed worker must leave no process on a device."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _relay_until_exit(child: subprocess.Popen[bytes], folder: Path, reporter: Reporter) -> None:
    events = _events(folder / "events.jsonl")
    asked: StopRequest | None = None
    while True:
        exited = child.poll() is not None
        for event in events:
            if event is None:
                break
            _pass_on(event, reporter)
        if exited:
            return
        request = reporter.should_stop()
        if request is not None and request != asked:
            asked = request
            partial = folder / "control.partial"
            partial.write_text(request)
            partial.replace(folder / "control")
        try:
            child.wait(TICK_S)
        except subprocess.TimeoutExpired:
            continue


def _events(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield what the first rank has reported, and None whenever there is nothing more for now. Never ends."""
    while not path.exists():
        yield None
    with path.open("rb") as file:
        rest = b""
        while True:
            block = file.read(1 << 20)
            if not block:
                yield None
                continue
            *lines, rest = (rest + block).split(b"\n")
            yield from (json.loads(line) for line in lines if line)


def _pass_on(event: dict[str, Any], reporter: Reporter) -> None:
    kind = event.pop("type")
    event.pop("time", None)
    if kind == "metrics":
        reporter.metrics(event["step"], event["values"])
    elif kind == "progress":
        reporter.progress(event["done"], event["total"], unit=event["unit"], rate=event["rate"], message=event["message"])
    elif kind == "log":
        reporter.log(event["text"])
    elif kind == "sample":
        reporter.sample(event["step"], event["prompt"], event["completion"])
    else:
        reporter.event(kind, **event)


def outcome(folder: Path, *, code: int) -> dict[str, Any]:
    """Return the result that the first process left, or raise the error that one left. `code` is torchrun's exit status.

    Errors that only echo another process's end are none once there is a result.
    """
    errors = [json.loads(path.read_text()) for path in sorted(folder.glob("error-*.json"))]
    causes, result = [error for error in errors if not error["is_echo"]], folder / "result.json"
    if not causes and result.is_file() and (errors or code == 0):
        return dict(json.loads(result.read_text()))
    if told := causes or errors:
        kind = InvalidInput if told[0]["invalid"] else JobFailed
        raise kind(told[0]["cause"], remedy=told[0]["remedy"], field=told[0]["field"])
    raise JobFailed(
        f"One of the processes of this run ended without a word (torchrun's status is {code}).",
        remedy="See the end of the log. Out of memory is the usual reason: choose a smaller micro_batch, or sharding fsdp.",
    )


class SilentReporter:
    """The reporter of every rank but the first."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Say nothing."""

    def progress(self, done: float, total: float, *, unit: str = "step", rate: float | None = None, message: str = "") -> None:
        """Say nothing."""

    def log(self, text: str) -> None:
        """Say nothing."""

    def sample(self, step: int, prompt: str, completion: str) -> None:
        """Say nothing."""

    def event(self, type_: str, **fields: Any) -> None:
        """Say nothing."""

    def should_stop(self) -> StopRequest | None:
        """Return None: the first rank is told, and tells the others."""
        return None


def run_rank(folder: Path) -> int:
    """Be one process of a run; return the exit status. Its error, if any, is left in the folder as a sentence."""
    die_with_parent()
    from jobs.training.run import run_here  # imports torch, which the job's own process need not wait for

    rank = int(os.environ["RANK"])
    record = json.loads((folder / "spec.json").read_text())
    spec = JobSpec(**{**record, "artifacts": Path(record["artifacts"]), "folder": Path(record["folder"])})
    reporter: Reporter = FileReporter(folder / "events.jsonl", folder / "control") if rank == 0 else SilentReporter()
    try:
        result = run_here(spec, reporter)
    except RoundhouseError as error:
        _leave(folder, rank, cause=error.message, remedy=error.remedy, field=error.field, invalid=isinstance(error, InvalidInput))
        return 3
    except Exception as error:
        traceback.print_exc()
        # when one process fails, the others find their connection closed: that is not the cause
        echo = "Connection closed" in str(error) or "NCCL" in str(error) or "Connection reset" in str(error)
        _leave(folder, rank, cause=f"{type(error).__name__}: {error}"[:600], remedy="The log below has the details.", is_echo=echo)
        return 4
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(result))
    return 0


def _leave(
    folder: Path, rank: int, *, cause: str, remedy: str | None, field: str | None = None, invalid: bool = False, is_echo: bool = False
) -> None:
    record = {"cause": cause, "remedy": remedy, "field": field, "invalid": invalid, "is_echo": is_echo}
    (folder / f"error-{rank}.json").write_text(json.dumps(record))


def _end(status: int) -> None:
    """Leave without waiting for other processes, which may hang in an exchange that this one will never join."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end(run_rank(Path(sys.argv[1])))
