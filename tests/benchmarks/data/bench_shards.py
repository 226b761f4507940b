"""Speed per core of an import in shards, beside one without.

    python -m tests.benchmarks.data.bench_shards [MB] [REPEATS]

Made-up texts of about 120 words, 3 % of them near copies, in 16 files of JSON lines. Each import is a process of its
own, in turns; its seconds and its seconds of CPU, with those of the processes that it started, are medians.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backend.domain.data.import_options import ImportOptions
from backend.domain.data.kinds import DatasetKind
from jobs.data.importer import import_files
from jobs.reporter import SilentReporter
from tests.support.data.corpora import ENGLISH

FILES = 16
WORK = {
    "rows as they are": {},
    "language and faults": {"languages": ("en",), "drop_faulty": True},
    "language, faults, near duplicates": {"languages": ("en",), "drop_faulty": True, "near": True},
}
WAYS = (0, 1, 2)
"""Processes that read shards; 0: an import without shards."""


def write_files(folder: Path, *, megabytes: float) -> None:
    """Write the corpus."""
    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(5000)]
    common, texts = ENGLISH.split(), [""]
    folder.mkdir()
    for number in range(FILES):
        size = 0
        with (folder / f"{number:02}.jsonl").open("w") as out:
            while size < megabytes * 1e6 / FILES:
                count = draw.randint(60, 180)
                text = " ".join(
                    draw.choice(common) if draw.random() < 0.6 else draw.choice(words) for _ in range(count)
                )
                if draw.random() < 0.03 and len(texts) > 1:
                    text = draw.choice(texts).replace(" the ", " this ", 1)
                elif draw.random() < 0.05:
                    texts.append(text)
                size += out.write(json.dumps({"text": text}) + "\n")


def measure(source: Path, work: str, workers: int) -> None:
    """Import once, and print seconds, seconds of CPU and the content hash."""
    options = dict(WORK[work])
    near = bool(options.pop("near", False))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        result = import_files(
            source,
            ImportOptions(
                kind=DatasetKind.TEXT,
                drop_near_duplicates=near,
                shards=FILES if workers else 0,
                workers=workers or 1,
                **options,
            ),
            out_root=Path(folder),
            reporter=SilentReporter(),
        )
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(one.ru_utime + one.ru_stime for one in usage)
    print(json.dumps({"s": time.perf_counter() - began, "cpu_s": cpu_s, "hash": result.content_hash}))


def main(megabytes: float, repeats: int) -> None:
    """Measure each work in each way, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "corpus"
        write_files(source, megabytes=megabytes)
        print("| work | processes | s | CPU s | MB/s of a core |\n|---|---|---|---|---|")
        for work in WORK:
            measured: dict[int, list[dict[str, float]]] = {workers: [] for workers in WAYS}
            hashes = set()
            for _ in range(repeats):
                for workers, results in measured.items():
                    command = [sys.executable, "-m", "tests.benchmarks.data.bench_shards", "--one", str(source), work]
                    done = subprocess.run([*command, str(workers)], capture_output=True, text=True, check=True)
                    results.append(json.loads(done.stdout))
                    hashes.add(results[-1]["hash"])
            assert len(hashes) == 1, "the same content in each way"
            for workers, results in measured.items():
                s, cpu_s = (statistics.median(one[name] for one in results) for name in ("s", "cpu_s"))
                way = f"{workers} for shards" if workers else "1, no shards"
                print(f"| {work} | {way} | {s:.1f} | {cpu_s:.1f} | {megabytes / cpu_s:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main(float(sys.argv[1]) if len(sys.argv) > 1 else 60, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
