"""Signed statements that a browser keeps, such as read access to a run."""

from __future__ import annotations

from itsdangerous import BadSignature, URLSafeTimedSerializer

from backend.db.tables import User
from backend.errors import NotAllowed
from backend.services.context import LOCAL, Context, Person


def sign(ctx: Context, data: dict[str, str], *, purpose: str) -> str:
    """Return a statement with its signature, valid for one purpose."""
    return URLSafeTimedSerializer(ctx.secret, salt=purpose).dumps(data)


def unsign(ctx: Context, value: str, *, purpose: str, max_age_s: int) -> dict[str, str]:
    """Return a signed statement. Raises NotAllowed if it is forged or older than `max_age_s`."""
    try:
        data = URLSafeTimedSerializer(ctx.secret, salt=purpose).loads(value, max_age=max_age_s)
    except BadSignature as error:
        raise NotAllowed("This link is not valid any more.", remedy="Reload the page it came from.") from error
    return {str(key): str(item) for key, item in data.items()}


def sign_for(ctx: Context, person: Person, data: dict[str, str], *, purpose: str) -> str:
    """Return a signed statement that ends with the person's sessions: at a new password, a sign-out everywhere, a
    disabled account.
    """
    epoch = 0
    if person.id is not None:
        with ctx.db.read() as session:
            epoch = session.get_one(User, person.id).session_epoch
    return sign(ctx, {**data, "person": person.id or "", "epoch": str(epoch)}, purpose=purpose)


def unsign_for(ctx: Context, value: str, *, purpose: str, max_age_s: int) -> tuple[Person, dict[str, str]]:
    """Return whom `sign_for` signed a statement for, and the statement.

    Raises NotAllowed if it is forged or older than `max_age_s`, if the account's sessions were ended since, and for the
    local person's where sign-in is required.
    """
    data = unsign(ctx, value, purpose=purpose, max_age_s=max_age_s)
    if not data.get("person"):
        person = None if ctx.sign_in else LOCAL
    else:
        with ctx.db.read() as session:
            user = session.get(User, data["person"])
        is_current = user is not None and user.disabled_at is None and str(user.session_epoch) == data.get("epoch")
        person = Person(id=user.id, name=user.name, role=user.role) if user is not None and is_current else None
    if person is None:
        raise NotAllowed("You are not signed in any more.", remedy="Reload the page.")
    return person, data
