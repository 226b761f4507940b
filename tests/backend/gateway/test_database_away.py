"""The gateway while its database is away: it answers from what it last read, and what it has to store waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backend.db.engine import Database
from backend.db.tables import Checkpoint, Job, Usage
from backend.domain.jobs.events import ReadyEvent
from backend.errors import NotFound, Unavailable
from backend.gateway.app import create_gateway
from backend.gateway.installed import InstalledDirectory
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next
from backend.services.people.keys import create_key, list_keys, revoke_key
from backend.services.serving.deployments import deploy
from backend.services.serving.replicas import record_ready
from tests.support.gateway_fixtures import eventually, scripted, served


class StoppableDatabase(Database):
    """A real database that refuses or hangs while it is told to."""

    refuses = False
    hangs = threading.Event()

    def _wait(self) -> None:
        if self.refuses:
            raise OperationalError("select 1", {}, OSError("connection refused"))
        while self.hangs.is_set():
            time.sleep(0.02)

    @contextmanager
    def read(self) -> Iterator[Session]:
        self._wait()
        with super().read() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        self._wait()
        with super().write() as session:
            yield session


@pytest.fixture
def installed(ctx: Context) -> Iterator[tuple[Context, StoppableDatabase, str]]:
    """An installation with an endpoint that a scripted replica answers for, its database, and the replica's address."""
    db = StoppableDatabase(ctx.db.url)
    ctx = replace(ctx, db=db, sign_in=True)
    with db.write() as session:
        checkpoint = Checkpoint(name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=10)
        session.add(checkpoint)
        session.flush()
    with scripted() as (_, url):
        deploy(ctx, checkpoint_id=checkpoint.id, name="tales", person=LOCAL)
        claim: Any = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
        with db.write() as session:
            record_ready(session, ctx, claim, ReadyEvent(url=url))
            session.get_one(Job, claim.job_id).lease_until = ctx.now() + timedelta(hours=1)
        yield ctx, db, url
        db.hangs.clear()


@pytest.fixture
def directory(installed: tuple[Context, StoppableDatabase, str]) -> Iterator[InstalledDirectory]:
    with closing(InstalledDirectory(installed[0])) as directory:
        yield directory


def ask(url: str, key: str) -> int:
    body = {"model": "tales", "messages": [{"role": "user", "content": "x"}]}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60).status_code


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_requests_are_answered_revoked_keys_stay_revoked_and_usage_waits(
    installed: tuple[Context, StoppableDatabase, str], directory: InstalledDirectory, how: str
) -> None:
    ctx, db, _ = installed
    key, revoked = create_key(ctx, "bot", person=LOCAL), create_key(ctx, "old", person=LOCAL)
    with served(create_gateway(directory)) as url:
        assert (ask(url, key), ask(url, revoked)) == (200, 200)
        before = directory.keys_version()
        revoke_key(ctx, "old", person=LOCAL)
        eventually(lambda: directory.keys_version() != before)  # PostgreSQL announces it within moments
        assert ask(url, revoked) == 401
        time.sleep(0.5)
        assert ask(url, key) == 200
        assert [model.name for model in directory.list_models()] == ["tales"], (
            "a snapshot that is older than 0.4 s is read again"
        )
        if how == "refuses":
            db.refuses = True
        else:
            db.hangs.set()
        assert [ask(url, key) for _ in range(10)] == [200] * 10
        assert ask(url, revoked) == 401
        assert httpx2.get(f"{url}/health").json() == {"status": "ok"}
        db.refuses = False
        db.hangs.clear()

        def num_stored() -> int:
            with ctx.db.read() as session:
                # 401s too have rows
                return len(session.scalars(select(Usage.id).where(Usage.key_id.is_not(None))).all())

        assert eventually(lambda: num_stored() == 13)
        revoke_key(ctx, "bot", person=LOCAL)
        eventually(lambda: ask(url, key) == 401)


def test_a_gateway_that_never_read_its_database_says_so(
    installed: tuple[Context, StoppableDatabase, str], directory: InstalledDirectory
) -> None:
    _, db, _ = installed
    db.refuses = True
    with pytest.raises(Unavailable, match="does not answer"):
        directory.replicas_for("tales")
    with served(create_gateway(directory)) as url:
        response = httpx2.post(f"{url}/v1/chat/completions", json={}, headers={"Authorization": "Bearer rh-x"})
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    db.refuses = False
    with served(create_gateway(directory)) as url:
        eventually(lambda: httpx2.get(f"{url}/health").status_code == 200)


def test_a_keys_use_is_noted_outside_of_its_requests(
    installed: tuple[Context, StoppableDatabase, str], directory: InstalledDirectory
) -> None:
    ctx, db, url = installed
    key = create_key(ctx, "bot", person=LOCAL)
    assert directory.authenticate(key) is not None
    assert [address.url for address in directory.replicas_for("tales")] == [url]
    with pytest.raises(NotFound):
        directory.replicas_for("other")
    assert list_keys(ctx, person=LOCAL)[0].last_used_at is None
    directory._note_uses()
    assert list_keys(ctx, person=LOCAL)[0].last_used_at is not None
    db.refuses = False
