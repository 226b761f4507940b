"""Continue an answer on another replica after its own was lost: from the tokens that the client already has."""

from __future__ import annotations

import secrets

from backend.domain.serving.protocol import UNKNOWN, Begun, FinishEvent, GenerateRequest, OpenEvent, TokenEvent

SEED_BITS = 62


class Resumption:
    """A request as replicas get it: first itself, with a seed; after a loss with the beginning of its answer.

    Tokens are a function of prompt, seed and the tokens before them, so the continuation is what the lost replica would
    have sent, up to the rounding of another batch.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self.original = request
        self._request = _with_seed(request)
        self._ids: list[int] = []
        self._characters = 0

    @property
    def is_possible(self) -> bool:
        """Return whether a lost answer can be continued."""
        return self._request.can_be_resumed and bool(self._ids) and self._ids[0] != UNKNOWN

    def note(self, event: OpenEvent | FinishEvent) -> None:
        """Note an event that the client gets."""
        if isinstance(event, TokenEvent):
            self._ids += event.token_ids
            self._characters += event.num_characters

    def request(self) -> GenerateRequest:
        """Return the request for the next replica."""
        if not self.is_possible:
            return self._request
        return self._request.model_copy(
            update={"begun": Begun(token_ids=tuple(self._ids), characters=self._characters)}
        )


def _with_seed(request: GenerateRequest) -> GenerateRequest:
    """A replica would draw the seed itself; a second one could not know it."""
    if not request.can_be_resumed or request.params.seed is not None or request.params.temperature == 0:
        return request
    return request.model_copy(
        update={"params": request.params.model_copy(update={"seed": secrets.randbits(SEED_BITS)})}
    )
