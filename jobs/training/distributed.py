"""The processes that train one network: their ranks, their share of a step, the collectives between them, their launch.

`ProcessGroup()` is a single process, for which every method is the identity or a no-op. With several devices each rank
builds the same network and the same batches, computes its share of the micro-batches, and ends the step with the same
weights; how they share network and update is a `Strategy` (jobs/training/strategy.py).

The job's process (`run_ranks`) launches the ranks of its machine, passes on events and stop requests through files, and
returns the run's result or raises the first error. A run over several machines has such a process on each; the ranks
meet at a store that the process of the first machine serves, on the one address that they were given.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.tensor import DTensor, distribute_tensor

from backend.domain.jobs.events import Event, event_of
from backend.domain.jobs.payloads import TrainingPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import StopRequest
from backend.domain.training.config_sections import DeviceConfig
from backend.errors import InvalidInput, JobFailed, PeersLost
from jobs.fork_server import run_as_command
from jobs.modeling.devices import is_gpu, threads_of_rank
from jobs.reporter import JobSpec, Rendezvous, Reporter

Item = TypeVar("Item")
REQUESTS: tuple[StopRequest | None, ...] = (None, "stop_and_save", "cancel")


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank among those that train together."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    patient: Any = None
    """The same processes in a group of their own, for waits that may last: files are made, or saved."""

    @property
    def is_first(self) -> bool:
        """Return whether this process reports and saves."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Return whether this process makes the files that those of its machine read."""
        return self.local_rank == 0

    @property
    def machine(self) -> int:
        """Return the number of this process's machine."""
        return self.rank // self.local_count

    def local_share(self, micro_batches: Sequence[Item]) -> list[Item]:
        """Return this rank's micro-batches of a step, every `count`-th."""
        return list(micro_batches[self.rank :: self.count])

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def broadcast_request(self, request: StopRequest | None) -> StopRequest | None:
        """Return the first rank's stop request, so that all ranks stop at the same step."""
        if self.count == 1:
            return request
        index = torch.tensor(REQUESTS.index(request))
        if dist.get_backend() != "gloo":
            index = index.to(torch.accelerator.current_accelerator())
        dist.broadcast(index, src=0)
        return REQUESTS[int(index)]

    def gather(self, value: Item) -> list[Item]:
        """Collect a picklable value from every rank, in rank order. All ranks call this."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def first_rank_first(self) -> Iterator[None]:
        """Run a block on the first rank of each machine, then on the others, which read its cache."""
        if not self.is_first_here:
            self.barrier()
        try:
            yield
        finally:
            if self.is_first_here:
                self.barrier()

    def barrier(self) -> None:
        """Wait for all ranks, for as long as one of them may be busy by itself."""
        if self.count > 1:
            dist.barrier(group=self.patient)


COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others within a step; torch's own default for NCCL."""
PATIENCE = timedelta(hours=24)
"""How long a rank waits while another one prepares data or saves. Lost machines end a run before: leases lapse."""


def join_process_group(device: torch.device) -> ProcessGroup:
    """Join the group that the environment describes; a single process without such an environment."""
    if "WORLD_SIZE" not in os.environ:
        return ProcessGroup()
    if not dist.is_initialized():
        if is_gpu(device):
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        backend = dist.get_default_backend_for_device(device.type)
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    return ProcessGroup(
        rank=dist.get_rank(),
        count=dist.get_world_size(),
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_count=int(os.environ["LOCAL_WORLD_SIZE"]),
        patient=dist.new_group(backend="gloo", timeout=PATIENCE),
    )


def gather_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor unsharded, on the CPU. All ranks call this for the same tensors in the same order."""
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().cpu().contiguous()


def shard_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Shard a whole tensor as a parameter of the same shape is sharded; return it as is for one that is not."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor


def whole_shape(parameter: torch.Tensor) -> torch.Size:
    """Return the shape of a parameter as a whole, also of one that DeepSpeed took apart."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


RANK_MODULE = "jobs.training.rank"
TICK_S = 0.1
LAST_WORDS_S = 5.0
"""How long the other ranks may take to report an error of their own after one has ended badly."""


def run_ranks(spec: JobSpec[TrainingPayload], reporter: Reporter, *, devices: DeviceConfig) -> TrainResult:
    """Run this machine's part of a training job with one process per device; return its result.

    Raises InvalidInput or JobFailed as a run in one process does, JobFailed if a rank died without reporting an error,
    and PeersLost if all that went wrong here is that ranks of another machine are gone.
    """
    rendezvous = spec.rendezvous or Rendezvous()
    folder = spec.folder / f"ranks-{spec.attempt}-{rendezvous.machine}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    spec.write(folder / "spec.json")
    reporter.log(f"Starting {devices.per_node} processes, one per device.")
    listening = _listening_socket(rendezvous) if rendezvous.machine == 0 else None
    port = listening.getsockname()[1] if listening else rendezvous.port
    shared = {
        **rank_environment(devices.per_node),
        **interface_for(rendezvous),
        "MASTER_ADDR": rendezvous.host,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(devices.count),
        "LOCAL_WORLD_SIZE": str(devices.per_node),
        "GROUP_RANK": str(rendezvous.machine),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is served here, not by the first rank
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    first = rendezvous.machine * devices.per_node
    ranks = [
        start_rank(folder, {**shared, "RANK": str(first + local), "LOCAL_RANK": str(local)})
        for local in range(devices.per_node)
    ]
    store = None
    if listening is not None:  # after the forks: it has a thread
        store = TCPStore(
            rendezvous.host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
    contact = None
    if devices.nodes > 1:
        contact = Contact(lambda: store or _join_store(rendezvous), rendezvous.machine, devices.nodes, reporter)
        contact.start()
    try:
        _relay_until_exit(ranks, folder, reporter)
    finally:
        if contact is not None:
            contact.end()
        for rank in ranks:
            rank.kill()
            rank.wait()
    return outcome(folder, code=next((rank.returncode for rank in ranks if rank.returncode), 0))


def _join_store(rendezvous: Rendezvous) -> TCPStore:
    return TCPStore(rendezvous.host, rendezvous.port, is_master=False, wait_for_workers=False, timeout=ANSWERS_IN)


def _listening_socket(rendezvous: Rendezvous) -> socket.socket:
    """Return the socket that the supervisor has opened for a gang, or one on loopback."""
    if rendezvous.listening is not None:
        return socket.socket(fileno=rendezvous.listening)
    return socket.create_server((rendezvous.host, 0))


class ForkedRank:
    """A rank forked from this process: what `run_ranks` uses of `subprocess.Popen`."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=run_as_command, args=(RANK_MODULE, arguments, environment))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.join()


Rank = subprocess.Popen[bytes] | ForkedRank


def start_rank(folder: Path, environment: Mapping[str, str]) -> Rank:
    """Start a rank: as a fork, which shares what this process has imported, or as a new Python if this process uses
    threads or a GPU, which a fork would break.
    """
    arguments = [str(folder), str(os.getpid())]
    if (
        sys.platform == "linux"
        and not os.environ.get("CUDA_VISIBLE_DEVICES")
        and len(os.listdir("/proc/self/task")) == 1
    ):
        return ForkedRank(arguments, environment)
    return subprocess.Popen([sys.executable, "-m", RANK_MODULE, *arguments], stdin=subprocess.DEVNULL, env=environment)


def rank_environment(count: int) -> dict[str, str]:
    """Return the environment of the ranks, which share the cores evenly unless OMP_NUM_THREADS is set."""
    return {"OMP_NUM_THREADS": str(threads_of_rank(count)), **os.environ}


def interface_for(rendezvous: Rendezvous) -> dict[str, str]:
    """Return the variable that has gloo listen on the interface by which the first machine is reached.

    Left to itself it takes the address of the host's name, which is loopback on many machines.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    with suppress(OSError):
        family, _, _, _, address = socket.getaddrinfo(rendezvous.host, rendezvous.port or 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if any(one.address.partition("%")[0] == own for one in addresses):
                return {"GLOO_SOCKET_IFNAME": name}
    return {}


def _relay_until_exit(ranks: list[Rank], folder: Path, reporter: Reporter) -> None:
    """Pass on events and stop requests until every rank has ended, or one badly and the others had time to say why."""
    events = _events(folder / "events.jsonl")
    passed_on: StopRequest | None = None
    failed_at: float | None = None
    while True:
        codes = [rank.poll() for rank in ranks]
        for event in events:
            if event is None:
                break
            reporter.emit(event)
        if None not in codes:
            return
        if any(codes):
            failed_at = failed_at or time.monotonic()
            if time.monotonic() - failed_at > LAST_WORDS_S:
                return
        request = reporter.should_stop()
        if request is not None and request != passed_on:
            passed_on = request
            partial = folder / "control.partial"
            partial.write_text(request)
            partial.replace(folder / "control")
        time.sleep(TICK_S)


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
    """Return the result of this machine's first rank, or raise the error of one. `code` is the first bad exit status.

    Errors that only echo another rank's end are ignored if there is a result.
    """
    errors = [json.loads(path.read_text()) for path in sorted(folder.glob("error-*.json"))]
    causes, result = [error for error in errors if not error["is_echo"]], folder / "result.json"
    if not causes and result.is_file() and (errors or code == 0):
        return TrainResult.model_validate_json(result.read_text())
    if reported := causes or errors:
        error_class = InvalidInput if reported[0]["invalid"] else JobFailed if causes else PeersLost
        raise error_class(reported[0]["cause"], remedy=reported[0]["remedy"] or "", field=reported[0]["field"])
    raise JobFailed(
        f"One of the processes of this run died without reporting an error (exit status {code}).",
        remedy=(
            "See the end of the log. The usual cause is too little memory: choose a smaller micro_batch, or sharding"
            " fsdp."
        ),
    )


log = logging.getLogger(__name__)

BEAT_S = 1.0
ANSWERS_IN = timedelta(seconds=5)


class Contact(threading.Thread):
    """Counts in the store where the ranks meet, and notes with the reporter when all other machines have counted on."""

    def __init__(self, open_store: Callable[[], TCPStore], machine: int, machines: int, reporter: Reporter) -> None:
        super().__init__(daemon=True, name="contact")
        self._open_store, self._machine, self._reporter = open_store, machine, reporter
        self._others = [number for number in range(machines) if number != machine]
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat until ended; a store that can't be reached is tried again."""
        store: TCPStore | None = None
        beats, noted = 0, dict.fromkeys(self._others, 0)
        while not self._ended.wait(BEAT_S):
            try:
                store = store or self._open_store()
                beats += 1
                store.set(_key(self._machine), str(beats))
                counts = {other: int(store.get(_key(other))) for other in self._others if store.check([_key(other)])}
            except RuntimeError as error:  # DistError and its like
                log.debug("no contact: %s", error)
                store = None
                continue
            if all(counts.get(other, 0) > count for other, count in noted.items()):
                noted = counts
                self._reporter.note_contact()

    def end(self) -> None:
        """Stop beating, before the process ends: a thread in torch's code must not outlive the interpreter."""
        self._ended.set()
        self.join(2 * ANSWERS_IN.total_seconds())


def _key(machine: int) -> str:
    return f"beat/{machine}"
