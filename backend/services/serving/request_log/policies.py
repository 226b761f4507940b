"""Settings of request logs: set, read, applied to requests; expired requests are erased."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Endpoint, LoggedRequest, RequestLogPolicy
from backend.domain.serving.request_log import LoggedBody, LogMode, RequestLogConfig, redact
from backend.services.context import Context, Person
from backend.services.serving.endpoints import endpoints_of_aliases, find_endpoint, find_own_endpoint, served_adapters


@retry_races
def set_log_policy(ctx: Context, name: str, config: RequestLogConfig, *, person: Person) -> None:
    """Set what an endpoint logs from now on. Switching bodies off, or the log, erases the bodies that are stored.

    Raises NotAllowed for anyone but the endpoint's owner and admins, who alone read the texts.
    """
    with ctx.db.erase() as session:
        endpoint = find_own_endpoint(session, name, person=person)
        policy = session.get(RequestLogPolicy, endpoint.id)
        if policy is None:
            policy = RequestLogPolicy(endpoint_id=endpoint.id)
            session.add(policy)
        policy.config, policy.updated_at = config, ctx.now()
        stored = LoggedRequest.endpoint_id == endpoint.id
        if config.mode == "off":
            session.execute(delete(LoggedRequest).where(stored))
        elif config.mode == "metadata":
            for row in session.scalars(select(LoggedRequest).where(stored, LoggedRequest.messages.is_not(None))):
                row.messages, row.answer = None, None
        last = timedelta(days=config.retention_days)
        for row in session.scalars(select(LoggedRequest).where(stored)):
            row.expires_at = row.created_at + last


def get_log_policy(ctx: Context, name: str) -> RequestLogConfig:
    """Return the settings of an endpoint's log."""
    with ctx.db.read() as session:
        policy = session.get(RequestLogPolicy, find_endpoint(session, name).id)
        return policy.config if policy is not None else RequestLogConfig()


def log_modes(ctx: Context) -> dict[str, LogMode]:
    """Return the mode of every endpoint and alias that logs."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Endpoint.name, RequestLogPolicy.config).join(Endpoint, Endpoint.id == RequestLogPolicy.endpoint_id)
        )
        modes = {name: config.mode for name, config in rows}
        modes = {name: mode for name, mode in modes.items() if mode != "off"}
        if not modes:
            return {}
        modes |= {model: modes[a.endpoint] for model, a in served_adapters(session).items() if a.endpoint in modes}
        return modes | {alias: modes[name] for alias, name in endpoints_of_aliases(session).items() if name in modes}


def log_requests(session: Session, requests: Iterable[Mapping[str, Any]], bodies: Mapping[str, LoggedBody]) -> None:
    """Store the requests, as the values of their rows, that their endpoints log, after redaction. The current policy
    decides, not the one at a request's start.
    """
    if not bodies:
        return
    configs = {policy.endpoint_id: policy.config for policy in session.scalars(select(RequestLogPolicy))}
    for request in requests:
        body, config = bodies.get(request["id"]), configs.get(request["endpoint_id"] or "", RequestLogConfig())
        if body is None or request["endpoint_id"] is None or config.mode == "off":
            continue
        messages, answer, count = None, None, 0
        if config.mode == "bodies" and body.messages is not None:
            messages, count = redact_messages(body.messages, config)
            answer, more = redact((body.answer or "").replace("\x00", ""), config)  # PostgreSQL holds no NUL
            count += more
        session.add(
            LoggedRequest(
                id=request["id"],
                endpoint_id=request["endpoint_id"],
                key_id=request["key_id"],
                checkpoint_id=request["checkpoint_id"],
                kind=body.kind,
                params=body.params,
                messages=messages,
                answer=answer,
                status=request["status"],
                redactions=count,
                created_at=request["created_at"],
                expires_at=request["created_at"] + timedelta(days=config.retention_days),
            )
        )


def redact_messages(
    messages: Iterable[Mapping[str, Any]], config: RequestLogConfig
) -> tuple[list[dict[str, object]], int]:
    """Return messages with their texts redacted, arguments of tool calls included, and the number of replacements."""
    total = 0

    def scrub(value: Any) -> Any:
        nonlocal total
        if isinstance(value, str):
            text, count = redact(value, config)
            total += count
            return text
        if isinstance(value, Mapping):
            return {
                name: part if name in {"role", "type", "id", "tool_call_id"} else scrub(part)
                for name, part in value.items()
            }
        return [scrub(part) for part in value] if isinstance(value, list | tuple) else value

    return [scrub(message) for message in messages], total


def forget_requests(ctx: Context) -> int:
    """Erase logged requests past their time; return how many."""
    with ctx.db.read() as session:
        if session.scalar(select(LoggedRequest.id).where(LoggedRequest.expires_at <= ctx.now()).limit(1)) is None:
            return 0
    with ctx.db.erase() as session:
        result = session.execute(delete(LoggedRequest).where(LoggedRequest.expires_at <= ctx.now()))
        return int(result.rowcount)  # type: ignore[attr-defined]
