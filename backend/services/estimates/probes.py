"""Probes: a few real steps of a run before its launch. The same run has one active probe at a time."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.tables import Job
from backend.domain.architectures.cost import count_parameters
from backend.domain.jobs.payloads import ProbePayload
from backend.domain.jobs.states import ACTIVE, JobKind
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import measured_values
from backend.domain.training.execution import compiles
from backend.errors import InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.jobs import JobView, add_job, get_job, view, wake
from backend.services.training.parts import RunParts, resolve_parts, training_payload

PRIORITY = 2
"""Priority of probes, ahead of queued runs: a probe is short and a person waits for it."""


def launch_probe(ctx: Context, config: RunConfig, *, person: Person, parts: RunParts | None = None) -> JobView:
    """Queue a probe of a run, or return an active one of the same run. It leaves no run and no checkpoint.

    It waits for a dataset or tokenizer that is still being made. Raises what `launch_run` raises, but for a full disk.
    """
    require_builder(person)
    if config.devices.count > 1:
        raise InvalidInput(
            f"A probe uses one device, and this run has {config.devices.count}.",
            remedy="Set devices.count to 1 for the probe: micro_batch is that of one device in both.",
            field="devices.count",
        )
    parts = parts or resolve_parts(ctx, config)
    fingerprint, shape = _fingerprint(config, parts), parts.shape
    with ctx.db.write() as session:
        under_way = session.scalar(
            select(Job).where(
                Job.kind == JobKind.PROBE, Job.status.in_(ACTIVE), Job.payload["fingerprint"].as_string() == fingerprint
            )
        )
        if under_way is not None:
            return view(under_way)
        job = add_job(
            session,
            ctx,
            training_payload(ProbePayload, config, parts, folder_id=new_id(), fingerprint=fingerprint, shape=shape),
            title=f"Probe {_title(config, parts)}",
            priority=PRIORITY,
            device=config.device,
            depends_on=parts.wait_for,
            created_by=person.id,
        )
        queued = view(job)
    wake(ctx, queued.queue)
    return get_job(ctx, queued.id)


def find_probe(ctx: Context, config: RunConfig, *, parts: RunParts | None = None) -> JobView | None:
    """Return the newest probe of the same run in any status; None if there was none.

    Raises what `launch_probe` raises for a config whose parts don't fit.
    """
    fingerprint = _fingerprint(config, parts or resolve_parts(ctx, config))
    query = select(Job).where(Job.kind == JobKind.PROBE, Job.payload["fingerprint"].as_string() == fingerprint)
    with ctx.db.read() as session:
        job = session.scalar(query.order_by(Job.created_at.desc()).limit(1))
        return view(job) if job is not None else None


def _fingerprint(config: RunConfig, parts: RunParts) -> str:
    """Hash everything that affects a probe's result: fields of memory or step time, and the rows that they name."""
    subject = {
        **measured_values(config),
        "data": parts.version.id,
        "base": parts.base.id if parts.base else None,
        "tokenizer": parts.tokenizer.id if parts.tokenizer else None,
        "shape": parts.shape.model_dump(mode="json") if parts.shape else None,
    }
    parameters = (
        sum(count_parameters(parts.shape).values()) if parts.shape else parts.base.parameters if parts.base else None
    )
    if parameters is not None:  # a longer run may be worth compiling
        subject["compile"] = compiles(config, parameters=parameters, device=parts.device.kind)
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()


def _title(config: RunConfig, parts: RunParts) -> str:
    subject = (
        parts.base.name if parts.base else config.architecture if isinstance(config.architecture, str) else "a model"
    )
    return f"{config.objective} of {subject} on {parts.version.label}, {config.micro_batch} × {config.context}"
