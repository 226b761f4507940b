"""Services through PgBouncer, which gives each transaction another session of the server."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import text

from backend.bootstrap import build_context
from backend.db.engine import Database
from backend.domain.jobs.states import JobKind
from backend.services.jobs.claims import claim_next
from tests.support.jobs import add_stored_job
from tests.support.pgbouncer import through
from tests.support.postgres import copy_database, drop_database
from tests.support.settings import make_settings

NUM_CLIENTS, CLIENTS_A_POOL, SESSIONS = 200, 25, 20


def test_two_hundred_clients_on_twenty_sessions_take_each_job_once(
    migrated_postgres: str, pgbouncer: int, tmp_path: Path
) -> None:
    """Statements are prepared by the driver: PgBouncer prepares them in each session that it lends."""
    url = copy_database(migrated_postgres)
    pools = [
        build_context(make_settings(tmp_path / str(number), database_url=through(url, pgbouncer)), migrate=False)
        for number in range(NUM_CLIENTS // CLIENTS_A_POOL)
    ]
    with pools[0].db.write() as session:
        jobs = [add_stored_job(session, pools[0], JobKind.EXPORT, title=str(n)).id for n in range(2 * NUM_CLIENTS)]
    together = threading.Barrier(NUM_CLIENTS)

    def take_two(number: int) -> list[str]:
        name = f"machine-{number}"
        together.wait()
        claims = [claim_next(pools[number % len(pools)], "cpu", owner=name, host=name) for _ in range(2)]
        return [claim.job_id for claim in claims if claim is not None]

    with ThreadPoolExecutor(NUM_CLIENTS) as clients:
        taken = [job for claimed in clients.map(take_two, range(NUM_CLIENTS)) for job in claimed]
    direct = Database(url)
    with direct.read() as session:
        here = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        sessions = session.scalar(text(here))
    for database in (direct, *(pool.db for pool in pools)):
        database.engine.dispose()
    drop_database(url)
    assert sorted(taken) == sorted(jobs)
    assert 1 <= sessions <= SESSIONS
