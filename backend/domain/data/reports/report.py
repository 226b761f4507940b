"""Request and result of a data report, one schema for the job, the page and the command line; and its findings by
severity, each with its cure.

Rows are numbered from 1 within their split. Shares lie between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.data.splits import Split
from backend.domain.wording import percent

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


FAR = 16  # a context this many times longer is no remedy for truncated rows
POOR_FIT = 0.6  # share of a tokenizer's own bytes per token; a text then takes 1.7 times as many tokens
NOTABLE = 0.001  # smaller shares are reported without a warning


class Severity(StrEnum):
    """Severity of a finding. `BLOCKS`: a run on these rows fails or trains on nothing."""

    BLOCKS = "blocks training"
    LOOK = "look at it"
    FINE = "fine"


@dataclass(frozen=True)
class DataFinding:
    """One sentence and the next step. `drop` names the rows that can be dropped, `num_rows` how many."""

    grade: Severity
    topic: str
    text: str
    remedy: str = ""
    drop: str = ""
    num_rows: int = 0


def list_findings(report: DataReport) -> list[DataFinding]:
    """Return all findings, most severe first."""
    findings = [
        *_rendering(report),
        *_silence(report),
        *_cuts(report),
        *_leakage(report),
        *_contamination(report),
        *_duplicates(report),
        *_characters(report),
        *_languages(report),
        *_tokenizer(report),
        *_packing(report),
    ]
    order = list(Severity)
    counted = [replace(finding, num_rows=report.droppable.get(finding.drop, 0)) for finding in findings]
    return sorted(counted, key=lambda finding: order.index(finding.grade))


def _rendering(report: DataReport) -> Iterator[DataFinding]:
    if report.refused_rows:
        yield DataFinding(
            Severity.LOOK,
            "rendering",
            f"The chat template refuses {_rows(report.refused_rows)}, which the trainer leaves out: {report.refusal}",
            "Drop them, or choose another base.",
            drop="refused",
        )
    if report.forged_rows:
        first = report.forged[0]
        yield DataFinding(
            Severity.LOOK,
            "rendering",
            f"{_rows(report.forged_rows, 'spells', 'spell')} special tokens of the tokenizer, which the renderer splits"
            f" so that they stay text: {first.split} row {first.row:,}.",
            "Drop them, or replace that text at the source.",
            drop="forged",
        )
    if report.trainer == "pretrain" and not report.epoch.sequences:
        yield DataFinding(
            Severity.BLOCKS,
            "length",
            f"The train split has {report.train.tokens:,} tokens, too few for a context of"
            f" {report.question.context:,}.",
            f"Use a context of at most {max(8, (report.train.tokens - 1) // 2):,}, or more text.",
        )


def _silence(report: DataReport) -> Iterator[DataFinding]:
    silent, rows = report.train.zero_label_rows, report.train.rows
    if report.trainer == "none":
        return
    if report.is_silent and report.trainer != "pretrain":
        yield DataFinding(
            Severity.BLOCKS,
            "zero-label rows",
            f"None of the {rows:,} train rows has anything to train on{_first_reason(report)}. A run on them is"
            " refused.",
            "Choose a longer context, or another dataset.",
        )
    elif silent:
        reason = _first_reason(report)
        yield DataFinding(
            Severity.LOOK,
            "zero-label rows",
            f"{_rows(silent)} of {rows:,} {'has' if silent == 1 else 'have'} nothing to train on"
            f" ({_percent(silent, rows)}){reason}. The trainer leaves {'it' if silent == 1 else 'them'} out.",
            "Choose a longer context, or drop them.",
            drop="zero_label",
        )
    else:
        yield DataFinding(Severity.FINE, "zero-label rows", "Every row has something to train on.")
    empty = sum(split.empty_rows for split in report.splits.values())
    if empty:
        yield DataFinding(
            Severity.LOOK,
            "empty rows",
            f"{_rows(empty, 'has', 'have')} no text, or an answer without any.",
            "Drop them.",
            drop="empty",
        )


def _first_reason(report: DataReport) -> str:
    """Return the reason for the first row without a trained token, as a suffix; empty if there is none."""
    return f": {report.zero_label[0].reason}" if report.zero_label else ""


def _cuts(report: DataReport) -> Iterator[DataFinding]:
    train, context = report.train, report.question.context
    if report.trainer == "pretrain":
        yield DataFinding(
            Severity.FINE, "length", f"Texts follow each other in windows of {context:,} tokens; nothing is cut off."
        )
    elif report.trainer == "none":
        longer = train.lengths.max > context
        yield DataFinding(
            Severity.LOOK if longer else Severity.FINE,
            "length",
            f"The longest row has {train.lengths.max:,} tokens; the context holds {context:,}.",
        )
    elif train.truncated_rows:
        yield DataFinding(
            Severity.LOOK,
            "length",
            f"{_rows(train.truncated_rows)} ({_percent(train.truncated_rows, train.rows)})"
            f" {'is' if train.truncated_rows == 1 else 'are'} longer than {context:,} tokens; {train.lost_tokens:,}"
            f" tokens ({_percent(train.lost_tokens, train.tokens)}) are cut off, and with them where such answers end.",
            (
                f"A context of {_round_up(train.lengths.p99):,} holds 99 % of the rows whole."
                if train.lengths.p99 <= FAR * context
                else "Split the longest rows at the source."
            ),
        )
    else:
        yield DataFinding(
            Severity.FINE, "length", f"Every row fits {context:,} tokens; the longest has {train.lengths.max:,}."
        )


def _leakage(report: DataReport) -> Iterator[DataFinding]:
    leak = report.leakage
    held_out = report.splits["val"].rows if "val" in report.splits else 0
    if not held_out:
        if report.trainer != "none":
            yield DataFinding(
                Severity.LOOK,
                "leakage",
                "No row is held out, so there is no val_loss to stop by.",
                "Hold some rows out: split the dataset again.",
            )
        return
    total = leak.exact + leak.near
    if total:
        how = (
            f"{leak.exact:,} word for word, {leak.near:,} almost"
            if leak.exact and leak.near
            else f"{'almost ' if leak.near else ''}word for word"
        )
        first = leak.rows[0]
        yield DataFinding(
            Severity.LOOK,
            "leakage",
            f"{_rows(total)} of {held_out:,} held out ({_percent(total, held_out)}) {'is' if total == 1 else 'are'}"
            f" also trained on, {how}: row {first.val.row:,} is like train row {first.train.row:,}. The validation"
            " loss will look better than it is.",
            "Drop the rows like them from those to train on.",
            drop="leakage",
        )
    else:
        yield DataFinding(
            Severity.FINE, "leakage", f"No row held out (of {held_out:,}) is like one that is trained on."
        )
    if leak.same_prompt:
        yield DataFinding(
            Severity.LOOK if leak.same_prompt > NOTABLE * held_out else Severity.FINE,
            "leakage",
            f"{_rows(leak.same_prompt)} held out {'has' if leak.same_prompt == 1 else 'have'} the prompt of a training"
            " row, with another answer.",
        )


def _contamination(report: DataReport) -> Iterator[DataFinding]:
    looked = sum(benchmark.items for benchmark in report.benchmarks)
    if not report.benchmarks:
        yield DataFinding(
            Severity.FINE,
            "benchmarks",
            "No benchmark is imported, so none was searched for.",
            "Import the benchmarks that you measure with.",
        )
    elif report.contaminated_items:
        first = report.contamination[0]
        names = ", ".join(
            f"{benchmark.found:,} of {benchmark.name}" for benchmark in report.benchmarks if benchmark.found
        )
        yield DataFinding(
            Severity.LOOK,
            "benchmarks",
            f"{_rows(report.contaminated_rows, 'holds', 'hold')} items of benchmarks ({names}): "
            f"{first.split} row {first.row:,} has item {first.item:,} of {first.benchmark}.",
            "Drop these rows, or leave those items out of what you conclude.",
            drop="contamination",
        )
    else:
        word = "benchmark" if len(report.benchmarks) == 1 else "benchmarks"
        yield DataFinding(
            Severity.FINE,
            "benchmarks",
            f"No item of {len(report.benchmarks)} {word} ({looked:,} items) stands in the rows.",
        )


def _duplicates(report: DataReport) -> Iterator[DataFinding]:
    same, rows = report.duplicates, sum(split.rows for split in report.splits.values())
    total = same.exact + same.near
    if total:
        is_notable = total > NOTABLE * rows
        yield DataFinding(
            Severity.LOOK if is_notable else Severity.FINE,
            "duplicates",
            f"{_likes(same.exact, same.near)} ({_percent(total, rows)}).",
            "Drop all but the first of each." if is_notable else "",
            drop="duplicates",
        )
    else:
        yield DataFinding(Severity.FINE, "duplicates", "No two rows are the same or nearly so.")
    if same.limited:
        yield DataFinding(
            Severity.LOOK,
            "duplicates",
            "So many rows look alike that not all were compared; there are more near duplicates than counted.",
        )


def _characters(report: DataReport) -> Iterator[DataFinding]:
    rows = sum(split.rows for split in report.splits.values())
    for fault in report.faults:
        grave = fault.name not in ("unusual_space", "unseen_character") and fault.rows > NOTABLE * rows
        yield DataFinding(
            Severity.LOOK if grave else Severity.FINE,
            "characters",
            f"{fault.meaning}: {_rows(fault.rows)} ({_percent(fault.rows, rows)}), {fault.count:,} times.",
            "Repair the source and import it again." if grave else "",
        )
    if not report.faults:
        yield DataFinding(Severity.FINE, "characters", "No wrong encoding, control characters or remains of HTML.")


def _languages(report: DataReport) -> Iterator[DataFinding]:
    known = [language for language in report.languages if language.code not in ("short", "unsure")]
    if known:
        shown = ", ".join(f"{language.name} {percent(language.share, digits=1)}" for language in known[:4])
        yield DataFinding(Severity.FINE, "languages", f"Languages: {shown}{', …' if len(known) > 4 else ''}.")


def _tokenizer(report: DataReport) -> Iterator[DataFinding]:
    train, own = report.train, report.own_bytes_per_token
    if report.trainer != "pretrain" or not train.text_bytes:  # a chat's tokens are its template's, too
        return
    rate = train.text_bytes / max(1, train.tokens - report.added_per_row * train.rows)
    text = f"A token holds {rate:.1f} bytes of the text"
    if own and rate < POOR_FIT * own:
        yield DataFinding(
            Severity.LOOK,
            "tokenizer",
            f"{text}, and {own:.1f} of the text that “{report.tokenizer}” was made for: training and answers take"
            f" {own / rate:.1f} times as many tokens.",
            "Train a tokenizer on this dataset, or choose another one.",
        )
    else:
        yield DataFinding(Severity.FINE, "tokenizer", f"{text}.")


def _packing(report: DataReport) -> Iterator[DataFinding]:
    packing = report.packing
    if packing.trainer is None or packing.packed is None:
        return
    if report.trainer == "pretrain":
        yield DataFinding(Severity.FINE, "packing", "Windows are full: no position is padding.")
    elif report.trainer == "sft":
        alone = (
            f"; one row a sequence, {percent(packing.padded)} of what is computed would be text"
            if packing.padded is not None
            else ""
        )
        yield DataFinding(
            Severity.FINE,
            "packing",
            f"Rows share sequences, which are {percent(packing.packed)} full, and no position is padding{alone}.",
        )
    else:
        yield DataFinding(
            Severity.LOOK if packing.trainer < 0.5 else Severity.FINE,
            "packing",
            f"{percent(packing.trainer)} of what is computed is text, the rest padding; packed into the context it"
            f" would be {percent(packing.packed)}.",
            "A smaller micro-batch with more accumulation pads less." if packing.trainer < 0.5 else "",
        )


def _likes(exact: int, near: int) -> str:
    if not near:
        return _rows(exact, "repeats another one", "repeat another one")
    if not exact:
        return _rows(near, "is nearly the same as another one", "are nearly the same as another one")
    repeats = _rows(exact, "repeats another one", "repeat another one")
    return f"{repeats}, and {near:,} more {'is' if near == 1 else 'are'} nearly the same as one"


def _rows(count: int, one: str = "", many: str = "") -> str:
    """Count rows, with what they do."""
    words = (f"{count:,} row", one) if count == 1 else (f"{count:,} rows", many)
    return " ".join(filter(None, words))


def _percent(part: int, total: int) -> str:
    share = part / total if total else 0.0
    return "under 0.1 %" if 0 < share < 0.001 else percent(share, digits=1)


def _round_up(tokens: int) -> int:
    return max(8, -(-tokens // 64) * 64)
