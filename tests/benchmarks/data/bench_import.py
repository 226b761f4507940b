"""How fast a file is imported, beside `datasets.load_dataset` on the same file with an empty cache; and a large one in
bounded memory.

    python -m tests.benchmarks.data.bench_import [MB] [REPEATS]          each kind and format, the two in turns, median
    of the ratios python -m tests.benchmarks.data.bench_import --large GB              one file of text rows: seconds,
    peak memory

An import also checks every row, divides the rows, hashes the content and writes Parquet; `load_dataset` writes Arrow as
it is. The files are made here, of random words. Each side works in a process of its own, warm, as it would be used: in
one process the objects and the memory of one side slow the other.
"""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import random
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.json
from pyarrow import parquet

KINDS = ("text", "instruction", "chat", "sharegpt", "preference", "compared", "kto")
READERS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


class Words:
    """Sentences of random words, most of them ASCII."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(self._random.choices(letters, k=self._random.randint(2, 9))) for _ in range(5000)]
        self._words = [*words, "naïve", "café", "über", "東京", "—"]
        self._texts = {size: [self._text(size) for _ in range(4000)] for size in (20, 60, 120)}

    def _text(self, size: int) -> str:
        count = self._random.randint(size // 2, size * 3 // 2)
        return " ".join(self._random.choices(self._words, k=count)).capitalize() + ".\n"

    def text(self, size: int) -> str:
        """A text of about `size` words."""
        return self._random.choice(self._texts[size])


def make_row(kind: str, number: int, words: Words) -> dict[str, Any]:
    """Return a row of a kind; no two numbers give the same."""
    if kind == "text":
        return {"text": f"{words.text(120)}{number}"}
    prompt, answer, other = f"{words.text(20)}{number}", words.text(60), words.text(60)
    turn, reply = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
    rows: dict[str, dict[str, Any]] = {
        "instruction": {"instruction": prompt, "input": other if number % 3 == 0 else "", "output": answer},
        "chat": {
            "messages": [
                {"role": "system", "content": "Be brief."},
                turn,
                reply,
                {"role": "user", "content": other},
                reply,
            ]
        },
        "sharegpt": {
            "id": number,
            "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}],
        },
        "preference": {"prompt": prompt, "chosen": f"{answer}1", "rejected": f"{other}2"},
        "compared": {
            "prompt": prompt,
            "chosen": [turn, reply],
            "rejected": [turn, {"role": "assistant", "content": f"{other}2"}],
        },
        "kto": {"prompt": prompt, "completion": answer, "label": number % 2 == 0},
    }
    return rows[kind]


def make_files(folder: Path, *, megabytes: float) -> list[Path]:
    """Write a file per kind, and some of the rows again as CSV, Parquet and plain text."""
    words = Words()
    paths = [write_lines(folder / f"{kind}.jsonl", kind, words, megabytes=megabytes) for kind in KINDS]
    with (folder / "instruction.csv").open("w", newline="") as out, paths[1].open() as lines:
        writer = csv.DictWriter(out, ["instruction", "input", "output"])
        writer.writeheader()
        writer.writerows(json.loads(line) for line in lines)
    with (folder / "text.txt").open("w") as out, paths[0].open() as lines:
        out.writelines(f"{json.loads(line)['text']}\n" for line in lines)
    for kind in ("text", "chat"):
        parquet.write_table(pyarrow.json.read_json(folder / f"{kind}.jsonl"), folder / f"{kind}.parquet")
    return [*paths, *(folder / name for name in ("instruction.csv", "text.parquet", "chat.parquet", "text.txt"))]


def write_lines(path: Path, kind: str, words: Words, *, megabytes: float) -> Path:
    """Write JSON lines of a kind; every other one with its characters escaped."""
    size = 0
    with path.open("w") as out:
        for number in itertools.count():
            line = json.dumps(make_row(kind, number, words), ensure_ascii=number % 2 == 0) + "\n"
            out.write(line)
            size += len(line)
            if size > megabytes * 1e6:
                break
    return path


def load_ours(path: Path, folder: Path) -> None:
    """Import the file."""
    from tests.support.data.data_reporter import import_rows

    result = import_rows(path, folder)
    assert result.rejected_count == 0


def load_theirs(path: Path, folder: Path) -> None:
    """Load the file as the `datasets` library does."""
    import datasets

    datasets.disable_progress_bars()
    datasets.load_dataset(READERS[path.suffix], data_files=str(path), cache_dir=str(folder))


def measure_here(path: Path, *, side: str) -> tuple[float, float]:
    """Run one side in this process; return its seconds and seconds of CPU."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        began, cpu = time.perf_counter(), time.process_time()
        (load_ours if side == "ours" else load_theirs)(path, Path(folder))
        return time.perf_counter() - began, time.process_time() - cpu


def main(megabytes: float, repeats: int) -> None:
    """Measure all files and print a table."""
    spawned = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=spawned) as ours_at,
        ProcessPoolExecutor(1, mp_context=spawned) as theirs_at,
    ):

        def measure(path: Path, side: str) -> tuple[float, float]:
            return (ours_at if side == "ours" else theirs_at).submit(measure_here, path, side=side).result()

        print("| file | MB | import s (CPU) | `datasets` s (CPU) | ratio | ratio of CPU |\n|---|---|---|---|---|---|")
        paths = make_files(Path(folder), megabytes=megabytes)
        for path in paths:
            for side in ("ours", "theirs"):  # what is loaded once, and the file cache
                measure(path, side)
            pairs = [(measure(path, "ours"), measure(path, "theirs")) for _ in range(repeats)]
            ours, theirs = (
                [statistics.median(values) for values in zip(*side, strict=True)] for side in zip(*pairs, strict=True)
            )
            ratio = statistics.median(their[0] / our[0] for our, their in pairs)
            of_cpu = statistics.median(their[1] / our[1] for our, their in pairs)
            print(
                f"| {path.name} | {path.stat().st_size / 1e6:.0f} | {ours[0]:.2f} ({ours[1]:.2f}) | {theirs[0]:.2f}"
                f" ({theirs[1]:.2f}) | {ratio:.2f} | {of_cpu:.2f} |",
                flush=True,
            )


def main_large(gigabytes: float) -> None:
    """Import one large file and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_lines(Path(folder) / "large.jsonl", "text", Words(), megabytes=gigabytes * 1000)
        seconds, cpu = measure_here(path, side="ours")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{path.stat().st_size / 1e9:.2f} GB: {seconds:.0f} s, {cpu:.0f} s of CPU, peak {peak:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--large"]:
        main_large(float(sys.argv[2]))
    else:
        main(float(sys.argv[1]) if sys.argv[1:] else 200, int(sys.argv[2]) if sys.argv[2:] else 3)
