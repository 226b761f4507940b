"""Payloads: the input of each kind of job, as one frozen class that the service writes and the room reads.

A payload is stored with its job as JSON and handed to the child process in `job.json`. Field names are part of the
stored form: jobs of an earlier version are read by the same classes. Folders are relative to the artifacts unless a
field says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.checkpoints.export_formats import GgufNumbers
from backend.domain.checkpoints.inspection import InspectionConfig
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.versions.changes import Change
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.evaluation.endpoints import EndpointTarget, JudgeTarget
from backend.domain.evaluation.judges import JudgeConfig
from backend.domain.jobs.load_test import LoadTestPayload
from backend.domain.jobs.records import FrozenRecord, Payload
from backend.domain.jobs.reports import DataReportPayload, TokenizerReportPayload
from backend.domain.jobs.serving_probe import ServingProbePayload
from backend.domain.jobs.states import JobKind
from backend.domain.json_values import JsonObject
from backend.domain.serving.engines import EngineName
from backend.domain.serving.memory import MAX_RUNNING
from backend.domain.serving.precision import Precision
from backend.domain.tokenizers.config import TokenizerConfig
from backend.domain.training.config import RunConfig
from backend.errors import NotFound


class ComputePayload(Payload):
    """Base of payloads whose job runs a network."""

    threads: int = Field(default=0, ge=0)
    """CPU threads; 0: chosen by the room."""


class TrainingPayload(ComputePayload):
    """A training config with its names resolved. `dataset` and `tokenizer` are folders, None while another job still
    makes them; they are filled in when the job starts.
    """

    config: RunConfig
    architecture: ArchitectureConfig | None = None
    tokenizer: str | None = None
    tokenizer_id: str | None = None
    dataset: str | None = None
    dataset_version_id: str | None = None
    dataset_kind: str
    base: str | None = None
    base_id: str | None = None
    run_folder: str

    @property
    def num_devices(self) -> int:
        """Those of its config on one machine."""
        return self.config.devices.per_node

    @property
    def dataset_folder(self) -> str:
        """Return the dataset's folder. Raises NotFound if it was not made or has been deleted."""
        return require_folder(self.dataset, what="dataset")

    @property
    def tokenizer_folder(self) -> str:
        """Return the folder of the base, or else of the tokenizer. Raises NotFound if there is neither."""
        return self.base or require_folder(self.tokenizer, what="tokenizer")


class TrainPayload(TrainingPayload):
    """Train a run."""

    job_kind = JobKind.TRAIN
    run_id: str
    holds_checkpoints: bool = False
    """Whether suites score every checkpoint, which is not removed before that (domain/training/holds.py)."""
    after_step: int | None = None
    """Step of the checkpoint that a run's later job continues from, 0: from its start; None: its first job, or one of a
    version that did not store it."""

    @property
    def num_machines(self) -> int:
        """Those of its config."""
        return self.config.devices.nodes


class ProbePayload(TrainingPayload):
    """Measure the peak memory and the speed of a run before it is launched.

    `fingerprint` identifies the measurement, `shape` is None for a base of an
    unknown family.
    """

    job_kind = JobKind.PROBE
    fingerprint: str
    shape: ArchitectureConfig | None = None


class CheckRequest(FrozenRecord):
    """A comparison of an evaluation's engine with another one; 0 items: all."""

    against: Literal["lm_eval", "plain"]
    items: int = Field(default=0, ge=0)


class EvaluatePayload(ComputePayload):
    """Score a checkpoint or an endpoint on a benchmark."""

    job_kind = JobKind.EVALUATE
    evaluation_id: str
    checkpoint: str | None = None
    endpoint: EndpointTarget | None = None
    dataset: str
    kind: EvaluationKind
    split: Literal["all", "train", "val"]
    config: EvaluationConfig
    fingerprint: str = ""
    examples: str | None = None
    """Folder of the dataset that a task's few-shot examples come from, if it is another one."""
    run_code: bool = False
    """Whether the operator lets benchmarks run programs that a model wrote."""
    judge: JudgeTarget | None = None
    """The judge that the task names as a metric."""
    check: CheckRequest | None = None
    """Compute items by two engines and compare them; nothing is scored."""

    @model_validator(mode="after")
    def _check_subject(self) -> Self:
        if (self.checkpoint is None) == (self.endpoint is None):
            raise ValueError("an evaluation scores either a checkpoint or an endpoint")
        return self


class GenerationPrompt(FrozenRecord):
    """Messages to complete; `id` and `sample`, the number of one of several answers, come back with the completion."""

    id: str
    messages: tuple[JsonObject, ...]
    sample: int = 0


class GeneratePayload(ComputePayload):
    """Complete prompts with a checkpoint, or with the `model` of the chat endpoint at `url`.

    `key_env` names the environment variable of the worker that holds the endpoint's key; the key itself is never in a
    payload.
    """

    job_kind = JobKind.GENERATE
    checkpoint: str | None = None
    url: str | None = None
    model: str = ""
    key_env: str = ""
    is_own: bool = False
    prompts: tuple[GenerationPrompt, ...]
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    chat: Literal["auto", "on", "off"] = "auto"

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.checkpoint is None) == (self.url is None):
            raise ValueError("completions come either from a checkpoint or from an endpoint")
        return self


class LoglikelihoodPayload(ComputePayload):
    """Score the continuations of `rows_file`, JSON lines of {context, continuation}."""

    job_kind = JobKind.LOGLIKELIHOOD
    checkpoint: str
    rows_file: str


class ClassifyPayload(ComputePayload):
    """Classify the texts of `texts_file`, JSON lines of {text}, by one label of a sequence classifier; for an
    evaluation's answers.
    """

    job_kind = JobKind.CLASSIFY
    classifier: str
    texts_file: str
    label: str = ""
    threshold: float = 0.5
    evaluation_id: str


class ReplicaPayload(Payload):
    """Serve a checkpoint as a replica of the endpoint `name`."""

    job_kind = JobKind.REPLICA
    checkpoint: str
    name: str
    internal_token: str = Field(repr=False)
    host: str = "127.0.0.1"
    threads: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    gpus: int = Field(default=1, ge=1)
    engine: EngineName = "auto"
    precision: Precision = "float32"
    draft: str | None = None
    max_perplexity_ratio: float = Field(default=1.05, ge=1)
    context: int | None = Field(default=None, ge=1)
    max_running: int = Field(default=MAX_RUNNING, ge=1)
    max_waiting: int = Field(default=64, ge=0)
    queue_timeout_s: float = Field(default=60.0, gt=0)
    answer_limit_s: float = Field(default=600.0, gt=0)
    keep_free_bytes: int = Field(default=0, ge=0)

    @property
    def num_devices(self) -> int:
        """Those over which its server spreads the network."""
        return self.gpus


class HubSource(FrozenRecord):
    """A dataset of the Hub. Defaults: the only config, the split `train`, the branch `main`."""

    id: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None


class Derivation(FrozenRecord):
    """A change of the version in `folder`; `other` is the folder of the version that is merged."""

    folder: str
    other: str | None = None
    change: Change = Field(discriminator="change")


class ShardCluster(FrozenRecord):
    """Settings by which the shards of an import are submitted to Slurm, and the import's job."""

    job_id: str = ""
    account: str = ""
    options: tuple[str, ...] = ()


class ImportPayload(ImportOptions, Payload):
    """Make a dataset version from one source.

    `source` is a path below the artifacts, or an absolute one that all workers can read; `url` an address of S3 or
    Google Cloud Storage; `derive` a change of another version. `split` names one split of a folder that `datasets`
    saved. `cluster` is filled in by the worker that takes the job, where its shards run in Slurm.
    """

    job_kind = JobKind.IMPORT_DATASET
    source: str | None = None
    hub: HubSource | None = None
    url: str | None = None
    split: str | None = None
    derive: Derivation | None = None
    cluster: ShardCluster | None = None
    keep_free_bytes: int = Field(default=0, ge=0)
    out_root: str = "datasets"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(part is not None for part in (self.source, self.hub, self.url, self.derive)) != 1:
            raise ValueError("an import needs one source: a file, a Hub dataset, an address or another version")
        return self


class TrainTokenizerPayload(TokenizerConfig, Payload):
    """Train a tokenizer on the train split of `dataset`, a folder that is None until its import has finished."""

    job_kind = JobKind.TRAIN_TOKENIZER
    dataset: str | None = None
    out: str

    @property
    def dataset_folder(self) -> str:
        """Return the dataset's folder. Raises NotFound if it was not made or has been deleted."""
        return require_folder(self.dataset, what="dataset")


class AddBasePayload(Payload):
    """Copy or fetch a base to `out`: from `source`, a path on the workers, or from `hub`, an id, at `revision`."""

    job_kind = JobKind.ADD_BASE
    source: str | None = None
    hub: str | None = None
    revision: str | None = None
    out: str
    keep_free_bytes: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.source is None) == (self.hub is None):
            raise ValueError("a base needs one source: a path or a Hub id")
        return self


class HubTarget(FrozenRecord):
    """The Hub repository that an export is pushed to."""

    repo: str
    private: bool


class ExportPayload(Payload):
    """Write a checkpoint for other tools to `out`, with `card` as its README.md where it has none."""

    job_kind = JobKind.EXPORT
    checkpoint: str
    checkpoint_id: str
    format: Literal["hf", "merged", "gguf"]
    numbers: GgufNumbers = "f16"
    name: str = ""
    card: str = ""
    out: str
    push: HubTarget | None = None


class DatasetExportPayload(Payload):
    """Write a dataset version for other tools to `out`, with `card` as README.md; `name` is for the commit message."""

    job_kind = JobKind.EXPORT_DATASET
    dataset: str
    version_id: str
    format: Literal["datasets", "parquet", "jsonl"]
    name: str = ""
    card: str = ""
    out: str
    push: HubTarget | None = None


class InspectPayload(ComputePayload):
    """Inspect a checkpoint, compared with `other` if given; the arrays are written to `out`."""

    job_kind = JobKind.INSPECT
    checkpoint: str
    other: str | None = None
    config: InspectionConfig
    out: str


class JudgePayload(ComputePayload):
    """Judge the answers in `items_file`, JSON lines of `JudgeItem`, by a checkpoint or by a chat endpoint at `url`
    under the name `model`.

    `uses_key`: the endpoint gets the installation's key for judges, or of the job for an own endpoint, which travels
    in the environment, never in a payload.
    """

    job_kind = JobKind.JUDGE
    judge: str
    checkpoint: str | None = None
    url: str | None = None
    model: str = ""
    uses_key: bool = False
    is_own: bool = False
    items_file: str
    config: JudgeConfig
    evaluations: tuple[str, ...] = ()
    """Evaluations whose answers are judged: one by a rubric, two as pairs."""

    @model_validator(mode="after")
    def _check_judge(self) -> Self:
        if (self.checkpoint is None) == (self.url is None):
            raise ValueError("a judge is either a checkpoint or an endpoint")
        return self


PAYLOADS: dict[JobKind, type[Payload]] = {
    payload.job_kind: payload
    for payload in (
        TrainPayload,
        ProbePayload,
        EvaluatePayload,
        GeneratePayload,
        LoglikelihoodPayload,
        ClassifyPayload,
        ReplicaPayload,
        ServingProbePayload,
        LoadTestPayload,
        ImportPayload,
        TrainTokenizerPayload,
        AddBasePayload,
        ExportPayload,
        DatasetExportPayload,
        InspectPayload,
        DataReportPayload,
        TokenizerReportPayload,
        JudgePayload,
    )
}
"""The payload of every kind of job."""


def read_payload(kind: JobKind, stored: Mapping[str, Any]) -> Payload:
    """Read a job's stored payload by its kind. Raises InvalidInput naming field, value and cure."""
    return PAYLOADS[kind].read(stored)


def require_folder(folder: str | None, *, what: str) -> str:
    """Return a folder that another job makes. Raises NotFound if it is missing."""
    if folder is None:
        raise NotFound(
            f"The {what} of this job was not made, or has been deleted.", remedy="Start it again with another one."
        )
    return folder
