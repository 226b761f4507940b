"""Time and memory of the whole job of a data report on a large version.

    python -m tests.benchmarks.data.bench_large_report ROWS [--kind chat] [--row-bytes N] [--texts FOLDER]

Rows are sentences drawn at random, every 25th an edited copy of an earlier row and every 200th a copy: sentences of the
.txt files in FOLDER, or made up of a Zipf-like vocabulary. The tokenizer is a byte-level BPE of 8,192 entries, trained
on the first rows. The job runs in a process of its own, whose resident memory, with that of its children, is sampled
five times a second (`sampled_peak_mb`; `peak_mb` is the kernel's own figure). Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.data.bench_data_report import make_rows

BLOCK = 4096


def sentences_of(folder: str) -> list[str]:
    """Return the sentences of a folder's texts, or made-up ones."""
    if not folder:
        return [f"{text}." for text in make_rows(50_000)]
    sentences: list[str] = []
    for file in sorted(Path(folder).glob("*.txt")):
        text = re.sub(r"\s+", " ", file.read_text("utf-8-sig"))
        sentences += [one for one in re.split(r"(?<=[.!?:;]) ", text) if 20 < len(one) < 300]
    return sentences


def draw_rows(count: int, size: int, sentences: list[str]) -> Iterator[list[str]]:
    """Yield rows of about `size` characters, as lists of sentences."""
    draw = random.Random(7)
    recent: list[list[str]] = []
    for number in range(count):
        if recent and number % 200 == 199:
            parts = draw.choice(recent)
        elif recent and number % 25 == 24:
            parts = list(draw.choice(recent))
            parts[draw.randrange(len(parts))] = draw.choice(sentences)
        else:
            parts, length = [], 0
            while length < size - 60:
                parts.append(draw.choice(sentences))
                length += len(parts[-1]) + 1
        if number % 7 == 0:
            recent = [*recent[-1999:], parts]
        yield parts


def row_of(parts: list[str], kind: str) -> dict[str, Any]:
    """Return a row of a kind."""
    if kind == "text":
        return {"text": " ".join(parts)}
    asks, answer = parts[: max(1, len(parts) // 3)], parts[max(1, len(parts) // 3) :] or ["Yes."]
    said = (("user", asks), ("assistant", answer))
    return {"messages": [{"role": role, "content": " ".join(content)} for role, content in said]}


def write_version(folder: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write a train split, and a tokenizer trained on its first rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.modeling.tokenizers import train_bpe

    (folder / "d").mkdir()
    block = list(islice(rows, BLOCK))
    schema = pa.Table.from_pylist(block).schema
    train_bpe([json.dumps(row) for row in block], vocab_size=8192).save_pretrained(folder / "tokenizer")
    with pq.ParquetWriter(folder / "d" / "train.parquet", schema) as out:
        while block:
            out.write_table(pa.Table.from_pylist(block, schema=schema))
            block = list(islice(rows, BLOCK))


def run_job(folder: Path, kind: str) -> dict[str, Any]:
    """Run the job in this process."""
    from backend.domain.data.reports.report import ReportQuestion
    from jobs.data.reports.run import run
    from tests.support.data.data_reporter import RememberingReporter
    from tests.support.jobs import make_spec

    before, began, cpu = peak_mb(), time.perf_counter(), time.process_time()
    payload = {
        "dataset": "d",
        "dataset_kind": kind,
        "tokenizer": "tokenizer",
        "out": "report",
        "question": ReportQuestion().model_dump(),
        "benchmarks": [],
    }
    run(make_spec("data_report", payload, root=folder), RememberingReporter())
    duplicates = json.loads((folder / "report" / "report.json").read_text())["duplicates"]
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "imports_mb": before,
        "peak_mb": peak_mb(),
        **{name: duplicates[name] for name in ("exact", "near", "pairs_checked", "limited")},
    }


def peak_mb() -> int:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def watch(process: subprocess.Popen[str]) -> int:
    """Return the most MB that a process and its children held together, by samples."""
    most, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            most = max(most, sum(one.memory_info().rss for one in (root, *root.children(recursive=True))))
        except psutil.Error:
            continue
        time.sleep(0.2)
    return most // 2**20


def main() -> None:
    """Make a version, and run the job on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("--kind", choices=("text", "chat"), default="text")
    parser.add_argument("--row-bytes", type=int, default=1260)
    parser.add_argument("--texts", default="")
    parser.add_argument("--job", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run_job(Path(arguments.job), arguments.kind)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        drawn = draw_rows(arguments.rows, arguments.row_bytes, sentences_of(arguments.texts))
        write_version(Path(scratch), (row_of(parts, arguments.kind) for parts in drawn))
        command = [sys.executable, "-m", "tests.benchmarks.data.bench_large_report", "0", "--kind", arguments.kind]
        with subprocess.Popen([*command, "--job", scratch], stdout=subprocess.PIPE, text=True) as process:
            sampled = watch(process)
            output = process.stdout.read() if process.stdout else ""
    result = json.loads(output.splitlines()[-1])
    told = {"kind": arguments.kind, "rows": arguments.rows, **result, "sampled_peak_mb": sampled}
    print(json.dumps({**told, "load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
