"""The key with which the playground calls the gateway, so that limits, usage and balancing apply to it as to every
client.

It is derived from the installation's secret and stored as its hash alone, like every key. Revoking it makes the next
answer use another.
"""

from __future__ import annotations

import hashlib
import hmac
from itertools import count

from sqlalchemy import select

from backend.db.races import retry_races
from backend.db.tables import ApiKey
from backend.domain.serving.key_limits import PLAYGROUND_KEY
from backend.services.context import Context

_known: dict[tuple[bytes, str], str] = {}


def known_key(ctx: Context) -> str | None:
    """Return the playground's key as it was last read in this process; the gateway refuses it once it is revoked."""
    return _known.get((ctx.secret, ctx.db.url))


def playground_key(ctx: Context) -> str:
    """Return the playground's key, made at the first call."""
    _known[ctx.secret, ctx.db.url] = key = _read_key(ctx)
    return key


@retry_races
def _read_key(ctx: Context) -> str:
    own = select(ApiKey.key_hash, ApiKey.revoked_at).where(ApiKey.name == PLAYGROUND_KEY, ApiKey.user_id.is_(None))
    with ctx.db.read() as session:
        revoked = dict(session.execute(own).all())
    for number in count():
        key = _derive(ctx, number)
        digest = hashlib.sha256(key.encode()).hexdigest()
        if digest in revoked:
            if revoked[digest] is None:
                return key
            continue
        with ctx.db.write() as session:
            if session.scalar(select(ApiKey.id).where(ApiKey.key_hash == digest)) is None:
                session.add(ApiKey(name=PLAYGROUND_KEY, key_hash=digest, hint=key[-4:], user_id=None))
        return key
    raise AssertionError("count() does not end")


def _derive(ctx: Context, number: int) -> str:
    return f"rh-{hmac.new(ctx.secret, f'playground:{number}'.encode(), hashlib.sha256).hexdigest()}"
