"""Races on unique columns: two processes look, find nothing, and insert the same value.

SQLite has one writer at a time, so a look inside `Database.write` holds until its insert. PostgreSQL lets both look
first.
"""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqlalchemy.exc import IntegrityError

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 10
PAUSE_S = 0.02
UNIQUE_VIOLATION = "23505"
"""PostgreSQL's code of a unique violation."""


def retry_races(function: Callable[P, T]) -> Callable[P, T]:
    """Call a function again where another process inserted the same unique value between its look and its insert.

    The second call finds that row and does what the function does with a row that exists. All that the function stores
    must be in the transaction that was rolled back.
    """

    @functools.wraps(function)
    def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(1, ATTEMPTS):
            try:
                return function(*args, **kwargs)
            except IntegrityError as error:
                if not _is_unique_violation(error):
                    raise
                # several that count the same number upwards would meet again
                time.sleep(PAUSE_S * attempt * random.random())
        return function(*args, **kwargs)

    return retrying


def _is_unique_violation(error: IntegrityError) -> bool:
    return getattr(error.orig, "sqlstate", None) == UNIQUE_VIOLATION or str(error.orig).startswith(
        "UNIQUE constraint failed"
    )
