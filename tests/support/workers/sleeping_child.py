"""The child of a job that does nothing until it is asked to stop; with `stubborn` in its payload, not even then."""

from __future__ import annotations

import signal
import sys
import time

from backend.domain.jobs.payloads import PAYLOADS
from backend.domain.jobs.records import Payload
from backend.domain.jobs.results import ExportResult
from backend.domain.jobs.states import JobKind
from jobs import rooms
from jobs import run as child
from jobs.reporter import FileReporter, JobSpec


class SleepingPayload(Payload):
    """Sleep for `seconds`; a `stubborn` job does not heed a stop."""

    job_kind = JobKind.EXPORT
    seconds: float
    stubborn: bool = False


PAYLOADS[JobKind.EXPORT] = SleepingPayload


def run(spec: JobSpec[SleepingPayload], reporter: FileReporter) -> ExportResult:
    """Sleep for `seconds`."""
    stubborn = spec.payload.stubborn
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ends_at = time.monotonic() + spec.payload.seconds
    while time.monotonic() < ends_at and (stubborn or reporter.should_stop() is None):
        time.sleep(0.05)
    return ExportResult(folder="exports/slept")


if __name__ == "__main__":
    rooms.ROOMS[JobKind.EXPORT] = "tests.support.workers.sleeping_child"
    sys.exit(child.main(sys.argv[1:]))
