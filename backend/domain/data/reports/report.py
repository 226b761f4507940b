"""Request and result of a data report: one schema for the job, the page and the command line.

Rows are numbered from 1 within their split. Shares lie between 0 and 1.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.data.splits import Split

Trainer = Literal["pretrain", "sft", "dpo", "kto", "none"]

MAX_CONTEXT = 1_048_576
ROW_TOKENS = "row-tokens.i4"
"""File of a report: the tokens of each row, train before validation, as 32-bit integers."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReportQuestion(_Frozen):
    """Request of a data report: tokenizer, context and batch. The same request on the same rows has the same result."""

    context: int = Field(default=1024, ge=8, le=MAX_CONTEXT, description="Tokens per training sequence.")
    micro_batch: int = Field(default=16, ge=1, le=65_536, description="Sequences in one forward pass.")
    grad_accum_steps: int = Field(default=1, ge=1, le=65_536)


class RowRef(_Frozen):
    """A row, with the beginning of its text."""

    split: Split
    row: int
    text: str = ""


class Lengths(_Frozen):
    """Tokens per row before any cut. `edges` has one more entry than `counts`."""

    mean: float = 0.0
    min: int = 0
    p50: int = 0
    p90: int = 0
    p99: int = 0
    max: int = 0
    edges: list[int] = []
    counts: list[int] = []


class SplitReport(_Frozen):
    """One split in numbers. `tokens` before the cut, `kept_tokens` after it, `loss_tokens` those trained on;
    `text_bytes` of UTF-8, without labels and what a chat template adds.
    """

    rows: int = 0
    text_bytes: int = 0
    tokens: int = 0
    kept_tokens: int = 0
    loss_tokens: int = 0
    truncated_rows: int = 0
    lost_tokens: int = 0
    zero_label_rows: int = 0
    empty_rows: int = 0
    lengths: Lengths = Lengths()

    @property
    def truncated_share(self) -> float:
        """Share of rows that are truncated."""
        return self.truncated_rows / self.rows if self.rows else 0.0


class ZeroLabelRow(RowRef):
    """A row without a trained token, with the reason."""

    reason: str


class DuplicateCluster(_Frozen):
    """Similar rows. The first is kept; `similarity` of each to it is 1.0 for equal rows."""

    size: int
    rows: list[RowRef]
    similarity: list[float]


class Duplicates(_Frozen):
    """Rows beyond the first of their kind. `near` leaves out the exact ones; `pairs_checked` were compared exactly."""

    exact: int = 0
    near: int = 0
    exact_clusters: list[DuplicateCluster] = []
    near_clusters: list[DuplicateCluster] = []
    threshold: float = 0.8
    pairs_checked: int = 0
    limited: bool = False
    seconds: float = 0.0


class Leak(_Frozen):
    """A held-out row, and a similar row in the train split."""

    val: RowRef
    train: RowRef
    similarity: float


class Leakage(_Frozen):
    """Held-out rows that are in the train split, too: exactly (`exact`), nearly (`near`), or their prompt alone."""

    exact: int = 0
    near: int = 0
    same_prompt: int = 0
    rows: list[Leak] = []


class Contamination(_Frozen):
    """An item of a benchmark in a row. `item` counts from 1; `kind`: a run of 13 words or more, or a whole question."""

    benchmark: str
    item: int
    split: Split
    row: int
    kind: str
    text: str
    words: int
    share: float


class Language(_Frozen):
    """A language or script, and its share of the sampled rows."""

    code: str
    name: str
    rows: int
    share: float


class FaultReport(_Frozen):
    """One kind of fault: rows that have it, how often, and examples."""

    name: str
    meaning: str
    rows: int
    count: int
    examples: list[RowRef]


class Packing(_Frozen):
    """Real tokens per position that is computed. `trainer` is our trainer's share in the order of its first epoch.
    `padded` is one row per sequence, padded to the longest of its micro-batch; `packed` is first-fit decreasing into
    the context.
    """

    trainer: float | None = None
    padded: float | None = None
    packed: float | None = None
    packed_sequences: int = 0
    method: str = ""


class Epoch(_Frozen):
    """One pass over the rows to train on. `tokens` and `sequences` that are read, `steps` at the requested batch."""

    tokens: int = 0
    sequences: int = 0
    steps: int = 0


class TokenPiece(_Frozen):
    """Consecutive tokens as the trainer sees them, one entry per token."""

    label: str = ""
    tokens: list[str]
    ids: list[int]
    trained: list[bool]
    special: list[bool]
    cut_at: int | None = None
    left_out: int = 0


class ReportSample(_Frozen):
    """A row, or a window of text, shown whole."""

    group: Literal["first", "random", "longest", "truncated", "zero-label", "window"]
    split: Split = "train"
    row: int | None = None
    num_tokens: int
    loss_tokens: int
    note: str = ""
    pieces: list[TokenPiece]


class BenchmarkChecked(_Frozen):
    """A benchmark searched for, with the items found."""

    name: str
    items: int
    found: int = 0


class DataReport(_Frozen):
    """Result of a data report. Lists hold the first few entries; counts cover all. `droppable` counts the rows that a
    finding would drop. `own_bytes_per_token` is the tokenizer's on text like that it was trained on, None if unknown.
    `added_per_row` special tokens surround each text in pre-training. `forged` rows spell special tokens (`<|end|>`) in
    their text, which the renderer splits so that they stay text.
    """

    kind: str
    trainer: Trainer
    tokenizer: str
    own_bytes_per_token: float | None = None
    added_per_row: int = 0
    question: ReportQuestion
    splits: dict[str, SplitReport]
    epoch: Epoch
    packing: Packing
    zero_label: list[ZeroLabelRow] = []
    empty: list[RowRef] = []
    duplicates: Duplicates = Duplicates()
    leakage: Leakage = Leakage()
    contamination: list[Contamination] = []
    contaminated_rows: int = 0
    contaminated_items: int = 0
    benchmarks: list[BenchmarkChecked] = []
    languages: list[Language] = []
    languages_of: int = 0
    faults: list[FaultReport] = []
    refused: list[RowRef] = []
    refused_rows: int = 0
    refusal: str = ""
    forged: list[RowRef] = []
    forged_rows: int = 0
    droppable: dict[str, int] = {}
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def train(self) -> SplitReport:
        """The split to train on."""
        return self.splits.get("train", SplitReport())

    @property
    def is_silent(self) -> bool:
        """Return whether no row has a token to train on."""
        return (
            self.trainer != "none" and self.train.rows > 0 and self.epoch.sequences == 0 and self.train.kept_tokens == 0
        )


def sampling_error(drawn: int, total: int) -> float:
    """Return the half width of a 95 % interval of a share on `drawn` rows of `total`, at its widest; 0 if all rows are
    drawn.

    Cochran, Sampling Techniques (1977), section 3.2: simple random sampling without replacement.

    >>> round(sampling_error(10_000, 468_000), 4)
    0.0097
    """
    if not 0 < drawn < total:
        return 0.0
    return float(1.96 * (0.25 / drawn * (total - drawn) / (total - 1)) ** 0.5)
