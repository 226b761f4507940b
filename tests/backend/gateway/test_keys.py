"""Keys at the gateway: looked up once, refused at once when they change, and open answers that end with their key."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx2
import pytest

from backend.gateway.directory import Principal, ReplicaAddress
from backend.gateway.installed import InstalledDirectory
from backend.gateway.keys import KeyCheck
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, change_role
from backend.services.people.keys import change_key, create_key, find_key, note_key_uses, revoke_key
from tests.support.gateway_fixtures import KEY, MemoryDirectory, eventually, gateway, scripted


class CountingDirectory(InstalledDirectory):
    """Counts the questions to the database."""

    lookups = 0

    def authenticate(self, key: str) -> Principal | None:
        self.lookups += 1
        return super().authenticate(key)


@pytest.fixture
def directory(any_ctx: Context) -> Iterator[CountingDirectory]:
    directory = CountingDirectory(any_ctx)
    eventually(lambda: directory.keys_version() is not None)  # the first question to the database connects
    yield directory
    directory.close()


@pytest.mark.parametrize("how", ["revoked", "account"])
def test_a_key_is_looked_up_once_and_refused_as_soon_as_it_changes(
    any_ctx: Context, directory: CountingDirectory, how: str
) -> None:
    owner = add_user(any_ctx, "maya", "correct horse battery", person=LOCAL)
    key = create_key(any_ctx, "bot", person=owner)

    async def scenario() -> None:
        keys = KeyCheck(directory)

        async def holds() -> bool:
            return await keys.check(key) is not None

        deadline = time.monotonic() + 60  # PostgreSQL announces the new key a few milliseconds after its commit
        while time.monotonic() < deadline:
            before = directory.lookups
            assert all([await holds() for _ in range(50)])
            if directory.lookups == before:
                break
        else:
            raise AssertionError("the key was looked up again and again")
        if how == "revoked":
            revoke_key(any_ctx, "bot", person=LOCAL)
        else:
            change_role(any_ctx, owner.id or "", "rater", person=LOCAL)
        while await holds():
            await asyncio.sleep(0.005)
        if any_ctx.db.is_sqlite:
            assert directory.lookups - before == 1

    asyncio.run(scenario())


def test_a_changed_limit_holds_at_once_and_a_noted_use_announces_nothing(
    any_ctx: Context, directory: CountingDirectory
) -> None:
    version = directory.keys_version() or 0
    key = create_key(any_ctx, "bot", person=LOCAL)
    view = find_key(any_ctx, "bot", person=LOCAL)
    limits = view.limits.model_copy(update={"requests": 7})

    async def scenario() -> None:
        keys = KeyCheck(directory)
        assert await keys.check(key) is not None
        change_key(any_ctx, "bot", person=LOCAL, limits=limits, scopes=view.scopes, expires_at=None)
        while (principal := await keys.check(key)) is None or principal.limits.requests != 7:
            await asyncio.sleep(0.005)
        if any_ctx.db.is_sqlite:  # counts every commit
            return
        # PostgreSQL has announced the new key and its change
        eventually(lambda: directory.keys_version() == version + 2)
        note_key_uses(any_ctx, {view.id: datetime.now(UTC)})
        await asyncio.sleep(0.05)
        assert directory.keys_version() == version + 2

    asyncio.run(scenario())


def test_a_remembered_key_expires_and_a_wrong_one_is_never_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = MemoryDirectory({})
    expiry = datetime.now(UTC) + timedelta(hours=1)
    directory.principals["late"] = Principal(key_id="k2", name="late", expires_at=expiry)

    async def scenario() -> None:
        keys = KeyCheck(directory)
        assert await keys.check("late") is not None
        assert await keys.check("new") is None
        directory.principals["new"] = Principal(key_id="k3", name="new")
        assert await keys.check("new") is not None
        monkeypatch.setattr("backend.gateway.keys.datetime", SimpleNamespace(now=lambda zone: expiry))
        assert await keys.check("late") is None

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [True, False])
def test_the_running_answer_of_a_revoked_key_ends_with_an_error_and_counts_what_it_used(stream: bool) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with scripted() as (replica, address), ThreadPoolExecutor(1) as pool:
        replica.tokens, replica.delay_s = 3000, 0.01
        directory = MemoryDirectory({"m": [ReplicaAddress(id="r", url=address, token="t")]})
        directory.principals["other"] = Principal(key_id="k2", name="other")

        def ask(url: str, key: str, stream: bool) -> httpx2.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return httpx2.post(
                f"{url}/v1/chat/completions", json=body | {"stream": stream}, headers=headers, timeout=60
            )

        with gateway(directory) as url:
            headers = {"Authorization": "Bearer other"}
            with httpx2.stream(
                "POST", f"{url}/v1/chat/completions", json=body | {"stream": True}, headers=headers, timeout=60
            ) as going_on:
                answer = pool.submit(ask, url, KEY, stream)
                eventually(lambda: len(replica.written) == 2 and min(replica.written.values()) > 5)
                del directory.principals[KEY]
                directory.version = 1
                response = answer.result(60)
                row = directory.last(1)
                assert replica.left == 1, "the other key's answer goes on"
                assert next(going_on.iter_bytes())
        last = [line for line in response.text.split("\n\n") if line][-1].removeprefix("data: ")
        assert json.loads(last)["error"]["code"] == "key_revoked"
        assert response.status_code == (200 if stream else 401)
        assert "[DONE]" not in response.text
        assert (row.key_id, row.status) == ("k1", "aborted")
        assert 0 < row.completion_tokens < 3000


@pytest.mark.parametrize(("path", "name"), [("embeddings", "input"), ("tokenize", "prompt")])
def test_a_request_of_a_revoked_key_that_is_no_chat_ends_as_well(path: str, name: str) -> None:
    with scripted() as (replica, address), ThreadPoolExecutor(1) as pool:
        replica.tokens, replica.delay_s = 3000, 0.01
        directory = MemoryDirectory({"m": [ReplicaAddress(id="r", url=address, token="t")]})
        with gateway(directory) as url:
            body, headers = {"model": "m", name: "x"}, {"Authorization": f"Bearer {KEY}"}
            answer = pool.submit(httpx2.post, f"{url}/v1/{path}", json=body, headers=headers, timeout=60)
            eventually(lambda: len(replica.written) == 1 and min(replica.written.values()) > 5)
            del directory.principals[KEY]
            directory.version = 1
            assert answer.result().json()["error"]["code"] == "key_revoked"
