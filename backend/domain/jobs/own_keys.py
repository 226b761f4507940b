"""Names of the keys that the product makes for itself."""

from __future__ import annotations

from backend.domain.jobs.states import JobKind
from backend.domain.serving.key_limits import PLAYGROUND_KEY

JOB_KEYS = {
    JobKind.EVALUATE: "Evaluation",
    JobKind.GENERATE: "Answers of a campaign",
    JobKind.JUDGE: "Judge",
    JobKind.LOAD_TEST: "Load test",
}
"""Names of the keys of each kind of job that may ask an endpoint."""
OWN_KEYS = (PLAYGROUND_KEY, *JOB_KEYS.values())
"""All of them: the log of keys leaves them out, so people's have others."""


def is_own_key(name: str) -> bool:
    """Return whether a key's name is one that the product gives its own, in whatever case."""
    return name.casefold() in {own.casefold() for own in OWN_KEYS}
