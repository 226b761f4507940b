"""Speed of a replica before a checkpoint is deployed: measured by a probe on a serving machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select

from backend.db.tables import Checkpoint, Job
from backend.domain.jobs.payloads import require_folder
from backend.domain.jobs.serving_probe import ServingLoad, ServingProbePayload, ServingProbeResult
from backend.domain.jobs.states import ACTIVE, JobKind, Status
from backend.domain.serving.costs import usd_per_million_tokens
from backend.domain.serving.precision import Precision
from backend.domain.wording import plural
from backend.errors import NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.jobs import JobView, add_job, get_job, view, wake
from backend.services.serving.prices import current_prices

PRIORITY = 2
"""Ahead of other jobs: a probe is short and a person waits for it."""


@dataclass(frozen=True)
class ServingSpeed:
    """A probe of a checkpoint: the speed of one replica by number of users, ascending."""

    measured_at: datetime
    result: ServingProbeResult

    @property
    def loads(self) -> list[ServingLoad]:
        """Return the measured loads."""
        return self.result.loads

    @property
    def conditions(self) -> str:
        """Return the conditions of the measurement as a sentence."""
        result = self.result
        threads = "" if result.device_kind == "gpu" else f", {plural(result.threads, 'thread')}"
        lengths = f"prompts of {result.prompt_tokens} and answers of {result.new_tokens} tokens"
        return f"One replica on {result.device}{threads}, {result.dtype}, {lengths}"


@dataclass(frozen=True)
class SpeedChoice:
    """One choice of precision and users at once, in money and quality. `usd_per_million_tokens` is that of a replica
    which is never idle; None without a price. `perplexity_ratio` is to float32; None where it was not measured.
    """

    load: ServingLoad
    usd_per_million_tokens: float | None
    perplexity_ratio: float | None


def speed_choices(ctx: Context, speed: ServingSpeed) -> list[SpeedChoice]:
    """Return the measured loads with what a million generated tokens cost at them, by today's price of the device, and
    their quality.
    """
    result = speed.result
    price = current_prices(ctx).hour_usd(result.device, result.device_kind)
    ratio = None if result.precision_check is None else result.precision_check.perplexity_ratio
    return [
        SpeedChoice(
            load=load,
            usd_per_million_tokens=None if price is None else usd_per_million_tokens(price, load.tokens_per_s),
            perplexity_ratio=1.0 if load.precision == "float32" else ratio,
        )
        for load in result.loads
    ]


def launch_speed_probe(ctx: Context, checkpoint_id: str, *, person: Person, with_int8: bool = False) -> JobView:
    """Queue a probe of a checkpoint, in int8 too on request, or return its active one. Raises NotFound without files,
    NotAllowed for a rater.
    """
    require_builder(person)
    with ctx.db.write() as session:
        under_way = session.scalar(_probes_of(checkpoint_id).where(Job.status.in_(ACTIVE)).limit(1))
        if under_way is not None:
            return view(under_way)
        checkpoint = session.get(Checkpoint, checkpoint_id)
        if checkpoint is None or checkpoint.deleted_at is not None or checkpoint.folder is None:
            raise NotFound(
                "There is no such checkpoint, or its files are gone.",
                remedy="Choose another checkpoint.",
                field="checkpoint",
            )
        folder = require_folder(checkpoint.folder, what="checkpoint")
        precisions: tuple[Precision, ...] = ("float32", "int8") if with_int8 else ("float32",)
        payload = ServingProbePayload(checkpoint=folder, checkpoint_id=checkpoint_id, precisions=precisions)
        job = add_job(
            session, ctx, payload, title=f"Serving speed of {checkpoint.name}", priority=PRIORITY, created_by=person.id
        )
        queued = view(job)
    wake(ctx, queued.queue)
    return get_job(ctx, queued.id)


def find_speed_probe(ctx: Context, checkpoint_id: str) -> JobView | None:
    """Return the newest probe of a checkpoint in any status; None if there was none."""
    with ctx.db.read() as session:
        job = session.scalar(_probes_of(checkpoint_id).limit(1))
        return None if job is None else view(job)


def find_speed(ctx: Context, checkpoint_id: str) -> ServingSpeed | None:
    """Return the newest measured speed of a checkpoint; None before the first."""
    with ctx.db.read() as session:
        for job in session.scalars(_probes_of(checkpoint_id).where(Job.status == Status.FINISHED).limit(3)):
            result = view(job).result_as(ServingProbeResult)
            if result is not None and result.loads and job.finished_at is not None:
                return ServingSpeed(job.finished_at, result)
    return None


def _probes_of(checkpoint_id: str) -> Select[Job]:
    of_checkpoint = Job.payload["checkpoint_id"].as_string() == checkpoint_id
    return select(Job).where(Job.kind == JobKind.SERVING_PROBE, of_checkpoint).order_by(Job.created_at.desc())
