"""Keys for /v1: scopes, limits, expiry and what they have used. Only their SHA-256 is stored."""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import ApiKey, Usage, User
from backend.domain.attributes import view_of
from backend.domain.jobs.own_keys import is_own_key
from backend.domain.names import require_length
from backend.domain.serving.key_limits import KeyLimits, KeyScopes, Period, period_start
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import BUILDERS, Context, Person, require_builder
from backend.services.serving.prices import price_differences

LONGEST_NAME = 80
"""Characters of a key's name."""


@dataclass(frozen=True)
class KeyView:
    """A key as pages show it: never the key itself. `owner` is None for one that was made without an account."""

    id: str
    name: str
    hint: str
    owner: str | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    expires_at: datetime | None = None
    scopes: KeyScopes = field(default_factory=KeyScopes)
    limits: KeyLimits = field(default_factory=KeyLimits)

    def state(self, now: datetime) -> str:
        """One word: active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


@dataclass(frozen=True)
class KeyGrant:
    """A valid key as the gateway knows it."""

    id: str
    name: str
    scopes: KeyScopes
    limits: KeyLimits
    expires_at: datetime | None = None
    user_id: str | None = None


@dataclass(frozen=True)
class Spending:
    """Tokens and dollars that a key used in a UTC day or month."""

    tokens: int
    usd: float


def create_key(
    ctx: Context,
    name: str,
    *,
    person: Person,
    scopes: KeyScopes | None = None,
    limits: KeyLimits | None = None,
    expires_at: datetime | None = None,
    secret: str | None = None,
    is_own: bool = False,
) -> str:
    """Create a key and return it: the only time it is shown. The same `secret`, of `new_secret`, makes one key.

    A key that the product makes for itself `is_own`. Raises InvalidInput without a name or for one that is too long,
    Conflict for the name of such keys or of another active key of the person's, NotAllowed for a rater, and for an
    admin's scope by another role.
    """
    require_builder(person)
    if not name.strip():
        raise InvalidInput("A key needs a name, so that you know later what uses it.", field="name")
    name = require_length(name.strip(), what="The name", limit=LONGEST_NAME, field="name")
    if not is_own and is_own_key(name):
        raise Conflict(f"Keys named “{name}” are Roundhouse's own.", remedy="Choose another name.", field="name")
    scopes = scopes or KeyScopes()
    _require_scope(scopes, person)
    key = secret or new_secret()
    with ctx.db.write() as session:
        if session.scalar(
            select(ApiKey.id).where(ApiKey.key_hash == hash_key(key), ApiKey.user_id.is_not_distinct_from(person.id))
        ):
            return key  # the first of two clicks made it
        taken = _valid(ctx).where(ApiKey.name == name, ApiKey.user_id.is_not_distinct_from(person.id))
        if not is_own and session.scalar(taken.limit(1)):
            raise Conflict(
                f"There is already an active key “{name}”.",
                remedy="Choose another name, or revoke that key first.",
                field="name",
            )
        session.add(
            ApiKey(
                name=name,
                key_hash=hash_key(key),
                hint=key[-4:],
                user_id=person.id,
                scopes=scopes,
                limits=limits or KeyLimits(),
                expires_at=expires_at,
                created_at=ctx.now(),
            )
        )
    return key


def new_secret() -> str:
    """Return a new secret for a key."""
    return f"rh-{secrets.token_urlsafe(32)}"


def change_key(
    ctx: Context, key: str, *, person: Person, limits: KeyLimits, scopes: KeyScopes, expires_at: datetime | None
) -> None:
    """Replace limits, scopes and expiry of one's own key, or of any as an admin, by its id or name. They hold from the
    next request on.
    """
    require_builder(person)
    _require_scope(scopes, person)
    with ctx.db.write() as session:
        row = _find(session, key, person=person)
        row.limits, row.scopes = limits, scopes
        row.expires_at = expires_at


def list_keys(ctx: Context, *, person: Person) -> list[KeyView]:
    """Return a person's keys, newest first; an admin sees all."""
    query = select(ApiKey, User.name).outerjoin(User, User.id == ApiKey.user_id).order_by(ApiKey.created_at.desc())
    if not person.is_admin:
        query = query.where(ApiKey.user_id == person.id)
    with ctx.db.read() as session:
        return [_view(key, owner) for key, owner in session.execute(query)]


def find_key(ctx: Context, key: str, *, person: Person) -> KeyView:
    """Return one's own key, or any as an admin, by its id or name. Raises NotFound, and InvalidInput for two."""
    with ctx.db.read() as session:
        row = _find(session, key, person=person)
        return _view(row, session.scalar(select(User.name).where(User.id == row.user_id)))


def revoke_key(ctx: Context, key: str, *, person: Person) -> None:
    """Revoke a key by its id or name: one's own, or any as an admin. Raises NotFound for another person's key, too."""
    with ctx.db.write() as session:
        row = _find(session, key, person=person)
        row.revoked_at = row.revoked_at or ctx.now()


def check_key(ctx: Context, key: str) -> KeyGrant | None:
    """Return what a valid key may do, or None. Keys that are revoked or expired, of a disabled account, or of a role
    that may not have keys are invalid.
    """
    with ctx.db.read() as session:
        row = session.scalar(_valid(ctx).where(ApiKey.key_hash == hash_key(key)))
    return None if row is None else _grant(ctx, row)


def valid_keys(ctx: Context) -> dict[str, KeyGrant]:
    """Return every valid key by its hash, as a gateway remembers them for when the database is away."""
    with ctx.db.read() as session:
        return {row.key_hash: _grant(ctx, row) for row in session.scalars(_valid(ctx))}


def note_key_uses(ctx: Context, uses: Mapping[str, datetime]) -> None:
    """Store when keys, by id, were last used. A gateway calls it every few seconds, never within a request."""
    with ctx.db.write() as session:
        for row in session.scalars(select(ApiKey).where(ApiKey.id.in_(list(uses)))):
            row.last_used_at = max(uses[row.id], row.last_used_at or uses[row.id])


def _valid(ctx: Context) -> Select[ApiKey]:
    owner_may = ApiKey.user_id.is_(None) | (User.disabled_at.is_(None) & User.role.in_(BUILDERS))
    in_time = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > ctx.now())
    return (
        select(ApiKey).outerjoin(User, User.id == ApiKey.user_id).where(ApiKey.revoked_at.is_(None), in_time, owner_may)
    )


def _grant(ctx: Context, row: ApiKey) -> KeyGrant:
    """Return what a key may do, with the installation's limit where it sets none."""
    limits = row.limits
    if limits.concurrency is None and ctx.policy.key_requests_at_once:
        limits = limits.model_copy(update={"concurrency": ctx.policy.key_requests_at_once})
    return KeyGrant(row.id, row.name, row.scopes, limits, row.expires_at, row.user_id)


def key_spending(ctx: Context, key_id: str, period: Period) -> Spending:
    """Return what a key used since the start of the UTC day or month."""
    return spending_of_keys(ctx, [key_id], period).get(key_id, Spending(0, 0.0))


def spending_of_keys(ctx: Context, key_ids: list[str], period: Period) -> dict[str, Spending]:
    """Return what each key used since the start of the UTC day or month; keys without requests are left out."""
    since = period_start(period, now=ctx.now())
    in_period = (Usage.key_id.in_(key_ids), Usage.created_at >= since)
    query = (
        select(Usage.key_id, func.sum(Usage.prompt_tokens + Usage.completion_tokens), func.sum(Usage.cost_usd))
        .where(*in_period)
        .group_by(Usage.key_id)
    )
    with ctx.db.read() as session:
        sums = {str(key): (int(tokens or 0), float(usd or 0.0)) for key, tokens, usd in session.execute(query)}
        further: dict[str, float] = defaultdict(float)
        for usd, key in price_differences(session, ctx, *in_period, by=(Usage.key_id,)):
            further[str(key)] += usd
    return {key: Spending(tokens, usd + further[key]) for key, (tokens, usd) in sums.items()}


def _find(session: Session, key: str, *, person: Person) -> ApiKey:
    query = select(ApiKey).where(or_(ApiKey.id == key, ApiKey.name == key))
    if not person.is_admin:
        query = query.where(ApiKey.user_id == person.id)
    rows = session.scalars(query).all()
    rows = [row for row in rows if row.id == key] or [row for row in rows if row.revoked_at is None] or list(rows)
    if not rows:
        raise NotFound(f"There is no key {key!r}.", remedy="`roundhouse key list` shows names and ids.")
    if len(rows) > 1:
        raise InvalidInput(
            f"{len(rows)} keys have the name {key!r}.", remedy=f"Give an id: {', '.join(row.id for row in rows)}."
        )
    return rows[0]


def _view(key: ApiKey, owner: str | None) -> KeyView:
    return view_of(KeyView, key, owner=owner)


def _require_scope(scopes: KeyScopes, person: Person) -> None:
    if scopes.admin and not person.is_admin:
        raise NotAllowed(
            f"{person.name} may not create a key with the admin scope.", remedy="Ask an admin, or leave the scope out."
        )


def hash_key(key: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()
