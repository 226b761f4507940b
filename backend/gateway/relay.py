"""Relay one request: wake its endpoint, choose a replica, retry on another before the first token, stream, continue on
another where the first is lost, and record usage once.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from backend.domain.serving.protocol import (
    ANSWER_LIMIT,
    ENGINE_FAILED,
    INVALID,
    LEAVING,
    NOT_RESUMED,
    QUEUE_TIMEOUT,
    REQUEST_FAILED,
    UNKNOWN,
    Begun,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    GenerationErrorEvent,
    GenerationEvent,
    OpenEvent,
    TokenEvent,
)
from backend.errors import NotFound, Unavailable
from backend.gateway.balancer import Balancer, HealthProbe, Lease, conversation_of, order_by_variant, weigh
from backend.gateway.directory import Directory, ReplicaAddress
from backend.gateway.errors import (
    ApiError,
    failed_on_request,
    from_refusal,
    no_replica,
    replica_lost,
    unavailable,
    unknown_model,
    upstream_failed,
)
from backend.gateway.metrics import GatewayMetrics
from backend.gateway.request import ApiExchange, Events, Starting
from backend.gateway.shadow import Shadows
from backend.gateway.usage import UsageWriter
from backend.infra.openai_api.upstream import UpstreamClient
from backend.infra.replicas import ReplicaClient, ReplicaLost, ReplicaRefused
from backend.services.serving.autoscaling import Waking

MAX_RETRIES = 2
UNKNOWN_MODEL = "(unknown)"
MAX_BROKEN = 2
"""Replicas that a request may have brought down: it is sent to one more, since it may be innocent, then to none."""
REREAD_S = 0.5  # longer than the directory caches addresses of replicas
UNSEEN = {"connection", LEAVING}  # losses of a request that no engine has begun
FINAL = {ENGINE_FAILED, NOT_RESUMED}  # losses after which no other replica is tried
# ends of a request that are no fault of its replica
OWN = {QUEUE_TIMEOUT: 429, ANSWER_LIMIT: 504, INVALID: 400, REQUEST_FAILED: 500}
ELSEWHERE = {"queue_full", "draining"}  # refusals that another replica may not share


class Relay:
    """Relays generations from replicas and accounts for them."""

    def __init__(
        self,
        directory: Directory,
        *,
        client: ReplicaClient,
        upstreams: UpstreamClient,
        metrics: GatewayMetrics,
        usage: UsageWriter,
    ) -> None:
        self._directory, self._client, self._upstreams = directory, client, upstreams
        self._metrics, self._usage = metrics, usage
        self.balancer = Balancer()
        self.health = HealthProbe(self.balancer, client, upstreams)
        self.shadows = Shadows(directory, client)
        self._shares = BusyShares()

    async def generate(self, request: GenerateRequest, exchange: ApiExchange) -> Events:
        """Yield token events and the finish event. Raises ApiError, at any time; closing it cancels the generation."""
        try:
            replicas = await self._replicas(exchange)
        except ApiError as error:
            self.refuse(error, exchange)
            raise
        running = self._metrics.running.labels(exchange.endpoint)
        running.inc()
        exchange.copied = None if exchange.identity.is_synthetic else self.shadows.draw(exchange.endpoint, request)
        try:
            if not replicas:
                async with aclosing(self._wait(exchange)) as signs:
                    async for sign in signs:
                        yield sign
                replicas = await self._replicas(exchange)
            if not replicas:  # the first may be ready since the list was read
                replicas = await self._replicas_again(exchange)
            async with aclosing(self._try_replicas(replicas, request, exchange)) as events:
                async for event in events:
                    if not isinstance(event, Starting):
                        self._note(event, exchange)
                    yield event
            exchange.status = "finished"
            self._offer(exchange)
        except ApiError as error:
            self._fail(error, exchange)
            raise
        finally:
            running.dec()
            self._account(exchange)

    def refuse(self, error: ApiError, exchange: ApiExchange) -> None:
        """Account for a request that was refused before it was relayed."""
        self._fail(error, exchange)
        self._account(exchange)

    def _fail(self, error: ApiError, exchange: ApiExchange) -> None:
        exchange.status, exchange.refusal = "lost" if error.status >= 500 else "refused", error.code or ""
        self._metrics.failed.labels(self._label(exchange), exchange.refusal).inc()

    def _label(self, exchange: ApiExchange) -> str:
        """Return the label of an endpoint; of one that does not exist there are any number of names."""
        return UNKNOWN_MODEL if self._directory.known_replicas(exchange.endpoint) is None else exchange.endpoint

    def _offer(self, exchange: ApiExchange) -> None:
        if exchange.copied is not None:
            exchange.copied.ttft_ms, exchange.copied.total_ms = exchange.timing.ttft_ms, exchange.timing.total_ms
            self.shadows.offer(exchange.copied)
            self._metrics.shadow_dropped.set(self.shadows.num_dropped)

    async def _replicas(self, exchange: ApiExchange) -> list[ReplicaAddress]:
        """Return the ready replicas of an endpoint. Raises ApiError for an unknown one."""
        known = self._directory.known_replicas(exchange.endpoint)
        return await self._read_replicas(exchange) if known is None else list(known)

    async def _replicas_again(self, exchange: ApiExchange) -> list[ReplicaAddress]:
        """Return the ready replicas as read since a list that did not help."""
        await asyncio.sleep(REREAD_S)
        return await self._read_replicas(exchange)

    def _wait(self, exchange: ApiExchange) -> AsyncGenerator[Starting, None]:
        """Wait for the replicas of an endpoint that sleeps."""
        read = partial(self._replicas, exchange)
        return wait_for_replicas(
            self._directory, exchange.endpoint, read=read, is_streamed=exchange.identity.is_streamed
        )

    async def _read_replicas(self, exchange: ApiExchange) -> list[ReplicaAddress]:
        try:
            return list(await asyncio.to_thread(self._directory.replicas_for, exchange.endpoint))
        except NotFound as error:
            raise unknown_model(error) from error
        except Unavailable as error:
            raise unavailable(error) from error

    async def _try_replicas(
        self, replicas: list[ReplicaAddress], request: GenerateRequest, exchange: ApiExchange
    ) -> Events:
        last: ApiError | None = None
        tried: list[ReplicaAddress] = []
        broken = 0
        answer = Resumption(request)
        cost, affinity = weigh(request), conversation_of(request, exchange.identity.sticky)

        def choose() -> Lease | None:
            for variant in order_by_variant(replicas, sticky=exchange.identity.sticky, rng=self.balancer.rng):
                rest = [
                    replica
                    for replica in variant
                    if replica not in tried and not (replica.upstream and answer.is_possible)
                ]
                if (lease := self.balancer.acquire(rest, cost=cost, affinity=affinity)) is not None:
                    return lease
            return None

        for attempt in range(MAX_RETRIES + 1):
            lease = choose()
            if lease is None and replicas and (last is None or last.status != 429) and exchange.upstream is None:
                # They just stopped: their successors may not be in the cached list yet.
                replicas = await self._replicas_again(exchange)
                if not replicas and not exchange.has_begun:  # it has fallen asleep
                    async with aclosing(self._wait(exchange)) as signs:
                        async for sign in signs:
                            yield sign
                    replicas = await self._read_replicas(exchange)
                lease = choose()
            if lease is None:
                break
            replica = lease.replica
            tried.append(replica)
            if attempt:
                self._metrics.retries.labels(exchange.endpoint, (last.code if last else "") or "").inc()
            exchange.replica = replica
            began = self._shares.begin(replica.id)
            try:
                async with aclosing(self._open(replica, answer, exchange)) as events:
                    async for event in events:
                        answer.note(checked := _checked(event))
                        yield checked
                self.balancer.succeeded(replica)
                return
            except ReplicaLost as error:
                self.balancer.failed(replica)
                self._usage.add_lost(replica.id, error.reason)
                last = _lost(error, replica)
                broken += error.reason not in UNSEEN
                is_cut = exchange.has_begun and not answer.is_possible
                if is_cut or error.reason in FINAL or broken >= MAX_BROKEN:
                    raise last from error
            except ReplicaRefused as error:
                self.balancer.succeeded(replica)
                last = (
                    from_refusal(error)
                    if not exchange.has_begun or error.code in OWN or replica.upstream
                    else replica_lost()
                )
                if error.code not in ELSEWHERE:
                    raise last from error
            finally:
                self.balancer.release(lease)
                share_s = self._shares.end(replica.id, began)
                if replica.upstream is None:
                    exchange.consumed.add_device_time(share_s, self._directory.device_hour_usd(replica.id))
        raise last or no_replica(exchange.endpoint, silent=len(replicas))

    def _open(
        self, replica: ReplicaAddress, answer: Resumption, exchange: ApiExchange
    ) -> AsyncGenerator[GenerationEvent, None]:
        if replica.upstream is not None:
            name = f"The server of {exchange.endpoint!r}"
            return self._upstreams.stream(
                replica.upstream, name=name, request=answer.original, on_accept=exchange.accept
            )
        request = answer.request()
        if replica.adapter is not None:
            request = request.model_copy(update={"adapter": replica.adapter})
        return self._client.stream(replica.url, token=replica.token, request=request, on_accept=exchange.accept)

    def _note(self, event: OpenEvent | FinishEvent, exchange: ApiExchange) -> None:
        if isinstance(event, FinishEvent):
            exchange.finish = event
            exchange.consumed.finish(event)
            if event.queue_ms is not None:
                self._metrics.queue.labels(exchange.endpoint).observe(event.queue_ms / 1000)
            return
        gap_s = exchange.timing.note_token()
        if gap_s is None:
            self._metrics.ttft.labels(exchange.endpoint).observe(exchange.timing.ttft_s)
        else:
            self._metrics.inter_token.labels(exchange.endpoint).observe(gap_s)
        if isinstance(event, TokenEvent):
            exchange.note(event)

    def _account(self, exchange: ApiExchange) -> None:
        row = exchange.usage_row()
        self._usage.add(row)
        name, metrics = self._label(exchange), self._metrics
        metrics.prompt_tokens.labels(name).inc(row.prompt_tokens)
        metrics.generation_tokens.labels(name).inc(row.completion_tokens)
        metrics.cached_tokens.labels(name).inc(row.cached_tokens)
        metrics.cost.labels(name).inc(row.cost_usd or 0.0)
        metrics.resting.set(self.balancer.num_resting())
        if row.status == "finished":
            metrics.success.labels(name, exchange.finish.finish_reason.value if exchange.finish else "").inc()
            metrics.e2e.labels(name).observe(row.total_ms / 1000)
        elif row.status != "refused":
            metrics.aborted.labels(name, "client" if row.status == "aborted" else "replica").inc()


def _lost(error: ReplicaLost, replica: ReplicaAddress) -> ApiError:
    """Return the client's error for a loss."""
    if replica.upstream is not None:
        return upstream_failed(error.message)
    return failed_on_request(error.message) if error.reason == ENGINE_FAILED else replica_lost()


def _checked(event: GenerationEvent) -> OpenEvent | FinishEvent:
    """Return an event for the client; a replica that failed or stopped counts as lost, a failed request does not."""
    if isinstance(event, GenerationErrorEvent) and event.code in OWN:
        raise ReplicaRefused(event.message, status=OWN[event.code], code=event.code)
    if isinstance(event, GenerationErrorEvent):
        raise ReplicaLost(event.message, reason=event.code)
    if isinstance(event, FinishEvent) and event.finish_reason is FinishReason.CANCELLED:
        raise ReplicaLost("The replica was stopped in the middle of its answer.", reason="stopped")
    return event


LOOK_S = 0.25
SAY_S = 5.0  # proxies cut connections that are silent for a minute or less


async def wait_for_replicas(
    directory: Directory, endpoint: str, *, read: Callable[[], Awaitable[Sequence[ReplicaAddress]]], is_streamed: bool
) -> AsyncGenerator[Starting, None]:
    """Wake an endpoint that sleeps and wait until `read` returns a replica, or the request has waited for as long as it
    may.

    Ends at once for an endpoint that does not sleep. Raises what `read` does.
    """
    began = said = time.monotonic()
    waking = await _wake(directory, endpoint)
    if waking is None:
        return
    yield Starting(endpoint)
    until = began + (waking.stream_s if is_streamed else waking.whole_s)
    while not await read():
        if time.monotonic() >= until:
            return
        if time.monotonic() - said >= SAY_S:
            said = time.monotonic()
            yield Starting(endpoint)
            await _wake(directory, endpoint)  # it may have gone to sleep as the request came
        await asyncio.sleep(LOOK_S)


async def _wake(directory: Directory, endpoint: str) -> Waking | None:
    return await asyncio.to_thread(directory.wake, endpoint)


@dataclass
class _Replica:
    open: int = 0
    clock: float = 0.0  # integral of dt / open
    read_at: float = 0.0


class BusyShares:
    """A clock per replica that runs at 1 / (open requests). A request's share is the clock's advance between its start
    and its end, so the shares of all requests sum to the replica's busy time (processor sharing; Kleinrock, Queueing
    Systems II, 1976, section 4.4).
    """

    def __init__(self, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._replicas: dict[str, _Replica] = {}

    def begin(self, replica_id: str) -> float:
        """Count a request as open; return the reading to give to `end`."""
        replica = self._advance(replica_id)
        replica.open += 1
        return replica.clock

    def end(self, replica_id: str, began: float) -> float:
        """Count a request as ended; return the seconds of the replica that it took."""
        replica = self._advance(replica_id)
        share = replica.clock - began
        replica.open -= 1
        if replica.open == 0:
            del self._replicas[replica_id]
        return share

    def _advance(self, replica_id: str) -> _Replica:
        now = self._now()
        replica = self._replicas.setdefault(replica_id, _Replica(read_at=now))
        if replica.open:
            replica.clock += (now - replica.read_at) / replica.open
        replica.read_at = now
        return replica


SEED_BITS = 62


class Resumption:
    """A request as replicas get it: first itself, with a seed; after a loss with the beginning of its answer.

    Tokens are a function of prompt, seed and the tokens before them, so the continuation is what the lost replica would
    have sent, up to the rounding of another batch.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self.original = request
        self._request = _with_seed(request)
        self._ids: list[int] = []
        self._characters = 0

    @property
    def is_possible(self) -> bool:
        """Return whether a lost answer can be continued."""
        return self._request.can_be_resumed and bool(self._ids) and self._ids[0] != UNKNOWN

    def note(self, event: OpenEvent | FinishEvent) -> None:
        """Note an event that the client gets."""
        if isinstance(event, TokenEvent):
            self._ids += event.token_ids
            self._characters += event.num_characters

    def request(self) -> GenerateRequest:
        """Return the request for the next replica."""
        if not self.is_possible:
            return self._request
        return self._request.model_copy(
            update={"begun": Begun(token_ids=tuple(self._ids), characters=self._characters)}
        )


def _with_seed(request: GenerateRequest) -> GenerateRequest:
    """A replica would draw the seed itself; a second one could not know it."""
    if not request.can_be_resumed or request.params.seed is not None or request.params.temperature == 0:
        return request
    return request.model_copy(
        update={"params": request.params.model_copy(update={"seed": secrets.randbits(SEED_BITS)})}
    )
