"""Documents of a deployment: its options, one class behind the form, the command line and the stored row; its config;
and the share and rules of its traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, ValidationInfo, model_validator

from backend.domain.fields import OPTION_ONLY, Shown, setting, shown_of, unless
from backend.domain.json_values import FieldValues
from backend.domain.serving.autoscaling import ScalingRules, ScalingState
from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.engines import ENGINE_TITLES, SHARING, EngineName, places_of
from backend.domain.serving.memory import MAX_RUNNING
from backend.domain.serving.precision import Precision, PrecisionCheck
from backend.domain.serving.upstream import Upstream
from backend.domain.validation import STORED, ReadRecord, StoredRecord, is_stored, read_values

MAX_REPLICAS = 64
SCALING = Shown(group="Autoscaling")
SLEEP_MINUTES = 15.0


class RoutingPolicy(StrEnum):
    """The sharing of requests between the replicas of an endpoint."""

    LEAST_OUTSTANDING = "least_outstanding"
    POWER_OF_TWO = "power_of_two"
    SESSION_AFFINITY = "session_affinity"
    ROUND_ROBIN = "round_robin"


class DeploymentOptions(BaseModel):
    """The options of a deployment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    policy: RoutingPolicy = setting(
        RoutingPolicy.LEAST_OUTSTANDING,
        "Balancing",
        "How requests are shared between replicas.",
        choices={
            RoutingPolicy.LEAST_OUTSTANDING: "Least outstanding tokens",
            RoutingPolicy.POWER_OF_TWO: "Power of two choices",
            RoutingPolicy.SESSION_AFFINITY: "Session affinity",
            RoutingPolicy.ROUND_ROBIN: "Round robin",
        },
    )
    surge: int = setting(1, "Surge", "Replicas above N during a rollout; 0 stops one before it starts one.", ge=0, le=8)
    answer_limit_s: float = setting(
        600.0,
        "Answer limit",
        "Seconds that an answer may take; replaced replicas finish theirs.",
        gt=0,
        le=86_400,
        unit="s",
        option="--answer-limit",
    )
    queue_timeout_s: float = setting(
        60.0,
        "Queue timeout",
        "Seconds that a request may wait before it is refused with 429.",
        gt=0,
        le=3600,
        unit="s",
        option="--queue-timeout",
    )
    threads: int = setting(1, "CPU threads", "CPU threads of a replica.", ge=1, le=256, shown=OPTION_ONLY)
    device: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="Where replicas run.")
    gpus: int = setting(
        1,
        "GPUs",
        f"GPUs of a replica, which share each layer; more than one with engine {SHARING} alone.",
        ge=1,
        le=64,
        shown=OPTION_ONLY,
    )
    engine: EngineName = setting(
        "auto",
        "Engine",
        "What computes the tokens. Automatic is Roundhouse's own; the replica starts the server of another project as"
        " a process of its own.",
        choices=ENGINE_TITLES,
    )
    precision: Precision = setting(
        "float32",
        "Precision on a CPU",
        "bfloat16 and int8: weights of 16 and 8 bits, faster on a CPU. What quality they lose is measured first.",
    )
    max_perplexity_ratio: float = setting(
        1.05,
        "Max perplexity ratio",
        "Perplexity over that in float32. A replica above it is not deployed.",
        ge=1,
        le=100,
        used=(unless("precision", "float32"),),
        step=0.01,
    )
    context: int | None = setting(
        None,
        "Context",
        "Tokens of a prompt with its answer. A shorter one needs less memory: room for one full one is always held.",
        ge=16,
        le=10**7,
        unit="tokens",
        empty="The model's own",
    )
    draft: str | None = setting(
        None,
        "Draft",
        "A smaller checkpoint with the same tokenizer proposes tokens, which this one checks: the same answers, faster"
        " where many are right. On CPUs; replicas stop using it where it is slower.",
        max_length=64,
        empty="None",
    )
    max_running: int = Field(default=MAX_RUNNING, ge=1, le=1024, description="Requests that a replica answers at once.")
    max_waiting: int = Field(
        default=64, ge=0, le=10_000, description="Requests that wait at a replica before it refuses more."
    )
    min_replicas: int = setting(
        1,
        "Min replicas",
        "Fewest replicas; 0 lets the endpoint sleep while idle.",
        ge=0,
        le=MAX_REPLICAS,
        shown=SCALING,
    )
    max_replicas: int | None = setting(
        None,
        "Max replicas",
        "Most replicas; their number then follows the queue.",
        ge=1,
        le=MAX_REPLICAS,
        shown=SCALING,
    )
    target_queue_s: float = setting(
        2.0,
        "Target queue",
        "Wait of a request above which replicas are added.",
        gt=0,
        le=600,
        shown=SCALING,
        unit="s",
        option="--target-queue-seconds",
    )
    cool_down_s: float = setting(
        300.0,
        "Cool-down",
        "Seconds without a queue before a replica is taken away.",
        gt=0,
        le=86_400,
        shown=SCALING,
        unit="s",
        option="--cool-down-seconds",
    )
    sleep_after_minutes: float | None = setting(
        None,
        "Sleep after",
        "Minutes without a request before all replicas stop.",
        gt=0,
        le=43_200,
        group="Sleep",
        unit="min",
    )

    @model_validator(mode="after")
    def _in_order(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is {self.max_replicas}, below min_replicas, {self.min_replicas}")
        return self

    @property
    def scaling(self) -> ScalingRules:
        """Return the rules of the number of replicas. With `min_replicas` 0 an endpoint sleeps, after 15 minutes where
        none are given.
        """
        minutes = self.sleep_after_minutes or (SLEEP_MINUTES if self.min_replicas == 0 else None)
        return ScalingRules(
            least=max(1, self.min_replicas),
            most=self.max_replicas,
            target_queue_s=self.target_queue_s,
            cool_down_s=self.cool_down_s,
            sleep_after_s=None if minutes is None else 60 * minutes,
            places=places_of(self.engine, self.max_running),
        )

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """Read given options. Raises InvalidInput that names the field."""
        return read_values(cls, config)

    def changed(self) -> FieldValues:
        """Return the options that differ from their defaults, as a config stores them."""
        return self.model_dump(mode="json", exclude_defaults=True, include=set(DeploymentOptions.model_fields))

    def describe(self, names: Mapping[Any, str]) -> str:
        """Return the options that differ from their defaults, such as `context 200 tokens, surge 2`; empty where none
        does. `names` are those of drafts, by id.
        """
        given = ((name, getattr(self, name)) for name in self.changed())
        return ", ".join(f"{_label(name)} {names.get(value) or _say(name, value)}" for name, value in given)

    def describe_changes(self, after: DeploymentOptions, names: Mapping[Any, str]) -> str:
        """Return what differs in other options, such as `surge 1 -> 2`; empty where nothing does."""
        pairs = ((name, getattr(self, name), getattr(after, name)) for name in DeploymentOptions.model_fields)
        return ", ".join(
            f"{_label(name)} {names.get(old) or _say(name, old)} -> {names.get(new) or _say(name, new)}"
            for name, old, new in pairs
            if old != new
        )


def _label(name: str) -> str:
    title = DeploymentOptions.model_fields[name].title or name.replace("_", " ")
    return title if title[:2].isupper() else title[0].lower() + title[1:]


def _say(name: str, value: Any) -> str:
    info = DeploymentOptions.model_fields[name]
    shown = shown_of(info)
    if value is None:
        return shown.empty.lower() or "none"
    text = shown.choices.get(value) or (f"{value:,.12g}" if isinstance(value, int | float) else str(value))
    return f"{text} {shown.unit}".rstrip()


MAX_EVENTS = 50
Moment = Annotated[datetime, PlainSerializer(datetime.isoformat, when_used="json")]
"""A time that JSON shows with its offset, `+00:00`."""


class SafetyRequirement(ReadRecord):
    """The safety gate: the change towards unsafe must be shown to be smaller than `margin`."""

    margin: float


class AdapterFiles(ReadRecord):
    """The checkpoint of an adapter that is served beside its base, and its folder."""

    checkpoint_id: str
    folder: str


class DeploymentConfig(DeploymentOptions, StoredRecord):
    """The options of a deployment, and what was found or decided about it.

    `alias`: the one that its endpoint follows. `require_safety` None is no requirement, where the installation's
    policy has one; not set, that policy holds. `upstream`: the server that answers in place of replicas.
    `precision_check`: measured by a replica.
    """

    alias: str | None = None
    require_safety: SafetyRequirement | None = None
    adapters: dict[str, AdapterFiles] = Field(default_factory=dict)
    upstream: Upstream | None = None
    precision_check: PrecisionCheck | None = None

    def replace(self, **changes: Any) -> Self:
        """Return the config with changes; a field without a new value is no longer set."""
        rest = {name: getattr(self, name) for name in self.model_fields_set - changes.keys()}
        return self.model_validate(rest | {name: value for name, value in changes.items() if value}, context=STORED)


class ScalingEvent(ReadRecord):
    """A change of the number of replicas that an endpoint made by itself, or a restart of one. Of events with one
    `subject` the newest is stored.
    """

    at: Moment
    text: str
    subject: str = ""


class DeploymentTraffic(CanaryRules, StoredRecord):
    """Share, rules and outcome of a canary or a shadow, and what autoscaling did.

    `step_at`: begin of a canary's present step. `endpoint` answers the copies of a shadow that has no replicas of its
    own. `outcome`: how the deployment ended or came about. `awake`: number of replicas that a sleeping one wakes to.
    """

    percent: float = 0.0
    step_at: Moment | None = None
    endpoint: str = ""
    outcome: str = ""
    awake: int | None = None
    woken_at: Moment | None = None
    scaling: ScalingState = ScalingState()
    events: tuple[ScalingEvent, ...] = ()

    def with_event(self, text: str, at: datetime, *, subject: str = "", **changes: Any) -> DeploymentTraffic:
        """Return the traffic with one more event and other changes."""
        others = [event for event in self.events if not subject or event.subject != subject]
        events = (*others, ScalingEvent(at=at, text=text, subject=subject))[-MAX_EVENTS:]
        return self.model_copy(update={"events": events, **changes})
