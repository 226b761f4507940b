"""Context of every service call: adapters and policy, from `backend.bootstrap`, and the person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from backend.db.base import utc_now
from backend.db.engine import Database
from backend.domain.estimates.prices import DevicePrices
from backend.errors import NotAllowed
from backend.infra.artifacts import Artifacts
from backend.infra.compute.base import ComputeProvider
from backend.infra.hosts import is_loopback_host
from backend.infra.notifier import Notifier
from backend.infra.queue import JobQueue


@dataclass(frozen=True)
class OperatorPolicy:
    """Limits set by the operator."""

    lease_s: float = 15.0
    gang_wait_s: float = 300.0
    replica_host: str = "127.0.0.1"
    cancel_grace_s: float = 20.0
    max_attempts: int = 3
    keep_free_bytes: int = 512 * 2**20
    max_upload_bytes: int = 1024 * 2**20
    prices: DevicePrices = field(default_factory=DevicePrices)
    disk_gb_month_usd: float = 0.0
    alert_ttft_p95_ms: float | None = None
    keep_job_folders_days: float = 30.0
    keep_responses_days: float = 30.0
    job_memory_mb: int | None = None
    run_code: bool = False
    key_requests_at_once: int = 0
    gpu_hours_per_week: float | None = None
    require_safety_gate: bool = False
    judge_url: str | None = None
    judge_key: bool = False


@dataclass(frozen=True)
class EffectiveSetting:
    """A setting of the installation as this process read it. `source`: default, environment, a file's path, or command;
    `value` leaves out what is secret.
    """

    variable: str
    value: str
    source: str
    meaning: str


@dataclass(frozen=True)
class Context:
    """Adapters and policy. `now` is injectable, so that tests control the clock."""

    db: Database
    queue: JobQueue
    artifacts: Artifacts
    secret: bytes = field(repr=False)
    policy: OperatorPolicy = OperatorPolicy()
    notifier: Notifier = field(default=Notifier(), repr=False)
    now: Callable[[], datetime] = utc_now
    gateway_url: str = "http://127.0.0.1:8100"
    own_gateway_url: str = ""  # on this machine, where clients have another address; empty: the same
    pages_url: str = "http://127.0.0.1:8501"
    sign_in: bool = False
    data_path: Path | None = None
    model_path: Path | None = None
    providers: tuple[ComputeProvider, ...] = ()
    settings: tuple[EffectiveSetting, ...] = ()
    settings_file: str = ""

    def who_reaches(self, url: str) -> str:
        """Return that an address opens on this machine alone, and what to set; empty where others reach it."""
        if not is_loopback_host(urlsplit(url).hostname or ""):
            return ""
        return (
            "Opens on this machine alone. For others set `ROUNDHOUSE_HOST` to this machine's address, or behind a proxy"
            f" `{'ROUNDHOUSE_PUBLIC_URL' if url.startswith(self.pages_url) else 'ROUNDHOUSE_PUBLIC_GATEWAY_URL'}`."
        )


BUILDERS = ("admin", "lead", "engineer")
"""Roles that may launch, deploy and hold keys."""


@dataclass(frozen=True)
class Person:
    """The acting person. On loopback without sign-in: `LOCAL`, with all permissions."""

    id: str | None
    name: str
    role: str = "admin"

    @property
    def may_build(self) -> bool:
        """Return whether the person may launch, deploy and delete."""
        return self.role in BUILDERS

    @property
    def is_admin(self) -> bool:
        """Return whether the person may manage accounts and keys."""
        return self.role == "admin"


LOCAL = Person(id=None, name="you")


def require_builder(person: Person) -> None:
    """Raise NotAllowed unless the person may launch, deploy, change and delete."""
    if not person.may_build:
        raise NotAllowed(f"{person.name} may not do this.", remedy="Ask an admin for the role of an engineer.")


def require_admin(person: Person) -> None:
    """Raise NotAllowed unless the person may manage accounts."""
    if not person.is_admin:
        raise NotAllowed(f"{person.name} may not manage accounts.", remedy="Ask an admin.")
