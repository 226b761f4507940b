"""Relay one request: choose a replica, retry on another before the first token, stream, record usage once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

from backend.domain.serving.latency import bucket_of
from backend.domain.serving.protocol import (
    ANSWER_LIMIT,
    ENGINE_FAILED,
    INVALID,
    LEAVING,
    NOT_RESUMED,
    QUEUE_TIMEOUT,
    REQUEST_FAILED,
    ErrorEvent,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    OpenEvent,
    TokenEvent,
)
from backend.domain.serving.request_log import LOAD_TEST, LoggedBody
from backend.domain.serving.upstream import Upstream
from backend.errors import NotFound, Unavailable
from backend.gateway.balancing.balancer import Balancer, Lease
from backend.gateway.balancing.cost import conversation_of, estimate_tokens
from backend.gateway.balancing.health import HealthProbe
from backend.gateway.balancing.variants import order_by_variant
from backend.gateway.directory import Directory, Principal, ReplicaAddress
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
from backend.gateway.headers import REQUEST_ID
from backend.gateway.metrics import GatewayMetrics
from backend.gateway.resume import Resumption
from backend.gateway.shadow import Copy, Shadows
from backend.gateway.shares import BusyShares
from backend.gateway.usage import UsageWriter
from backend.gateway.waking import Events, Starting, wait_for_replicas
from backend.infra.replicas import ReplicaClient, ReplicaLost, ReplicaRefused
from backend.infra.upstream.client import UpstreamClient
from backend.services.serving.usage import UsageRow, UsageStatus

MAX_RETRIES = 2
MAX_BROKEN = (
    2  # replicas that a request may have brought down: it is sent to one more, since it may be innocent, then to none
)
REREAD_S = 0.5  # longer than the directory caches addresses of replicas
UNSEEN = {"connection", LEAVING}  # losses of a request that no engine has begun
FINAL = {ENGINE_FAILED, NOT_RESUMED}  # losses after which no other replica is tried
OWN = {
    QUEUE_TIMEOUT: 429,
    ANSWER_LIMIT: 504,
    INVALID: 400,
    REQUEST_FAILED: 500,
}  # ends of a request that are no fault of its replica
ELSEWHERE = {"queue_full", "draining"}  # refusals that another replica may not share


@dataclass
class Trace:
    """State of a request; becomes its usage row."""

    endpoint: str
    principal: Principal | None
    prefix: str  # of its id; a dash follows where it has no underscore of its own
    user: str = ""  # the client's own name for its user
    is_streamed: bool = False
    headers: dict[str, str] = field(default_factory=dict)  # of the answer
    id: str = ""
    started: float = field(default_factory=time.perf_counter)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    replica_id: str | None = None
    fingerprint: str = ""
    upstream: Upstream | None = None  # the other server that answers it
    variant: str = ""
    job_id: str | None = None  # the job of this installation that it is made for
    first_token: float | None = None
    last_token: float | None = None
    num_tokens: int = 0
    prompt_tokens: int = 0  # as the replica counted them when it accepted the request
    gaps: dict[int, int] = field(default_factory=dict)  # times between tokens, counted by bucket
    device_s: float = 0.0
    device_usd: float = 0.0
    is_priced: bool = False
    is_synthetic: bool = False  # of a load test
    logged: LoggedBody | None = None  # what the request log takes of it
    copied: Copy | None = None  # what a shadow gets of it
    finish: FinishEvent | None = None
    status: UsageStatus = "aborted"
    refusal: str = ""  # the code of the error that refused or ended it

    def __post_init__(self) -> None:
        self.id = self.headers[REQUEST_ID] = (
            f"{self.prefix}{'' if self.prefix.endswith('_') else '-'}{uuid4().hex[:24]}"
        )

    @property
    def ttft_ms(self) -> float | None:
        """Return milliseconds from the request's arrival to its first token."""
        return None if self.first_token is None else round((self.first_token - self.started) * 1000, 2)

    @property
    def sticky(self) -> str:
        """Return the name that keeps a user on one variant: the client's user, else its key, else nothing."""
        return self.user or (self.principal.key_id if self.principal else "")

    def timings(self) -> dict[str, float | None]:
        """Return what the non-standard field `timings` of an answer carries."""
        return {"ttft_ms": self.ttft_ms, "tok_per_sec": self.finish.tok_per_sec if self.finish else None}

    def accepted(self, prompt_tokens: int) -> None:
        """Note the size of the prompt, as the replica that accepted it counted it."""
        self.prompt_tokens = prompt_tokens

    def took(self, seconds: float, hour_usd: float | None) -> None:
        """Add device time at the price of an hour, None where there is none."""
        self.device_s += seconds
        if hour_usd is not None:
            self.is_priced = True
            self.device_usd += seconds * hour_usd / 3600

    def cost_usd(self) -> float:
        """Return the price of the device time that the request took, or of its tokens at another server; 0 where no
        price is set.
        """
        return self._price() or 0.0

    def usage_row(self) -> UsageRow:
        """Return the row to be stored. A request that was cut off counts its prompt, if a replica accepted it, and the
        relayed tokens.
        """
        return UsageRow(
            id=self.id,
            endpoint=self.endpoint,
            key_id=self.principal.key_id if self.principal else None,
            replica_id=self.replica_id,
            prompt_tokens=self.finish.usage.prompt_tokens if self.finish else self.prompt_tokens,
            completion_tokens=self.finish.usage.completion_tokens if self.finish else self.num_tokens,
            cached_tokens=self.finish.usage.cached_tokens if self.finish else 0,
            ttft_ms=self.ttft_ms,
            total_ms=round((time.perf_counter() - self.started) * 1000, 2),
            itl_ms=self._mean_gap_ms(),
            queue_ms=self.finish.queue_ms if self.finish else None,
            variant=LOAD_TEST if self.is_synthetic else self.variant,
            job_id=self.job_id,
            gaps=self.gaps,
            device_s=self.device_s,
            cost_usd=self._price(),
            finish_reason=self.finish.finish_reason.value if self.finish else self.refusal[:20] or None,
            logged=self.logged,
            status=self.status,
            created_at=self.created_at,
        )

    def _price(self) -> float | None:
        if self.upstream is None:
            return self.device_usd if self.is_priced else None
        usage = self.finish.usage if self.finish else None
        prompt, completion = (
            (usage.prompt_tokens, usage.completion_tokens) if usage else (self.prompt_tokens, self.num_tokens)
        )
        return self.upstream.cost_usd(prompt, completion)

    def _mean_gap_ms(self) -> float | None:
        if self.first_token is None or self.last_token is None or not self.gaps:
            return None
        return round((self.last_token - self.first_token) * 1000 / sum(self.gaps.values()), 3)


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
        self._directory, self._client, self._upstreams, self._metrics, self._usage = (
            directory,
            client,
            upstreams,
            metrics,
            usage,
        )
        self.balancer = Balancer()
        self.health = HealthProbe(self.balancer, client, upstreams)
        self.shadows = Shadows(directory, client)
        self._shares = BusyShares()

    async def generate(self, request: GenerateRequest, trace: Trace) -> Events:
        """Yield token events and the finish event. Raises ApiError, at any time; closing the iterator cancels the
        generation.
        """
        replicas = await self._replicas(trace)
        running = self._metrics.running.labels(trace.endpoint)
        running.inc()
        trace.copied = None if trace.is_synthetic else self.shadows.draw(trace.endpoint, request)
        try:
            if not replicas:
                async with aclosing(self._wait(trace)) as signs:
                    async for sign in signs:
                        yield sign
                replicas = await self._replicas(trace)
            if not replicas:  # the first may be ready since the list was read
                replicas = await self._replicas_again(trace)
            async with aclosing(self._try_replicas(replicas, request, trace)) as events:
                async for event in events:
                    if not isinstance(event, Starting):
                        self._note(event, trace)
                    yield event
            trace.status = "finished"
            self._offer(trace)
        except ApiError as error:
            self._fail(error, trace)
            raise
        finally:
            running.dec()
            self._account(trace)

    def refuse(self, error: ApiError, trace: Trace) -> None:
        """Account for a request that was refused before it was relayed. One for an endpoint that does not exist leaves
        no trace: a client can think of any number of names.
        """
        if self._directory.known_replicas(trace.endpoint) is not None:
            self._fail(error, trace)
            self._account(trace)

    def _fail(self, error: ApiError, trace: Trace) -> None:
        trace.status, trace.refusal = "lost" if error.status >= 500 else "refused", error.code or ""
        self._metrics.failed.labels(trace.endpoint, trace.refusal).inc()

    def _offer(self, trace: Trace) -> None:
        if trace.copied is not None:
            trace.copied.ttft_ms, trace.copied.total_ms = (
                trace.ttft_ms,
                round((time.perf_counter() - trace.started) * 1000, 2),
            )
            self.shadows.offer(trace.copied)
            self._metrics.shadow_dropped.set(self.shadows.num_dropped)

    async def _replicas(self, trace: Trace) -> list[ReplicaAddress]:
        """Return the ready replicas of an endpoint. Raises ApiError for an unknown one."""
        known = self._directory.known_replicas(trace.endpoint)
        return await self._read_replicas(trace) if known is None else list(known)

    async def _replicas_again(self, trace: Trace) -> list[ReplicaAddress]:
        """Return the ready replicas as read since a list that did not help."""
        await asyncio.sleep(REREAD_S)
        return await self._read_replicas(trace)

    def _wait(self, trace: Trace) -> AsyncGenerator[Starting, None]:
        """Wait for the replicas of an endpoint that sleeps."""
        read = partial(self._replicas, trace)
        return wait_for_replicas(self._directory, trace.endpoint, read=read, is_streamed=trace.is_streamed)

    async def _read_replicas(self, trace: Trace) -> list[ReplicaAddress]:
        try:
            return list(await asyncio.to_thread(self._directory.replicas_for, trace.endpoint))
        except NotFound as error:
            raise unknown_model(error, name=trace.endpoint) from error
        except Unavailable as error:
            raise unavailable(error) from error

    async def _try_replicas(self, replicas: list[ReplicaAddress], request: GenerateRequest, trace: Trace) -> Events:
        last: ApiError | None = None
        tried: list[ReplicaAddress] = []
        broken = 0
        answer = Resumption(request)
        cost, affinity = estimate_tokens(request), conversation_of(request, trace.sticky)

        def choose() -> Lease | None:
            for variant in order_by_variant(replicas, sticky=trace.sticky, rng=self.balancer.rng):
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
            if lease is None and replicas and (last is None or last.status != 429) and trace.upstream is None:
                # They just stopped: their successors may not be in the cached list yet.
                replicas = await self._replicas_again(trace)
                if not replicas and trace.first_token is None:  # it has fallen asleep
                    async with aclosing(self._wait(trace)) as signs:
                        async for sign in signs:
                            yield sign
                    replicas = await self._read_replicas(trace)
                lease = choose()
            if lease is None:
                break
            replica = lease.replica
            tried.append(replica)
            if attempt:
                self._metrics.retries.labels(trace.endpoint, (last.code if last else "") or "").inc()
            trace.replica_id, trace.variant, trace.upstream = replica.id, replica.variant, replica.upstream
            trace.fingerprint = replica.fingerprint
            began = self._shares.begin(replica.id)
            try:
                async with aclosing(self._open(replica, answer, trace)) as events:
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
                is_cut = trace.first_token is not None and not answer.is_possible
                if is_cut or error.reason in FINAL or broken >= MAX_BROKEN:
                    raise last from error
            except ReplicaRefused as error:
                self.balancer.succeeded(replica)
                last = (
                    from_refusal(error)
                    if trace.first_token is None or error.code in OWN or replica.upstream
                    else replica_lost()
                )
                if error.code not in ELSEWHERE:
                    raise last from error
            finally:
                self.balancer.release(lease)
                share_s = self._shares.end(replica.id, began)
                if replica.upstream is None:
                    trace.took(share_s, self._directory.device_hour_usd(replica.id))
        raise last or no_replica(trace.endpoint, silent=len(replicas))

    def _open(self, replica: ReplicaAddress, answer: Resumption, trace: Trace) -> AsyncGenerator[GenerationEvent, None]:
        if replica.upstream is not None:
            name = f"The server of {trace.endpoint!r}"
            return self._upstreams.stream(
                replica.upstream, name=name, request=answer.original, on_accept=trace.accepted
            )
        request = answer.request()
        if replica.adapter is not None:
            request = request.model_copy(update={"adapter": replica.adapter})
        return self._client.stream(replica.url, token=replica.token, request=request, on_accept=trace.accepted)

    def _note(self, event: OpenEvent | FinishEvent, trace: Trace) -> None:
        now = time.perf_counter()
        if isinstance(event, FinishEvent):
            trace.finish = event
            if event.queue_ms is not None:
                self._metrics.queue.labels(trace.endpoint).observe(event.queue_ms / 1000)
            return
        if trace.first_token is None:
            trace.first_token = now
            self._metrics.ttft.labels(trace.endpoint).observe(now - trace.started)
        elif trace.last_token is not None:
            gap = now - trace.last_token
            self._metrics.inter_token.labels(trace.endpoint).observe(gap)
            bucket = bucket_of(gap)
            trace.gaps[bucket] = trace.gaps.get(bucket, 0) + 1
        trace.last_token = now
        if isinstance(event, TokenEvent):
            if trace.logged is not None and event.choice == 0:
                trace.logged.add(event.text)
            if trace.copied is not None:
                trace.copied.add(event)
            trace.num_tokens += len(event.token_ids)

    def _account(self, trace: Trace) -> None:
        row = trace.usage_row()
        self._usage.add(row)
        name, metrics = trace.endpoint, self._metrics
        metrics.prompt_tokens.labels(name).inc(row.prompt_tokens)
        metrics.generation_tokens.labels(name).inc(row.completion_tokens)
        metrics.cached_tokens.labels(name).inc(row.cached_tokens)
        metrics.cost.labels(name).inc(row.cost_usd or 0.0)
        metrics.resting.set(self.balancer.num_resting())
        if row.status == "finished":
            metrics.success.labels(name, trace.finish.finish_reason.value if trace.finish else "").inc()
            metrics.e2e.labels(name).observe(row.total_ms / 1000)
        elif row.status != "refused":
            metrics.aborted.labels(name, "client" if row.status == "aborted" else "replica").inc()


def _lost(error: ReplicaLost, replica: ReplicaAddress) -> ApiError:
    """Return the client's error for a loss."""
    if replica.upstream is not None:
        return upstream_failed(error.message)
    return failed_on_request(error.message) if error.reason == ENGINE_FAILED else replica_lost()


def _checked(event: GenerationEvent) -> OpenEvent | FinishEvent:
    """Return an event for the client; a replica that failed or was stopped counts as lost, one whose request failed
    does not.
    """
    if isinstance(event, ErrorEvent) and event.code in OWN:
        raise ReplicaRefused(event.message, status=OWN[event.code], code=event.code)
    if isinstance(event, ErrorEvent):
        raise ReplicaLost(event.message, reason=event.code)
    if isinstance(event, FinishEvent) and event.finish_reason is FinishReason.CANCELLED:
        raise ReplicaLost("The replica was stopped in the middle of its answer.", reason="stopped")
    return event
