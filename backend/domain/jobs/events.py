"""Events that a room reports while it works, one JSON line each, written by the child process and read by its parent.

A line is the event's fields with its `type` and the `time` of writing. The parent turns events into rows
(backend.services.job_events).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from backend.domain.jobs.gauges import ReplicaLoad
from backend.domain.serving.precision import PrecisionCheck

Values = dict[str, float | None]
"""Numbers by name. None replaces a number that is not finite, which JSON can't represent."""


class Event(BaseModel):
    """One line of an events file. `time` is in seconds since the epoch; the reporter sets it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    time: float = 0.0


class MetricsEvent(Event):
    """Metric points of one step."""

    type: Literal["metrics"] = "metrics"
    step: int
    values: Values


class ProgressEvent(Event):
    """Work done, of `total` units; `rate` in units per second."""

    type: Literal["progress"] = "progress"
    done: float
    total: float
    unit: str = "step"
    rate: float | None = None
    message: str = ""

    def dump(self) -> dict[str, object]:
        """Return the stored form of a job's progress."""
        return self.model_dump(exclude={"type"})


class LogEvent(Event):
    """A line of the job's log."""

    type: Literal["log"] = "log"
    text: str


class SampleEvent(Event):
    """A completion that a run wrote at a step."""

    type: Literal["sample"] = "sample"
    step: int
    prompt: str
    completion: str


class ResumedEvent(Event):
    """A run continues after `step`, from the checkpoint in `folder`; 0 and None: from its start."""

    type: Literal["resumed"] = "resumed"
    step: int = 0
    folder: str | None = None


class CheckpointEvent(Event):
    """A run has published a checkpoint in `folder`. `facts` holds its `context` and `vocab_size`."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    folder: str
    metrics: Values = Field(default_factory=dict)
    final: bool = False
    bytes: int = 0
    adapter: bool = False
    family: str = ""
    parameters: int | None = None
    facts: dict[str, int | None] = Field(default_factory=dict)


class CheckpointRemovedEvent(Event):
    """A run has deleted the checkpoint of a step, to keep the best and the last."""

    type: Literal["checkpoint_removed"] = "checkpoint_removed"
    step: int
    folder: str = ""


class RowsEncodedEvent(Event):
    """Counts of a split's encoded rows; `zero_label_rows` have no token to train on."""

    type: Literal["rows_encoded"] = "rows_encoded"
    split: Literal["train", "val"]
    rows: int
    zero_label_rows: int
    truncated: int
    refused: int


class StoppedEarlyEvent(Event):
    """val_loss was not lower in the last `measurements`, and the run ended."""

    type: Literal["stopped_early"] = "stopped_early"
    step: int
    measurements: int
    lowest_val_loss: float | None


class MicroBatchHalvedEvent(Event):
    """A step did not fit memory; from now on it takes `grad_accum_steps` micro-batches of `micro_batch` sequences."""

    type: Literal["micro_batch_halved"] = "micro_batch_halved"
    step: int
    micro_batch: int
    grad_accum_steps: int


class NotFiniteEvent(Event):
    """The loss or a gradient was not finite. `micro_batch` (from 1) is at fault and holds `held`; the state of
    `saved_step` is on disk.
    """

    type: Literal["not_finite"] = "not_finite"
    step: int
    micro_batch: int | None = None
    held: str = ""
    saved_step: int | None = None


class ItemEvent(Event):
    """An evaluation has scored one item. `shown` is open JSON for display."""

    type: Literal["item"] = "item"
    item_hash: str
    position: int
    values: Values
    shown: dict[str, Any] = Field(default_factory=dict)


class CompletionEvent(Event):
    """A generation has completed one prompt."""

    type: Literal["completion"] = "completion"
    prompt_id: str
    sample: int = 0
    text: str
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str | None = None


class ReadyEvent(Event):
    """A replica answers at `url`."""

    type: Literal["ready"] = "ready"
    url: str
    engine: str = ""
    context_length: int | None = None
    load_s: float | None = None
    precision_check: PrecisionCheck | None = None


class GaugeEvent(Event, ReplicaLoad):
    """Load of a replica."""

    type: Literal["gauge"] = "gauge"


class ErrorEvent(Event):
    """The work ended badly; see backend.errors for the three fields. `is_echo`: the cause lies on another machine."""

    type: Literal["error"] = "error"
    cause: str
    remedy: str = ""
    field: str | None = None
    is_echo: bool = False


class ResultEvent(Event):
    """The work is done. `result` is the JSON form of the kind's result class; times are the child's CPU seconds."""

    type: Literal["result"] = "result"
    result: dict[str, Any]
    cpu_s: float | None = None
    reporter_cpu_s: float | None = None


AnyEvent = (
    MetricsEvent
    | ProgressEvent
    | LogEvent
    | SampleEvent
    | ResumedEvent
    | CheckpointEvent
    | CheckpointRemovedEvent
    | RowsEncodedEvent
    | StoppedEarlyEvent
    | MicroBatchHalvedEvent
    | NotFiniteEvent
    | ItemEvent
    | CompletionEvent
    | ReadyEvent
    | GaugeEvent
    | ErrorEvent
    | ResultEvent
)
EVENTS: dict[str, type[Event]] = {event.model_fields["type"].default: event for event in get_args(AnyEvent)}
"""The class of every type of event."""

_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="type")])


def write_event(event: Event, *, time: float) -> bytes:
    """Return an event's line, without its line break. A lone surrogate, as in file names, becomes a question mark."""
    text = json.dumps({**event.model_dump(), "time": time}, separators=(",", ":"), ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace")


def read_event(line: bytes | str) -> AnyEvent | None:
    """Return the event of a line; None for an incomplete line or an event unknown to this version."""
    try:
        record = json.loads(line, parse_constant=lambda _: None)  # NaN and the infinities become None
        return event_of(record) if isinstance(record, Mapping) else None
    except ValueError:  # ValidationError is one
        return None


def event_of(record: Mapping[str, Any]) -> AnyEvent:
    """Return the event of a decoded line. Raises ValueError for what is none."""
    try:
        return _EVENT.validate_python(record)
    except ValidationError as error:
        raise ValueError(
            f"{record.get('type')!r} is not an event: {error.errors(include_url=False)[0]['msg']}"
        ) from None
