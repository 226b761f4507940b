"""Admission to the playground's HTTP interface: signed tokens, checked against the account at every request."""

from __future__ import annotations

from backend.db.tables import User
from backend.errors import NotAllowed
from backend.services.context import LOCAL, Context, Person
from backend.services.people.signatures import sign, unsign

PURPOSE = "playground"
TOKEN_AGE_S = 12 * 3600


def chat_token(ctx: Context, person: Person) -> str:
    """Return the signed statement that this person was admitted to the playground; it holds for twelve hours, and until the account is
    signed out everywhere.
    """
    epoch = 0
    if person.id is not None:
        with ctx.db.read() as session:
            epoch = session.get_one(User, person.id).session_epoch
    return sign(ctx, {"person": person.id or "", "epoch": str(epoch)}, purpose=PURPOSE)


def person_of_token(ctx: Context, token: str) -> Person:
    """Return whom a token admits. Raises NotAllowed if it is forged or too old, or the account may not chat any more."""
    data = unsign(ctx, token, purpose=PURPOSE, max_age_s=TOKEN_AGE_S)
    person: Person | None = None
    if not data.get("person"):
        person = None if ctx.sign_in else LOCAL
    else:
        with ctx.db.read() as session:
            user = session.get(User, data["person"])
            if user is not None and user.disabled_at is None and str(user.session_epoch) == data.get("epoch"):
                person = Person(id=user.id, name=user.name, role=user.role)
    if person is None or not person.may_build:
        raise NotAllowed("You are not signed in any more.", remedy="Reload the page.")
    return person
