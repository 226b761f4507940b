"""Keys of requests: verdicts that count until a key or an account changes, scopes, limits by check and settle around a
request, and open answers that end with their key.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from backend.domain.serving.protocol import GenerateRequest
from backend.domain.wording import format_usd, plural
from backend.gateway.directory import Directory, Principal
from backend.gateway.errors import ApiError, key_revoked
from backend.gateway.limits import Demand, LimitStore, Refusal
from backend.gateway.request import ApiExchange, Events, limit_headers

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


TOKENS_PER_BYTE, TEMPLATE_TOKENS = 0.4, 32
"""Tokens of a prompt per byte, and what a chat template adds to it, until an endpoint's own requests tell."""
SLOWLY = 0.1
SPREAD = 100.0
"""Weight of that rate beside the requests' own, as of prompts whose lengths differ by ten bytes."""


@dataclass
class _Rates:
    """Moving averages of an endpoint: bytes and tokens of its prompts, their variance and covariance, and dollars per
    token. The line through them has what the endpoint's template adds to each prompt, however short. A request alone on
    its device costs a multiple of one among many, so dollars are reserved at the highest rate of late.
    """

    prompt_bytes: float = 0.0
    prompt_tokens: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    usd_per_token: float = 0.0
    highest_usd_per_token: float = 0.0

    def expected_tokens(self, request: GenerateRequest) -> int:
        """Return how many tokens the prompts of a request have: ids, and texts by the line."""
        size = request.prompt_bytes
        if not self.prompt_tokens:
            template = TEMPLATE_TOKENS if request.messages else 0
            return request.num_prompt_ids + math.ceil(size * TOKENS_PER_BYTE) + template
        slope = (self.covariance + SPREAD * TOKENS_PER_BYTE) / (self.variance + SPREAD)
        expected = self.prompt_tokens + slope * (size - self.prompt_bytes) if size else 0.0
        return request.num_prompt_ids + max(0, math.ceil(round(expected, 6)))

    def learn(self, *, prompt_bytes: int, prompt_tokens: int, tokens: int, usd: float) -> None:
        if prompt_bytes and prompt_tokens:
            weight = SLOWLY if self.prompt_tokens else 1.0
            longer, more = prompt_bytes - self.prompt_bytes, prompt_tokens - self.prompt_tokens
            self.prompt_bytes += weight * longer
            self.prompt_tokens += weight * more
            self.variance = (1 - weight) * (self.variance + weight * longer * longer)
            self.covariance = (1 - weight) * (self.covariance + weight * longer * more)
        if tokens and usd:
            self.usd_per_token += (SLOWLY if self.usd_per_token else 1.0) * (usd / tokens - self.usd_per_token)
            self.forget()
            self.highest_usd_per_token = max(self.highest_usd_per_token, usd / tokens)

    def forget(self) -> None:
        """Lower the highest rate towards the mean, after each request and each refusal for its cost: else one that was
        dear could refuse every request of a small budget from then on.
        """
        self.highest_usd_per_token += SLOWLY * (self.usd_per_token - self.highest_usd_per_token)


UNKNOWN = _Rates()


class KeyGate:
    """Admits requests of a key. A reservation holds prompt and `max_tokens`; at the end, what was used replaces it."""

    def __init__(
        self, directory: Directory, store: LimitStore, *, on_refusal: Callable[[ApiError, ApiExchange], None]
    ) -> None:
        self._directory, self._store, self._on_refusal = directory, store, on_refusal
        self._rates: dict[str, _Rates] = defaultdict(_Rates)
        self._settling: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Settle what is open."""
        await asyncio.gather(*self._settling, return_exceptions=True)
        await self._store.close()

    async def admitted(self, events: Events, *, request: GenerateRequest, exchange: ApiExchange) -> Events:
        """Yield a request's events once its key has room for it. Raises ApiError 429 before the first event."""
        demand = self._demand(request, exchange)
        if demand is not None:
            counted = await self._store.reserve(demand, partial(self._directory.spent, demand.key_id))
            exchange.headers.update(limit_headers(demand.limits, counted))
            if isinstance(counted, Refusal):
                error = limit_reached(counted, demand)
                is_for_cost = counted.unit == "usd" and counted.used < counted.allowed
                if is_for_cost and exchange.endpoint in self._rates:  # clients can invent any number of names
                    self._rates[exchange.endpoint].forget()
                self._on_refusal(error, exchange)
                raise error
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        finally:
            if demand is not None:
                self._settle(demand, request, exchange)

    def _demand(self, request: GenerateRequest, exchange: ApiExchange) -> Demand | None:
        if exchange.identity.principal is None or not exchange.identity.principal.limits.is_limited:
            return None
        rates = self._rates.get(exchange.endpoint, UNKNOWN)
        tokens = rates.expected_tokens(request) + request.most_new_tokens
        return Demand(
            request_id=exchange.id,
            key_id=exchange.identity.principal.key_id,
            limits=exchange.identity.principal.limits,
            tokens=tokens,
            usd=tokens * rates.highest_usd_per_token,
            now=time.time(),
            prices=self._directory.prices_version,
        )

    def _settle(self, demand: Demand, request: GenerateRequest, exchange: ApiExchange) -> None:
        row = exchange.usage_row()
        tokens = row.prompt_tokens + row.completion_tokens
        usd = row.cost_usd or 0.0
        size = 0 if request.num_prompt_ids else request.prompt_bytes
        if tokens:  # without tokens the model may not exist
            self._rates[exchange.endpoint].learn(
                prompt_bytes=size, prompt_tokens=row.prompt_tokens, tokens=tokens, usd=usd
            )
        # A task of its own: the request may be cancelled, which must not cancel its settlement.
        task = asyncio.create_task(self._store.settle(demand, tokens=tokens, usd=usd))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


def check_scope(principal: Principal | None, *, endpoint: str, model: str | None = None) -> None:
    """Raise ApiError 403 where a key may not call this part of the API or this model."""
    if principal is None:
        return
    if not principal.scopes.allows_endpoint(endpoint):
        allowed = ", ".join(principal.scopes.endpoints)
        raise ApiError(403, f"This key may not call {endpoint!r}, only {allowed}.", code="endpoint_not_allowed")
    if model is not None and not principal.scopes.allows_model(model):
        raise ApiError(
            403,
            f"This key may not use the model {model!r}; GET /v1/models lists its models.",
            code="model_not_allowed",
            param="model",
        )


def limit_reached(refusal: Refusal, demand: Demand) -> ApiError:
    """Return the error for a refused request: which limit, what is left, and when or how to try again. It is 400 where
    the request alone is over the limit, else 429.
    """
    wait = refusal.retry_after_s
    if refusal.limit == "budget":
        in_usd = refusal.unit == "usd"
        needed, allowed = (
            (format_usd(demand.usd, is_price=True), format_usd(refusal.allowed, is_price=True))
            if in_usd
            else (f"{demand.tokens:,} tokens", f"{refusal.allowed:,.0f} tokens")
        )
        used = format_usd(refusal.used, is_price=True) if in_usd else f"{refusal.used:,.0f}"
        if not in_usd and demand.tokens > refusal.allowed:  # no wait helps; dollars are an estimate that may fall
            message = (
                f"This key's budget for a {refusal.period} is {allowed}, and this request may use {needed}."
                " Send a smaller max_tokens, or a shorter prompt."
            )
            return ApiError(400, message, code="insufficient_quota", param="max_tokens")
        cure = "Wait" if refusal.used >= refusal.allowed else "Send a smaller max_tokens, or wait"
        message = (
            f"This key has used or reserved {used} of {allowed} of its budget for this {refusal.period}, and this"
            f" request may use {needed}. {cure} for the next budget."
        )
        return ApiError(429, message, code="insufficient_quota", retry_after_s=wait)
    if refusal.limit == "concurrency":
        message = f"This key has {plural(round(refusal.used), 'open request')}, its limit. Wait until one has ended."
    elif refusal.limit == "requests":
        message = f"This key's limit is {refusal.allowed:,.0f} requests per minute. Try again in {wait} s."
    elif demand.tokens > refusal.allowed:  # no wait helps, and clients wait and try again by themselves after a 429
        message = (
            f"This request may use {demand.tokens:,} tokens; this key's limit is {refusal.allowed:,.0f} per minute."
            " Send a smaller max_tokens, or a shorter prompt."
        )
        return ApiError(400, message, code="rate_limit_exceeded", param="max_tokens")
    else:
        message = (
            f"This key's limit is {refusal.allowed:,.0f} tokens per minute,"
            f" {max(0, refusal.allowed - refusal.used):,.0f} of them left; this request may use {demand.tokens:,}. Try"
            f" again in {wait} s, or send a smaller max_tokens."
        )
    return ApiError(429, message, code="rate_limit_exceeded", retry_after_s=wait)
