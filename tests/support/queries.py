"""Counting the SELECT statements that a piece of code sends, by the table that each reads first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

_FROM = re.compile(r"\bFROM (\w+)")


@contextmanager
def count_selects(engine: Engine) -> Iterator[Counter[str]]:
    """Yield a counter of table names that grows while the block runs."""
    counts: Counter[str] = Counter()

    def count(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("SELECT") and (table := _FROM.search(statement)):
            counts[table[1]] += 1

    event.listen(engine, "before_cursor_execute", count)
    try:
        yield counts
    finally:
        event.remove(engine, "before_cursor_execute", count)
