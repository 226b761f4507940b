"""The ids of a folder that are in the store: blocks of them come to this machine before a run reads them, and leave
afterwards. What comes does not depend on the machine, so batches are those of a whole copy.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.domain.data.token_folders import BLOCK_BYTES
from backend.domain.jobs.token_streams import (
    ANSWER,
    ASK,
    FAILURE,
    NEEDED,
    PROBLEM,
    FolderAnswer,
    FolderAsk,
    NeededBlocks,
)
from backend.errors import JobFailed
from jobs.modeling.publishing import publish_text
from jobs.reporter import Reporter, StopRequested

POLL_S = 0.02
LOOK_EVERY_S = 1.0
MAX_SPANS = 20_000
"""Spans from which the next blocks are taken, at most."""

Spans = Sequence[tuple[int, int]]


@dataclass
class Supervisor:
    """The process that has the store's keys: it is asked by files in `folder`. `number` tells this process from others
    of the same run; one of several can't be stopped while it waits, since the others would wait for it.
    """

    folder: Path
    reporter: Reporter
    number: int = 0
    can_stop: bool = True

    def __post_init__(self) -> None:
        self._asked = itertools.count()
        self._problem = ""

    def ask(self, ask: FolderAsk) -> FolderAnswer:
        """Return the answer. Raises JobFailed for a failure, StopRequested."""
        path = self.folder / f"{self.number}-{next(self._asked)}{ASK}"
        answer = path.with_suffix(ANSWER)
        publish_text(path, ask.model_dump_json())
        self.wait(answer.is_file)
        read = FolderAnswer.model_validate_json(answer.read_bytes())
        answer.unlink()
        if read.state == "failed":
            raise JobFailed(read.cause, remedy=read.remedy or "")
        return read

    def request(self, folder: str, blocks: Iterable[int]) -> None:
        """Say which blocks are read next."""
        needed = NeededBlocks(folder=folder, blocks=tuple(blocks))
        publish_text(self.folder / f"{self.number}-{folder.rpartition('/')[2]}{NEEDED}", needed.model_dump_json())

    def wait(self, is_there: Callable[[], bool]) -> None:
        """Wait, for as long as it takes, and log why. Raises JobFailed if it will never come, StopRequested."""
        looked_at = time.monotonic()
        while not is_there():
            time.sleep(POLL_S)
            if time.monotonic() - looked_at > LOOK_EVERY_S:
                looked_at = time.monotonic()
                self._look()
        if self._problem:
            self._problem = ""
            self.reporter.log("The store answers again.")

    def _look(self) -> None:
        if (failure := _read(self.folder / FAILURE)) and (answer := FolderAnswer.model_validate_json(failure)):
            raise JobFailed(answer.cause, remedy=answer.remedy or "")
        problem = _read(self.folder / PROBLEM)
        if problem and not self._problem:
            self._problem = problem
            self.reporter.log(f"The run waits for the store, and continues when it answers: {problem}")
        if self.can_stop and self.reporter.should_stop():
            raise StopRequested


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


class Blocks:
    """The blocks of one folder's ids."""

    def __init__(self, supervisor: Supervisor, folder: str, answer: FolderAnswer) -> None:
        self._supervisor, self._folder = supervisor, folder
        self._blocks, self._num_ahead = Path(answer.blocks), max(1, answer.num_ahead)
        self._step = 0
        self._spans_of: Callable[[int], Spans] = lambda step: []
        self._announced = range(0)

    def announce(self, step: int, spans_of: Callable[[int], Spans]) -> None:
        """Want the blocks of the steps from this one on, unless enough of them are needed already."""
        self._step, self._spans_of = step, spans_of
        if step not in self._announced:
            last = self._request(None)
            self._announced = range(step, step + 1 + (last - step) // 2)

    def read(self, begin: int, end: int) -> bytes:
        """Return bytes, waiting for blocks that are not here. Raises JobFailed, StopRequested."""
        parts = []
        for number in range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            start = number * BLOCK_BYTES
            parts.append(self._read(number, max(0, begin - start), min(BLOCK_BYTES, end - start)))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop(self, number: int) -> None:
        """Remove a block that is damaged on this machine: it is fetched again."""
        (self._blocks / str(number)).unlink(missing_ok=True)

    def _read(self, number: int, begin: int, end: int) -> bytes:
        path = self._blocks / str(number)
        while True:
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(begin)
                    return file.read(end - begin)
            except FileNotFoundError:
                self._supervisor.wait(self._is_needed(number, path))

    def _is_needed(self, number: int, path: Path) -> Callable[[], bool]:
        """Return the test whether a block is there, which needs it again where it has left."""
        asked_at = 0.0

        def is_there() -> bool:
            nonlocal asked_at
            if path.exists():
                return True
            if time.monotonic() - asked_at > LOOK_EVERY_S:
                asked_at = time.monotonic()
                self._request(number)
            return False

        return is_there

    def _request(self, first: int | None) -> int:
        """Ask for the next blocks, of which one may be known to be the first; return the last step that they serve."""
        needed: dict[int, None] = {} if first is None else {first: None}
        last = self._step
        for step, number in itertools.islice(self._upcoming(), MAX_SPANS):
            needed[number], last = None, step
            if len(needed) >= self._num_ahead:
                break
        self._supervisor.request(self._folder, needed)
        return last

    def _upcoming(self) -> Iterator[tuple[int, int]]:
        for step in itertools.count(self._step):
            spans = self._spans_of(step)
            if not spans:
                return
            for begin, end in spans:
                for number in range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
                    yield step, number
