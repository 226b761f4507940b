"""Keys with which the installation calls its own endpoints, so that limits, usage and balancing apply to it as to
every client, where `/v1` asks for one.

A job's is made for an attempt, given to its process alone, and revoked when the attempt ends. The playground's is
derived from the installation's secret and stored as its hash alone, like every key; revoking it makes the next answer
use another.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import ApiKey, Job
from backend.domain.jobs.load_test import LoadTestPayload
from backend.domain.jobs.own_keys import JOB_KEYS
from backend.domain.jobs.payloads import EvaluatePayload, GeneratePayload, JudgePayload
from backend.domain.jobs.records import Payload
from backend.domain.openai_servers import JOB_KEY
from backend.domain.serving.key_limits import MANY_AT_ONCE, PLAYGROUND_KEY, ApiEndpoint, KeyScopes
from backend.services.context import Context
from backend.services.jobs.claims import Claim
from backend.services.people.keys import hash_key

KEY_LASTS = timedelta(days=7)
"""Bound on a key whose job ended while the database was away."""


def own_endpoints(payload: Payload) -> tuple[str, ...]:
    """Return the names of this installation's endpoints that a job asks by its key. Its launch has decided that: a
    worker need not know whether visitors sign in.
    """
    if isinstance(payload, GeneratePayload):
        return (payload.model,) if payload.is_own and payload.key_env == JOB_KEY else ()
    if isinstance(payload, JudgePayload):
        return (payload.model,) if payload.is_own and payload.uses_key else ()
    if isinstance(payload, EvaluatePayload):
        targets = [payload.endpoint, payload.judge.endpoint if payload.judge else None]
        return tuple(target.model for target in targets if target and target.is_own and target.key_env == JOB_KEY)
    if isinstance(payload, LoadTestPayload):
        return (payload.endpoint,) if payload.uses_key else ()
    return ()


def scopes_of(payload: Payload) -> KeyScopes:
    """Return what the key of a job may call: its endpoints, and completions alone for a load test."""
    routes: tuple[ApiEndpoint, ...] = ("completions",) if isinstance(payload, LoadTestPayload) else ()
    return KeyScopes(models=own_endpoints(payload), endpoints=routes)


def key_variable(ctx: Context) -> str | None:
    """Return the environment variable of the key that a job sends to an own endpoint; None where none is asked for."""
    return JOB_KEY if ctx.sign_in else None


def key_of(ctx: Context, claim: Claim[Payload]) -> str | None:
    """Return the key of an attempt, which the installation's secret gives; None for a job that needs none."""
    return _key(ctx, claim.job_id, claim.attempt) if own_endpoints(claim.payload) else None


def create_job_key(ctx: Context, claim: Claim[Payload]) -> str | None:
    """Let the gateway know the key of an attempt, for its endpoints and in the name of who launched it; return it, None
    for a job that needs none.
    """
    key = key_of(ctx, claim)
    if key is None:
        return None
    with ctx.db.write() as session:
        if session.scalar(select(ApiKey.id).where(ApiKey.key_hash == hash_key(key))) is not None:
            return key
        session.add(
            ApiKey(
                name=JOB_KEYS[claim.kind],
                key_hash=hash_key(key),
                hint=key[-4:],
                user_id=session.scalar(select(Job.created_by).where(Job.id == claim.job_id)),
                scopes=scopes_of(claim.payload),
                limits=MANY_AT_ONCE,
                expires_at=ctx.now() + KEY_LASTS,
                created_at=ctx.now(),
            )
        )
    return key


def revoke_job_keys(session: Session, ctx: Context, claim: Claim[Any]) -> None:
    """Revoke the keys of a job's attempts."""
    if claim.kind in JOB_KEYS:
        revoke_secrets(session, ctx, [_key(ctx, claim.job_id, attempt) for attempt in range(1, claim.attempt + 1)])


def revoke_secrets(session: Session, ctx: Context, keys: Sequence[str]) -> None:
    """Revoke keys by their secrets."""
    hashes = [hash_key(key) for key in keys]
    for row in session.scalars(select(ApiKey).where(ApiKey.key_hash.in_(hashes), ApiKey.revoked_at.is_(None))):
        row.revoked_at = ctx.now()


def _key(ctx: Context, job_id: str, attempt: int) -> str:
    return f"rh-{hmac.new(ctx.secret, f'job:{job_id}:{attempt}'.encode(), hashlib.sha256).hexdigest()}"


_known: dict[tuple[bytes, str], str] = {}


def known_key(ctx: Context) -> str | None:
    """Return the playground's key as it was last read in this process; the gateway refuses it once it is revoked."""
    return _known.get((ctx.secret, ctx.db.url))


def playground_key(ctx: Context) -> str:
    """Return the playground's key, made at the first call."""
    _known[ctx.secret, ctx.db.url] = key = _read_key(ctx)
    return key


@retry_races
def _read_key(ctx: Context) -> str:
    own = select(ApiKey.key_hash, ApiKey.revoked_at).where(ApiKey.name == PLAYGROUND_KEY, ApiKey.user_id.is_(None))
    with ctx.db.read() as session:
        revoked = dict(session.execute(own).all())
    for number in count():
        key = _derive(ctx, number)
        digest = hashlib.sha256(key.encode()).hexdigest()
        if digest in revoked:
            if revoked[digest] is None:
                return key
            continue
        with ctx.db.write() as session:
            if session.scalar(select(ApiKey.id).where(ApiKey.key_hash == digest)) is None:
                session.add(ApiKey(name=PLAYGROUND_KEY, key_hash=digest, hint=key[-4:], user_id=None))
        return key
    raise AssertionError("count() does not end")


def _derive(ctx: Context, number: int) -> str:
    return f"rh-{hmac.new(ctx.secret, f'playground:{number}'.encode(), hashlib.sha256).hexdigest()}"
