"""One process of a run on several devices: `python -m jobs.training.rank FOLDER PARENT`, with torch's variables of a
rank in its environment (jobs/training/distributed.py).

FOLDER holds `spec.json`. The first rank of all writes its events there, the first of another machine its progress;
each rank leaves its error as a file, the first of a machine its result.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import torch.distributed as dist

from backend.domain.jobs.events import Event, ProgressEvent
from backend.domain.jobs.payloads import TrainingPayload
from backend.domain.jobs.states import StopRequest
from backend.errors import InvalidInput, RoundhouseError
from backend.infra.processes import die_with_parent
from jobs.reporter import FileReporter, JobSpec, Reporter, SilentReporter
from jobs.training.run import run_here


class ProgressReporter(FileReporter):
    """The reporter of another machine's first rank, by which its supervisor sees that steps are taken."""

    def emit(self, event: Event) -> None:
        """Append a line of progress; drop any other event, which the first rank reports."""
        if isinstance(event, ProgressEvent):
            super().emit(event)

    def should_stop(self) -> StopRequest | None:
        """Return None: the first rank tells all ranks."""
        return None


def run_rank(folder: Path, *, parent: int) -> int:
    """Run one rank of a training job; return the exit status. An error is written to the folder."""
    die_with_parent(parent=parent)
    rank, is_first_here = int(os.environ["RANK"]), os.environ["LOCAL_RANK"] == "0"
    spec = JobSpec.read(folder / "spec.json", of=TrainingPayload)
    reporter: Reporter = SilentReporter()
    if is_first_here:
        reporter = (FileReporter if rank == 0 else ProgressReporter)(folder / "events.jsonl", folder / "control")
    try:
        result = run_here(spec, reporter)
    except RoundhouseError as error:
        _write_error(
            folder,
            rank,
            cause=error.message,
            remedy=error.remedy,
            field=error.field,
            invalid=isinstance(error, InvalidInput),
        )
        return 3
    except Exception as error:
        traceback.print_exc()
        # when one rank fails, the others lose their connection to it, which is not the cause
        is_echo = isinstance(error, dist.DistNetworkError | dist.DistStoreError) or any(
            text in str(error) for text in ECHOES
        )
        _write_error(
            folder,
            rank,
            cause=f"{type(error).__name__}: {error}"[:600],
            remedy="The log below has the details.",
            is_echo=is_echo,
        )
        return 4
    if is_first_here:
        (folder / "result.json").write_text(json.dumps(result.dump()))
    return 0


ECHOES = (
    *("Connection closed", "Connection reset", "Connection timed out", "connection was closed", "Broken pipe", "NCCL"),
    *("Timed out waiting", "Application timeout", "No route to host", "Network is unreachable"),
)
"""Parts of errors by which a rank learns that another one is gone."""


def _write_error(
    folder: Path,
    rank: int,
    *,
    cause: str,
    remedy: str | None,
    field: str | None = None,
    invalid: bool = False,
    is_echo: bool = False,
) -> None:
    record = {"cause": cause, "remedy": remedy, "field": field, "invalid": invalid, "is_echo": is_echo}
    (folder / f"error-{rank}.json").write_text(json.dumps(record))


def _exit(status: int) -> None:
    """Exit without waiting for the other ranks, which may hang in a collective that this one never joins."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _exit(run_rank(Path(sys.argv[1]), parent=int(sys.argv[2])))
