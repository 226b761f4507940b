"""Sign in, check session cookies, and end sessions. Wrong passwords are limited by address and by name, without
locking out an account's owner.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network

from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy import exists, select, update

from backend.db.tables import Conversation, DismissedStep, Preset, SavedView, User
from backend.domain.names import name_key
from backend.domain.wording import plural
from backend.errors import NotAllowed
from backend.services.context import Context, Person, require_admin
from backend.services.lookups import find_row
from backend.services.people.accounts import find_account, matches

WINDOW_S = 300.0
PAIR_LIMIT = 8
"""Wrong passwords for one name from one address, and from one device that has signed in to the account before."""
ADDRESS_LIMIT = 40
"""Wrong passwords from one address for any names."""
NAME_LIMIT = 200
"""Wrong passwords for one name from all unknown devices together: a limit on guessing from many addresses."""
MAX_REMEMBERED = 1000

Key = tuple[str, ...]


class TooManyAttempts(NotAllowed):
    """Too many wrong passwords or links; the next one is checked after `retry_after_s`."""

    def __init__(self, *, retry_after_s: float) -> None:
        minutes = math.ceil(retry_after_s / 60)
        super().__init__("Too many failed attempts.", remedy=f"Try again in {plural(minutes, 'minute')}.")
        self.retry_after_s = retry_after_s


@dataclass
class Attempts:
    """Times of unsuccessful attempts, in this process's memory. `clock` returns seconds."""

    clock: Callable[[], float] = time.monotonic
    moments: dict[Key, list[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self, *, name: str, address: str, device: str | None = None) -> tuple[Key, ...]:
        """Count an attempt before its password is checked, so that parallel attempts can't exceed the limit. A device
        that has signed in to the account before is counted separately, so that others' failures don't lock its owner
        out. Returns the counters for `succeed`. Raises TooManyAttempts when one of them is full.
        """
        limits = _limits(name_key(name)[:80], _network(address), device)
        now = self.clock()
        with self._lock:
            if len(self.moments) > MAX_REMEMBERED:
                self.moments = {key: moments for key, moments in self.moments.items() if now - moments[-1] < WINDOW_S}
            recent = {
                key: [moment for moment in self.moments.get(key, []) if now - moment < WINDOW_S] for key in limits
            }
            full = [moments[-limits[key]] for key, moments in recent.items() if len(moments) >= limits[key]]
            if full:
                raise TooManyAttempts(retry_after_s=max(full) + WINDOW_S - now)
            for key, moments in recent.items():
                self.moments[key] = [*moments, now]
        return tuple(limits)

    def succeed(self, keys: tuple[Key, ...]) -> None:
        """Remove a successful attempt, and the failures of the same name from the same place."""
        with self._lock:
            for key in keys:
                left = [] if key[0] in {"pair", "device"} else self.moments.get(key, [])[:-1]
                if left:
                    self.moments[key] = left
                else:
                    self.moments.pop(key, None)


def _limits(name: str, address: str, device: str | None) -> dict[Key, int]:
    if device is not None:
        return {("device", device): PAIR_LIMIT}
    return {("pair", address, name): PAIR_LIMIT, ("address", address): ADDRESS_LIMIT, ("name", name): NAME_LIMIT}


def _network(address: str) -> str:
    """Return a visitor's network: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:80]
    return str(ip_network(f"{parsed}/64", strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)


COOKIE = "roundhouse_session"
COOKIE_AGE_S = 14 * 24 * 3600
DEVICE_COOKIE = "roundhouse_device"
DEVICE_AGE_S = 180 * 24 * 3600

_attempts = Attempts()


@dataclass(frozen=True)
class SignedIn:
    """Values of the two cookies: the session, and the device's, which proves an earlier sign-in from this browser."""

    session: str
    device: str


def sign_in(ctx: Context, name: str, password: str, *, address: str, device: str | None = None) -> SignedIn:
    """Check a password and return the cookies. `device` is the browser's device cookie, if it has one.

    Raises NotAllowed for a wrong name or password (the same words for both) and after too many failures (see
    `Attempts`).
    """
    with ctx.db.read() as session:
        user = find_account(session, name)
        user = None if user is None or user.disabled_at is not None else user
    is_known = user is not None and _read(ctx, device, salt="device", max_age_s=DEVICE_AGE_S).get("user") == user.id
    counters = _attempts.begin(name=name, address=address, device=device if is_known else None)
    if not matches(user.password_hash if user else None, password) or user is None:
        raise NotAllowed("The name or the password is wrong.")
    _attempts.succeed(counters)
    if user.role == "admin" and ctx.sign_in:
        _take_over(ctx, user.id)
    return SignedIn(
        session=_signer(ctx, "session").dumps({"user": user.id, "epoch": user.session_epoch}),
        device=_signer(ctx, "device").dumps({"user": user.id}),
    )


def _take_over(ctx: Context, admin_id: str) -> None:
    """Give an admin the conversations, presets and views that were made without accounts: once people sign in, they
    would be in no list.
    """
    personal = (Conversation, Preset, SavedView, DismissedStep)
    with ctx.db.read() as session:
        left = [table for table in personal if session.scalar(select(exists().where(table.user_id.is_(None))))]
    if left:
        with ctx.db.write() as session:
            for table in left:
                session.execute(update(table).where(table.user_id.is_(None)).values(user_id=admin_id))


def person_from_cookie(ctx: Context, value: str | None) -> Person | None:
    """Return the person of a session cookie, or None if it is missing, forged, expired or ended."""
    data = _read(ctx, value, salt="session", max_age_s=COOKIE_AGE_S)
    if not data:
        return None
    with ctx.db.read() as session:
        user = session.get(User, str(data.get("user", "")))
        if user is None or user.disabled_at is not None or user.session_epoch != data.get("epoch"):
            return None
        return Person(id=user.id, name=user.name, role=user.role)


def why_ended(ctx: Context, value: str | None) -> str:
    """Return why the session of a cookie was ended, empty without a genuine one. Who held the session alone has it."""
    try:
        data = _signer(ctx, "session").loads(value or "")
    except BadSignature:
        return ""
    with ctx.db.read() as session:
        user = session.get(User, str(data.get("user", "")))
    if user is None or user.disabled_at is not None:
        return "Your account was disabled. An admin can enable it again."
    if user.session_epoch != data.get("epoch"):
        return "Your session was ended: your password was changed, or you were signed out everywhere."
    return ""


def end_sessions(ctx: Context, user_id: str, *, person: Person) -> None:
    """End every session of an account: one's own, or any as an admin. Raises NotAllowed and NotFound."""
    if person.id != user_id:
        require_admin(person)
    with ctx.db.write() as session:
        find_row(session, User, user_id, what="account").session_epoch += 1


def _signer(ctx: Context, salt: str) -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(ctx.secret, salt=salt)


def _read(ctx: Context, value: str | None, *, salt: str, max_age_s: int) -> dict[str, object]:
    if not value:
        return {}
    try:
        data = _signer(ctx, salt).loads(value, max_age=max_age_s)
    except BadSignature:
        return {}
    return data if isinstance(data, dict) else {}
