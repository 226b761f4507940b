"""The interface of a job's code: its spec, and the reporter through which it emits events.

A reporter uses no SQL, Redis or HTTP, so metrics survive the loss of all three. Each event is one line of JSON in
a file that the job's parent, its supervisor, tails, written in one unbuffered call: a killed child leaves at most one
partial line, which the reader skips.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar, get_args

from backend.domain.jobs.events import Event, LogEvent, MetricsEvent, ProgressEvent, SampleEvent, write_event
from backend.domain.jobs.payloads import read_payload
from backend.domain.jobs.records import Payload
from backend.domain.jobs.states import JobKind, StopRequest
from backend.errors import InvalidInput

PROGRESS_EVERY_S = 0.25
P = TypeVar("P", bound=Payload)
P_co = TypeVar("P_co", bound=Payload, covariant=True)


class StopRequested(Exception):
    """The job was asked to stop while it waited for something."""


@dataclass(frozen=True)
class Rendezvous:
    """Meeting point of the processes of a run: an address of the first machine. `machine` is this one's number among
    those of the run, `listening` the first one's open socket, by the number of its descriptor in this process.
    """

    machine: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    listening: int | None = None


@dataclass(frozen=True)
class JobSpec(Generic[P_co]):
    """One attempt at a job, as the child process sees it. Paths in `payload` are relative to `artifacts`."""

    id: str
    attempt: int
    payload: P_co
    artifacts: Path
    folder: Path  # this job's own folder, kept between attempts
    rendezvous: Rendezvous | None = None  # if the job has several machines

    def path(self, relative: str) -> Path:
        """Return the absolute path of an artifact; absolute paths are unchanged."""
        return self.artifacts / relative

    def relative(self, path: Path) -> str:
        """Return a path relative to the artifacts' root, as the database stores it."""
        return path.resolve().relative_to(self.artifacts.resolve()).as_posix()

    def write(self, file: Path, *, parent: int | None = None, memory_bytes: int | None = None, nice: int = 0) -> None:
        """Write the spec for another process, readable by its user alone.

        `parent` is the process id that the reading process must not outlive, `memory_bytes` its memory limit, `nice`
        its niceness.
        """
        record = {
            "id": self.id,
            "attempt": self.attempt,
            "kind": self.payload.job_kind.value,
            "payload": self.payload.dump(),
        }
        record |= {"artifacts": str(self.artifacts), "folder": str(self.folder), "parent": parent}
        record |= {"memory_bytes": memory_bytes, "nice": nice}
        record |= {"rendezvous": None if self.rendezvous is None else asdict(self.rendezvous)}
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            json.dump(record, opened)

    @staticmethod
    def read(file: Path, *, of: type[P]) -> JobSpec[P]:
        """Read what `write` wrote, with a payload of class `of`. Raises InvalidInput for a payload of another class."""
        record = json.loads(file.read_text())
        payload = read_payload(JobKind(record["kind"]), record["payload"])
        if not isinstance(payload, of):
            raise InvalidInput(f"A job of kind {record['kind']} has no {of.__name__}.")
        rendezvous = Rendezvous(**record["rendezvous"]) if record.get("rendezvous") else None
        artifacts, folder = Path(record["artifacts"]), Path(record["folder"])
        return JobSpec(record["id"], record["attempt"], payload, artifacts, folder, rendezvous)


class Reporter(ABC):
    """Emits the events of a job and receives stop requests."""

    @abstractmethod
    def emit(self, event: Event) -> None:
        """Report an event."""

    @abstractmethod
    def should_stop(self) -> StopRequest | None:
        """Return the user's stop request, if any. Cheap enough to call every step."""

    def note_contact(self) -> None:
        """Say that the other machines of the job are reached; by default nothing is done."""
        return

    def metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Report metric points of one step."""
        self.emit(MetricsEvent(step=step, values=dict(values)))

    def progress(
        self, done: float, total: float, *, unit: str = "step", rate: float | None = None, message: str = ""
    ) -> None:
        """Report progress; `rate` in units per second."""
        self.emit(ProgressEvent(done=done, total=total, unit=unit, rate=rate, message=message))

    def log(self, text: str) -> None:
        """Add a line to the job's log."""
        self.emit(LogEvent(text=text))

    def sample(self, step: int, prompt: str, completion: str) -> None:
        """Report a completion sampled at a step."""
        self.emit(SampleEvent(step=step, prompt=prompt, completion=completion))


class FileReporter(Reporter):
    """The reporter of a child process: appends to `events`, reads stop requests from `control`."""

    def __init__(self, events: Path, control: Path) -> None:
        self._fd = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._control = control
        self.cpu_s = 0.0  # CPU time spent in the reporter, for the overhead benchmark

    def emit(self, event: Event) -> None:
        """Append the event's line."""
        started = time.thread_time()
        os.write(self._fd, write_event(event, time=time.time()) + b"\n")
        self.cpu_s += time.thread_time() - started

    def note_contact(self) -> None:
        """Renew the time of the events' file, which the supervisor looks at."""
        os.utime(self._fd)

    def should_stop(self) -> StopRequest | None:
        """Read the control file."""
        started = time.thread_time()
        try:
            text = self._control.read_text().strip()
        except FileNotFoundError:
            text = ""
        self.cpu_s += time.thread_time() - started
        return text if text in get_args(StopRequest) else None  # type: ignore[return-value]

    def close(self) -> None:
        """Close the events file."""
        os.close(self._fd)


class SilentReporter(Reporter):
    """A reporter that drops all events and has no stop request."""

    def emit(self, event: Event) -> None:
        """Drop the event."""

    def should_stop(self) -> StopRequest | None:
        """Return None."""
        return None
