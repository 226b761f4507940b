"""Sizes of datasets: tokens of a train split or of a dataset that is one text, counted by a data report or estimated;
characters where no tokenizer is known.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sqlalchemy import select

from backend.db.tables import Tokenizer
from backend.domain.data.splits import SPLITS
from backend.errors import RoundhouseError
from backend.infra.files.parquet import read_row_page
from backend.services.context import Context
from backend.services.data.reports import find_data_report, list_data_reports
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


MAX_TEXT_BYTES = 256 * 2**20
"""Size above which a text is not counted."""


@dataclass(frozen=True)
class TextSize:
    """Train and validation part of a text, in `unit` (`Tokens` or `Characters`). `basis` is how they were counted."""

    unit: str
    train: int
    val: int
    basis: str
    is_estimate: bool = False

    @property
    def total(self) -> int:
        """Both parts."""
        return self.train + self.val

    def write(self, count: int) -> str:
        """Write a count, an estimate in three figures: `≈ 271,000`."""
        if not self.is_estimate:
            return f"{count:,}"
        return f"≈ {round(count, 3 - len(str(count))):,}"


def measure_text(ctx: Context, version: VersionView) -> TextSize | None:
    """Return the size of a version's one text; None if it is too large to be counted.

    Tokens are those of the newest data report, or are estimated by the bytes per token of the newest tokenizer trained
    on the version.
    """
    for view in list_data_reports(ctx, version.id):
        if view.report is not None and view.source is not None:
            basis = f"Counted with {view.source_name} by the data report."
            held_out = view.report.splits.get("val")
            return TextSize("Tokens", view.report.train.tokens, held_out.tokens if held_out is not None else 0, basis)
    if version.folder is None or version.bytes > MAX_TEXT_BYTES:
        return None
    folder = ctx.artifacts.path(version.folder)
    train, val = (_length(folder, split) for split in SPLITS)
    with ctx.db.read() as session:
        query = (
            select(Tokenizer).where(Tokenizer.dataset_version_id == version.id).order_by(Tokenizer.created_at.desc())
        )
        tokenizer = next((one for one in session.scalars(query) if one.facts.bytes_per_token), None)
    if tokenizer is None or not (rate := tokenizer.facts.bytes_per_token):
        return TextSize("Characters", train[0], val[0], "Train a tokenizer or make a report to count tokens.")
    basis = f"Estimated from {tokenizer.name}: {rate:.2f} bytes per token."
    return TextSize("Tokens", round(train[1] / rate), round(val[1] / rate), basis, is_estimate=True)


@lru_cache(maxsize=256)  # a version never changes
def _length(folder: Path, split: str) -> tuple[int, int]:
    """Return (characters, UTF-8 bytes) of a split's text."""
    text = "".join(str(row.get("text", "")) for row in read_row_page(folder, split=split, limit=1))
    return len(text), len(text.encode("utf-8", "surrogatepass"))
