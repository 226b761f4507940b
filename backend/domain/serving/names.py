"""Names of endpoints and aliases: what clients send as `model=`."""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import count

from backend.domain.names import as_ascii
from backend.errors import InvalidInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,79}")
ALIAS = re.compile(r"(?=.{3,80}$)[A-Za-z0-9][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9._-]*")
_STEP = re.compile(r" · step [\d,.]+$")
_SUGGESTED_LENGTH = 60


def check_endpoint_name(name: str) -> None:
    """Raise InvalidInput for a name that is not valid in a request or a URL."""
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} can't be an endpoint's name.",
            remedy=(
                "Use at most 80 letters a to z, digits and . _ : / - and begin with a letter or digit; clients send the"
                " name in requests and addresses."
            ),
            field="name",
        )


def check_alias_name(name: str) -> None:
    """Raise InvalidInput unless the name is like `storyteller@production`. Endpoints and checkpoints have no `@`."""
    if not ALIAS.fullmatch(name):
        raise InvalidInput(
            f"{name!r} can't be an alias.",
            remedy="Write NAME@STAGE, such as storyteller@production, in at most 80 letters a to z, digits and . _ -",
            field="alias",
        )


def is_alias_name(name: str) -> bool:
    """Return whether a name has the form of an alias.

    >>> is_alias_name("storyteller@production")
    True
    """
    return ALIAS.fullmatch(name) is not None


def suggest_endpoint_name(checkpoint: str, taken: Collection[str]) -> str:
    """Return a free endpoint name made of a checkpoint's name, in Latin letters without marks.

    >>> suggest_endpoint_name("Village chat · step 1,200", {"village-chat"})
    'village-chat-2'
    """
    base = (
        re.sub(r"[^a-z0-9._]+", "-", as_ascii(_STEP.sub("", checkpoint)).lower())
        .strip("-._")[:_SUGGESTED_LENGTH]
        .rstrip("-._")
        or "endpoint"
    )
    return next(name for number in count(1) if (name := base if number == 1 else f"{base}-{number}") not in taken)
