"""Owners of endpoints: who deployed one, and admins, set its request log, make datasets of it and delete it. Other
builders run it: they scale, replace, stop and start it.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy.orm import Session

from backend.db.tables import Endpoint, User
from backend.errors import NotAllowed
from backend.services.context import BUILDERS, Context, Person, require_builder
from backend.services.serving.endpoints import find_endpoint


def find_own_endpoint(session: Session, name: str, *, person: Person) -> Endpoint:
    """Return an endpoint whose log a person may set and use. Raises NotAllowed with the reason, NotFound."""
    require_builder(person)
    endpoint = find_endpoint(session, name)
    if not person.is_admin and endpoint.created_by != person.id:
        raise NotAllowed(
            f"{_deployer(session, endpoint)}.", remedy="Its request log is set and used by its owner and admins."
        )
    return endpoint


def find_deletable_endpoint(session: Session, name: str, *, person: Person) -> Endpoint:
    """Return an endpoint that a person may delete with history and log. Raises NotAllowed with the reason, NotFound."""
    require_builder(person)
    endpoint = find_endpoint(session, name)
    if not is_in_charge(session, endpoint.created_by, person=person):
        raise NotAllowed(f"{_deployer(session, endpoint)}.", remedy="Its owner and admins delete it.")
    return endpoint


def is_in_charge(session: Session, owner_id: str | None, *, person: Person) -> bool:
    """Return whether a person may remove what an account made: the account itself, admins, and every builder once the
    account is disabled or may no longer deploy. What was made without an account is for admins.
    """
    if person.is_admin or owner_id is None or owner_id == person.id:
        return person.is_admin or owner_id is not None
    owner = session.get(User, owner_id)
    return person.may_build and (owner is None or owner.disabled_at is not None or owner.role not in BUILDERS)


def why_not_own(ctx: Context, name: str, *, person: Person) -> str:
    """Return why a person may not set and use an endpoint's log, empty where they may. Raises NotFound."""
    return _reason(ctx, find_own_endpoint, name, person)


def why_not_delete(ctx: Context, name: str, *, person: Person) -> str:
    """Return why a person may not delete an endpoint, empty where they may. Raises NotFound."""
    return _reason(ctx, find_deletable_endpoint, name, person)


def _reason(ctx: Context, find: Callable[..., Endpoint], name: str, person: Person) -> str:
    try:
        with ctx.db.read() as session:
            find(session, name, person=person)
    except NotAllowed as error:
        return str(error)
    return ""


def _deployer(session: Session, endpoint: Endpoint) -> str:
    owner = session.get(User, endpoint.created_by) if endpoint.created_by else None
    return f"{endpoint.name!r} was deployed {'without an account' if owner is None else f'by {owner.name}'}"
