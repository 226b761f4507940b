"""A snapshot of what was last read from the database, kept fresh by a thread, so that requests outlive it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from backend.db.documents import UnreadableDocument

logger = logging.getLogger(__name__)
FRESH_S = 0.4
SOON_S = 0.3
MAX_S = 1.5  # longer than IDLE_S and a reading
IDLE_S = 1.0
PATIENCE_S = 1.0
MAX_QUESTIONS = 8
BACK_S = 20.0  # longer than the workers need to renew their leases
FAULTS = (SQLAlchemyError, OSError, UnreadableDocument)
T = TypeVar("T")
R = TypeVar("R")


class Away(Exception):
    """The database does not answer, or has not in the last moments."""


class Keeper(Generic[T]):
    """Reads a snapshot every second, and every 0.4 s while there are requests. An error or a silence of a second means
    that the database is away; then the last snapshot counts, and no request waits until the thread has read one again.
    """

    def __init__(self, read: Callable[[bool], T]) -> None:
        """Take the reading of a snapshot; its argument says that the database has just come back."""
        self._read = read
        self._back_until = float("-inf")
        self._snapshot: T | None = None
        self._read_at = float("-inf")
        self._is_away = False
        self._changed = threading.Condition()
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._questions: ThreadPoolExecutor | None = None

    @property
    def is_away(self) -> bool:
        """Return whether the database did not answer when it was last asked."""
        return self._is_away

    @property
    def newest(self) -> T | None:
        """Return the last snapshot, however old; at most about a second while the database answers."""
        return self._snapshot

    def peek(self) -> T | None:
        """Return the last snapshot; None where there is none, or the database hangs since. Never waits.

        One that is older than 0.3 s is read again in the background. Where it leads to no replica, a request asks for
        the `latest`.
        """
        age = time.monotonic() - self._read_at
        if age > SOON_S:
            self._wanted.set()
        return self._snapshot if age <= MAX_S or self._is_away else None

    def latest(self) -> T:
        """Return a snapshot of the last 0.4 s, or the last one while the database is away. Raises Away without one."""
        self._start()
        if not self._is_fresh() and not self._is_away:
            self._wanted.set()
            with self._changed:
                if not self._changed.wait_for(lambda: self._is_fresh() or self._is_away, timeout=PATIENCE_S):
                    self._go_away("no answer")
        if self._snapshot is None:
            raise Away("The database has not been read yet.")
        return self._snapshot

    def ask(self, question: Callable[[], R]) -> R:
        """Answer a question from the database. Raises Away after an error or a second, then at once."""
        self._start()
        if self._is_away or self._questions is None:
            raise Away("The database is away.")
        try:
            return self._questions.submit(question).result(PATIENCE_S)
        except TimeoutError as error:
            self._go_away("no answer")
            raise Away("The database does not answer.") from error
        except FAULTS as error:
            self._go_away(_reason(error))
            raise Away("The database refuses.") from error

    def close(self) -> None:
        """End the thread, after the reading under way."""
        self._closed.set()
        self._wanted.set()
        if self._thread is not None and self._questions is not None:
            self._thread.join(PATIENCE_S)
            self._questions.shutdown(wait=False)

    def _start(self) -> None:
        with self._changed:
            if self._thread is None:
                self._questions = ThreadPoolExecutor(MAX_QUESTIONS, thread_name_prefix="question")
                self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            began = time.monotonic()
            self._wanted.clear()
            try:
                snapshot = self._read(self._is_away or began < self._back_until)
            except FAULTS as error:
                self._go_away(_reason(error))
            else:
                if self._is_away or time.monotonic() - began > 2 * PATIENCE_S:  # it hung, or was away
                    self._back_until = time.monotonic() + BACK_S
                    snapshot = self._read_again(snapshot)
                self._keep(snapshot)
            self._wanted.wait(IDLE_S)
            self._closed.wait(max(0.0, began + FRESH_S / 2 - time.monotonic()))

    def _read_again(self, snapshot: T) -> T:
        try:
            return self._read(True)
        except FAULTS:
            return snapshot

    def _keep(self, snapshot: T) -> None:
        with self._changed:
            if self._is_away:
                logger.warning("The database answers again.")
            self._snapshot, self._read_at, self._is_away = snapshot, time.monotonic(), False
            self._changed.notify_all()

    def _go_away(self, reason: str) -> None:
        with self._changed:
            if not self._is_away:
                logger.warning("The database is away (%s); requests are answered from what was last read.", reason)
            self._is_away = True
            self._changed.notify_all()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at <= FRESH_S


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UnreadableDocument) else type(error).__name__
