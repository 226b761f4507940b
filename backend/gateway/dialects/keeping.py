"""Stored responses: what a request follows, and what becomes of its own answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput, NotFound, Unavailable
from backend.gateway.bodies.responses import ResponsesBody
from backend.gateway.dialects.responses import Document, Store
from backend.gateway.directory import Directory, Principal
from backend.gateway.errors import ApiError, unavailable
from backend.gateway.request import ApiExchange
from backend.services.serving.stored_responses import ResponseRecord

logger = logging.getLogger(__name__)
SWITCH = "ROUNDHOUSE_KEEP_RESPONSES_DAYS"


def owner_of(principal: Principal | None) -> str:
    """Return whose a response is; empty without a key."""
    return principal.owner if principal else ""


async def read_turns(
    directory: Directory, response_id: str, *, principal: Principal | None, param: str | None
) -> Sequence[ResponseRecord]:
    """Return a response and those that it follows. Raises ApiError, the same for one of another account as for none."""
    try:
        turns = await asyncio.to_thread(directory.list_turns, response_id, owner=owner_of(principal))
    except NotFound as error:
        raise _unknown(response_id, param) from error
    except InvalidInput as error:
        raise ApiError(400, str(error), code="invalid_value", param=param) from error
    except Unavailable as error:
        raise unavailable(error) from error
    if principal is not None and not all(principal.scopes.allows_model(turn.endpoint) for turn in turns):
        raise _unknown(response_id, param)
    return turns


async def items_before(directory: Directory, body: ResponsesBody, *, principal: Principal | None) -> list[JsonObject]:
    """Return the items of the conversation that a request follows."""
    if body.previous_response_id is None:
        return []
    param = "previous_response_id"
    if not directory.keeps_responses:
        message = f"{param}: no response is stored here ({SWITCH}=0); send the whole conversation as input"
        raise ApiError(400, message, code="previous_response_not_found", param=param)
    turns = await read_turns(directory, body.previous_response_id, principal=principal, param=param)
    return [item for turn in turns for item in (*turn.items, *turn.document["output"])]


async def erase(directory: Directory, response_id: str, *, principal: Principal | None) -> Document:
    """Erase a response; return what OpenAI returns."""
    await read_turns(directory, response_id, principal=principal, param=None)
    try:
        await asyncio.to_thread(directory.erase_response, response_id, owner=owner_of(principal))
    except NotFound as error:
        raise _unknown(response_id, None) from error
    except Unavailable as error:
        raise unavailable(error) from error
    return {"id": response_id, "object": "response", "deleted": True}


def keeper(
    directory: Directory, body: ResponsesBody, *, principal: Principal | None, exchange: ApiExchange
) -> Store | None:
    """Return what stores the answer to a request; None where it is not to be stored. Raises ApiError where it can't be,
    and must.
    """
    if body.store is False or not directory.keeps_responses:
        if body.store:
            raise ApiError(400, f"store: no response is stored here ({SWITCH}=0)", code="invalid_value", param="store")
        return None
    items = [{"id": f"msg_{uuid4().hex[:24]}", **item} for item in body.items]

    async def store(document: Document) -> bool:
        record = ResponseRecord(
            exchange.id, owner_of(principal), exchange.endpoint, body.previous_response_id, items, document
        )
        try:
            await asyncio.to_thread(partial(directory.keep_response, record))
        except Exception:  # the gateway's edge: the answer must not depend on the database
            logger.exception("The response %s could not be stored.", exchange.id)
            return False
        return True

    return store


def _unknown(response_id: str, param: str | None) -> ApiError:
    message = (
        f"There is no response {response_id!r} of this account; it may have been erased. Send the whole conversation as"
        " input."
    )
    status, code = (400, "previous_response_not_found") if param else (404, "response_not_found")
    return ApiError(status, f"{param}: {message}" if param else message, code=code, param=param)
