"""The directory of a real installation: endpoints, replicas, keys and usage from the services."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Literal

from backend.domain.serving.key_limits import Period
from backend.errors import NotFound
from backend.gateway.directory import ModelEntry, Principal, ReplicaAddress
from backend.services.context import Context
from backend.services.people.keys import check_key, key_spending
from backend.services.serving.costs.prices import replica_prices
from backend.services.serving.endpoints import deployed_endpoints
from backend.services.serving.replicas import Target, ready_targets
from backend.services.serving.usage import UsageRow, add_usage

FRESH_S = 0.4
PRICES_S = 10.0


class InstalledDirectory:
    """Implement `Directory` over a context.

    Replica addresses are read at most every 0.4 s; a key is looked up at every request, so that revoking takes effect at once.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._lock = threading.Lock()
        self._targets: dict[str, list[Target]] = {}
        self._read_at = 0.0
        self._prices: dict[str, float] = {}
        self._priced_at = 0.0

    @property
    def keys_required(self) -> bool:
        """Return whether the gateway can be reached from elsewhere."""
        return self._ctx.sign_in

    def authenticate(self, key: str) -> Principal | None:
        """Return the holder of a key, or None."""
        grant = check_key(self._ctx, key)
        return Principal(key_id=grant.id, name=grant.name, scopes=grant.scopes, limits=grant.limits) if grant else None

    def spent(self, key_id: str, unit: Literal["tokens", "usd"], period: Period) -> float:
        """Return what a key has used in a period."""
        spending = key_spending(self._ctx, key_id, period)
        return float(spending.tokens if unit == "tokens" else spending.usd)

    def device_hour_usd(self, replica_id: str) -> float | None:
        """Return the price of an hour of a replica's device, as read with the addresses."""
        return self._prices.get(replica_id)

    def list_models(self) -> Sequence[ModelEntry]:
        """Return the endpoints that are deployed, ready or not."""
        return [ModelEntry(name=name, created=deployed) for name, deployed in deployed_endpoints(self._ctx)]

    def replicas_for(self, endpoint: str) -> Sequence[ReplicaAddress]:
        """Return the ready replicas of an endpoint. Raises NotFound."""
        targets = self._fresh().get(endpoint)
        if targets is None:
            raise NotFound(f"The model {endpoint!r} does not exist here.", remedy="GET /v1/models lists those that do.")
        return [ReplicaAddress(id=t.replica_id, url=t.url, token=t.internal_token) for t in targets]

    def record_usage(self, rows: Sequence[UsageRow]) -> None:
        """Store usage; a repeated row is stored once."""
        add_usage(self._ctx, rows)

    def _fresh(self) -> dict[str, list[Target]]:
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_S:
                self._targets = ready_targets(self._ctx)
                self._read_at = time.monotonic()
                if time.monotonic() - self._priced_at > PRICES_S:
                    self._prices = replica_prices(self._ctx)
                    self._priced_at = time.monotonic()
            return self._targets
