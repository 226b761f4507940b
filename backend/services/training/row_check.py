"""Rows looked at before a launch, where no report has read them all: how many have nothing to train on, told by their prompts alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from backend.domain.data.rows.conversations import conversation_of
from backend.errors import InvalidInput, RoundhouseError
from backend.infra.files.parquet import read_rows
from backend.services.context import Context
from backend.services.data.views import VersionView
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens

PLACES, ROWS_AT_A_PLACE = 16, 32
MOST_S = 1.5  # for a page that waits; what was read by then is what is known
ROOM_FOR_AN_ANSWER = 64


@dataclass(frozen=True)
class FirstLook:
    """What a look at some train rows found. `prompts` are the tokens before the first answer of each, at least: what a template adds is not in."""

    prompts: tuple[int, ...]
    total: int

    def silent(self, context: int) -> int:
        """Return how many of the rows looked at have nothing to train on within a context: their prompt alone fills it."""
        return sum(tokens >= context for tokens in self.prompts)

    @property
    def enough(self) -> int:
        """Tokens that leave 95 % of the rows looked at room for an answer."""
        return sorted(self.prompts)[int(0.95 * (len(self.prompts) - 1))] + ROOM_FOR_AN_ANSWER


def look_at_rows(ctx: Context, version: VersionView, *, source: str | None) -> FirstLook | None:
    """Look at up to 512 train rows, spread over all; None for rows without answers, and where tokenizer or rows can't be read.

    A version never changes, so the second look costs nothing.
    """
    if source is None or version.folder is None or not version.train_rows:
        return None
    try:
        prompts = _prompts(ctx, ctx.artifacts.path(version.folder), version.train_rows, source)
    except RoundhouseError:
        return None
    return FirstLook(prompts, version.train_rows) if prompts else None


def refuse_silent_rows(ctx: Context, version: VersionView, *, source: str | None, context: int) -> None:
    """Raise InvalidInput if none of the rows looked at has anything to train on within a context."""
    look = look_at_rows(ctx, version, source=source)
    if look is None or look.silent(context) < len(look.prompts):
        return
    some = f"{len(look.prompts):,} train rows of {version.label}"
    looked_at = f"the {some}" if len(look.prompts) == look.total else f"the {some} that were looked at, spread over {look.total:,},"
    raise InvalidInput(
        f"None of {looked_at} has anything to train on within its first {context:,} tokens: the shortest prompt alone has {min(look.prompts):,}.",
        remedy=f"Choose {look.enough:,} tokens or more, with a base that can read so many, or a dataset with shorter prompts.",
        field="context",
    )


@lru_cache(maxsize=64)
def _prompts(ctx: Context, folder: Path, total: int, source: str) -> tuple[int, ...]:
    messages: list[list[str]] = []
    ends = time.monotonic() + MOST_S
    for offset, limit in _places(total):
        if time.monotonic() > ends:
            break
        for row in read_rows(folder, split="train", offset=offset, limit=limit):
            conversation = conversation_of(row)
            if conversation is None:
                return ()
            texts = []
            for message in conversation.messages:
                if message["role"] == "assistant":
                    break
                texts.append(str(message.get("content") or "").strip())
            messages.append(texts)
    counts = iter(count_tokens(ctx, resolve_source(ctx, source), [text for texts in messages for text in texts]))
    # a token that reaches over a text's end may belong to two of them
    return tuple(sum(max(0, next(counts) - 1) for _ in texts) for texts in messages)


def _places(total: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, rows) of places spread over a split; all of it where it is small."""
    if total <= PLACES * ROWS_AT_A_PLACE:
        yield 0, total
        return
    for place in range(PLACES):
        yield place * (total - ROWS_AT_A_PLACE) // (PLACES - 1), ROWS_AT_A_PLACE
