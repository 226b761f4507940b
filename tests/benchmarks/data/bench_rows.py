"""Processor time of reading, searching, filtering and sorting the rows of a large version, beside one reading of its
files.

    python -m tests.benchmarks.data.bench_rows [--rows 500000]

Conversations of two turns are made up and imported by the job. Prints, for each question that the page asks, the
processor seconds of its first answer and of the same answer again, and the first as a multiple of reading the version's
files once by pyarrow.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from backend.bootstrap import build_context
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.versions.changes import DropRows, Filter, KeepSample, RowCondition
from backend.infra.files.parquet import iter_file_tables
from backend.services.context import LOCAL
from backend.services.data.change_preview import preview_change
from backend.services.data.imports import import_dataset, version_of_job
from backend.services.data.rows import RowQuery, find_rows, read_rows
from backend.services.data.sources import ImportSource
from tests.support.job_work import do_job
from tests.support.settings import make_settings

WORDS = ("the", "old", "mill", "wheel", "stood", "by", "river", "turned", "slowly", "while", "miller", "slept")


def write_rows(file: Path, number: int) -> None:
    """Write made-up conversations as JSON lines."""
    rng = random.Random(1)
    with file.open("w") as out:
        for row in range(number):
            said = [" ".join(rng.choices(WORDS, k=rng.randint(5, most))) for most in (40, 90)]
            messages = [
                {"role": "user", "content": f"Question {row}: {said[0]}"},
                {"role": "assistant", "content": said[1]},
            ]
            out.write(json.dumps({"messages": messages}) + "\n")


def cpu_s(work: Callable[[], object]) -> float:
    """Return the processor seconds of a piece of work."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=500_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ctx = build_context(make_settings(home))
        source = home / "big.jsonl"
        write_rows(source, arguments.rows)
        version = import_dataset(
            ctx,
            name="big",
            source=ImportSource(path=source),
            options=ImportOptions(kind="chat", val_fraction=0.05),
            person=LOCAL,
        )
        do_job(ctx, version.job_id)
        version = version_of_job(ctx, str(version.job_id))
        files = ctx.artifacts.path(str(version.folder))
        reading = cpu_s(
            lambda: [
                sum(table.num_rows for table in iter_file_tables(files / f"{split}.parquet", num_rows=4096))
                for split in ("train", "val")
            ]
        )
        middle = arguments.rows // 2
        long_answers = Filter(conditions=(RowCondition(field="assistant", test="at_least", value=200),))
        works: dict[str, Callable[[], object]] = {
            "ten rows from the middle": lambda: read_rows(ctx, version, range(middle, middle + 10)),
            "longest first": lambda: find_rows(ctx, version, RowQuery(order="longest")),
            "a text in the whole row": lambda: find_rows(ctx, version, RowQuery(text="question 4999")),
            "a text in one role": lambda: find_rows(ctx, version, RowQuery(text="miller slept", part="user")),
            "rows with a role": lambda: find_rows(ctx, version, RowQuery(part="system")),
            "ten rows from all over": lambda: read_rows(ctx, version, range(0, arguments.rows, arguments.rows // 10)),
            "effect of a filter": lambda: preview_change(ctx, version, long_answers),
            "effect of a sample": lambda: preview_change(ctx, version, KeepSample(num_rows=1000)),
            "effect of listed rows": lambda: preview_change(ctx, version, DropRows(train=(1, 2))),
        }
        print(f"{version.rows:,} rows, {version.bytes / 1e6:.0f} MB; one reading: {reading:.2f} s")
        for name, work in works.items():
            first, again = cpu_s(work), cpu_s(work)
            print(f"{name}: {first:.2f} s ({first / reading:.1f} readings), again {again:.2f} s")
        ctx.db.engine.dispose(close=False)


if __name__ == "__main__":
    main()
