"""The protocol that services implement for the gateway: endpoints, replicas, keys and usage.

The methods may block (they query a database); the gateway calls each of them in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from backend.domain.serving.deployment import RoutingPolicy
from backend.domain.serving.key_limits import PLAYGROUND_KEY, KeyLimits, KeyScopes, Period
from backend.domain.serving.request_log import LogMode
from backend.domain.serving.upstream import Upstream
from backend.services.serving.autoscaling import Waking
from backend.services.serving.monitoring.gauges import LiveGauges
from backend.services.serving.shadows import ComparedRequest
from backend.services.serving.stored_responses import ResponseRecord
from backend.services.serving.usage import LostRequest, UsageRow


@dataclass(frozen=True)
class ModelEntry:
    """An endpoint as `/v1/models` shows it."""

    name: str
    created: datetime
    owned_by: str = "roundhouse"


@dataclass(frozen=True)
class ReplicaAddress:
    """Address of a ready replica and the token that it requires, its variant (`stable`, or a canary's id) with its
    percentage of the requests, and the policy of its endpoint. `upstream` stands for a model on another server;
    `adapter` is the folder of the LoRA adapter that the request is for. Answers of equal `fingerprint` come from the
    same weights and arithmetic.
    """

    id: str
    url: str
    token: str
    variant: str = "stable"
    percent: float = 0.0
    policy: str = RoutingPolicy.LEAST_OUTSTANDING
    upstream: Upstream | None = None
    adapter: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class ShadowRoute:
    """A shadow: its id, the percentage of requests that it gets copies of, and its ready replicas."""

    id: str
    percent: float
    replicas: tuple[ReplicaAddress, ...]


@dataclass(frozen=True)
class Principal:
    """The holder of a key: what it may call, and its limits."""

    key_id: str
    name: str
    scopes: KeyScopes = field(default_factory=KeyScopes)
    limits: KeyLimits = field(default_factory=KeyLimits)
    expires_at: datetime | None = None
    user_id: str | None = None

    @property
    def owner(self) -> str:
        """Return whose answers those of this key are: its account's, or its own where it has none."""
        return f"user:{self.user_id}" if self.user_id else f"key:{self.key_id}"

    def tenant(self, user: str) -> str:
        """Return the name without meaning under which replicas know the owner; the playground's key has one for each of
        its users.
        """
        whose = f"{self.owner}/{user}" if user and self.name == PLAYGROUND_KEY and self.user_id is None else self.owner
        return name_tenant(whose)


def name_tenant(whose: str) -> str:
    """Return a name without meaning for whose requests these are."""
    return hashlib.sha256(whose.encode()).hexdigest()[:16]


class Directory(Protocol):
    """The gateway's view of the installation."""

    @property
    def keys_required(self) -> bool:
        """Return whether `/v1` requires a key. False only on loopback."""

    def authenticate(self, key: str) -> Principal | None:
        """Return the holder of a key, None for an unknown or revoked one."""

    def keys_version(self) -> int | None:
        """Return a number that changes once keys may have; None while only `authenticate` can tell. Does not block."""

    def note_use(self, key_id: str) -> None:
        """Note that a key was used now. Does not block."""

    def spent(self, key_id: str, unit: Literal["tokens", "usd"], period: Period) -> float:
        """Return what a key has used since the start of the UTC day or month, by stored usage."""

    def device_hour_usd(self, replica_id: str) -> float | None:
        """Return the price of an hour of the device that a replica runs on; None without a price. Does not block."""

    @property
    def prices_version(self) -> str:
        """Return a name of the prices of device-hours, another one once they change. Does not block."""

    def log_mode(self, endpoint: str) -> LogMode:
        """Return whether an endpoint logs its requests. Does not block."""

    def give_feedback(
        self, request_id: str, *, key_id: str | None, rating: int | None, correction: str, comment: str
    ) -> bool:
        """Store feedback on a request; return False where the key made no such request."""

    @property
    def keeps_responses(self) -> bool:
        """Return whether responses may be stored."""

    def keep_response(self, record: ResponseRecord) -> None:
        """Store a response."""

    def list_turns(self, response_id: str, *, owner: str) -> Sequence[ResponseRecord]:
        """Return an owner's response and those before it, oldest first. Raises NotFound, InvalidInput, Unavailable."""

    def erase_response(self, response_id: str, *, owner: str) -> None:
        """Erase a response of an owner. Raises NotFound and Unavailable."""

    def live_gauges(self) -> LiveGauges | None:
        """Return the gauges of replicas and workers; None while they can't be read."""

    def list_models(self) -> Sequence[ModelEntry]:
        """Return the endpoints that are deployed."""

    def known_replicas(self, endpoint: str) -> Sequence[ReplicaAddress] | None:
        """Return what `replicas_for` would, where it is known at once; else None. Does not block."""

    def replicas_for(self, endpoint: str) -> Sequence[ReplicaAddress]:
        """Return the ready replicas of an endpoint, possibly none. Raises NotFound for an unknown endpoint."""

    def wake(self, endpoint: str) -> Waking | None:
        """Start the replicas of an endpoint that sleeps; return how long a request may wait for them. None for one that
        never sleeps.
        """

    def shadow_for(self, endpoint: str) -> ShadowRoute | None:
        """Return the shadow of an endpoint, as last read. Does not block."""

    def record_comparisons(self, rows: Sequence[ComparedRequest]) -> None:
        """Store how answers compare with those of a shadow."""

    def record_failures(self, rows: Sequence[LostRequest]) -> None:
        """Store requests that replicas lost, on the terms of `record_usage`."""

    def record_usage(self, rows: Sequence[UsageRow]) -> None:
        """Store usage. Called a few times a second at most; after an error a row may come again, with its id."""
