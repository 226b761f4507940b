"""The directory of a real installation: endpoints, replicas, keys and usage from the services. A thread keeps a
snapshot of what was last read from the database fresh, so that requests outlive it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from backend.db.base import UnreadableDocument
from backend.db.changes import watch_changes
from backend.domain.attributes import view_of
from backend.domain.serving.key_limits import Period
from backend.domain.serving.request_log import LogMode
from backend.errors import NotFound, Unavailable
from backend.gateway.directory import ModelEntry, Principal, ReplicaAddress, ShadowRoute
from backend.services.context import Context
from backend.services.people.keys import KeyGrant, check_key, hash_key, key_spending, note_key_uses, valid_keys
from backend.services.serving.autoscaling import Waking, wake_endpoint
from backend.services.serving.endpoints import deployed_endpoints, stopped_endpoint
from backend.services.serving.feedback import store_feedback
from backend.services.serving.monitoring.gauges import LiveGauges, read_live
from backend.services.serving.prices import prices_version, replica_prices
from backend.services.serving.replicas import Target, ready_targets
from backend.services.serving.request_log.policies import log_modes
from backend.services.serving.shadows import ComparedRequest, ShadowTarget, record_comparisons, shadow_targets
from backend.services.serving.stored_responses import ResponseRecord, erase_response, keep_response, list_turns
from backend.services.serving.usage import LostRequest, UsageRow, add_failures, add_usage

logger = logging.getLogger(__name__)
FRESH_S = 0.4
SOON_S = 0.3
MAX_S = 1.5  # longer than IDLE_S and a reading
IDLE_S = 1.0
PATIENCE_S = 1.0
MAX_QUESTIONS = 8
BACK_S = 20.0  # longer than the workers need to renew their leases
FAULTS = (SQLAlchemyError, OSError, UnreadableDocument)
T = TypeVar("T")
R = TypeVar("R")


class Away(Exception):
    """The database does not answer, or has not in the last moments."""


class Keeper(Generic[T]):
    """Reads a snapshot every second, and every 0.4 s while there are requests. An error or a silence of a second means
    that the database is away; then the last snapshot counts, and no request waits until the thread has read one again.
    """

    def __init__(self, read: Callable[[bool], T]) -> None:
        """Take the reading of a snapshot; its argument says that the database has just come back."""
        self._read = read
        self._back_until = float("-inf")
        self._snapshot: T | None = None
        self._began_at = self._read_at = float("-inf")
        self._is_away = False
        self._changed = threading.Condition()
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._questions: ThreadPoolExecutor | None = None

    @property
    def is_away(self) -> bool:
        """Return whether the database did not answer when it was last asked."""
        return self._is_away

    @property
    def newest(self) -> T | None:
        """Return the last snapshot, however old; at most about a second while the database answers."""
        return self._snapshot

    def peek(self) -> T | None:
        """Return the last snapshot; None where there is none, or the database hangs since. Never waits.

        One that is older than 0.3 s is read again in the background. Where it leads to no replica, a request asks for
        the `latest`.
        """
        age = time.monotonic() - self._read_at
        if age > SOON_S:
            self._wanted.set()
        return self._snapshot if age <= MAX_S or self._is_away else None

    def latest(self) -> T:
        """Return a snapshot of the last 0.4 s, or the last one while the database is away. Raises Away without one."""
        self._start()
        if not self._is_fresh() and not self._is_away:
            self._wanted.set()
            with self._changed:
                if not self._changed.wait_for(lambda: self._is_fresh() or self._is_away, timeout=PATIENCE_S):
                    self._go_away("no answer")
        if self._snapshot is None:
            raise Away("The database has not been read yet.")
        return self._snapshot

    def read_from_now(self) -> T:
        """Return a snapshot whose reading begins after this call, or the `latest` where that takes over a second."""
        called_at = time.monotonic()
        self._start()
        self._wanted.set()
        with self._changed:
            self._changed.wait_for(lambda: self._began_at >= called_at or self._is_away, timeout=PATIENCE_S)
        return self.latest()

    def ask(self, question: Callable[[], R]) -> R:
        """Answer a question from the database. Raises Away after an error or a second, then at once."""
        self._start()
        if self._is_away or self._questions is None:
            raise Away("The database is away.")
        try:
            return self._questions.submit(question).result(PATIENCE_S)
        except TimeoutError as error:
            self._go_away("no answer")
            raise Away("The database does not answer.") from error
        except FAULTS as error:
            self._go_away(_reason(error))
            raise Away("The database refuses.") from error

    def close(self) -> None:
        """End the thread, after the reading under way."""
        self._closed.set()
        self._wanted.set()
        if self._thread is not None and self._questions is not None:
            self._thread.join(PATIENCE_S)
            self._questions.shutdown(wait=False)

    def _start(self) -> None:
        with self._changed:
            if self._thread is None:
                self._questions = ThreadPoolExecutor(MAX_QUESTIONS, thread_name_prefix="question")
                self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            began = time.monotonic()
            self._wanted.clear()
            try:
                snapshot = self._read(self._is_away or began < self._back_until)
            except FAULTS as error:
                self._go_away(_reason(error))
            else:
                if self._is_away or time.monotonic() - began > 2 * PATIENCE_S:  # it hung, or was away
                    self._back_until = time.monotonic() + BACK_S
                    snapshot = self._read_again(snapshot)
                self._keep(snapshot, began_at=began)
            self._wanted.wait(IDLE_S)
            self._closed.wait(max(0.0, began + FRESH_S / 2 - time.monotonic()))

    def _read_again(self, snapshot: T) -> T:
        try:
            return self._read(True)
        except FAULTS:
            return snapshot

    def _keep(self, snapshot: T, *, began_at: float) -> None:
        with self._changed:
            if self._is_away:
                logger.warning("The database answers again.")
            self._snapshot, self._read_at, self._is_away = snapshot, time.monotonic(), False
            self._began_at = began_at
            self._changed.notify_all()

    def _go_away(self, reason: str) -> None:
        with self._changed:
            if not self._is_away:
                logger.warning("The database is away (%s); requests are answered from what was last read.", reason)
            self._is_away = True
            self._changed.notify_all()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._read_at <= FRESH_S


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UnreadableDocument) else type(error).__name__


PRICES_S = 10.0
USES_S = 10.0


@dataclass(frozen=True)
class Snapshot:
    """A reading of the database. Keys are by their hash."""

    targets: Mapping[str, Sequence[Target]]
    models: Sequence[ModelEntry]
    keys: Mapping[str, KeyGrant]
    prices: Mapping[str, float]
    log_modes: Mapping[str, LogMode]
    shadows: Mapping[str, ShadowTarget]


class InstalledDirectory:
    """Implement `Directory` over a context.

    Addresses come from a snapshot, as a rule of the last second. A key is looked up unless no key has changed since it
    last was, so that revoking takes effect at once. While the database is away, both come from the last snapshot; a key
    that was revoked or had expired before then stays invalid.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._keeper: Keeper[Snapshot] = Keeper(self._read)
        self._changes = watch_changes(ctx.db)
        self._prices: Mapping[str, float] = {}
        self._priced: set[str] = set()
        self._priced_at = float("-inf")
        self._prices_version = ""
        self._uses: dict[str, datetime] = {}
        self._noted_at = time.monotonic()
        self._spent: dict[tuple[str, str, str], float] = {}

    def close(self) -> None:
        """End the thread that reads snapshots, and free the connection that notices changes."""
        self._keeper.close()
        self._changes.close()

    @property
    def keys_required(self) -> bool:
        """Return whether the gateway can be reached from elsewhere."""
        return self._ctx.sign_in

    def authenticate(self, key: str) -> Principal | None:
        """Return the holder of a key, or None."""
        try:
            grant = self._keeper.ask(lambda: check_key(self._ctx, key))
        except Away:
            grant = self._latest().keys.get(hash_key(key))
            if grant is not None and grant.expires_at is not None and grant.expires_at <= self._ctx.now():
                grant = None
        if grant is None:
            return None
        self.note_use(grant.id)
        return Principal(
            grant.id,
            grant.name,
            scopes=grant.scopes,
            limits=grant.limits,
            expires_at=grant.expires_at,
            user_id=grant.user_id,
        )

    def keys_version(self) -> int | None:
        """Return a number that differs once a key may have changed; None while the database is away."""
        return None if self._keeper.is_away else self._changes.version()

    def note_use(self, key_id: str) -> None:
        """Note that a key was used now; a thread stores it later."""
        self._uses[key_id] = self._ctx.now()

    def spent(self, key_id: str, unit: Literal["tokens", "usd"], period: Period) -> float:
        """Return what a key has used in a period; what was last read while the database is away."""
        try:
            spending = self._keeper.ask(lambda: key_spending(self._ctx, key_id, period))
        except Away:
            return self._spent.get((key_id, unit, period), 0.0)
        value = float(spending.tokens if unit == "tokens" else spending.usd)
        self._spent[key_id, unit, period] = value
        return value

    def device_hour_usd(self, replica_id: str) -> float | None:
        """Return the price of an hour of a replica's device, as read with the addresses."""
        return self._prices.get(replica_id)

    @property
    def prices_version(self) -> str:
        """Return a name of the prices, as read with those of replicas."""
        return self._prices_version

    def log_mode(self, endpoint: str) -> LogMode:
        """Return whether an endpoint logs its requests, as last read."""
        return (self._keeper.newest or self._latest()).log_modes.get(endpoint, "off")

    def give_feedback(
        self, request_id: str, *, key_id: str | None, rating: int | None, correction: str, comment: str
    ) -> bool:
        """Store feedback on a request; return False where the key made no such request."""
        return store_feedback(
            self._ctx, request_id, key_id=key_id, rating=rating, correction=correction, comment=comment
        )

    @property
    def keeps_responses(self) -> bool:
        """Return whether responses may be stored."""
        return self._ctx.policy.keep_responses_days > 0

    def keep_response(self, record: ResponseRecord) -> None:
        """Store a response."""
        keep_response(self._ctx, record)

    def list_turns(self, response_id: str, *, owner: str) -> Sequence[ResponseRecord]:
        """Return a response of an owner and those that it follows, oldest first."""
        return self._ask(lambda: list_turns(self._ctx, response_id, owner=owner))

    def erase_response(self, response_id: str, *, owner: str) -> None:
        """Erase a response of an owner."""
        self._ask(lambda: erase_response(self._ctx, response_id, owner=owner))

    def _ask(self, question: Callable[[], R]) -> R:
        try:
            return self._keeper.ask(question)
        except Away as error:
            raise Unavailable(
                "The database does not answer, and stored responses are in it.", remedy="Try again."
            ) from error

    def live_gauges(self) -> LiveGauges | None:
        """Return the gauges of replicas and workers; None while the database is away."""
        try:
            return self._keeper.ask(lambda: read_live(self._ctx))
        except Away:
            return None

    def list_models(self) -> Sequence[ModelEntry]:
        """Return the endpoints that are deployed, ready or not."""
        return self._latest().models

    def known_replicas(self, endpoint: str) -> Sequence[ReplicaAddress] | None:
        """Return the ready replicas of an endpoint; None where no snapshot knows it, or the database hangs."""
        snapshot = self._keeper.peek()
        targets = None if snapshot is None else snapshot.targets.get(endpoint)
        return None if targets is None else [_address(target) for target in targets]

    def replicas_for(self, endpoint: str) -> Sequence[ReplicaAddress]:
        """Return the ready replicas of an endpoint. Raises NotFound."""
        targets = self._latest().targets.get(endpoint)
        if targets is None:  # unless it was deployed a moment ago
            targets = self._latest(self._keeper.read_from_now).targets.get(endpoint)
        if targets is None:
            raise self._unknown(endpoint)
        return [_address(target) for target in targets]

    def _unknown(self, endpoint: str) -> NotFound:
        try:
            stopped = self._keeper.ask(lambda: stopped_endpoint(self._ctx, endpoint))
        except Away:
            stopped = None
        if stopped is not None:
            return NotFound(
                f"The model {endpoint!r} is stopped.",
                remedy=f"Start it on its page under Endpoints, or with `roundhouse endpoint start {stopped}`.",
            )
        return NotFound(f"The model {endpoint!r} does not exist here.", remedy="GET /v1/models lists those that do.")

    def wake(self, endpoint: str) -> Waking | None:
        """Start the replicas of an endpoint that sleeps; None if it never sleeps, and while the database is away."""
        if self._keeper.is_away:
            return None
        try:
            return wake_endpoint(self._ctx, endpoint)  # it writes, which may take longer than a question's patience
        except (SQLAlchemyError, OSError):
            return None

    def shadow_for(self, endpoint: str) -> ShadowRoute | None:
        """Return the shadow of an endpoint, as last read."""
        snapshot = self._keeper.newest or self._latest()
        if (shadow := snapshot.shadows.get(endpoint)) is None:
            return None
        targets = snapshot.targets.get(shadow.endpoint, ()) if shadow.endpoint else shadow.targets
        return ShadowRoute(
            shadow.id, shadow.percent, tuple(_address(target) for target in targets if target.upstream is None)
        )

    def record_comparisons(self, rows: Sequence[ComparedRequest]) -> None:
        """Store how answers compare with those of a shadow."""
        record_comparisons(self._ctx, rows)

    def record_usage(self, rows: Sequence[UsageRow]) -> None:
        """Store usage; a repeated row is stored once."""
        add_usage(self._ctx, rows)

    def record_failures(self, rows: Sequence[LostRequest]) -> None:
        """Store requests that replicas lost; a repeated row is stored once."""
        add_failures(self._ctx, rows)

    def _latest(self, read: Callable[[], Snapshot] | None = None) -> Snapshot:
        try:
            return (read or self._keeper.latest)()
        except Away as error:
            raise Unavailable(
                "The database does not answer, and this gateway has not read it yet.", remedy="Try again."
            ) from error

    def _read(self, is_back: bool) -> Snapshot:
        models = [ModelEntry(name=name, created=deployed) for name, deployed in deployed_endpoints(self._ctx)]
        targets = ready_targets(self._ctx, canaries=True, with_lapsed=is_back)
        replicas = {target.replica_id for ready in targets.values() for target in ready}
        if replicas - self._priced or time.monotonic() - self._priced_at > PRICES_S:
            self._prices, self._prices_version = replica_prices(self._ctx), prices_version(self._ctx)
            self._priced, self._priced_at = replicas, time.monotonic()
        snapshot = Snapshot(
            targets=targets,
            models=models,
            keys=valid_keys(self._ctx),
            prices=self._prices,
            log_modes=log_modes(self._ctx),
            shadows=shadow_targets(self._ctx),
        )
        if self._uses and time.monotonic() - self._noted_at > USES_S:
            self._note_uses()
        return snapshot

    def _note_uses(self) -> None:
        uses, self._uses = self._uses, {}
        try:
            note_key_uses(self._ctx, uses)
        except SQLAlchemyError:
            self._uses = uses | self._uses
            raise
        self._noted_at = time.monotonic()


def _address(target: Target) -> ReplicaAddress:
    return view_of(ReplicaAddress, target, id=target.replica_id, token=target.internal_token)
