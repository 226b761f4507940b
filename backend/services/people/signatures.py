"""Signed statements in URLs, such as read access to a run."""

from __future__ import annotations

from itsdangerous import BadSignature, URLSafeTimedSerializer

from backend.errors import NotAllowed
from backend.services.context import Context


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
