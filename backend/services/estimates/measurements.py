"""Measured peak memory and speed of probes and runs, and predictions from them and from the formula."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import mean
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Measurement, Run
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.memory import MemoryEstimate, estimate_memory
from backend.domain.estimates.prediction import (
    MeasuredPeak,
    MemoryPrediction,
    Prediction,
    Source,
    TimePrediction,
    calibrate,
)
from backend.domain.estimates.setting import DeviceKind, TrainingSetting, setting_of
from backend.domain.estimates.throughput import rate_of_pass
from backend.domain.jobs.gpu_check import MeasuredSetting
from backend.domain.jobs.payloads import ProbePayload, TrainingPayload, TrainPayload
from backend.domain.jobs.results import (
    MeasurementFacts,
    ProbeResult,
    RunMeasurement,
    SequenceLengths,
    StepTimes,
    TrainResult,
)
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import measured_values
from backend.domain.training.execution import compiles
from backend.services.checkpoints.networks import network_of_payload
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.claims import Claim
from backend.services.jobs.devices import Device
from backend.services.training.parts import RunParts, resolve_parts

RECENT = 300
LONG_ENOUGH = 20
"""Steps after which a stopped run says how long a step takes."""


@dataclass(frozen=True)
class MeasuredSubject:
    """The subject of a measurement or prediction. `setting` is None for a base of a family without a formula."""

    setting: TrainingSetting | None
    stored: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the subject."""
        if self.setting is not None:
            return self.setting.fingerprint
        return _hash(self.stored)


@dataclass(frozen=True)
class Origin:
    """The probe or run that made a measurement, and its host; `job_id` and `run_id` if it has them."""

    kind: Literal["probe", "run"]
    host: str
    job_id: str | None = None
    run_id: str | None = None


def subject_of(
    config: RunConfig,
    shape: ArchitectureConfig | None,
    *,
    device: DeviceKind,
    data: str | None,
    base: str | None,
    parameters: int | None = None,
) -> MeasuredSubject:
    """Return the subject of a config whose network has this shape.

    `data` and `base` are ids of a dataset version and a checkpoint. A base of an unknown family is compared by every
    field that affects memory or step time; `parameters` are its, which decide about compilation.
    """
    if shape is not None:
        setting = setting_of(config, shape, device=device, data=data)
        return MeasuredSubject(setting, setting.model_dump(mode="json"))
    values = {**measured_values(config), "device": device, "data": data, "base": base}
    if parameters is not None:
        values["compile"] = compiles(config, parameters=parameters, device=device)
    return MeasuredSubject(None, values)


def predict(
    ctx: Context, config: RunConfig, *, parts: RunParts | None = None, device: Device | None = None
) -> Prediction:
    """Return the predicted needs of a run on a device (default: the one it would go to).

    `parts` are the config's parts, resolved by the caller. Raises NotFound, InvalidInput or Conflict for a config whose
    parts are not there or don't fit together.
    """
    parts = parts or resolve_parts(ctx, config)
    device = device or parts.device
    subject = _subject(config, parts, device)
    rows = _recent_rows(ctx, device)
    same = _same(subject, rows)
    return Prediction(
        device=device.name,
        device_bytes=device.usable_bytes,
        memory=_predict_memory(subject, rows, same),
        time=_predict_time(config, subject, rows, same),
        epoch_sequences=_epoch_sequences(subject, rows, same),
    )


def predict_time(ctx: Context, config: RunConfig, *, parts: RunParts | None = None) -> TimePrediction | None:
    """Return what `predict` says of a run's time; None if it is unknown."""
    parts = parts or resolve_parts(ctx, config)
    subject = _subject(config, parts, parts.device)
    rows = _recent_rows(ctx, parts.device)
    return _predict_time(config, subject, rows, _same(subject, rows))


def predict_setting(ctx: Context, setting: TrainingSetting, device: Device) -> MemoryPrediction:
    """Return the predicted memory of a setting on a device."""
    subject, rows = MeasuredSubject(setting, {}), _recent_rows(ctx, device)
    return _predict_memory(subject, rows, _same(subject, rows))


def record_probe(session: Session, ctx: Context, claim: Claim[ProbePayload], result: ProbeResult) -> None:
    """Store a finished probe's measurement; a stopped one has too few steps."""
    if result.stopped is None:
        payload = claim.payload
        origin = Origin("probe", host=claim.host, job_id=claim.job_id)
        _record(session, ctx, payload, result, origin=origin, shape=payload.shape, lengths=result)


def record_run(session: Session, ctx: Context, claim: Claim[TrainPayload], result: TrainResult) -> None:
    """Store a training job's own measurement. A stopped job's counts if it was long enough and saved a checkpoint: the
    peak may occur while saving.
    """
    run = session.scalar(select(Run).where(Run.job_id == claim.job_id))
    if result.measurement is None or run is None:
        return
    if result.stopped is not None and (result.checkpoint is None or result.measurement.steps_timed < LONG_ENOUGH):
        return
    shape = network_of_payload(ctx, claim.payload)
    lengths = SequenceLengths(accumulated=claim.payload.config.grad_accum_steps)
    origin = Origin("run", host=claim.host, job_id=claim.job_id, run_id=run.id)
    _record(session, ctx, claim.payload, result.measurement, origin=origin, shape=shape, lengths=lengths)


def record_settings(ctx: Context, measured: Sequence[MeasuredSetting], *, host: str, person: Person) -> None:
    """Store measurements that no job made: those of `roundhouse doctor --gpu`, on networks and data of its own."""
    require_builder(person)
    with ctx.db.write() as session:
        for each in measured:
            subject = subject_of(each.config, each.shape, device=each.result.device_kind, data=None, base=None)
            _add(session, ctx, subject, each.result, origin=Origin("probe", host=host), lengths=each.result)


def _record(
    session: Session,
    ctx: Context,
    payload: TrainingPayload,
    measured: RunMeasurement,
    *,
    origin: Origin,
    shape: ArchitectureConfig | None,
    lengths: SequenceLengths,
) -> None:
    base = session.get(Checkpoint, payload.base_id) if payload.base_id else None
    subject = subject_of(
        payload.config,
        shape,
        device=measured.device_kind,
        data=payload.dataset_version_id,
        base=payload.base_id,
        parameters=base.parameters if base is not None else None,
    )
    _add(session, ctx, subject, measured, origin=origin, lengths=lengths)


def _add(
    session: Session,
    ctx: Context,
    subject: MeasuredSubject,
    measured: RunMeasurement,
    *,
    origin: Origin,
    lengths: SequenceLengths,
) -> None:
    times = measured.model_dump(include=set(StepTimes.model_fields), exclude_none=True)
    counts = lengths.model_dump(include=set(SequenceLengths.model_fields), exclude_none=True)
    session.add(
        Measurement(
            origin=origin.kind,
            job_id=origin.job_id,
            run_id=origin.run_id,
            setting=subject.stored,
            setting_hash=subject.fingerprint,
            device=measured.device[:80],
            host=origin.host[:80],
            estimated_bytes=estimate_memory(subject.setting).total if subject.setting else 0,
            measured_bytes=measured.measured_bytes,
            tokens_per_s=measured.tokens_per_s,
            facts=MeasurementFacts(**times, **counts),
            created_at=ctx.now(),
        )
    )


def _subject(config: RunConfig, parts: RunParts, device: Device) -> MeasuredSubject:
    return subject_of(
        config,
        parts.shape,
        device=device.kind,
        data=parts.version.id,
        base=parts.base.id if parts.base else None,
        parameters=parts.base.parameters if parts.base else None,
    )


def _same(subject: MeasuredSubject, rows: Sequence[Measurement]) -> list[Measurement]:
    fingerprint = subject.fingerprint
    return [row for row in rows if _identity(row) == fingerprint]


def _predict_memory(
    subject: MeasuredSubject, rows: Sequence[Measurement], same: Sequence[Measurement]
) -> MemoryPrediction:
    formula = _formula(subject, rows)
    measured = next((row for row in same if row.origin == "run"), None) or next(iter(same), None)
    if measured is not None:
        pairs = _run_errors(rows)
        error = mean(pairs) if pairs and measured.origin == "probe" else None
        before = estimate_memory(subject.setting) if subject.setting else None  # without the data's lengths
        source: Source = "run" if measured.origin == "run" else "probe"
        return MemoryPrediction(measured.measured_bytes, source, before, error, probes=len(same), runs=len(pairs))
    if subject.setting is None or formula is None:
        return MemoryPrediction(None, "unknown", None)
    peaks = [(row, peak) for row in rows if (peak := _peak_of(row, rows)) is not None]
    calibration = calibrate(subject.setting, formula.total, [peak for _, peak in peaks])
    if not calibration.used:
        return MemoryPrediction(formula.total, "formula", formula)
    origins = [peaks[index][0].origin for index in calibration.used]
    return MemoryPrediction(
        round(formula.total * calibration.factor),
        "calibrated",
        formula,
        calibration.error,
        probes=origins.count("probe"),
        runs=origins.count("run"),
    )


def _formula(subject: MeasuredSubject, rows: Sequence[Measurement]) -> MemoryEstimate | None:
    """Return the formula's estimate, with the data's sequence lengths where a probe of the same data measured them."""
    if subject.setting is None:
        return None
    length, trained = _lengths(subject.setting, rows)
    return estimate_memory(subject.setting, length=length, trained=trained)


def _lengths(setting: TrainingSetting, rows: Sequence[Measurement]) -> tuple[int | None, int | None]:
    """Return the longest sequence of a setting's data and its trained positions, from a probe with at least this
    context.
    """
    if setting.data is None:
        return None, None
    for row in rows:
        stored, facts = row.setting, row.facts
        alike = stored.get("data") == setting.data and bool(stored.get("packed")) == setting.packed
        if alike and facts.longest and int(stored.get("context") or 0) >= setting.context:
            length = min(facts.longest, setting.context)
            return length, min(facts.trained or length, length)
    return None, None


def _epoch_sequences(subject: MeasuredSubject, rows: Sequence[Measurement], same: Sequence[Measurement]) -> int | None:
    """Return the sequences that a run packed the same rows into: with this setting, or with the same network, data and
    context in other batches.
    """
    for row in (*same, *rows):
        setting = _setting(row)
        if row.facts.epoch_sequences and (row in same or _packs_alike(setting, subject.setting)):
            return row.facts.epoch_sequences
    return None


def _packs_alike(one: TrainingSetting | None, other: TrainingSetting | None) -> bool:
    if one is None or other is None or other.data is None:
        return False
    return all(getattr(one, name) == getattr(other, name) for name in ("architecture", "data", "context", "packed"))


def _peak_of(row: Measurement, rows: Sequence[Measurement]) -> MeasuredPeak | None:
    """Read a row; None for a family without a formula, and for data of unknown lengths."""
    setting = _setting(row)
    if setting is None:
        return None
    facts = row.facts
    length, trained = (facts.longest, facts.trained) if facts.longest else _lengths(setting, rows)
    if length is None and not setting.objective.pretrains:
        return None
    return MeasuredPeak(setting, row.measured_bytes, length, trained)


def _run_errors(rows: Sequence[Measurement]) -> list[float]:
    """Return the relative difference of each run from the newest probe of the same setting."""
    probes = {_identity(row): row.measured_bytes for row in reversed(rows) if row.origin == "probe"}
    return [
        abs(row.measured_bytes / probes[_identity(row)] - 1)
        for row in rows
        if row.origin == "run" and probes.get(_identity(row))
    ]


def _predict_time(
    config: RunConfig, subject: MeasuredSubject, rows: Sequence[Measurement], same: Sequence[Measurement]
) -> TimePrediction | None:
    timed = next((row for row in same if row.facts.step_s), None)
    if timed is not None and (seconds := timed.facts.step_s):
        steps = config.max_steps * config.grad_accum_steps / max(1, timed.facts.accumulated or 1)
        low, high = (steps * limit if limit else None for limit in (timed.facts.step_s_low, timed.facts.step_s_high))
        return TimePrediction(
            steps * seconds,
            low,
            high,
            timed.tokens_per_s,
            f"measured by a {timed.origin} with this setting",
        )
    if subject.setting is None or not config.objective.pretrains:
        return None
    passes = [
        (_flops_per_pass(setting), row.tokens_per_s * setting.flops_per_token)
        for row in rows
        if row.tokens_per_s > 0 and (setting := _setting(row)) and _pretrains_alike(setting, subject.setting)
    ]
    rate = rate_of_pass(passes, _flops_per_pass(subject.setting))
    if rate is None:
        return None
    tokens_per_s = rate.flops_per_s / subject.setting.flops_per_token
    seconds = config.max_steps * config.tokens_per_step / tokens_per_s
    low, high = (None, None) if rate.error is None else (seconds * math.exp(off) for off in (-rate.error, rate.error))
    return TimePrediction(seconds, low, high, tokens_per_s, "at the rate of other models here")


def _flops_per_pass(setting: TrainingSetting) -> float:
    return float(setting.flops_per_token) * setting.micro_batch * setting.context


def _pretrains_alike(one: TrainingSetting, other: TrainingSetting) -> bool:
    """Return whether a measured setting counts its tokens as another does, which pretrains: on as many devices."""
    return one.objective.pretrains and one.lora_rank is None and one.devices == other.devices


def _recent_rows(ctx: Context, device: Device) -> list[Measurement]:
    query = (
        select(Measurement)
        .where(Measurement.device == device.name)
        .order_by(Measurement.created_at.desc(), Measurement.id)
    )
    with ctx.db.read() as session:
        return list(session.scalars(query.limit(RECENT)))


def _identity(row: Measurement) -> str:
    """Return the fingerprint of a row's setting under the current schema; earlier rows lack later fields."""
    return _stored_identity(json.dumps(row.setting or {}, sort_keys=True))


@lru_cache(maxsize=1024)
def _stored_identity(text: str) -> str:
    setting = _stored_setting(text)
    return setting.fingerprint if setting is not None else _hash(json.loads(text))


def _setting(row: Measurement) -> TrainingSetting | None:
    return _stored_setting(json.dumps(row.setting, sort_keys=True))


@lru_cache(maxsize=1024)
def _stored_setting(text: str) -> TrainingSetting | None:
    try:
        return TrainingSetting.model_validate_json(text)
    except ValidationError:  # the base has an unknown family
        return None


def _hash(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
