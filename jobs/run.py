"""The child process of a job: `python -m jobs.run JOB`.

With `--child FOLDER [SOCKET]` (how a worker starts it) it reads `job.json`, runs the room's entry and reports through
files alone. With a job id alone it claims the job and supervises a child itself; the command line uses this where no
worker runs.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from backend.domain.jobs.events import ErrorEvent, ResultEvent
from backend.domain.jobs.records import JobResult, Payload
from backend.errors import PeersLost, RoundhouseError
from backend.infra.processes import die_with_parent, lower_priority
from jobs.memory_limit import MEMORY_REMEDY, limit_this_process
from jobs.reporter import FileReporter, JobSpec
from jobs.rooms import import_room

EXIT_DONE, EXIT_FAILED, EXIT_CRASHED = 0, 3, 4


def run_child(folder: Path, *, listening: int | None = None) -> int:
    """Run one attempt. Its folder holds `job.json`; results and errors leave as events. Returns the exit status.

    `listening` is the number of the open socket where the machines of the job meet, on the first of them.
    """
    reporter = FileReporter(folder / "events.jsonl", folder / "control")
    try:
        spec = JobSpec.read(folder / "job.json", of=Payload)
        if spec.rendezvous is not None:
            spec = replace(spec, rendezvous=replace(spec.rendezvous, listening=listening))
        room = import_room(spec.payload.job_kind)
        result: JobResult = room.run(spec, reporter)
    except RoundhouseError as error:
        is_echo = isinstance(error, PeersLost)
        reporter.emit(ErrorEvent(cause=error.message, remedy=error.remedy, field=error.field, is_echo=is_echo))
        return EXIT_FAILED
    except Exception as error:  # the outer edge of a job: anything else is a bug, logged with its traceback
        traceback.print_exc()
        if _is_out_of_memory(error):
            reporter.emit(
                ErrorEvent(cause=f"The job may hold no more memory: {error}"[:600].rstrip(": "), remedy=MEMORY_REMEDY)
            )
            return EXIT_FAILED
        reporter.emit(
            ErrorEvent(cause=f"{type(error).__name__}: {error}"[:600], remedy="The log below has the details.")
        )
        return EXIT_CRASHED
    usage = os.times()
    reporter.emit(ResultEvent(result=result.dump(), cpu_s=usage.user + usage.system, reporter_cpu_s=reporter.cpu_s))
    reporter.close()
    return EXIT_DONE


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from jobs.modeling.devices import is_out_of_memory

    return is_out_of_memory(error)


def main(arguments: list[str]) -> int:
    """Entry of `python -m jobs.run`."""
    if len(arguments) in (2, 3) and arguments[0] == "--child":
        folder = Path(arguments[1])
        record = json.loads((folder / "job.json").read_text())
        if record.get("parent"):  # none: the fork server has seen to that
            die_with_parent(parent=record["parent"])
        lower_priority(record.get("nice", 0))
        if record.get("memory_bytes"):
            limit_this_process(record["memory_bytes"], uses_gpu=bool(os.environ.get("CUDA_VISIBLE_DEVICES")))
        return run_child(folder, listening=int(arguments[2]) if len(arguments) == 3 else None)
    if len(arguments) == 1 and not arguments[0].startswith("-"):
        from jobs.runner import run_foreground  # only the supervisor needs the database

        return run_foreground(arguments[0])
    sys.stderr.write("usage: python -m jobs.run JOB | --child FOLDER [SOCKET]\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
