"""One request on its way through the gateway: its identity, the times of its tokens, its consumption, and its body on
the way to the request log.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.domain.json_values import JsonObject
from backend.domain.serving.key_limits import KeyLimits
from backend.domain.serving.latency import bucket_of
from backend.domain.serving.protocol import Accepted, FinishEvent, GenerateRequest, OpenEvent, TokenEvent
from backend.domain.serving.request_log import JOB, LOAD_TEST, OPT_OUT, LoggedBody, LogMode
from backend.domain.serving.upstream import Upstream
from backend.gateway.directory import Principal, ReplicaAddress, name_tenant
from backend.gateway.limits import WINDOW_S, Counted, Refusal
from backend.gateway.shadow import Copy
from backend.services.serving.usage import UsageRow, UsageStatus


@dataclass(frozen=True)
class Starting:
    """A sign of life while an endpoint's replicas start; a stream carries it as a comment."""

    endpoint: str


Progress = OpenEvent | FinishEvent | Starting
Events = AsyncGenerator[Progress, None]


@dataclass(frozen=True)
class Identity:
    """Client and endpoint of a request, as known when it arrives. `address` is the client's, `user` its own name for
    its user, `job_id` the job of this installation that it is made for.
    """

    id: str
    endpoint: str
    principal: Principal | None = None
    address: str = ""
    user: str = ""
    is_streamed: bool = False
    is_synthetic: bool = False
    job_id: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def sticky(self) -> str:
        """Return the name that keeps a user on one variant: the client's user, else its key, else nothing."""
        return self.user or (self.principal.key_id if self.principal else "")

    @property
    def tenant(self) -> str:
        """Return the name without meaning under which replicas know the client. Without a key it is known by its
        address, and by its job or user where it names one.
        """
        if self.principal is not None:
            return self.principal.tenant(self.user)
        return name_tenant(f"address:{self.address}/{self.job_id or self.user}")


@dataclass
class TokenTiming:
    """Times of the tokens, by the clock of time.perf_counter. `gaps` counts the times between tokens by bucket."""

    started: float = field(default_factory=time.perf_counter)
    first_token: float | None = None
    last_token: float | None = None
    gaps: dict[int, int] = field(default_factory=dict)

    def note_token(self) -> float | None:
        """Note a token that comes now; return the seconds since the last one, None for the first."""
        now, last = time.perf_counter(), self.last_token
        self.last_token = now
        if last is None:
            self.first_token = now
            return None
        bucket = bucket_of(now - last)
        self.gaps[bucket] = self.gaps.get(bucket, 0) + 1
        return now - last

    @property
    def ttft_s(self) -> float:
        """Return seconds from the request's arrival to its first token; NaN before it."""
        return math.nan if self.first_token is None else self.first_token - self.started

    @property
    def ttft_ms(self) -> float | None:
        """Return milliseconds from the request's arrival to its first token."""
        return None if self.first_token is None else round(self.ttft_s * 1000, 2)

    @property
    def total_ms(self) -> float:
        """Return milliseconds since the request's arrival."""
        return round((time.perf_counter() - self.started) * 1000, 2)

    @property
    def mean_gap_ms(self) -> float | None:
        """Return the mean of the times between tokens in milliseconds."""
        if self.first_token is None or self.last_token is None or not self.gaps:
            return None
        return round((self.last_token - self.first_token) * 1000 / sum(self.gaps.values()), 3)


@dataclass
class Consumption:
    """Tokens and device time. A request that is cut off counts its prompt, if a replica accepted it, and the relayed
    tokens; a finished one the replica's own counts. Device time has a price once a priced device gave some."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    device_s: float = 0.0
    device_usd: float | None = None

    def finish(self, finish: FinishEvent) -> None:
        """Take the counts of a finished answer."""
        self.prompt_tokens, self.completion_tokens = finish.usage.prompt_tokens, finish.usage.completion_tokens
        self.cached_tokens = finish.usage.cached_tokens

    def add_device_time(self, seconds: float, hour_usd: float | None) -> None:
        """Add device time at the price of an hour, None where there is none."""
        self.device_s += seconds
        if hour_usd is not None:
            self.device_usd = (self.device_usd or 0.0) + seconds * hour_usd / 3600

    def usd(self, upstream: Upstream | None) -> float | None:
        """Return the price of the device time, or of the tokens at another server; None where no price is set."""
        return self.device_usd if upstream is None else upstream.cost_usd(self.prompt_tokens, self.completion_tokens)


@dataclass
class ApiExchange:
    """A request and its answer; becomes a usage row. `replica` is the one that answers, or was the last to be tried."""

    identity: Identity
    headers: dict[str, str] = field(default_factory=dict)  # of the answer
    timing: TokenTiming = field(default_factory=TokenTiming)
    consumed: Consumption = field(default_factory=Consumption)
    replica: ReplicaAddress | None = None
    logged: LoggedBody | None = None  # its part in the request log
    copied: Copy | None = None  # its copy for a shadow
    finish: FinishEvent | None = None
    status: UsageStatus = "aborted"
    refusal: str = ""  # the code of the error that refused or ended it
    warning: str = ""  # for who reads the answer

    def __post_init__(self) -> None:
        self.headers[REQUEST_ID] = self.identity.id

    @property
    def id(self) -> str:
        """Return the request's id, which its answer carries."""
        return self.identity.id

    @property
    def endpoint(self) -> str:
        """Return the endpoint that it asks."""
        return self.identity.endpoint

    @property
    def has_begun(self) -> bool:
        """Return whether the client has a token."""
        return self.timing.first_token is not None

    @property
    def fingerprint(self) -> str:
        """Return what names the weights that answer."""
        return "" if self.replica is None else self.replica.fingerprint

    @property
    def upstream(self) -> Upstream | None:
        """Return the other server that answers."""
        return None if self.replica is None else self.replica.upstream

    def accept(self, accepted: Accepted) -> None:
        """Note that a replica accepted the request; the answer warns of tools that the network is not offered."""
        self.consumed.prompt_tokens = accepted.prompt_tokens
        if accepted.has_no_tools:
            self.warning = self.headers[WARNING] = TOOLS_WARNING

    def note(self, event: TokenEvent) -> None:
        """Note new tokens of the answer."""
        if self.logged is not None and event.choice == 0:
            self.logged.add(event.text)
        if self.copied is not None:
            self.copied.add(event)
        self.consumed.completion_tokens += len(event.token_ids)

    def additions(self) -> dict[str, object]:
        """Return the non-standard fields of an answer: `timings`, and `warnings` where there are any."""
        timings = {"ttft_ms": self.timing.ttft_ms, "tok_per_sec": self.finish.tok_per_sec if self.finish else None}
        return {"timings": timings, **({"warnings": [self.warning]} if self.warning else {})}

    def usage_row(self) -> UsageRow:
        """Return the row to be stored."""
        identity, consumed, replica = self.identity, self.consumed, self.replica
        return UsageRow(
            id=identity.id,
            endpoint=identity.endpoint,
            key_id=identity.principal.key_id if identity.principal else None,
            replica_id=replica.id if replica else None,
            prompt_tokens=consumed.prompt_tokens,
            completion_tokens=consumed.completion_tokens,
            cached_tokens=consumed.cached_tokens,
            ttft_ms=self.timing.ttft_ms,
            total_ms=self.timing.total_ms,
            itl_ms=self.timing.mean_gap_ms,
            queue_ms=self.finish.queue_ms if self.finish else None,
            variant=LOAD_TEST if identity.is_synthetic else replica.variant if replica else "",
            job_id=identity.job_id,
            gaps=self.timing.gaps,
            device_s=consumed.device_s,
            cost_usd=consumed.usd(self.upstream),
            finish_reason=self.finish.finish_reason.value if self.finish else self.refusal[:40] or None,
            logged=self.logged,
            status=self.status,
            created_at=identity.created_at,
        )


def make_request_id(prefix: str) -> str:
    """Return an id with a prefix; a dash follows one without an underscore of its own."""
    return f"{prefix}{'' if prefix.endswith('_') else '-'}{uuid4().hex[:24]}"


REQUEST_ID = "x-request-id"
WARNING = "x-roundhouse-warning"
TOOLS_WARNING = "The model has no chat template, so tool_choice auto offers it no tools; required does."
STATE = "answer_headers"


class AnswerHeaders:
    """Pure ASGI middleware around everything else, so that answers to crashes have the headers too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request; add what its route noted by the time that its answer begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[str, str] = {REQUEST_ID: f"req-{uuid4().hex[:24]}"}
        scope.setdefault("state", {})[STATE] = headers

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in headers.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def headers_of(request: Request) -> dict[str, str]:
    """Return the headers that the answer to a request will have; a route adds to them."""
    headers: dict[str, str] = getattr(request.state, STATE)
    return headers


def limit_headers(limits: KeyLimits, counted: Counted | Refusal) -> dict[str, str]:
    """Return OpenAI's headers of a key's limits per minute. A limit is whole again a minute after the last request."""
    headers = {}
    for name, limit in (("requests", limits.requests), ("tokens", limits.tokens)):
        if limit is None:
            continue
        headers[f"x-ratelimit-limit-{name}"] = str(limit)
        if isinstance(counted, Counted):
            used, reset_s = getattr(counted, name), WINDOW_S
        elif counted.limit == name:
            used, reset_s = counted.used, counted.retry_after_s
        else:
            continue
        headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(limit - used)))
        headers[f"x-ratelimit-reset-{name}"] = f"{reset_s}s"
    return headers


JOB_ID = re.compile(r"[0-9a-z]{12}")
OFF = {"off", "0", "false", "no"}


def job_of(http: Request) -> str | None:
    """Return the job that a request names as the one it is made for; None for a header that is not an id."""
    job = http.headers.get(JOB, "")
    return job if JOB_ID.fullmatch(job) else None


def body_to_log(
    mode: LogMode, http: Request, request: GenerateRequest, *, kind: Literal["chat", "text"]
) -> LoggedBody | None:
    """Return what the log takes of a request: nothing where its endpoint logs nothing or the client opts out."""
    if mode == "off" or http.headers.get(OPT_OUT, "").strip().lower() in OFF:
        return None
    params = request.params.model_dump(mode="json", exclude_defaults=True, exclude={"logit_bias", "constraint"})
    return LoggedBody(kind=kind, params=params, messages=_messages(request) if mode == "bodies" else None)


def _messages(request: GenerateRequest) -> list[JsonObject]:
    if request.messages is not None:
        return [message.as_dict() for message in request.messages]
    texts = (
        [request.prompt]
        if request.prompt is not None
        else [prompt for prompt in request.prompts or () if isinstance(prompt, str)]
    )
    return [{"role": "user", "content": text} for text in texts]
