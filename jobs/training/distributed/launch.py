"""Launch the ranks of a run on several devices of this machine, and relay the events of the first of them.

The job's process passes on events and stop requests through files, and returns the run's result or raises the first
error. A run over several machines has such a process on each; the ranks meet at a store that the process of the first
machine serves, on the one address that they were given.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from backend.domain.jobs.events import Event, event_of
from backend.domain.jobs.payloads import TrainingPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import StopRequest
from backend.domain.training.config_sections import DeviceConfig
from backend.errors import InvalidInput, JobFailed, PeersLost
from jobs.fork_server import run_as_command
from jobs.modeling.devices import threads_of_rank
from jobs.reporter import JobSpec, Rendezvous, Reporter

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
