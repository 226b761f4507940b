"""Settings of an import: kind, columns, rows that are no good, split, filters, shards."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.languages import NAMES, OTHER, SHORT, UNSURE
from backend.domain.data.rows.problem import FEW_REJECTED
from backend.domain.data.splits import DEFAULT_SPLIT_SEED, DEFAULT_VAL_FRACTION
from backend.domain.fields import OPTION_ONLY, Shown, above, setting, when

CORPUS = Shown(group="corpus")
HERE = "local"
LANGUAGES = frozenset(NAMES) - {SHORT, UNSURE, OTHER}


class ImportOptions(BaseModel):
    """Kind and columns of a source, rows that are no good, the split, filters, and shards of a large corpus. `mapping`:
    source column to field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DatasetKind | None = setting(None, "Kind", "Recognised when left out.", shown=OPTION_ONLY)
    mapping: dict[str, str] = Field(default_factory=dict)
    encoding: str | None = setting(
        None,
        "Encoding",
        "Encoding of text that is not UTF-8, such as cp1252. Of several files those that are UTF-8 are read as such.",
        shown=OPTION_ONLY,
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
    languages: tuple[str, ...] = setting(
        (),
        "Languages",
        "Codes such as en, de. Rows in other languages, and those whose language can't be told, are left out.",
        empty="all",
        shown=CORPUS,
    )
    min_characters: int = setting(0, "Characters, at least", "Shorter rows are left out.", ge=0, shown=CORPUS)
    drop_faulty: bool = setting(
        False,
        "Leave out faulty texts",
        "Rows with broken or invisible characters or remains of HTML, as a data report counts them.",
        shown=CORPUS,
    )
    drop_near_duplicates: bool = setting(
        False,
        "Leave out near duplicates",
        "Of rows that are alike (a Jaccard similarity of at least 0.8) the first in each split is kept, and in training"
        " none that is like a held-out one, as when a data report's duplicates and leaks are dropped.",
        shown=CORPUS,
    )
    shards: int = setting(
        0,
        "Shards",
        "Files are read, filtered and compared in this many shards by datatrove, of the extra `corpora`; a finished"
        " shard is not read again. 0: by one process.",
        ge=0,
        le=10_000,
        shown=CORPUS,
    )
    workers: int = setting(
        2,
        "Shards at a time",
        "Each takes one CPU core. On the worker's own machine no more are read at a time than it has cores.",
        ge=1,
        le=1000,
        used=(above("shards", 0),),
        shown=CORPUS,
    )
    executor: str = setting(
        HERE,
        "Shards run on",
        "local: the machine of the worker that takes the import. slurm:PARTITION: a Slurm cluster that this worker"
        " submits to (docs/slurm.md).",
        used=(above("shards", 0),),
        shown=CORPUS,
    )

    tokenizer: str | None = setting(
        None,
        "Tokenizer",
        "Tokens of the texts are made for it in shards too, so that no run has to wait for them; with a store of"
        " artifacts a run reads them there.",
        empty="none",
        used=(above("shards", 0), when("kind", "text")),
        shown=CORPUS,
    )

    @field_validator("languages")
    @classmethod
    def _are_known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [code for code in codes if code not in LANGUAGES]:
            raise ValueError(f"{unknown[0]!r} is not a language that can be detected: {', '.join(sorted(LANGUAGES))}")
        return codes
