"""Size of a dataset that is one text: tokens where a tokenizer is known, else characters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sqlalchemy import select

from backend.db.tables import Tokenizer
from backend.domain.data.splits import SPLITS
from backend.infra.files.parquet import read_row_page
from backend.services.context import Context
from backend.services.data.reports import list_data_reports
from backend.services.data.views import VersionView

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
