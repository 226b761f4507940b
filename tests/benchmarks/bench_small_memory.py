"""What a run does when the kernel gives it too little memory: `python -m tests.benchmarks.bench_small_memory`.

The same run again and again, each in a process of its own that may map this many megabytes more (`RLIMIT_AS`) from the
moment when its network stands. Prints the micro-batch it ended with and how far its losses are from those of a run with
memory enough.
"""

from __future__ import annotations

import re
import resource
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from backend.domain.jobs.events import Event, ResumedEvent
from jobs.training.run import run
from tests.support.training_rooms import Recorder, Rooms
from tests.support.workers.killed_runs import FORKS

ROOMS_MB = (None, 120, 60, 30, 15)
VALUES = {"micro_batch": 256, "context": 64, "max_steps": 4, "checkpoint_every": 4}


class Tight(Recorder):
    """A reporter that takes the memory away as soon as the network stands."""

    def __init__(self, megabytes: int | None) -> None:
        super().__init__()
        self._megabytes = megabytes

    def emit(self, event: Event) -> None:
        super().emit(event)
        # a second attempt says so just before its first step
        if isinstance(event, ResumedEvent) and self._megabytes is not None:
            status = Path("/proc/self/status").read_text()
            held = int(re.findall(r"VmSize:\s+(\d+)", status)[0]) * 1024
            resource.setrlimit(resource.RLIMIT_AS, (held + self._megabytes * 2**20,) * 2)


def train(megabytes: int | None, out: Connection) -> None:
    """Do the run; send (micro-batch, losses), or the failure's words."""
    recorder = Tight(megabytes)
    with tempfile.TemporaryDirectory() as folder:
        rooms = Rooms(Path(folder))
        try:
            run(rooms.training("pretrain", attempt=2, **VALUES), recorder)
        except Exception as error:
            out.send((str(error), []))
            return
    halved = [event["micro_batch"] for event in recorder.of("micro_batch_halved")]
    out.send(((halved or [VALUES["micro_batch"]])[-1], [loss for _, loss in recorder.series("train_loss")]))


def main() -> None:
    """Print a table."""
    print("| memory beyond the network, MB | micro-batch at the end | largest difference of a loss |\n|---|---|---|")
    expected: list[float] = []
    for megabytes in ROOMS_MB:
        here, there = FORKS.Pipe()
        child = FORKS.Process(target=train, args=(megabytes, there))
        child.start()
        ended, losses = here.recv()
        child.join()
        expected = expected or losses
        difference = max((abs(one - other) for one, other in zip(losses, expected, strict=False)), default=float("nan"))
        print(f"| {'enough' if megabytes is None else megabytes} | {ended} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
