"""Contact between the machines of a run, by which each one's supervisor knows that it is not cut off while a step takes
long and the database is away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from jobs.reporter import Reporter

log = logging.getLogger(__name__)

BEAT_S = 1.0
ANSWERS_IN = timedelta(seconds=5)


class Contact(threading.Thread):
    """Counts in the store where the ranks meet, and notes with the reporter when all other machines have counted on."""

    def __init__(self, open_store: Callable[[], TCPStore], machine: int, machines: int, reporter: Reporter) -> None:
        super().__init__(daemon=True, name="contact")
        self._open_store, self._machine, self._reporter = open_store, machine, reporter
        self._others = [number for number in range(machines) if number != machine]
        self._ended = threading.Event()

    def run(self) -> None:
        """Beat until ended; a store that can't be reached is tried again."""
        store: TCPStore | None = None
        beats, noted = 0, dict.fromkeys(self._others, 0)
        while not self._ended.wait(BEAT_S):
            try:
                store = store or self._open_store()
                beats += 1
                store.set(_key(self._machine), str(beats))
                counts = {other: int(store.get(_key(other))) for other in self._others if store.check([_key(other)])}
            except RuntimeError as error:  # DistError and its like
                log.debug("no contact: %s", error)
                store = None
                continue
            if all(counts.get(other, 0) > count for other, count in noted.items()):
                noted = counts
                self._reporter.note_contact()

    def end(self) -> None:
        """Stop beating, before the process ends: a thread in torch's code must not outlive the interpreter."""
        self._ended.set()
        self.join(2 * ANSWERS_IN.total_seconds())


def _key(machine: int) -> str:
    return f"beat/{machine}"
