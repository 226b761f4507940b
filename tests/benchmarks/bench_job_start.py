"""Start of a job's process: forked by a server beside a new Python, in turns.

    python -m tests.benchmarks.bench_job_start [--rounds 7]

Each imports what a run imports and ends. Time until it has, as its supervisor sees it, and its own processor time;
then the memory that a server without a job holds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from backend.domain.jobs.states import JobKind
from jobs.fork_server import ForkServer
from jobs.rooms import import_room

MODULE = "tests.benchmarks.bench_job_start"


def started(server: ForkServer | None, environment: dict[str, str], output: Path) -> tuple[float, float]:
    """Return the seconds until a run's modules are imported, and the processor seconds of that."""
    begun = time.perf_counter()
    with output.open("wb") as opened:
        if server is not None:
            code = server.start(MODULE, ["--imports"], environment, opened.fileno()).wait()
        else:
            code = subprocess.run(
                [sys.executable, "-m", MODULE, "--imports"], stdout=opened, env=environment
            ).returncode
    assert code == 0
    ended_at, cpu_s = map(float, output.read_text().split())
    return ended_at - begun, cpu_s


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--imports", action="store_true")
    options = parser.parse_args()
    if options.imports:
        import_room(JobKind.TRAIN)
        print(time.perf_counter(), time.process_time())
        return
    environment = dict(os.environ)
    server = ForkServer(JobKind.TRAIN, environment)
    begun = time.perf_counter()
    server.await_imports(lambda: None)
    print(f"server ready after {time.perf_counter() - begun:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        pairs = [
            [started(one, environment, Path(folder) / "o") for one in (server, None)] for _ in range(options.rounds)
        ]
    for number, name in enumerate(("until imported, s", "processor time, s")):
        forked, fresh = zip(*[(pair[0][number], pair[1][number]) for pair in pairs], strict=True)
        ratios = sorted(a / b for a, b in zip(forked, fresh, strict=True))
        print(
            f"{name}: forked {statistics.median(forked):.3f}, new Python {statistics.median(fresh):.2f},"
            f" ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )
    held = psutil.Process(server.process.pid).memory_full_info()
    print(f"idle server: {held.uss / 1e6:.0f} MB its own")
    server.close()


if __name__ == "__main__":
    main()
