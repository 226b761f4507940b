"""Changes of keys are announced by PostgreSQL, and a proxy that loses announcements is noticed."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from backend.db.changes import CHANNEL, PostgresChanges
from backend.db.engine import Database
from tests.support.installation import wait_until
from tests.support.pgbouncer import through


def test_changes_are_unknown_behind_a_proxy_that_gives_the_session_to_others(
    second_postgres_database: str, pgbouncer: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Through PgBouncer's transaction pooling no announcement arrives: a revoked key would have stayed valid."""
    direct, pooled = Database(second_postgres_database), Database(through(second_postgres_database, pgbouncer))
    known, unknown = PostgresChanges(direct), PostgresChanges(pooled)
    wait_until(lambda: known.version() is not None, what="a version")
    before = known.version()
    unknown.version()
    with direct.write() as session:
        session.execute(text(f"NOTIFY {CHANNEL}"))
    wait_until(lambda: known.version() != before, what="the change")
    wait_until(lambda: unknown.version() is None and "through this proxy" in caplog.text, what="the warning")
    known.close()
    unknown.close()
    direct.engine.dispose()
    pooled.engine.dispose()
