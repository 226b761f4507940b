"""Sessions of a PostgreSQL server."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from backend.db import engine
from backend.db.engine import Database


def test_a_process_that_is_frozen_within_a_transaction_holds_no_rows_for_ever(
    second_postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job was skipped by each sweep, as long as the process was frozen."""
    monkeypatch.setattr(engine, "SESSION", engine.SESSION.replace("5min", "100ms"))
    frozen, other = Database(second_postgres_database), Database(second_postgres_database)
    with frozen.engine.connect() as connection:
        connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        with other.write() as session:
            session.execute(text("SET LOCAL lock_timeout = '60s'"))
            session.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(DBAPIError, match="idle-in-transaction"):
            connection.execute(text("SELECT 1"))
    frozen.engine.dispose()
    other.engine.dispose()
