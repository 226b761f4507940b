"""Browse requests: filters and pages in SQL, one request in full, and files of them.

An admin sees every request. Others see those of their own keys and of endpoints that they deployed; the name of another
person's key is left out for them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import String, and_, cast, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import ApiKey, Checkpoint, Deployment, Endpoint, LoggedRequest, Replica, Usage
from backend.domain.attributes import view_of
from backend.domain.csv_text import safe_cell
from backend.domain.json_values import JsonObject
from backend.domain.serving.latency import decode_rate
from backend.domain.serving.request_log import LOAD_TEST, NO_ENDPOINT
from backend.errors import NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.serving.endpoints import replica_numbers
from backend.services.serving.feedback import feedback_of_requests
from backend.services.serving.prices import request_costs
from backend.services.serving.replicas import STABLE

PAGE_SIZE = 25
MAX_EXPORTED = 10_000
STATUSES = ("finished", "aborted", "lost", "refused")


@dataclass(frozen=True)
class RequestFilter:
    """Limits of a list of requests; empty fields limit nothing, but load tests are left out unless they are the
    variant. `text` is searched in logged prompts and answers.
    """

    endpoint: str = ""
    variant: str = ""
    key_id: str = ""
    status: str = ""
    min_total_ms: float | None = None
    min_ttft_ms: float | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""


@dataclass(frozen=True)
class RequestRow:
    """One request of a list, or several `requests` that were refused alike. `endpoint` says so where there is none;
    `has_endpoint` is false then. `key` is None without a key, or where it is another person's. `messages` and `answer`
    are what the log holds.
    """

    id: str
    created_at: datetime
    endpoint: str
    variant: str
    key: str | None
    status: str
    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_ms: float | None
    itl_ms: float | None
    queue_ms: float | None
    total_ms: float | None
    cost_usd: float | None
    messages: list[JsonObject] | None
    answer: str | None
    rating: int | None
    requests: int = 1
    has_endpoint: bool = True


@dataclass(frozen=True)
class RequestPage:
    """A page of requests, newest first; `next` is where the following page begins, None on the last."""

    rows: tuple[RequestRow, ...]
    next: str | None


@dataclass(frozen=True)
class RequestDetail:
    """A request with all that is known of it. `address` is the replica's, for admins alone. `params` are its sampling
    parameters where they were logged.
    """

    row: RequestRow
    replica: str | None
    address: str | None
    checkpoint: str | None
    checkpoint_id: str | None
    device_s: float | None
    params: dict[str, object] = field(default_factory=dict)
    redactions: int = 0
    is_logged: bool = False
    expires_at: datetime | None = None
    correction: str = ""
    comment: str = ""

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens a second after the first one; None where unknown, or where the answer arrived in one piece."""
        row = self.row
        if row.ttft_ms is None or row.total_ms is None or row.itl_ms is None:
            return None
        return decode_rate(row.completion_tokens - 1, (row.total_ms - row.ttft_ms) / 1000)


def browse_requests(
    ctx: Context, filters: RequestFilter, *, person: Person, after: str | None = None, limit: int = PAGE_SIZE
) -> RequestPage:
    """Return a page of the requests that a person may see, newest first."""
    require_builder(person)
    query = _visible_to(person).where(*_conditions(filters))
    if after is not None:
        at, _, last = after.partition("/")
        moment = datetime.fromisoformat(at)
        query = query.where(or_(Usage.created_at < moment, and_(Usage.created_at == moment, Usage.id < last)))
    with ctx.db.read() as session:
        matches = session.execute(query.order_by(Usage.created_at.desc(), Usage.id.desc()).limit(limit + 1)).all()
        costs = request_costs(session, ctx, [usage.id for usage, *_ in matches[:limit]])
        rows = [_row(session, person, costs, *parts) for parts in matches[:limit]]
    more = f"{rows[-1].created_at.isoformat()}/{rows[-1].id}" if len(matches) > limit else None
    return RequestPage(tuple(_rated(ctx, rows)), more)


def get_request(ctx: Context, request_id: str, *, person: Person) -> RequestDetail:
    """Return one request. Raises NotFound, for one that the person may not see too."""
    require_builder(person)
    with ctx.db.read() as session:
        parts = session.execute(_visible_to(person).where(Usage.id == request_id)).one_or_none()
        if parts is None:
            raise NotFound(f"There is no request {request_id!r}.", remedy="Choose one of the list.", field="request")
        usage, logged = parts[0], parts[4]
        row = _row(session, person, request_costs(session, ctx, [request_id]), *parts)
        replica = session.get(Replica, usage.replica_id) if usage.replica_id else None
        checkpoint = session.get(Checkpoint, usage.checkpoint_id) if usage.checkpoint_id else None
        said = feedback_of_requests(session, [request_id]).get(request_id)
        return RequestDetail(
            row=replace(row, rating=None if said is None else said.rating),
            replica=None if replica is None else _replica_name(session, replica),
            address=replica.url if replica is not None and person.is_admin else None,
            checkpoint=None if checkpoint is None else checkpoint.name,
            checkpoint_id=usage.checkpoint_id if checkpoint is not None else None,
            device_s=usage.device_s,
            params=dict(logged.params) if logged is not None else {},
            redactions=0 if logged is None else logged.redactions,
            is_logged=logged is not None,
            expires_at=None if logged is None else logged.expires_at,
            correction="" if said is None else said.correction,
            comment="" if said is None else said.comment,
        )


def list_key_names(ctx: Context, *, person: Person) -> dict[str, str]:
    """Return the names of the keys by which a person may filter."""
    query = select(ApiKey.id, ApiKey.name).order_by(ApiKey.name)
    with ctx.db.read() as session:
        return dict(session.execute(query if person.is_admin else query.where(ApiKey.user_id == person.id)).all())


def requests_csv(ctx: Context, filters: RequestFilter, *, person: Person) -> str:
    """Return the metadata of up to 10,000 requests as CSV; texts are in the JSON lines alone."""
    out = io.StringIO()
    names = [name for name in RequestRow.__dataclass_fields__ if name not in {"messages", "answer"}]
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    for row in browse_requests(ctx, filters, person=person, limit=MAX_EXPORTED).rows:
        writer.writerow({name: safe_cell(getattr(row, name)) for name in names})
    return out.getvalue()


def requests_jsonl(ctx: Context, filters: RequestFilter, *, person: Person) -> str:
    """Return up to 10,000 requests with the texts that are logged, as JSON lines."""
    rows = browse_requests(ctx, filters, person=person, limit=MAX_EXPORTED).rows
    return "".join(json.dumps(asdict(row), default=str, ensure_ascii=False) + "\n" for row in rows)


def _replica_name(session: Session, replica: Replica) -> str:
    deployment = session.get_one(Deployment, replica.deployment_id)
    number = replica_numbers(session, [deployment.id])[replica.id]
    return f"replica {number} of revision {deployment.revision}"


def _visible_to(person: Person) -> Any:
    return (
        select(Usage, Endpoint.name, ApiKey.name, ApiKey.user_id, LoggedRequest)
        .outerjoin(Endpoint, Endpoint.id == Usage.endpoint_id)
        .outerjoin(ApiKey, ApiKey.id == Usage.key_id)
        .outerjoin(LoggedRequest, LoggedRequest.id == Usage.id)
        .where(_visible(person))
    )


def _visible(person: Person) -> Any:
    if person.is_admin:
        return Usage.id.is_not(None)
    return or_(ApiKey.user_id == person.id, Endpoint.created_by == person.id)


def _conditions(filters: RequestFilter) -> Iterator[Any]:
    equal = ((Endpoint.name, filters.endpoint), (Usage.key_id, filters.key_id), (Usage.status, filters.status))
    yield from (column == value for column, value in equal if value)
    least = (
        (Usage.total_ms, filters.min_total_ms),
        (Usage.ttft_ms, filters.min_ttft_ms),
        (Usage.created_at, filters.since),
    )
    yield from (column >= value for column, value in least if value is not None)
    if not filters.variant:
        yield Usage.variant != LOAD_TEST
    else:
        yield Usage.variant.in_(("", STABLE) if filters.variant == STABLE else (filters.variant,))
    if filters.until is not None:
        yield Usage.created_at < filters.until
    if text := filters.text.replace("\0", ""):  # PostgreSQL has no text with a NUL
        in_json = json.dumps(text)[1:-1]  # as the column stores it
        yield or_(
            LoggedRequest.answer.icontains(text, autoescape=True),
            cast(LoggedRequest.messages, String).icontains(in_json, autoescape=True),
            Usage.id == text,
        )


def _row(
    session: Session,
    person: Person,
    costs: Mapping[str, float],
    usage: Usage,
    endpoint: str | None,
    key: str | None,
    owner: str | None,
    logged: LoggedRequest | None,
) -> RequestRow:
    may_name = person.is_admin or (owner is not None and owner == person.id)
    return view_of(
        RequestRow,
        usage,
        endpoint=endpoint or _unknown_endpoint(usage),
        variant=variant_name(session, usage.variant) if endpoint or usage.variant else "",
        has_endpoint=endpoint is not None,
        key=key if may_name else None,
        messages=None if logged is None or logged.messages is None else list(logged.messages),
        answer=None if logged is None else logged.answer,
        rating=None,
        cost_usd=costs.get(usage.id),
        requests=usage.requests,
    )


def _unknown_endpoint(usage: Usage) -> str:
    """Return what stands in place of an endpoint: the name that was asked for, where there was one."""
    if usage.status != "refused":
        return "(deleted)"
    return f"{usage.asked_model} (no such endpoint)" if usage.asked_model else NO_ENDPOINT


def variant_name(session: Session, variant: str) -> str:
    """Return a variant as a person reads it: stable, or the revision of a canary."""
    if variant in ("", STABLE):
        return STABLE
    deployment = session.get(Deployment, variant)
    return variant if deployment is None else f"canary, revision {deployment.revision}"


def _rated(ctx: Context, rows: list[RequestRow]) -> list[RequestRow]:
    with ctx.db.read() as session:
        given = feedback_of_requests(session, [row.id for row in rows])
    return [replace(row, rating=given[row.id].rating) if row.id in given else row for row in rows]
