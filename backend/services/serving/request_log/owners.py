"""Owners of request logs: who deployed an endpoint, and admins, set its log and make datasets of it, as they alone read its texts."""

from __future__ import annotations

from sqlalchemy.orm import Session

from backend.db.tables import Endpoint
from backend.errors import NotAllowed
from backend.services.context import Context, Person, require_builder
from backend.services.serving.endpoints import find_endpoint


def find_own_endpoint(session: Session, name: str, *, person: Person) -> Endpoint:
    """Return an endpoint whose log a person may set and use. Raises NotAllowed with the reason, NotFound."""
    require_builder(person)
    endpoint = find_endpoint(session, name)
    if not person.is_admin and endpoint.created_by != person.id:
        raise NotAllowed(f"{name!r} was deployed by another person.", remedy="Its request log is set and used by its owner and admins.")
    return endpoint


def why_not_own(ctx: Context, name: str, *, person: Person) -> str:
    """Return why a person may not set and use an endpoint's log, empty where they may. Raises NotFound."""
    try:
        with ctx.db.read() as session:
            find_own_endpoint(session, name, person=person)
    except NotAllowed as error:
        return str(error)
    return ""
