"""Settings of an import: kind, columns, rows that are no good, split."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.problem import FEW_REJECTED
from backend.domain.data.splits import DEFAULT_SPLIT_SEED, DEFAULT_VAL_FRACTION
from backend.domain.fields import OPTION_ONLY, setting, when


class ImportOptions(BaseModel):
    """Kind and columns of a source, rows that are no good, and the split. `mapping`: source column to field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DatasetKind | None = setting(None, "Kind", "Recognised when left out.", shown=OPTION_ONLY)
    mapping: dict[str, str] = Field(default_factory=dict)
    encoding: str | None = setting(
        None, "Encoding", "Encoding of text that is not UTF-8, such as cp1252.", shown=OPTION_ONLY
    )
    val_fraction: float = setting(
        DEFAULT_VAL_FRACTION,
        "Validation share",
        "Rows held out from training. The split hashes each row's content, so equal rows always land in the same one.",
        ge=0,
        le=0.5,
        unit="%",
        scale=100,
    )
    keep_good: bool = setting(
        True,
        "Skip invalid rows",
        "Every row is checked before the dataset is made; rows that are skipped are listed with the reason. Without it"
        " the first one ends the import.",
        option="--keep-good/--strict",
    )
    max_rejected: float = setting(
        FEW_REJECTED,
        "Invalid rows, at most",
        "Share of rows that may be skipped. Above it nothing is imported until you have seen them; with all of them,"
        " any number is skipped.",
        ge=0,
        le=1,
        unit="%",
        scale=100,
        used=(when("keep_good", True),),
    )
    seed: int = setting(DEFAULT_SPLIT_SEED, "Seed", "Seed of the split.", shown=OPTION_ONLY)
