"""Tokens of a train split, counted by a data report or estimated from samples of its texts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.data.reports import find_data_report
from backend.services.data.row_pages import read_version_rows
from backend.services.data.views import VersionView
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens
from backend.services.tokenizers.tokenizers import TokenizerView

USUAL_TRAIN_SHARE = 0.95
MIN_ROWS = 20
NUM_CHUNKS, ROWS_PER_CHUNK = 16, 8
NUM_SAMPLES, SAMPLE_CHARACTERS = 64, 2_000
TIME_LIMIT_S = 1.5  # a page waits for it
MAX_ROW_BYTES = 16 * 2**20
"""Mean size of a row above which none is read."""


@dataclass(frozen=True)
class TrainTokens:
    """Number of tokens of a train split: `counted` by a data report, or estimated in three figures."""

    number: int
    counted: bool


def read_train_tokens(ctx: Context, version: VersionView, tokenizer: TokenizerView) -> TrainTokens | None:
    """Return the tokens of the train split as a data report with this tokenizer counted them, else an estimate: its
    bytes divided by the bytes per token of samples of its texts, or of the tokenizer's own text where none can be read.
    """
    view = find_data_report(ctx, version.id, source=f"tokenizer:{tokenizer.id}")
    if view and view.report and view.report.train.tokens:
        return TrainTokens(view.report.train.tokens, counted=True)
    text_bytes, rows = version.facts.text_bytes, version.train_rows + version.val_rows
    if not text_bytes:
        return None
    per_token = _sample(ctx, version, tokenizer) or tokenizer.facts.bytes_per_token
    if not per_token:
        return None
    share = version.train_rows / rows if rows >= MIN_ROWS else USUAL_TRAIN_SHARE
    estimate = float(text_bytes) * share / float(per_token)
    return TrainTokens(max(1, round(float(f"{estimate:.3g}"))), counted=False)


def _sample(ctx: Context, version: VersionView, tokenizer: TokenizerView) -> float | None:
    """Return the bytes per token of samples of a version's texts; None if they can't be read or encoded."""
    row_bytes = (version.facts.text_bytes or 0) / max(1, version.train_rows)
    if version.folder is None or not version.train_rows or row_bytes > MAX_ROW_BYTES:
        return None
    try:
        return _bytes_per_token(ctx, version.folder, version.train_rows, tokenizer.id)
    except RoundhouseError:
        return None


@lru_cache(maxsize=256)  # a version never changes, nor does a tokenizer
def _bytes_per_token(ctx: Context, folder: str, num_rows: int, tokenizer_id: str) -> float | None:
    deadline = time.monotonic() + TIME_LIMIT_S
    texts: list[str] = []
    for offset in range(0, num_rows, max(ROWS_PER_CHUNK, -(-num_rows // NUM_CHUNKS))):
        if time.monotonic() > deadline:
            break
        rows = read_version_rows(ctx, folder, split="train", offset=offset, limit=ROWS_PER_CHUNK)
        texts += [str(row.get("text") or "") for row in rows]
    samples = [sample for text in texts for sample in _spread(text, max(1, NUM_SAMPLES // len(texts)))]
    num_tokens = sum(count_tokens(ctx, resolve_source(ctx, f"tokenizer:{tokenizer_id}"), samples))
    return sum(len(sample.encode()) for sample in samples) / num_tokens if num_tokens else None


def _spread(text: str, count: int) -> list[str]:
    """Return a short text, or samples spread over a long one."""
    if len(text) <= count * SAMPLE_CHARACTERS:
        return [text]
    last = len(text) - SAMPLE_CHARACTERS
    starts = [last * place // max(1, count - 1) for place in range(count)]
    return [text[start : start + SAMPLE_CHARACTERS] for start in starts]
