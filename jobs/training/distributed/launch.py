"""Launch a run on several devices: `torchrun` starts one process per device, and this one relays the first rank's
events.

The job's process passes on events and stop requests through files, and returns the run's result or raises the first
error. `python -m torch.distributed.run ... -m jobs.training.rank FOLDER` starts the ranks on every machine that takes
part; FOLDER lies among the artifacts, which all machines share.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from backend.domain.jobs.events import Event, event_of
from backend.domain.jobs.payloads import TrainingPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import StopRequest
from backend.domain.training.config_sections import DeviceConfig
from backend.errors import InvalidInput, JobFailed
from backend.infra.processes import die_with_parent
from jobs.modeling.devices import threads_of_rank
from jobs.reporter import JobSpec, Reporter

TICK_S = 0.1


def run_ranks(spec: JobSpec[TrainingPayload], reporter: Reporter, *, devices: DeviceConfig) -> TrainResult:
    """Run a training job with one process per device; return its result. With several nodes, log the command for the
    others.

    Raises InvalidInput or JobFailed as a run in one process does, and JobFailed if a rank died without reporting an
    error.
    """
    folder = spec.folder / f"ranks-{spec.attempt}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    spec.write(folder / "spec.json")
    command = torchrun(folder, devices, job=spec.id)
    reporter.log(f"Starting {devices.per_node} processes, one per device.")
    if devices.nodes > 1:
        reporter.log(
            f"Waiting for {devices.nodes - 1} more machines. Run there, in Roundhouse's folder:"
            f" {shlex.join(['python', *command])}"
        )
    child = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
        env=rank_environment(devices.per_node),
    )
    try:
        _relay_until_exit(child, folder, reporter)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    return outcome(folder, code=child.returncode)


def torchrun(folder: Path, devices: DeviceConfig, *, job: str) -> list[str]:
    """Return the arguments for Python on each machine."""
    if devices.nodes == 1:
        rendezvous = ["--standalone"]
    else:
        endpoint = devices.rendezvous or f"{socket.gethostname()}:29400"
        rendezvous = [
            "--nnodes",
            str(devices.nodes),
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            endpoint,
            "--rdzv-id",
            job,
        ]
    processes = ["--nproc-per-node", str(devices.per_node), "--max-restarts", "0"]
    return ["-m", "torch.distributed.run", *rendezvous, *processes, "-m", "jobs.training.rank", str(folder)]


def rank_environment(count: int) -> dict[str, str]:
    """Return the environment of the ranks, which share the cores evenly unless OMP_NUM_THREADS is set."""
    return {"OMP_NUM_THREADS": str(threads_of_rank(count)), **os.environ}


def _relay_until_exit(child: subprocess.Popen[bytes], folder: Path, reporter: Reporter) -> None:
    events = _events(folder / "events.jsonl")
    passed_on: StopRequest | None = None
    while True:
        exited = child.poll() is not None
        for event in events:
            if event is None:
                break
            reporter.emit(event)
        if exited:
            return
        request = reporter.should_stop()
        if request is not None and request != passed_on:
            passed_on = request
            partial = folder / "control.partial"
            partial.write_text(request)
            partial.replace(folder / "control")
        try:
            child.wait(TICK_S)
        except subprocess.TimeoutExpired:
            continue


def _events(path: Path) -> Iterator[Event | None]:
    """Yield the events of the first rank, and None while there is no new one. Never ends."""
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
            yield from (event_of(json.loads(line)) for line in lines if line)


def outcome(folder: Path, *, code: int) -> TrainResult:
    """Return the result of the first rank, or raise the error of one. `code` is torchrun's exit status.

    Errors that only echo another rank's end are ignored if there is a result.
    """
    errors = [json.loads(path.read_text()) for path in sorted(folder.glob("error-*.json"))]
    causes, result = [error for error in errors if not error["is_echo"]], folder / "result.json"
    if not causes and result.is_file() and (errors or code == 0):
        return TrainResult.model_validate_json(result.read_text())
    if reported := causes or errors:
        error_class = InvalidInput if reported[0]["invalid"] else JobFailed
        raise error_class(reported[0]["cause"], remedy=reported[0]["remedy"], field=reported[0]["field"])
    raise JobFailed(
        f"One of the processes of this run died without reporting an error (exit status of torchrun: {code}).",
        remedy=(
            "See the end of the log. The usual cause is too little memory: choose a smaller micro_batch, or sharding"
            " fsdp."
        ),
    )
