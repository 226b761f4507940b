"""Words for how requests end, and the names of models that no endpoint has. Pure."""

from __future__ import annotations

MAX_MODEL_NAME = 80
NO_ENDPOINT = "(no endpoint)"
"""In place of the endpoint of requests that named none that there is, or whose body was not read."""
KEY_PREFIXES = ("rh-", "sk-")

ENDS = {
    "answers_full": "too many open answers",
    "body_incomplete": "body incomplete",
    "body_too_large": "body too large",
    "context_length_exceeded": "prompt longer than the context",
    "database_unavailable": "database away",
    "endpoint_not_allowed": "not allowed to its key",
    "engine_failed": "engine failed on it",
    "insufficient_quota": "over the budget of its key",
    "invalid_api_key": "wrong key, or none",
    "invalid_value": "invalid value",
    "key_revoked": "key revoked meanwhile",
    "model_not_allowed": "model not allowed to its key",
    "model_not_found": "no such model",
    "no_replica": "no replica ready",
    "not_allowed": "not allowed to its key",
    "queue_full": "queue full",
    "rate_limit_exceeded": "over the rate limit of its key",
    "replica_lost": "replica lost",
    "unsupported_media_type": "body is not JSON",
    "upstream_failed": "server behind it failed",
}
"""Words for the codes of errors that clients get."""


def describe_end(code: str) -> str:
    """Return the words for a finish reason or the code of an error.

    >>> describe_end("model_not_found"), describe_end("length"), describe_end("new_code")
    ('no such model', 'length', 'new code')
    """
    return ENDS.get(code, code.replace("_", " "))


def clean_model_name(name: str) -> str:
    """Return a name that a client made up as it may be stored and shown: short, without what can't be seen, and without
    a key that stands in its place.

    >>> clean_model_name("gpt\u202e-4\0"), clean_model_name("sk-123")
    ('gpt\ufffd-4\ufffd', '(a key)')
    """
    if name.strip().lower().startswith(KEY_PREFIXES):
        return "(a key)"
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in name[:MAX_MODEL_NAME])
    return shown if len(name) <= MAX_MODEL_NAME else f"{shown[:-1]}…"
