"""A job's process in place of `jobs.run`: `python -m tests.support.workers.odd_child --child FOLDER`.

What it does stands in the file `deed` in the job's folder: `allocate` without end, let its `children` do so, write
its `environment`, `wait` whatever it is told, or be `orphaned`: kill its parent, and then itself, or end `finished`
with its result.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

CHUNK_BYTES = 8 * 2**20


def allocate() -> None:
    """Take memory, and touch it, until somebody ends this process."""
    held = []
    while True:
        held.append(bytearray(b"x") * CHUNK_BYTES)
        time.sleep(0.01)


def main() -> None:
    """Do what the job's folder says."""
    folder = Path(sys.argv[2]).parent
    deed = (folder / "deed").read_text()
    if deed == "environment":
        (folder / "environment.json").write_text(json.dumps(dict(os.environ)))
    elif deed == "children":
        for process in [multiprocessing.get_context("fork").Process(target=allocate) for _ in range(4)]:
            process.start()
        time.sleep(600)
    elif deed == "wait":
        time.sleep(600)
    elif "orphaned" in deed:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(0.5)
        if "finished" not in deed:
            os.kill(os.getpid(), signal.SIGKILL)
        (Path(sys.argv[2]) / "events.jsonl").write_text('{"type": "result", "result": {"folder": "exports/a"}}\n')
    else:
        allocate()


if __name__ == "__main__":
    main()
