"""Which service records which event of which kind of job, and what happens when a job of a kind ends. Tables, no logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from backend.domain.job_states import JobKind
from backend.services.context import Context
from backend.services.jobs import Claim

Recorder = Callable[[Session, Context, Claim, dict[str, Any]], None]

EVENTS: dict[tuple[JobKind, str], Recorder] = {}
FINISHED: dict[JobKind, Recorder] = {}
ENDED_BADLY: dict[JobKind, Recorder] = {}
