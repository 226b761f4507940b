"""The time by which leases are given: the server's, which all machines share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, event

from backend.bootstrap import build_context
from backend.db import engine as engines
from backend.db.base import utc_now
from backend.services.context import Context
from tests.support.gateway_fixtures import eventually
from tests.support.settings import make_settings

AHEAD = timedelta(hours=1)


@pytest.fixture
def server(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """A context on a server whose clock is an hour ahead of this machine's."""
    ctx = build_context(make_settings(tmp_path_factory.mktemp("home"), database_url=postgres_url))
    with ctx.db.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
            "$$ SELECT pg_catalog.clock_timestamp() + interval '1 hour' $$"
        )
        connection.exec_driver_sql("ALTER ROLE test SET search_path = public, pg_catalog")
    ctx.db.engine.dispose()
    yield ctx
    with ctx.db.engine.begin() as connection:
        connection.exec_driver_sql("ALTER ROLE test RESET search_path")
        connection.exec_driver_sql("DROP FUNCTION public.clock_timestamp()")
    ctx.db.engine.dispose()


def test_every_machine_tells_the_servers_time_and_asks_once_in_a_while(server: Context) -> None:
    """A machine whose clock was wrong by more than a lease took the jobs of all others, or lost its own."""
    statements: list[str] = []
    event.listen(server.db.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    times = [server.now() for _ in range(100)]
    assert times == sorted(times)
    assert abs(times[0] - utc_now() - AHEAD) < timedelta(minutes=1)
    assert sum("clock_timestamp" in statement for statement in statements) == 1


def test_a_server_that_is_away_stops_no_clock(server: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    first = server.now()
    monkeypatch.setattr(engines, "CLOCK_S", 0.0)
    away = create_engine("postgresql+psycopg://test@127.0.0.1:1/postgres")
    monkeypatch.setattr(server.db, "engine", away)
    attempts: list[object] = []
    event.listen(away, "do_connect", lambda *call: attempts.append(call))
    times = [server.now() for _ in range(1000)]
    eventually(lambda: attempts)
    assert first < times[0] <= times[-1] < first + timedelta(minutes=1)
    assert times == sorted(times)


def test_on_sqlite_the_time_is_this_machines(ctx_sqlite: Context) -> None:
    before = utc_now()
    assert before <= ctx_sqlite.now() <= utc_now()
