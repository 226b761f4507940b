"""Create, change and disable accounts. Only an admin changes them, and one active admin always remains. Passwords are
argon2id hashes; neither they nor hashes are ever logged.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import User
from backend.domain.jobs.gpu_hours import PersonLimits
from backend.domain.names import name_key
from backend.domain.wording import plural
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person, require_admin
from backend.services.lookups import find_row

MIN_LENGTH, MAX_LENGTH = 10, 1000
_hasher = PasswordHasher()
_slots = threading.BoundedSemaphore(4)  # a check takes 64 MiB, and needs no sign-in


def hash_password(password: str) -> str:
    """Return a password's hash. Raises InvalidInput for one that is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidInput(
            f"The password has {plural(len(password), 'character')}.",
            remedy=f"Use {MIN_LENGTH} to {MAX_LENGTH}.",
            field="password",
        )
    with _slots:
        return _hasher.hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Return whether a password belongs to a hash. None (no account) takes as long and never matches."""
    unknown = _dummy_hash()  # the same hash for every name
    with _slots:
        try:
            _hasher.verify(password_hash or unknown, password[: MAX_LENGTH + 1])
        except (VerifyMismatchError, InvalidHashError):
            return False
    return password_hash is not None


@lru_cache(maxsize=1)
def _dummy_hash() -> str:
    return _hasher.hash(secrets.token_hex(8))


ROLES = {
    "admin": "As an engineer, on the endpoints, requests, keys and prompts of all accounts; sets accounts, roles,"
    " limits, device prices and required gates, and sees the settings.",
    "lead": "The same as an engineer; a title.",
    "engineer": "Imports, trains, evaluates, opens campaigns, deploys and deletes; makes keys, and sees the requests of"
    " these and of endpoints of this account.",
    "rater": "Votes, and changes this account's password. All pages but the ballot are closed.",
}
"""Roles, each with what it may do."""


@dataclass(frozen=True)
class AccountView:
    """An account as pages show it."""

    id: str
    name: str
    role: str
    created_at: datetime
    disabled_at: datetime | None
    limits: PersonLimits


def count_users(ctx: Context) -> int:
    """Return how many accounts can sign in."""
    with ctx.db.read() as session:
        return session.scalar(select(func.count()).select_from(User).where(User.disabled_at.is_(None))) or 0


def list_accounts(ctx: Context) -> list[AccountView]:
    """Return every account by name, disabled ones last."""
    with ctx.db.read() as session:
        return [
            _view(user) for user in session.scalars(select(User).order_by(User.disabled_at.is_not(None), User.name))
        ]


def get_account(ctx: Context, name: str) -> AccountView:
    """Return the account of a name. Raises NotFound."""
    with ctx.db.read() as session:
        user = find_account(session, name)
        if user is None:
            raise NotFound(
                f"There is no account {name.strip()[:80]!r}.", remedy="`roundhouse user list` shows those that exist."
            )
        return _view(user)


def find_account(session: Session, name: str) -> User | None:
    """Return the account of exactly this name, else the one whose name is the same in another case or form."""
    is_exact = User.name == name.strip()
    query = select(User).where(or_(is_exact, User.name_key == name_key(name)))
    return session.scalar(query.order_by(is_exact.desc()).limit(1))


@retry_races
def add_user(ctx: Context, name: str, password: str, *, role: str = "engineer", person: Person) -> Person:
    """Make an account. Raises NotAllowed, InvalidInput for a short password or an unknown role, Conflict for a name
    that is taken, in whatever case.
    """
    require_admin(person)
    name = name.strip()
    if not 1 <= len(name) <= 80 or not name.isprintable():
        raise InvalidInput("An account needs a name of 1 to 80 characters that can be seen.", field="name")
    _check_role(role)
    password_hash = hash_password(password)  # slow on purpose, so outside the write transaction
    with ctx.db.write() as session:
        if other := find_account(session, name):
            raise Conflict(
                f"There is already an account {other.name!r}.",
                remedy="Choose a name that differs in more than upper and lower case.",
                field="name",
            )
        user = User(name=name, name_key=name_key(name), role=role, password_hash=password_hash)
        session.add(user)
        session.flush()
        return Person(id=user.id, name=user.name, role=user.role)


def disable_account(ctx: Context, user_id: str, *, person: Person) -> None:
    """Disable an account: its cookies, its keys and the ballot links that it made are refused.

    Raises NotAllowed, NotFound, and Conflict for the last admin.
    """
    require_admin(person)
    with ctx.db.write() as session:
        user = _find(session, user_id)
        _keep_an_admin(session, user)
        user.disabled_at = user.disabled_at or ctx.now()
        user.session_epoch += 1


def enable_account(ctx: Context, user_id: str, *, person: Person) -> None:
    """Enable a disabled account; its keys and ballot links work again, too. Raises NotAllowed and NotFound."""
    require_admin(person)
    with ctx.db.write() as session:
        _find(session, user_id).disabled_at = None


def change_role(ctx: Context, user_id: str, role: str, *, person: Person) -> None:
    """Change an account's role, effective at once. Raises NotAllowed, NotFound, InvalidInput, Conflict."""
    require_admin(person)
    _check_role(role)
    with ctx.db.write() as session:
        user = _find(session, user_id)
        if role != "admin":
            _keep_an_admin(session, user)
        user.role = role


def change_limits(ctx: Context, user_id: str, limits: PersonLimits, *, person: Person) -> None:
    """Replace an account's limits, which hold from its next run on. Raises NotAllowed and NotFound."""
    require_admin(person)
    with ctx.db.write() as session:
        _find(session, user_id).limits = limits


def reset_password(ctx: Context, user_id: str, password: str, *, person: Person) -> None:
    """Give an account a new password and end its sessions. Raises NotAllowed, NotFound, InvalidInput."""
    require_admin(person)
    _set_password(ctx, user_id, hash_password(password))


def change_own_password(ctx: Context, old: str, new: str, *, person: Person) -> None:
    """Replace one's own password and end every session, this one included. Raises NotAllowed for a wrong old one."""
    with ctx.db.read() as session:
        user = session.get(User, person.id) if person.id else None
    if user is None:
        raise NotFound("You have no account here.")
    if not matches(user.password_hash, old):
        raise NotAllowed("The current password is wrong.")
    _set_password(ctx, user.id, hash_password(new))


def _set_password(ctx: Context, user_id: str, password_hash: str) -> None:
    with ctx.db.write() as session:
        user = _find(session, user_id)
        user.password_hash = password_hash
        user.session_epoch += 1


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidInput(f"There is no role {role!r}.", remedy=f"Choose one of {', '.join(ROLES)}.", field="role")


def _find(session: Session, user_id: str) -> User:
    return find_row(session, User, user_id, what="account")


def _keep_an_admin(session: Session, user: User) -> None:
    """Raise Conflict for the last active admin. Locks the admins' rows, so that two can't be disabled at once."""
    admins = session.scalars(
        select(User.id).where(User.role == "admin", User.disabled_at.is_(None)).order_by(User.id).with_for_update()
    ).all()
    if list(admins) == [user.id]:
        raise Conflict(f"{user.name} is the only admin who can sign in.", remedy="Make another account an admin first.")


def _view(user: User) -> AccountView:
    return AccountView(user.id, user.name, user.role, user.created_at, user.disabled_at, user.limits)


def person_of(session: Session, user_id: str | None) -> Person:
    """Return the person of an account, with its role now; without one, the person on loopback."""
    user = session.get(User, user_id) if user_id else None
    return LOCAL if user is None else Person(id=user.id, name=user.name, role=user.role)
