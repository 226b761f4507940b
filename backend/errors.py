"""The error tree of Roundhouse.

    RoundhouseError              everything a user can act on; `message` says what happened, `remedy` what to do
    ├── InvalidInput             a value the user gave can't be used (names the value)
    ├── NotFound                 no such dataset, run, checkpoint, endpoint, ...
    ├── Conflict                 the object is in a state that forbids the action (in use, already finished, name taken)
    ├── NotAllowed               the person may not do this
    ├── Unavailable              something we depend on does not answer (broker, replica, hub, disk)
    └── JobFailed                work on a worker ended badly; raised inside a room
        └── PeersLost            the cause lies on another machine of the job

Anything else that is raised is our own mistake and is left to crash at one of three edges: page frame, job runner,
gateway.
"""

from __future__ import annotations

from importlib.util import find_spec


class RoundhouseError(Exception):
    """Base of all errors: what happened, with which value, and the remedy.

    `message` is one or two sentences. `remedy` is the next action, empty when the message already contains it.
    `field` names the input at fault, when there is one.
    """

    def __init__(self, message: str, *, remedy: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class InvalidInput(RoundhouseError):
    """A given value is invalid."""


class NotFound(RoundhouseError):
    """The named object does not exist."""


class Conflict(RoundhouseError):
    """The object's current state forbids the action."""


class NotAllowed(RoundhouseError):
    """The person lacks permission."""


class Unavailable(RoundhouseError):
    """A required service does not answer."""


def require_library(module: str, *, extra: str, needed_for: str) -> None:
    """Raise Unavailable, with the command that installs it, if a library of an optional extra is missing."""
    if find_spec(module) is None:
        raise Unavailable(
            f"{needed_for} needs the library {module}, which is not installed.",
            remedy=f"On every machine that serves pages or works: pip install 'roundhouse[{extra}]'",
        )


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, without its full stop; the error's name where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:240].rstrip(". ")


class JobFailed(RoundhouseError):
    """A job failed for a known reason."""


class PeersLost(JobFailed):
    """The processes of another machine that this job trains with are gone; why is known there."""
