"""Sample a dataset's train rows before a launch, to find rows without a trained token by the lengths of their
prompts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from backend.domain.data.rows.conversations import as_conversation
from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.data.row_pages import read_version_rows
from backend.services.data.views import VersionView
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens

NUM_CHUNKS, ROWS_PER_CHUNK = 16, 32
TIME_LIMIT_S = 1.5  # a page waits for it; the sample is the rows read by then
ROOM_FOR_AN_ANSWER = 64


@dataclass(frozen=True)
class RowSample:
    """Sampled train rows out of `num_rows`. `prompt_tokens`: a lower bound of each prompt, without the chat
    template.
    """

    prompt_tokens: tuple[int, ...]
    num_rows: int

    def num_without_targets(self, context: int) -> int:
        """Return how many sampled rows have no trained token within a context: their prompt fills it."""
        return sum(tokens >= context for tokens in self.prompt_tokens)

    @property
    def sufficient_context(self) -> int:
        """Context in which 95 % of the sampled rows have room for an answer."""
        return sorted(self.prompt_tokens)[int(0.95 * (len(self.prompt_tokens) - 1))] + ROOM_FOR_AN_ANSWER


def sample_rows(ctx: Context, version: VersionView, *, source: str | None) -> RowSample | None:
    """Sample up to 512 train rows, spread over all; None for rows without answers, and if tokenizer or rows can't be
    read.

    A version never changes, so the sample is cached.
    """
    if source is None or version.folder is None or not version.train_rows:
        return None
    try:
        prompts = _prompt_tokens(ctx, version.folder, version.train_rows, source)
    except RoundhouseError:
        return None
    return RowSample(prompts, version.train_rows) if prompts else None


@lru_cache(maxsize=64)
def _prompt_tokens(ctx: Context, folder: str, num_rows: int, source: str) -> tuple[int, ...]:
    rows: list[list[str]] = []
    deadline = time.monotonic() + TIME_LIMIT_S
    for offset, limit in _chunks(num_rows):
        if time.monotonic() > deadline:
            break
        for row in read_version_rows(ctx, folder, split="train", offset=offset, limit=limit):
            conversation = as_conversation(row)
            if conversation is None:
                return ()
            texts = []
            for message in conversation.messages:
                if message["role"] == "assistant":
                    break
                texts.append(str(message.get("content") or "").strip())
            rows.append(texts)
    counts = iter(count_tokens(ctx, resolve_source(ctx, source), [text for texts in rows for text in texts]))
    # a token may span two texts, so each text counts one less
    return tuple(sum(max(0, next(counts) - 1) for _ in texts) for texts in rows)


def _chunks(num_rows: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, rows) of chunks spread over a split; all of it where it is small."""
    if num_rows <= NUM_CHUNKS * ROWS_PER_CHUNK:
        yield 0, num_rows
        return
    for chunk in range(NUM_CHUNKS):
        yield chunk * (num_rows - ROWS_PER_CHUNK) // (NUM_CHUNKS - 1), ROWS_PER_CHUNK
