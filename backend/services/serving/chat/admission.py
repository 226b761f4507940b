"""Admission to the playground's HTTP interface: signed tokens, checked against the account at every request."""

from __future__ import annotations

from backend.errors import NotAllowed
from backend.services.context import Context, Person
from backend.services.people.signatures import sign_for, unsign_for

PURPOSE = "playground"
TOKEN_AGE_S = 12 * 3600


def chat_token(ctx: Context, person: Person) -> str:
    """Return the signed statement that this person was admitted to the playground; it holds for twelve hours, and until
    the account is signed out everywhere.
    """
    return sign_for(ctx, person, {}, purpose=PURPOSE)


def person_of_token(ctx: Context, token: str) -> Person:
    """Return whom a token admits. Raises NotAllowed if it is forged or too old, or the account may not chat."""
    person, _ = unsign_for(ctx, token, purpose=PURPOSE, max_age_s=TOKEN_AGE_S)
    if not person.may_build:
        raise NotAllowed("You are not signed in any more.", remedy="Reload the page.")
    return person
