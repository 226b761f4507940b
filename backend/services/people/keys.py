"""Keys for /v1. Only their SHA-256 is stored."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from backend.db.tables import ApiKey, User
from backend.errors import InvalidInput, NotFound
from backend.services.context import BUILDERS, Context, Person, require_builder


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


def create_key(ctx: Context, name: str, *, person: Person) -> str:
    """Create a key and return it: the only time it is shown. Raises NotAllowed for a rater."""
    require_builder(person)
    if not name.strip():
        raise InvalidInput("A key needs a name, so that you know later what uses it.", field="name")
    key = f"rh-{secrets.token_urlsafe(32)}"
    with ctx.db.write() as session:
        session.add(ApiKey(name=name.strip()[:80], key_hash=_hash(key), hint=key[-4:], user_id=person.id))
    return key


def list_keys(ctx: Context, *, person: Person) -> list[KeyView]:
    """Return a person's keys, newest first; an admin sees all."""
    query = select(ApiKey, User.name).outerjoin(User, User.id == ApiKey.user_id).order_by(ApiKey.created_at.desc())
    if not person.is_admin:
        query = query.where(ApiKey.user_id == person.id)
    with ctx.db.read() as session:
        rows = session.execute(query)
        return [KeyView(k.id, k.name, k.hint, owner, k.created_at, k.last_used_at, k.revoked_at) for k, owner in rows]


def revoke_key(ctx: Context, key_id: str, *, person: Person) -> None:
    """Revoke a key: one's own, or any as an admin. Raises NotFound for another person's key, too."""
    with ctx.db.write() as session:
        key = session.get(ApiKey, key_id)
        if key is None or (not person.is_admin and key.user_id != person.id):
            raise NotFound("There is no such key.")
        key.revoked_at = key.revoked_at or ctx.now()


def check_key(ctx: Context, key: str) -> str | None:
    """Return the id of a valid key, or None. Keys of a disabled account, or of a role that may not have keys, are invalid. `last_used_at`
    is updated once a minute, so that a busy key does not write per request.
    """
    owner_may = ApiKey.user_id.is_(None) | (User.disabled_at.is_(None) & User.role.in_(BUILDERS))
    query = select(ApiKey).outerjoin(User, User.id == ApiKey.user_id)
    with ctx.db.read() as session:
        row = session.scalar(query.where(ApiKey.key_hash == _hash(key), ApiKey.revoked_at.is_(None), owner_may))
    if row is None:
        return None
    now = ctx.now()
    if row.last_used_at is None or (now - row.last_used_at).total_seconds() > 60:
        with ctx.db.write() as session:
            session.get_one(ApiKey, row.id).last_used_at = now
    return row.id


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
