"""Payloads of reports on datasets and tokenizers."""

from __future__ import annotations

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.reports.report import ReportQuestion
from backend.domain.jobs.records import FrozenRecord, Payload
from backend.domain.jobs.states import JobKind


class NamedFolder(FrozenRecord):
    """A dataset or tokenizer with its name in the results."""

    name: str
    folder: str


class DataReportPayload(Payload):
    """Report on a dataset as the trainer sees it. `tokenizer` is None for plain bytes; `bytes_per_token` is its own."""

    job_kind = JobKind.DATA_REPORT
    dataset: str
    dataset_kind: DatasetKind
    tokenizer: str | None = None
    tokenizer_name: str = "bytes"
    bytes_per_token: float | None = None
    question: ReportQuestion
    benchmarks: tuple[NamedFolder, ...] = ()
    out: str


class TokenizerReportPayload(Payload):
    """Measure tokenizers on datasets."""

    job_kind = JobKind.TOKENIZER_REPORT
    tokenizers: tuple[NamedFolder, ...]
    datasets: tuple[NamedFolder, ...]
