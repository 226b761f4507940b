"""Keys of requests: verdicts that count until a key or an account changes, and open answers that end with their key."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from backend.gateway.directory import Directory, Principal
from backend.gateway.errors import ApiError, key_revoked

MAX_VERDICTS = 4096


@dataclass(frozen=True)
class _Verdict:
    version: int
    answer: asyncio.Future[Principal | None]


class KeyCheck:
    """Asks the directory about a key once per version of its keys. Belongs to one event loop."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()

    async def check(self, key: str) -> Principal | None:
        """Return the holder of a key, None for an unknown, revoked or expired one."""
        version = self._directory.keys_version()
        if version is None:
            return await asyncio.to_thread(self._directory.authenticate, key)
        digest = hashlib.sha256(key.encode()).digest()
        verdict = self._verdicts.get(digest)
        if verdict is None or verdict.version != version:
            verdict = self._ask(digest, key, version)
        principal = await asyncio.shield(verdict.answer) if not verdict.answer.done() else verdict.answer.result()
        if principal is None or (principal.expires_at is not None and principal.expires_at <= datetime.now(UTC)):
            return None
        self._directory.note_use(principal.key_id)
        return principal

    def _ask(self, digest: bytes, key: str, version: int) -> _Verdict:
        """Ask in a thread. The version was read before, so a change during the question makes its verdict void."""
        answer = asyncio.ensure_future(asyncio.to_thread(self._directory.authenticate, key))
        verdict = self._verdicts[digest] = _Verdict(version, answer)

        def forget_unsure(done: asyncio.Future[Principal | None]) -> None:
            # A wrong key, an error, or a database that went away: nothing to be remembered.
            unsure = (
                done.cancelled()
                or done.exception() is not None
                or done.result() is None
                or self._directory.keys_version() is None
            )
            if unsure and self._verdicts.get(digest) is verdict:
                del self._verdicts[digest]

        answer.add_done_callback(forget_unsure)
        while len(self._verdicts) > MAX_VERDICTS:
            self._verdicts.popitem(last=False)
        return verdict


class Endable(Protocol):
    """An answer that can be ended from outside."""

    def end_with(self, error: ApiError) -> None:
        """End with an error."""


class OpenAnswers:
    """The answers under way by key. Every key is checked twice a second; a revoked one's end with an error."""

    def __init__(self, directory: Directory, keys: KeyCheck) -> None:
        self._directory, self._keys = directory, keys
        self._open: defaultdict[str, set[Endable]] = defaultdict(set)
        self._principals: dict[str, Principal] = {}

    @contextmanager
    def holding(self, answer: Endable, *, key: str, principal: Principal) -> Iterator[None]:
        """Count an answer as open for as long as the block runs."""
        self._open[key].add(answer)
        self._principals[key] = principal
        try:
            yield
        finally:
            self._open[key].discard(answer)
            if not self._open[key]:
                del self._open[key], self._principals[key]

    async def end_revoked(self) -> None:
        """Check every key again, and end the answers of those that were revoked."""
        for key, principal in list(self._principals.items()):
            if await self._is_revoked(key, principal):
                for answer in list(self._open.get(key, ())):
                    answer.end_with(key_revoked())

    async def _is_revoked(self, key: str, principal: Principal) -> bool:
        """Return whether a key is surely no longer valid. One that expired may finish what it began."""
        if self._directory.keys_version() is None or (
            principal.expires_at is not None and principal.expires_at <= datetime.now(UTC)
        ):
            return False
        try:
            return await self._keys.check(key) is None and self._directory.keys_version() is not None
        except Exception:  # an answer under way must not depend on the database
            return False
