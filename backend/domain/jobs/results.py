"""Results: the output of each kind of job, as one frozen class that the room builds and the service reads.

A result is stored with its job as JSON, with the fields that its room set. Rows stored by other versions are read too:
unknown fields are ignored, and fields added later have a default.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator

from backend.domain.checkpoints.inspection import (
    AttentionSummary,
    ChangeSummary,
    InspectionFacts,
    LensSummary,
    LossSums,
    PairSummary,
)
from backend.domain.data.rows.problem import RejectedRow, RejectReason
from backend.domain.data.versions.card_facts import CardFacts
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.judges import JudgeSummary
from backend.domain.evaluation.safety.reports import SafetyReport, ToxicityReport
from backend.domain.jobs.events import Values
from backend.domain.jobs.load_test import LoadTestResult
from backend.domain.jobs.records import JobResult
from backend.domain.jobs.serving_probe import ServingProbeResult
from backend.domain.jobs.states import JobKind, StopRequest
from backend.domain.serving.precision import PrecisionCheck
from backend.domain.serving.upstream import Upstream
from backend.domain.validation import ReadRecord, StoredRecord


class StepTimes(StoredRecord):
    """`step_s` is the median time of a step, with its 10th and 90th percentile; `allocated_bytes` the peak of tensors
    alone, if the allocator reports it; `epoch_sequences` how many sequences packed rows fill.
    """

    allocated_bytes: int | None = None
    step_s: float | None = None
    step_s_low: float | None = None
    step_s_high: float | None = None
    steps_timed: float = 0
    epoch_sequences: int | None = None


class SequenceLengths(StoredRecord):
    """`longest` and `trained` are the positions and trained positions of the longest sequence, `accumulated` the
    micro-batches per step.
    """

    longest: int | None = None
    trained: int | None = None
    accumulated: int | None = None


class MeasurementFacts(StepTimes, SequenceLengths):
    """Facts of a measurement beside peak memory and speed."""


class RunMeasurement(StepTimes):
    """Peak memory and speed of one training process. `measured_bytes` is the peak of the process."""

    measured_bytes: int
    tokens_per_s: float
    device: str
    device_kind: Literal["cpu", "gpu"]


class TrainResult(JobResult):
    """`final_step` is the last step done, `checkpoint` the folder of the newest checkpoint."""

    job_kind = JobKind.TRAIN
    final_step: int = 0
    stopped: StopRequest | None = None
    metrics: Values = Field(default_factory=dict)
    checkpoint: str | None = None
    measurement: RunMeasurement | None = None


class ProbeResult(JobResult, RunMeasurement, SequenceLengths):
    """The measurement of a probe."""

    job_kind = JobKind.PROBE
    stopped: StopRequest | None = None


class ScoreRow(ReadRecord):
    """One score with standard error and 95 % interval, None where not finite; of a `subgroup` if it names one."""

    metric: str
    subgroup: str = ""
    value: float | None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    n: int
    method: str = ""

    @field_validator("value", "stderr", "low", "high")
    @classmethod
    def _leave_out_what_is_not_finite(cls, number: float | None) -> float | None:
        return number if number is not None and math.isfinite(number) else None


class JudgeFacts(ReadRecord):
    """The judge of a task: answers without a verdict, tokens of its questions and verdicts, their price if known."""

    name: str
    missing: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price_usd: float | None = None


class EvaluationFacts(ReadRecord):
    """Facts of an evaluation: `unit` is what counts as one item, `chance` the score of guessing.

    `engine` computed the numbers; where that is not the one asked for, `engine_fallback` gives the reason. `bos` says
    whether a text begins with the begin token. Counted are items whose context was cut (`truncated_items`) or holds
    bytes that the tokenizer can't write (`lost_items`, `lost_bytes`), answers that the context cut before the task's
    longest (`capped_items`), ties, and items without a result. `audit_difference` is the largest difference in nats on
    `audit_items` that the plainest path computed again. Of an endpoint: its name, address and model as it names itself,
    and the tokens that it counted with their price.
    """

    used_chat_template: bool | None = None
    unit: str = "items"
    items: int | None = None
    context: int | None = None
    number_format: str | None = None
    device: str | None = None
    chance: float | None = None
    tokens: int | None = None
    lost_bytes: int = 0
    lost_items: int = 0
    truncated_items: int = 0
    capped_items: int = 0
    tied_items: int = 0
    missing_items: int = 0
    engine: str | None = None
    engine_fallback: str = ""
    stored_dtype: str | None = None
    devices: int = 1
    batch_tokens: int | None = None
    bos: bool | None = None
    weights_hash: str | None = None
    template_hash: str | None = None
    item_ids_hash: str | None = None
    audit_items: int = 0
    audit_difference: float | None = None
    endpoint: str | None = None
    url: str | None = None
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price_usd: float | None = None
    judge: JudgeFacts | None = None


class CheckedItem(ReadRecord):
    """An item by two engines: `difference` is the largest of its likelihoods, in nats; None for a generated answer."""

    item_hash: str
    position: int
    difference: float | None = None
    same_choice: bool = True
    same_values: bool = True


class EngineCheck(ReadRecord):
    """Items computed by an evaluation's own engine and by another one. `shown` begins with the largest difference.

    `other_choices` counts items with another choice or answer, `other_values` those with another value of a metric.
    """

    against: str
    engine: str
    items: int
    largest_difference: float | None = None
    other_choices: int = 0
    other_values: int = 0
    shown: tuple[CheckedItem, ...] = ()


class EvaluateResult(JobResult):
    """The scores of an evaluation; of a check the comparison alone."""

    job_kind = JobKind.EVALUATE
    scores: tuple[ScoreRow, ...] = ()
    facts: EvaluationFacts = EvaluationFacts()
    check: EngineCheck | None = None


class EvaluationRecord(ReadRecord):
    """The row of an evaluation: its config, the settings that determine the score, and the facts of its job.

    `resumed`: more than one attempt measured it. `check` is the newest one; `safety` and `toxicity` are shown beside
    the scores of a safety probe and of a classifier.
    """

    config: EvaluationConfig = EvaluationConfig()
    settings: dict[str, Any] = Field(default_factory=dict)
    facts: EvaluationFacts = EvaluationFacts()
    resumed: bool = False
    check: EngineCheck | None = None
    safety: SafetyReport = SafetyReport()
    toxicity: ToxicityReport = ToxicityReport()

    def dump(self) -> dict[str, object]:
        """Return the stored form: of facts and reports only what was reported."""
        parts = {"facts": self.facts.model_dump(mode="json", exclude_unset=True)}
        return self.model_dump(mode="json") | parts | {"safety": self.safety.dump(), "toxicity": self.toxicity.dump()}


class GenerateResult(JobResult):
    """`file` holds the completions, one JSON line each; `owed` counts a campaign's unanswered prompts."""

    job_kind = JobKind.GENERATE
    count: int = 0
    tokens: int = 0
    used_chat_template: bool | None = None
    file: str | None = None
    owed: int | None = None


class LoglikelihoodResult(JobResult):
    """`items_file` holds one JSON line for each continuation."""

    job_kind = JobKind.LOGLIKELIHOOD
    count: int
    tokens: int
    items_file: str


class ClassifyResult(JobResult):
    """`items_file` holds a JSON line for each text: its score, null where it failed. `problem` is the first failure."""

    job_kind = JobKind.CLASSIFY
    count: int
    failed: int = 0
    label: str
    items_file: str
    problem: str = ""


class ReplicaResult(JobResult):
    """Summary of a stopped replica; `stopped` is the stop request, or `signal`."""

    job_kind = JobKind.REPLICA
    stopped: str = ""
    requests: int = 0
    generated_tokens: int = 0


class ImportFacts(StoredRecord):
    """Facts of an import's source. `text_bytes`: size of the text. `rejected_reasons` counts the rows that
    could not be used; `dropped_media` counts rows with something in a column of images, video or audio, which no
    dataset keeps, by column; `filtered_rows` those that filters left out, by reason.
    """

    text_bytes: int | None = None
    columns: tuple[str, ...] = ()
    unigram_byte_entropy_bits: float | None = None
    reason: str = ""
    rejected_reasons: tuple[RejectReason, ...] = ()
    dropped_rows: int | None = None
    dropped_media: dict[str, int] = Field(default_factory=dict)
    filtered_rows: dict[str, int] = Field(default_factory=dict)
    files: int | None = None
    commit: str | None = None
    revision: str | None = None
    licence: str | None = None


class VersionFacts(ImportFacts):
    """Facts of a version beside its counts: those of its source, and the edited fields of its card."""

    card: CardFacts = CardFacts()


class ImportResult(JobResult, ImportFacts):
    """The version made by an import or a derivation.

    `rejected` holds the first 200 rows that could not be used; all are in the folder's `rejected.jsonl`. `ignored`
    holds the files left out, as {"file", "reason"}; `bytes` is the size on disk. Where texts were cut for validation
    (fewer than ten of them), a text counts in both splits. `resumed`: an earlier attempt was continued. `version_id`
    names the version with the content: an older one if `reused`. `tokens` are the folders of those that were made.
    """

    job_kind = JobKind.IMPORT_DATASET
    kind: str = ""
    mapping: dict[str, str] = Field(default_factory=dict)
    rows: int = 0
    train_rows: int = 0
    val_rows: int = 0
    rejected_count: int = 0
    rejected: tuple[RejectedRow, ...] = ()
    content_hash: str
    folder: str
    bytes: int = 0
    tokens: tuple[str, ...] = ()
    ignored: tuple[dict[str, str], ...] = ()
    resumed: bool = False
    change: dict[str, Any] | None = None
    is_cut: bool = False
    version_id: str | None = None
    version: int | None = None
    reused: bool = False


class TokenizerFacts(StoredRecord):
    """`bytes_per_token` is measured on the split `measured_on`; `sample_*` describe the training text."""

    kind: str = ""
    asked_vocab_size: int | None = None
    bytes_per_token: float | None = None
    measured_on: str = ""
    sample_rows: int = 0
    sample_bytes: int = 0
    total_rows: int = 0


class TrainTokenizerResult(JobResult, TokenizerFacts):
    """A trained tokenizer in `folder`."""

    job_kind = JobKind.TRAIN_TOKENIZER
    folder: str
    vocab_size: int


class NetworkFacts(StoredRecord):
    """Facts of a network, from a checkpoint's files. `quantisation` and `bits_per_weight` are those of its GGUF file,
    if it has one.
    """

    architecture: str | None = None
    context: int | None = None
    vocab_size: int | None = None
    dtype: str = ""
    licence: str | None = None
    has_chat_template: bool = False
    quantisation: str = ""
    bits_per_weight: float | None = None


class CheckpointFacts(NetworkFacts):
    """Facts of a checkpoint. `revision` is the Hub's commit, `requested_revision` the requested branch, tag or
    commit; `upstream` the server of a model that has no files here.
    """

    revision: str | None = None
    requested_revision: str | None = None
    upstream: Upstream | None = None


class CheckpointDescription(NetworkFacts):
    """Description of a checkpoint's folder. For an adapter, `parameters` are its own and the rest is its base's."""

    family: str = ""
    parameters: int | None = None
    adapter: bool = False
    bytes: int = 0
    files: tuple[str, ...] = ()


class AddBaseResult(JobResult, CheckpointDescription):
    """A base in `folder`; `revision` is the Hub's commit, `requested_revision` the requested branch, tag or commit;
    `gguf_hash` that of the file that it was made of.
    """

    job_kind = JobKind.ADD_BASE
    folder: str
    revision: str | None = None
    requested_revision: str | None = None
    gguf_hash: str | None = None


class Pushed(ReadRecord):
    """A commit of the Hub."""

    repo: str = ""
    url: str
    commit: str = ""


class ExportResult(JobResult, CheckpointDescription):
    """An export in `folder`, pushed to the Hub on request. `check` is what the quantisation of a GGUF file costs,
    `gguf_hash` what it is known by when it is added as a base.
    """

    job_kind = JobKind.EXPORT
    folder: str
    pushed: Pushed | None = None
    check: PrecisionCheck | None = None
    gguf_hash: str | None = None


class DatasetExportResult(JobResult):
    """A version's export in `folder`, with its rows per split, pushed to the Hub on request."""

    job_kind = JobKind.EXPORT_DATASET
    folder: str
    rows: dict[str, int] = Field(default_factory=dict)
    bytes: int = 0
    pushed: Pushed | None = None


class InspectResult(JobResult):
    """Summary of an inspection, whose arrays are in `folder`."""

    job_kind = JobKind.INSPECT
    folder: str
    facts: InspectionFacts = Field(default_factory=InspectionFacts)
    loss: LossSums | None = None
    attention: AttentionSummary | None = None
    lens: LensSummary | None = None
    pair: PairSummary | None = None
    outliers: int | None = None
    changes: ChangeSummary | None = None


class DataReportResult(JobResult):
    """The folder that holds `report.json`, `samples.json` and `rows.json`."""

    job_kind = JobKind.DATA_REPORT
    folder: str


class MeasuredTokenizer(ReadRecord):
    """Facts about a tokenizer in a report; `model` is its type, `unknown_token` that of text outside the vocabulary."""

    name: str
    vocab_size: int
    model: str = ""
    unknown_token: str | None = None


class LanguageShare(ReadRecord):
    """A language's part of a dataset's bytes."""

    code: str
    bytes: int
    share: float


class MeasuredDataset(ReadRecord):
    """Rows and bytes of a dataset that a tokenizer report read."""

    name: str
    rows: int
    bytes: int
    total_rows: int
    languages: tuple[LanguageShare, ...] = ()


class TokenizerReportResult(JobResult):
    """`measures` has an entry for each tokenizer, dataset and language (None: all): `TokenCounts.measures`."""

    job_kind = JobKind.TOKENIZER_REPORT
    tokenizers: tuple[MeasuredTokenizer, ...] = ()
    datasets: tuple[MeasuredDataset, ...] = ()
    measures: tuple[dict[str, Any], ...] = ()


class JudgeResult(JobResult):
    """`verdicts_file` holds the verdict and texts of each item."""

    job_kind = JobKind.JUDGE
    judge: str = ""
    mode: str = "rubric"
    summary: JudgeSummary | None = None
    verdicts_file: str | None = None


RESULTS: dict[JobKind, type[JobResult]] = {
    result.job_kind: result
    for result in (
        TrainResult,
        ProbeResult,
        EvaluateResult,
        GenerateResult,
        LoglikelihoodResult,
        ClassifyResult,
        ReplicaResult,
        ServingProbeResult,
        LoadTestResult,
        ImportResult,
        TrainTokenizerResult,
        AddBaseResult,
        ExportResult,
        DatasetExportResult,
        InspectResult,
        DataReportResult,
        TokenizerReportResult,
        JudgeResult,
    )
}
"""The result of every kind of job."""
