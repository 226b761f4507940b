"""Say that the database does not answer or is damaged, to callers that know services alone."""

from __future__ import annotations

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from backend.db.engine import RESTORE, is_damage
from backend.errors import Unavailable


def outage_of(error: Exception) -> Unavailable | None:
    """Return what an error of the database's driver means to a visitor; None for any other error."""
    if is_damage(error):
        return Unavailable("The database is damaged.", remedy=RESTORE)
    if not isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return None
    return Unavailable(
        "The database does not answer.",
        remedy=(
            "Nothing is lost: try again in a moment. The server's log names the cause; an operator checks DATABASE_URL"
            " and the disk."
        ),
    )
