"""Probes: a run tried out for some seconds before it is launched. The same question twice is one probe."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.tables import Job
from backend.domain.jobs.states import ACTIVE, JobKind
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.estimates.measurements import find_shape
from backend.services.jobs.jobs import JobView, add_job, get_job, view, wake
from backend.services.training.parts import RunParts, resolve_parts, training_payload

PRIORITY = 2
"""A probe is short and somebody waits for it: it goes before the runs that wait."""


OF_THE_COURSE = (
    "name",
    "dataset",
    "base",
    "architecture",
    "tokenizer",
    "max_steps",
    "max_epochs",
    "learning_rate",
    "min_learning_rate",
    "schedule",
    "warmup_steps",
    "decay_steps",
    "weight_decay",
    "beta1",
    "beta2",
    "grad_clip",
    "label_smoothing",
    "z_loss",
    "preference",
    "seed",
    "eval_every",
    "eval_batches",
    "checkpoint_every",
    "keep_last",
    "patience",
    "sample_prompts",
    "sample_tokens",
    "trackers",
    "queue",
    "priority",
)
"""Fields of a config that change neither a step's memory nor its time, or that are in a probe's hash as what they refer to."""


def launch_probe(ctx: Context, config: RunConfig, *, person: Person) -> JobView:
    """Queue a probe of a run, or return the one of the same run that is under way. Nothing of the run is kept.

    A dataset or tokenizer that is still being made is waited for. Raises what `launch_run` raises, but for a full disk.
    """
    require_builder(person)
    if config.devices.count > 1:
        raise InvalidInput(
            f"A probe tries a run on one device, and this run has {config.devices.count}.",
            remedy="Set devices.count to 1 for the probe: micro_batch is that of one device in both.",
            field="devices.count",
        )
    parts = resolve_parts(ctx, config)
    asked = _fingerprint(config, parts)
    shape = find_shape(ctx, parts)
    with ctx.db.write() as session:
        under_way = session.scalar(
            select(Job).where(Job.kind == JobKind.PROBE, Job.status.in_(ACTIVE), Job.payload["asked"].as_string() == asked)
        )
        if under_way is not None:
            return view(under_way)
        payload = training_payload(new_id(), config, parts)
        del payload["run_id"]
        job = add_job(
            session,
            ctx,
            kind=JobKind.PROBE,
            title=f"Probe {_title(config, parts)}"[:200],
            priority=PRIORITY,
            device=config.device,
            payload={**payload, "asked": asked, "shape": shape.model_dump(mode="json") if shape else None},
            depends_on=parts.wait_for,
            created_by=person.id,
        )
        found = view(job)
    wake(ctx, found.queue)
    return get_job(ctx, found.id)


def find_probe(ctx: Context, config: RunConfig) -> JobView | None:
    """Return the newest probe of a run with the same parts and numbers, whatever became of it; None if there was none.

    Raises what `launch_probe` raises for a config whose parts don't fit.
    """
    asked = _fingerprint(config, resolve_parts(ctx, config))
    query = select(Job).where(Job.kind == JobKind.PROBE, Job.payload["asked"].as_string() == asked)
    with ctx.db.read() as session:
        job = session.scalar(query.order_by(Job.created_at.desc()).limit(1))
        return view(job) if job is not None else None


def _fingerprint(config: RunConfig, parts: RunParts) -> str:
    """Return a hash of what a probe measures by: neither name nor length of the run, nor what is set for its course."""
    asked: dict[str, Any] = config.model_dump(mode="json", exclude=set(OF_THE_COURSE))
    asked |= {
        "lora": asked["lora"] if config.method != "full" else None,
        "data": parts.version.id,
        "base": parts.base.id if parts.base else None,
        "tokenizer": parts.tokenizer.id if parts.tokenizer else None,
        "shape": parts.architecture.model_dump(mode="json") if parts.architecture else None,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _title(config: RunConfig, parts: RunParts) -> str:
    subject = parts.base.name if parts.base else config.architecture if isinstance(config.architecture, str) else "a network"
    return f"{config.objective} of {subject} on {parts.version.label}, {config.micro_batch} × {config.context}"
