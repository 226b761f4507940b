"""How long near duplicates in many rows take, in how much memory, and what is found: ours beside datasketch's
MinHashLSH.

    python -m tests.benchmarks.data.bench_data_report [ROWS] [PART...]

Parts (default: all, each in a process of its own): `ours`, `datasketch` (pip install datasketch; not a dependency),
`exact` (every row of the first 5,000 with every other, the truth for the others), `report` (the whole job on those
rows). Rows are made here: texts of 20 to 120 words of a Zipf-like vocabulary, every fifth an edited copy of an earlier
one of its thousand, every hundredth a copy. Prints a JSON line a part; `cpu_seconds` tells the work from the waiting on
a machine that does other things too.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.domain.data.reports.near_duplicates import (
    NUM_HASHES,
    THRESHOLD,
    Clusters,
    normalise_words,
    shingle,
    unique_sets,
)

TRUTH_ROWS = 5_000
EDITS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)


class Watch:
    """Adds up wall and CPU seconds of what runs inside it."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def __enter__(self) -> Watch:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began[0]
        self.cpu_seconds += time.process_time() - self._began[1]


def make_rows(count: int) -> Iterator[str]:
    """Yield texts in order; each block of a thousand depends on its number alone."""
    draw = random.Random(1)
    words = [
        "".join(draw.choices("aaabcdeeefghiiijklmnooopqrsttuuvwxyz", k=draw.choice((2, 3, 4, 5, 6, 7, 9))))
        for _ in range(20_000)
    ]
    weights = list(accumulate(1 / (rank + 8) for rank in range(len(words))))
    for block in range(-(-count // 1000)):
        draw = random.Random(block + 2)
        made: list[str] = []
        for place in range(min(1000, count - 1000 * block)):
            if place % 100 == 99:
                made.append(draw.choice(made))
            elif place % 5 == 4:
                share = draw.choice(EDITS)
                made.append(
                    " ".join(
                        draw.choice(words) if draw.random() < share else word for word in draw.choice(made).split()
                    )
                )
            else:
                made.append(" ".join(draw.choices(words, cum_weights=weights, k=draw.randrange(20, 121))))
        yield from made


def batches(count: int) -> Iterator[list[str]]:
    """Yield the texts a few hundred at a time, as the job reads them."""
    rows = make_rows(count)
    while block := list(islice(rows, 256)):
        yield block


def duplicates_of(clusters: Clusters, count: int) -> set[int]:
    """Return the rows that are not the first of their cluster."""
    return {row for row, first in enumerate(clusters.representatives(count).tolist()) if row != first}


def run_ours(count: int, folder: Path) -> dict[str, Any]:
    """Time our pass: signatures as rows arrive, buckets, exact similarity of the candidates."""
    from jobs.data.reports.duplicates import DuplicateFinder

    before, watch = peak_bytes(), Watch()
    finder, texts = DuplicateFinder(folder / "near"), folder / "texts"
    with texts.open("w") as out:
        for block in batches(count):
            out.writelines(text + "\n" for text in block)
            with watch:
                finder.add(block, block)

    def read(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, str]]:
        chosen = iter(rows.tolist())
        due = next(chosen, None)
        with texts.open() as lines:
            for row, line in enumerate(lines):
                if row == due:
                    yield row, line.rstrip("\n")
                    due = next(chosen, None)

    with watch:
        alike = finder.finish(num_train=count, read=read, tick=lambda share: None)
    disk = sum(file.stat().st_size for file in (folder / "near").iterdir())
    result = np.concatenate(
        [begin + np.flatnonzero(like != begin + np.arange(len(like))) for begin, like in alike.like.blocks()]
    )
    return {
        **vars_of(watch),
        "memory_bytes": peak_bytes() - before,
        "disk_bytes": disk,
        "pairs_compared": alike.pairs_checked,
        "found": result[result < TRUTH_ROWS].tolist(),
        "duplicates": len(result),
    }


def run_datasketch(count: int, folder: Path) -> dict[str, Any]:
    """Time MinHashLSH over the same sequences: as many hashes, the same threshold, each row asked for before it is
    added.
    """
    from datasketch import MinHash, MinHashLSH

    before, watch = peak_bytes(), Watch()
    index, clusters = MinHashLSH(threshold=THRESHOLD, num_perm=NUM_HASHES), Clusters()
    row = 0
    for block in batches(count):
        with watch:
            for text in block:
                plain = normalise_words(text)
                sketch = MinHash(num_perm=NUM_HASHES)
                sketch.update_batch([plain[at : at + 5].encode() for at in range(max(1, len(plain) - 4))])
                for other in index.query(sketch):
                    clusters.join(other, row)
                index.insert(row, sketch)
                row += 1
    result = duplicates_of(clusters, row)
    return {
        **vars_of(watch),
        "memory_bytes": peak_bytes() - before,
        "found": sorted(one for one in result if one < TRUTH_ROWS),
        "duplicates": len(result),
        "bands": [index.b, index.r],
    }


def run_exact(count: int, folder: Path) -> dict[str, Any]:
    """Compare every row of the first 5,000 with every other."""
    from scipy.sparse import csr_array

    texts = list(make_rows(min(count, TRUTH_ROWS)))
    started = time.perf_counter()
    hashes, offsets = shingle([normalise_words(text) for text in texts])
    sets = unique_sets(hashes, offsets, range(len(texts)))
    sizes = np.array([len(sets[row]) for row in range(len(texts))])
    _, columns = np.unique(np.concatenate([sets[row] for row in range(len(texts))]), return_inverse=True)
    table = csr_array((np.ones(len(columns), dtype=np.int32), columns, np.concatenate([[0], np.cumsum(sizes)])))
    clusters, pairs = Clusters(), 0
    for at in range(0, len(texts), 250):
        shared = (table[at : at + 250] @ table.T).tocoo()
        left, right = shared.row + at, shared.col
        close = (left < right) & (shared.data >= THRESHOLD * (sizes[left] + sizes[right] - shared.data))
        pairs += int(close.sum())
        for one, other in zip(left[close].tolist(), right[close].tolist(), strict=True):
            clusters.join(one, other)
    return {
        "seconds": time.perf_counter() - started,
        "rows": len(texts),
        "pairs": pairs,
        "found": sorted(duplicates_of(clusters, len(texts))),
    }


def run_report(count: int, folder: Path) -> dict[str, Any]:
    """Time the whole job: text rows through a byte tokenizer, with a benchmark of 5,000 items to look for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from backend.domain.data.reports.report import ReportQuestion
    from backend.domain.jobs.reports import DataReportPayload
    from jobs.data.reports.run import run
    from jobs.reporter import JobSpec
    from tests.support.data.data_reporter import RememberingReporter

    (folder / "d").mkdir()
    (folder / "b").mkdir()
    schema = pa.schema({"prompt": pa.string(), "completion": pa.string()})
    with pq.ParquetWriter(folder / "d" / "train.parquet", schema) as out:
        for block in batches(count):
            halves = [text.partition(" ")[::2] for text in block]
            out.write_table(
                pa.table(
                    {"prompt": [one for one, _ in halves], "completion": [other for _, other in halves]}, schema=schema
                )
            )
    draw = random.Random(9)
    items = [{"question": " ".join(draw.choices("abcdefgh", k=40)), "answers": ["no"]} for _ in range(5_000)]
    pq.write_table(pa.Table.from_pylist(items), folder / "b" / "train.parquet")
    before = peak_bytes()
    payload = {
        "dataset": "d",
        "dataset_kind": "instruction",
        "tokenizer": None,
        "out": "report",
        "question": ReportQuestion().model_dump(),
        "benchmarks": [{"name": "made", "folder": "b"}],
    }
    with Watch() as watch:
        run(
            JobSpec(
                id="r", attempt=1, payload=DataReportPayload.read(payload), artifacts=folder, folder=folder / "job"
            ),
            RememberingReporter(),
        )
    report = json.loads((folder / "report" / "report.json").read_text())
    return {
        **vars_of(watch),
        "seconds_of_near_duplicates": report["duplicates"]["seconds"],
        "memory_bytes": peak_bytes() - before,
        "peak_memory_bytes": peak_bytes(),
        "report_bytes": sum(file.stat().st_size for file in (folder / "report").iterdir()),
        "duplicates": report["duplicates"]["exact"] + report["duplicates"]["near"],
    }


def vars_of(watch: Watch) -> dict[str, float]:
    """Return what a watch shows."""
    return {"seconds": round(watch.seconds, 2), "cpu_seconds": round(watch.cpu_seconds, 2)}


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


PARTS = {"exact": run_exact, "ours": run_ours, "datasketch": run_datasketch, "report": run_report}


def main(count: int, names: list[str]) -> None:
    """Run each part in a process of its own; score what was found among the first rows against the truth."""
    truth: set[int] | None = None
    for name in names:
        done = subprocess.run(
            [sys.executable, __file__, str(count), "--part", name], capture_output=True, text=True, check=True
        )
        result = json.loads(done.stdout)
        found = set(result.pop("found", ()))
        if name == "exact":
            truth = found
            result["duplicates"] = len(found)
        elif truth is not None and name != "report":
            result |= {"recall": len(found & truth) / len(truth), "precision": len(found & truth) / max(1, len(found))}
        print(json.dumps({"part": name, "rows": count, **result}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    if sys.argv[2:3] == ["--part"]:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(PARTS[sys.argv[3]](rows, Path(scratch))))
    else:
        main(rows, sys.argv[2:] or list(PARTS))
