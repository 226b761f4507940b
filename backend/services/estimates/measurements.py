"""Peak memory and speed: what probes and runs measured, and what is to be expected of a run by them and by arithmetic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Measurement, Run
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.hf_config import read_shape
from backend.domain.estimates.calibration import MeasuredPeak, correct
from backend.domain.estimates.memory import MemoryEstimate, estimate_memory
from backend.domain.estimates.prediction import MemoryPrediction, Prediction, TimePrediction
from backend.domain.estimates.setting import DeviceKind, TrainingSetting, setting_of
from backend.domain.estimates.throughput import rate_at
from backend.domain.training.config import Objective, RunConfig
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.jobs.devices import Place, place_of
from backend.services.jobs.jobs import Claim
from backend.services.scaling.planner import choose_speeds
from backend.services.training.parts import RunParts, resolve_parts

RECENT = 300
MOST_BASES = 8
CARD, SMALL_FILE = "roundhouse.json", 2**20


@dataclass(frozen=True)
class Subject:
    """What is measured or predicted. `setting` is None for a base whose family the formula does not know."""

    setting: TrainingSetting | None
    stored: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """A hash that two subjects share exactly if they are the same."""
        if self.setting is not None:
            return self.setting.fingerprint
        return hashlib.sha256(json.dumps(self.stored, sort_keys=True).encode()).hexdigest()


def subject_of(config: RunConfig, shape: ArchitectureConfig | None, *, device: DeviceKind, data: str | None, base: str | None) -> Subject:
    """Return the subject of a config whose network has this shape; `data` and `base` are ids of a dataset version and a checkpoint."""
    if shape is not None:
        setting = setting_of(config, shape, device=device, data=data)
        return Subject(setting, setting.model_dump(mode="json"))
    fields = ("objective", "method", "packing", "micro_batch", "context", "precision", "recompute", "compile")
    told = {**{name: getattr(config, name) for name in fields}, "rank": config.lora.rank if config.method != "full" else None}
    return Subject(None, {**told, "accumulates": config.grad_accum_steps > 1, "device": device, "data": data, "base": base})


def find_shape(ctx: Context, parts: RunParts) -> ArchitectureConfig | None:
    """Return the shape of the network that a config's parts make; None for a base of another family."""
    if parts.architecture is not None:
        return parts.architecture
    return shape_in(ctx, parts.base.folder) if parts.base is not None and parts.base.folder else None


def shape_of_payload(ctx: Context, payload: dict[str, Any]) -> ArchitectureConfig | None:
    """Return the shape of the network that a training job's payload makes or starts from; None for a base of another family."""
    return _read(payload.get("architecture")) or (shape_in(ctx, payload["base"]) if payload.get("base") else None)


def predict(ctx: Context, config: RunConfig, *, place: Place | None = None) -> Prediction:
    """Return what a run is expected to need on a device (default: the one it would go to).

    Raises NotFound, InvalidInput or Conflict for a config whose parts are not there or don't fit together.
    """
    parts = resolve_parts(ctx, config)
    place = place or place_of(ctx, config)
    shape = find_shape(ctx, parts)
    subject = subject_of(config, shape, device=place.kind, data=parts.version.id, base=parts.base.id if parts.base else None)
    with ctx.db.read() as session:
        query = select(Measurement).where(Measurement.device == place.name).order_by(Measurement.created_at.desc(), Measurement.id)
        rows = list(session.scalars(query.limit(RECENT)))
    same = [row for row in rows if row.setting_hash == subject.fingerprint]
    return Prediction(
        device=place.name,
        device_bytes=place.usable_bytes,
        memory=_predict_memory(subject, rows, same),
        time=_predict_time(ctx, config, subject, place, same),
    )


def predict_setting(ctx: Context, setting: TrainingSetting, place: Place) -> MemoryPrediction:
    """Return the memory to expect of any setting on a device."""
    with ctx.db.read() as session:
        query = select(Measurement).where(Measurement.device == place.name).order_by(Measurement.created_at.desc(), Measurement.id)
        rows = list(session.scalars(query.limit(RECENT)))
    subject = Subject(setting, {})
    return _predict_memory(subject, rows, [row for row in rows if row.setting_hash == subject.fingerprint])


def record_probe(session: Session, ctx: Context, claim: Claim, result: dict[str, Any]) -> None:
    """Keep what a finished probe measured; one that was stopped measured too little."""
    if not result.get("stopped"):
        payload = claim.payload
        _record(
            session,
            ctx,
            claim,
            result,
            origin="probe",
            shape=_read(payload.get("shape")),
            config=RunConfig.model_validate(payload["config"]),
        )


def record_run(session: Session, ctx: Context, claim: Claim, result: dict[str, Any]) -> None:
    """Keep what a training job measured of itself, if it took steps enough and was not stopped: the peak may come with saving."""
    measured = result.get("measurement")
    run = session.scalar(select(Run).where(Run.job_id == claim.job_id))
    if not measured or run is None or result.get("stopped"):
        return
    payload, config = claim.payload, RunConfig.model_validate(claim.payload["config"])
    shape = shape_of_payload(ctx, payload)
    measured = {**measured, "accumulated": config.grad_accum_steps}
    _record(session, ctx, claim, measured, origin="run", shape=shape, config=config, run_id=run.id)


def _record(
    session: Session,
    ctx: Context,
    claim: Claim,
    result: dict[str, Any],
    *,
    origin: str,
    shape: ArchitectureConfig | None,
    config: RunConfig,
    run_id: str | None = None,
) -> None:
    payload, kind = claim.payload, "gpu" if result.get("device_kind") == "gpu" else "cpu"
    subject = subject_of(config, shape, device=kind, data=payload.get("dataset_version_id"), base=payload.get("base_id"))  # type: ignore[arg-type]
    facts = ("allocated_bytes", "step_s", "step_s_low", "step_s_high", "steps_timed", "accumulated", "longest", "trained")
    session.add(
        Measurement(
            origin=origin,
            job_id=claim.job_id,
            run_id=run_id,
            setting=subject.stored,
            setting_hash=subject.fingerprint,
            device=str(result["device"])[:80],
            host=claim.host[:80],
            estimated_bytes=estimate_memory(subject.setting).total if subject.setting else 0,
            measured_bytes=int(result["measured_bytes"]),
            tokens_per_s=float(result["tokens_per_s"]),
            facts={name: result[name] for name in facts if result.get(name) is not None},
            created_at=ctx.now(),
        )
    )


def _predict_memory(subject: Subject, rows: Sequence[Measurement], same: Sequence[Measurement]) -> MemoryPrediction:
    formula = _formula(subject, rows)
    measured = next((row for row in same if row.origin == "run"), None) or next(iter(same), None)
    if measured is not None:
        pairs = _run_errors(rows)
        error = mean(pairs) if pairs and measured.origin == "probe" else None
        said = estimate_memory(subject.setting) if subject.setting else None  # what it said before the data's lengths were known
        source = "run" if measured.origin == "run" else "probe"
        return MemoryPrediction(measured.measured_bytes, source, said, error, probes=len(same), runs=len(pairs))  # type: ignore[arg-type]
    if subject.setting is None or formula is None:
        return MemoryPrediction(None, "unknown", None)
    peaks = [(row, peak) for row in rows if (peak := _peak_of(row, rows)) is not None]
    correction = correct(subject.setting, formula.total, [peak for _, peak in peaks])
    if not correction.used:
        return MemoryPrediction(formula.total, "formula", formula)
    origins = [peaks[index][0].origin for index in correction.used]
    return MemoryPrediction(
        round(formula.total * correction.factor),
        "corrected",
        formula,
        correction.error,
        probes=origins.count("probe"),
        runs=origins.count("run"),
    )


def _formula(subject: Subject, rows: Sequence[Measurement]) -> MemoryEstimate | None:
    """Return what arithmetic says, with the lengths of the data's sequences where a probe of the same data has seen them."""
    if subject.setting is None:
        return None
    length, trained = _lengths(subject.setting, rows)
    return estimate_memory(subject.setting, length=length, trained=trained)


def _lengths(setting: TrainingSetting, rows: Sequence[Measurement]) -> tuple[int | None, int | None]:
    """Return the longest sequence of a setting's data and its trained positions, as a probe with at least this context saw them."""
    if setting.data is None:
        return None, None
    for row in rows:
        stored, facts = row.setting or {}, row.facts or {}
        alike = stored.get("data") == setting.data and bool(stored.get("packed")) == setting.packed
        if alike and facts.get("longest") and int(stored.get("context") or 0) >= setting.context:
            length = min(int(facts["longest"]), setting.context)
            return length, min(int(facts.get("trained") or length), length)
    return None, None


def _peak_of(row: Measurement, rows: Sequence[Measurement]) -> MeasuredPeak | None:
    """Read a row; None for one that the formula does not know, and for one of data whose lengths nobody has seen."""
    try:
        setting = TrainingSetting.model_validate(row.setting)
    except ValidationError:
        return None
    facts = row.facts or {}
    length, trained = (facts.get("longest"), facts.get("trained")) if facts.get("longest") else _lengths(setting, rows)
    if length is None and setting.objective is not Objective.PRETRAIN:
        return None
    return MeasuredPeak(setting, row.measured_bytes, length, trained)


def _run_errors(rows: Sequence[Measurement]) -> list[float]:
    """Return by what share each run differed from the newest probe of the same setting."""
    probes = {row.setting_hash: row.measured_bytes for row in reversed(rows) if row.origin == "probe"}
    return [abs(row.measured_bytes / probes[row.setting_hash] - 1) for row in rows if row.origin == "run" and probes.get(row.setting_hash)]


def _predict_time(ctx: Context, config: RunConfig, subject: Subject, place: Place, same: Sequence[Measurement]) -> TimePrediction | None:
    timed = next((row for row in same if (row.facts or {}).get("step_s")), None)
    if timed is not None:
        facts = timed.facts
        steps = config.max_steps * config.grad_accum_steps / max(1, int(facts.get("accumulated") or 1))
        low, high = (steps * float(facts[name]) if facts.get(name) else None for name in ("step_s_low", "step_s_high"))
        return TimePrediction(
            steps * float(facts["step_s"]), low, high, timed.tokens_per_s, f"measured by a {timed.origin} of this setting"
        )
    if subject.setting is None or config.objective is not Objective.PRETRAIN:
        return None
    try:
        speeds = choose_speeds(ctx, place.name)
    except InvalidInput:
        return None
    per_token = subject.setting.flops_per_token
    rate = rate_at(speeds, per_token) / per_token
    return TimePrediction(config.max_steps * config.tokens_per_step / rate, None, None, rate, "by the rate of other networks here")


def shape_in(ctx: Context, folder: str) -> ArchitectureConfig | None:
    """Return the architecture of the checkpoint in a folder; of an adapter, that of its base. None where it is unknown."""
    place = ctx.artifacts.root / folder
    for _ in range(MOST_BASES):
        data = _read_json(place / "config.json")
        if data is not None:
            shape = read_shape(data)
            return shape.config if shape else None
        above = (_read_json(place / CARD) or {}).get("base_path")
        if not isinstance(above, str):
            return None
        place = (place / above).resolve()
        if not place.is_relative_to(ctx.artifacts.root):
            return None
    return None


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        if file.stat().st_size > SMALL_FILE:
            return None
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _read(shape: Any) -> ArchitectureConfig | None:
    return ArchitectureConfig.model_validate(shape) if shape else None
