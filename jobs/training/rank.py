"""One process of a run on several devices: `torchrun ... -m jobs.training.rank FOLDER`, on every machine that takes
part.

FOLDER holds `spec.json`. The first rank writes its events there; each rank leaves its result or its error as a file.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from backend.domain.jobs.payloads import TrainingPayload
from backend.errors import InvalidInput, RoundhouseError
from backend.infra.processes import die_with_parent
from jobs.reporter import FileReporter, JobSpec, Reporter, SilentReporter
from jobs.training.run import run_here


def run_rank(folder: Path) -> int:
    """Run one rank of a training job; return the exit status. An error is written to the folder."""
    die_with_parent()
    rank = int(os.environ["RANK"])
    spec = JobSpec.read(folder / "spec.json", of=TrainingPayload)
    reporter: Reporter = FileReporter(folder / "events.jsonl", folder / "control") if rank == 0 else SilentReporter()
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
        is_echo = any(text in str(error) for text in ("Connection closed", "Connection reset", "NCCL"))
        _write_error(
            folder,
            rank,
            cause=f"{type(error).__name__}: {error}"[:600],
            remedy="The log below has the details.",
            is_echo=is_echo,
        )
        return 4
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(result.dump()))
    return 0


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
    _exit(run_rank(Path(sys.argv[1])))
