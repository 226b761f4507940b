"""Translate the Hub's errors, each with its cure, for bases and datasets."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.errors import InvalidInput, JobFailed, NotFound, Unavailable, first_line
from backend.infra.files.remote import ANSWER_S

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


@dataclass(frozen=True)
class HubRequest:
    """A request to the Hub: the noun in its errors, the form's field of the id, and the alternative to the Hub."""

    noun: str
    field: str
    elsewhere: str

    @property
    def remedy(self) -> str:
        """Remedy if the Hub can't be reached."""
        return f"Check the network and HF_ENDPOINT, or download the files elsewhere and {self.elsewhere}."


BASE = HubRequest("checkpoint", "source", "add the folder")
DATASET = HubRequest("dataset", "hub", "import them from disk")


def endpoint() -> str:
    """Return the Hub's address: `HF_ENDPOINT`, or the public Hub's."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@contextmanager
def hub_errors(hub: str, request: HubRequest, *, revision: str = "") -> Iterator[None]:
    """Translate errors of the Hub's client about the repository `hub` to NotFound, InvalidInput, Unavailable or
    JobFailed (a full disk).
    """
    import httpx2  # slow to import, and few pages use the Hub
    from huggingface_hub import errors

    place = endpoint()
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise NotFound(
            f"{hub} has no revision {revision!r}.",
            remedy="Give a branch, a tag or a commit that it has.",
            field="revision",
        ) from error
    except errors.GatedRepoError as error:
        raise Unavailable(
            f"{hub} is gated: access requires agreeing to its terms.",
            remedy="Agree on its page, and set HF_TOKEN, for pages and workers, to a key of that account.",
            field=request.field,
        ) from error
    except errors.DisabledRepoError as error:
        raise NotFound(
            f"The Hub has disabled {hub}.", remedy=f"Choose another {request.noun}.", field=request.field
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise NotFound(
            f"The Hub has no {request.noun} {hub}, or it is private.",
            remedy=(
                "Check its spelling; for a private one set HF_TOKEN, for pages and workers, to a key that may read it."
            ),
            field=request.field,
        ) from error
    except errors.HFValidationError as error:
        raise InvalidInput(
            f"{hub} is not a repository id of the Hub.", remedy="Write it as owner/name.", field=request.field
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise Unavailable(
            f"{hub} can't be fetched: HF_HUB_OFFLINE is set.", remedy=f"Unset it, or {request.elsewhere}."
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(hub, place, error, request.remedy) from error
    except httpx2.TimeoutException as error:
        raise Unavailable(
            f"The Hub at {place} does not answer within {ANSWER_S:.0f} seconds.", remedy=request.remedy
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, errors.LocalEntryNotFoundError) as error:
        raise Unavailable(
            f"The Hub at {place} can't be reached for {hub}: {_reason(error)}", remedy=request.remedy
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise JobFailed(
                f"The disk is full: {hub} could not be fetched.", remedy="Free space and try again."
            ) from error
        raise Unavailable(
            f"The Hub at {place} can't be reached for {hub}: {_reason(error)}", remedy=request.remedy
        ) from error
    except RuntimeError as error:  # an upload that broke off
        raise Unavailable(
            f"The transfer from or to the Hub at {place} broke off: {_reason(error)}", remedy=request.remedy
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(
            f"The Hub at {place} sent an invalid response: {_reason(error)}", remedy=request.remedy
        ) from error


def _refused(hub: str, place: str, error: HfHubHTTPError, remedy: str) -> Unavailable:
    status = error.response.status_code if error.response is not None else 0
    if status in (401, 403):
        return Unavailable(
            f"The Hub refuses {hub} with status {status}: the key is wrong or may not read it.",
            remedy="Check HF_TOKEN.",
        )
    if status == 429:
        return Unavailable(
            "The Hub's rate limit is reached.", remedy="Wait some minutes, or set HF_TOKEN for a higher limit."
        )
    return Unavailable(
        f"The Hub at {place} answers {status or 'with an error'} for {hub}.", remedy=f"Try again later. {remedy}"
    )


def _reason(error: BaseException) -> str:
    return f"{first_line(error.__cause__ or error)}."
