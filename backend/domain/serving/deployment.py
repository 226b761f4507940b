"""Documents of a deployment: its config, and the share and rules of its traffic."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import Field, PlainSerializer

from backend.domain.serving.autoscaling import ScalingState
from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.options import DeploymentOptions
from backend.domain.serving.precision import PrecisionCheck
from backend.domain.serving.upstream import Upstream
from backend.domain.validation import STORED, ReadRecord, StoredRecord

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
