"""The directory of a real installation: endpoints, replicas, keys and usage from the services."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from backend.errors import NotFound
from backend.gateway.directory import ModelEntry, Principal, ReplicaAddress
from backend.services.context import Context
from backend.services.people.keys import check_key
from backend.services.serving.endpoints import deployed_endpoints
from backend.services.serving.replicas import Target, ready_targets
from backend.services.serving.usage import UsageRow, add_usage

FRESH_S = 0.4


class InstalledDirectory:
    """Implement `Directory` over a context.

    Replica addresses are read at most every 0.4 s; a key is looked up at every request, so that revoking takes effect at once.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._lock = threading.Lock()
        self._targets: dict[str, list[Target]] = {}
        self._read_at = 0.0

    @property
    def keys_required(self) -> bool:
        """Return whether the gateway can be reached from elsewhere."""
        return self._ctx.sign_in

    def authenticate(self, key: str) -> Principal | None:
        """Return the holder of a key, or None."""
        key_id = check_key(self._ctx, key)
        return Principal(key_id=key_id, name="key") if key_id else None

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
            return self._targets
