"""Reasons of failed connections, as a person reads them."""

from __future__ import annotations


def system_reason(error: BaseException) -> str:
    """Return the operating system's reason of a failed connection without its number: "connection refused" for
    "[Errno 111] Connection refused"; empty where it states none.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror[:1].lower() + cause.strerror[1:]
        cause = cause.__cause__ or cause.__context__
    return ""
