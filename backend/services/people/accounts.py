"""Accounts, cookies, keys: who is asking. Passwords are argon2id, keys SHA-256; neither is ever logged."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy import func, select

from backend.db.tables import ApiKey, User
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import Context, Person, require_builder

ROLES = ("admin", "lead", "engineer", "rater")
COOKIE = "roundhouse_session"
COOKIE_AGE_S = 14 * 24 * 3600
MIN_PASSWORD = 10
ATTEMPTS, WINDOW_S, MAX_REMEMBERED = 8, 300.0, 1000

_hasher = PasswordHasher()
_attempts: dict[str, list[float]] = {}  # by address and by name, the moments of attempts that have not succeeded
_lock = threading.Lock()


@dataclass(frozen=True)
class KeyView:
    """A key as pages show it: never the key itself."""

    id: str
    name: str
    hint: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def count_users(ctx: Context) -> int:
    """Return how many accounts can sign in."""
    with ctx.db.read() as session:
        return session.scalar(select(func.count()).select_from(User).where(User.disabled_at.is_(None))) or 0


def add_user(ctx: Context, name: str, password: str, *, role: str = "engineer") -> Person:
    """Make an account. Raises InvalidInput for a short password or an unknown role, Conflict for a name that is taken."""
    name = name.strip()
    if not name or len(name) > 80:
        raise InvalidInput("An account needs a name of 1 to 80 characters.", field="name")
    if role not in ROLES:
        raise InvalidInput(f"There is no role {role!r}.", remedy=f"Choose one of {', '.join(ROLES)}.", field="role")
    if len(password) < MIN_PASSWORD:
        raise InvalidInput(f"The password has {len(password)} characters.", remedy=f"Use at least {MIN_PASSWORD}.", field="password")
    password_hash = _hasher.hash(password)  # slow on purpose, so not while the database is locked for it
    with ctx.db.write() as session:
        if session.scalar(select(User.id).where(User.name == name)):
            raise Conflict(f"There is already an account {name!r}.")
        user = User(name=name, role=role, password_hash=password_hash)
        session.add(user)
        session.flush()
        return Person(id=user.id, name=user.name, role=user.role)


def list_users(ctx: Context) -> list[Person]:
    """Return every account that can sign in."""
    with ctx.db.read() as session:
        rows = session.scalars(select(User).where(User.disabled_at.is_(None)).order_by(User.name))
        return [Person(id=u.id, name=u.name, role=u.role) for u in rows]


def sign_in(ctx: Context, name: str, password: str, *, address: str) -> str:
    """Check a password and return the value of the session cookie.

    Raises NotAllowed for a wrong name or password (the same words for both) and after too many failures from one address
    or for one name within five minutes.
    """
    keys = (f"address:{address}", f"name:{name.strip().lower()[:80]}")
    _count_attempt(keys)
    unknown = _dummy_hash()  # made for every name alike
    with ctx.db.read() as session:
        user = session.scalar(select(User).where(User.name == name.strip(), User.disabled_at.is_(None)))
    try:
        _hasher.verify(user.password_hash if user else unknown, password)
    except (VerifyMismatchError, InvalidHashError):
        user = None
    if user is None:
        raise NotAllowed("The name or the password is wrong.")
    with _lock:
        for key in keys:
            _attempts.pop(key, None)
    return _serializer(ctx).dumps({"user": user.id, "epoch": user.session_epoch})


def person_from_cookie(ctx: Context, value: str | None) -> Person | None:
    """Return whom a session cookie belongs to, or None if it is missing, forged, expired or ended."""
    if not value:
        return None
    try:
        data = _serializer(ctx).loads(value, max_age=COOKIE_AGE_S)
    except BadSignature:
        return None
    with ctx.db.read() as session:
        user = session.get(User, str(data.get("user", "")))
        if user is None or user.disabled_at is not None or user.session_epoch != data.get("epoch"):
            return None
        return Person(id=user.id, name=user.name, role=user.role)


def end_sessions(ctx: Context, user_id: str) -> None:
    """End every cookie of an account."""
    with ctx.db.write() as session:
        user = session.get(User, user_id)
        if user is None:
            raise NotFound("There is no such account.")
        user.session_epoch += 1


def create_key(ctx: Context, name: str, *, person: Person) -> str:
    """Make a key for /v1 and return it: the only time it is seen. Raises NotAllowed for a rater."""
    require_builder(person)
    if not name.strip():
        raise InvalidInput("A key needs a name, so that you know later what uses it.", field="name")
    key = f"rh-{secrets.token_urlsafe(32)}"
    with ctx.db.write() as session:
        session.add(ApiKey(name=name.strip()[:80], key_hash=_hash_key(key), hint=key[-4:], user_id=person.id))
    return key


def list_keys(ctx: Context, *, person: Person) -> list[KeyView]:
    """Return a person's keys; an admin sees all."""
    with ctx.db.read() as session:
        query = select(ApiKey).order_by(ApiKey.created_at.desc())
        if not person.is_admin:
            query = query.where(ApiKey.user_id == person.id)
        return [KeyView(k.id, k.name, k.hint, k.created_at, k.last_used_at, k.revoked_at) for k in session.scalars(query)]


def revoke_key(ctx: Context, key_id: str, *, person: Person) -> None:
    """End a key. Raises NotFound also for a key that belongs to somebody else."""
    with ctx.db.write() as session:
        key = session.get(ApiKey, key_id)
        if key is None or (not person.is_admin and key.user_id != person.id):
            raise NotFound("There is no such key.")
        key.revoked_at = key.revoked_at or ctx.now()


def check_key(ctx: Context, key: str) -> str | None:
    """Return the id of a valid key, or None; a disabled account's keys are none.

    `last_used_at` is kept to the minute, so that a busy key does not write per request.
    """
    with ctx.db.read() as session:
        query = select(ApiKey).outerjoin(User, User.id == ApiKey.user_id).where(User.disabled_at.is_(None))
        row = session.scalar(query.where(ApiKey.key_hash == _hash_key(key), ApiKey.revoked_at.is_(None)))
    if row is None:
        return None
    now = ctx.now()
    if row.last_used_at is None or (now - row.last_used_at).total_seconds() > 60:
        with ctx.db.write() as session:
            session.get_one(ApiKey, row.id).last_used_at = now
    return row.id


def sign(ctx: Context, data: dict[str, str], *, purpose: str) -> str:
    """Sign a small statement for a URL or a component, such as who may read which run."""
    return URLSafeTimedSerializer(ctx.secret, salt=purpose).dumps(data)


def unsign(ctx: Context, value: str, *, purpose: str, max_age_s: int) -> dict[str, str]:
    """Return a signed statement. Raises NotAllowed if it is forged or older than `max_age_s`."""
    try:
        data = URLSafeTimedSerializer(ctx.secret, salt=purpose).loads(value, max_age=max_age_s)
    except BadSignature as error:
        raise NotAllowed("This link is not valid any more.", remedy="Reload the page it came from.") from error
    return {str(key): str(item) for key, item in data.items()}


@lru_cache(maxsize=1)
def _dummy_hash() -> str:
    """Return a hash to check for unknown names, so that timing does not tell them from known ones."""
    return _hasher.hash(secrets.token_hex(8))


def _serializer(ctx: Context) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(ctx.secret, salt="session")


def _hash_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _count_attempt(keys: tuple[str, ...]) -> None:
    """Count an attempt before its password is checked, so that many at once are no way round the limit. Success forgets them."""
    now = time.monotonic()
    with _lock:
        if len(_attempts) > MAX_REMEMBERED:
            for key in [key for key, moments in _attempts.items() if now - moments[-1] >= WINDOW_S]:
                del _attempts[key]
        recent = {key: [moment for moment in _attempts.get(key, []) if now - moment < WINDOW_S] for key in keys}
        if any(len(moments) >= ATTEMPTS for moments in recent.values()):
            raise NotAllowed("Too many failed attempts.", remedy=f"Try again in {int(WINDOW_S / 60)} minutes.")
        for key in keys:
            _attempts[key] = [*recent[key], now]
