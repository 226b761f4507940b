"""What tests of runs start from: parts that fit together, and a training job that reports without training."""

from __future__ import annotations

import random
from typing import Any

from backend.db.tables import DatasetVersion, Job, Measurement, Run
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.setting import setting_of
from backend.domain.jobs.events import event_of
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import Status
from backend.domain.training.config import RunConfig
from backend.services import job_events as outcomes
from backend.services.context import Context
from backend.services.jobs.claims import Claim, end_job, renew
from backend.services.jobs.devices import choose_device, training_workers
from backend.services.training.views import RunView
from tests.support.jobs import take_job

SHAPE = ArchitectureConfig(
    num_layers=2, width=32, num_heads=2, num_kv_heads=2, context=64, vocab_size=300, feed_forward=64
)


def make_config(**values: Any) -> RunConfig:
    """A pre-training config that fits `Scenario.parts`."""
    defaults: dict[str, Any] = {
        "dataset": "tales",
        "architecture": "small",
        "tokenizer": "pieces",
        "context": 32,
        "micro_batch": 4,
        "max_steps": 100,
        "warmup_steps": 5,
    }
    return RunConfig.model_validate({**defaults, **values})


def claim(ctx: Context, run: RunView) -> Claim[Any]:
    """Take a run's job, as a worker does."""
    return take_job(ctx, run.job_id)


def report(ctx: Context, taken: Claim[Any], *events: dict[str, Any]) -> None:
    """Record what a child wrote, as its parent does."""
    with ctx.db.write() as session:
        renew(session, ctx, taken)
        progress = outcomes.record_events(session, ctx, taken, [event_of(event) for event in events])
        if progress:
            renew(session, ctx, taken, progress=progress)


def points(first: int, last: int, *, name: str = "train_loss") -> list[dict[str, Any]]:
    """Metric events of steps `first` to `last`, with a value that tells the step."""
    return [
        {"type": "metrics", "step": step, "time": 1000.0 + step, "values": {name: 10.0 / step}}
        for step in range(first, last + 1)
    ]


def diverging_points() -> list[dict[str, Any]]:
    """Metric events of 200 steps whose loss leaps up after 40."""
    noise = random.Random(0)
    return [
        {
            "type": "metrics",
            "step": step,
            "time": 1000.0 + step,
            "values": {"train_loss": (5.6 - step / 70 if step <= 40 else 7.4) + noise.gauss(0, 0.05)},
        }
        for step in range(1, 201)
    ]


def end(ctx: Context, taken: Claim[Any], status: Status, **error: str) -> None:
    """End a job, as its parent does."""
    with ctx.db.write() as session:
        if status is Status.FINISHED:
            outcomes.record_finish(session, ctx, taken, TrainResult(final_step=1))
        end_job(session, ctx, taken, status, error=JobFailure(**error))


def row_of(ctx: Context, run: RunView) -> tuple[Run, Job]:
    """The rows behind a run."""
    with ctx.db.read() as session:
        row = session.get_one(Run, run.id)
        return row, session.get_one(Job, row.job_id)


def tiny_run(name: str, **values: object) -> RunConfig:
    """A run of a few seconds on the fixture's dataset."""
    defaults: dict[str, object] = {
        "name": name,
        "dataset": "lines",
        "architecture": TINY,
        "tokenizer": "bytes",
        "max_steps": 400,
        "micro_batch": 4,
        "context": 64,
        "warmup_steps": 5,
        "eval_batches": 1,
        "sample_tokens": 8,
    }
    settings = {**defaults, **values}
    steps = int(str(settings["max_steps"]))
    settings = {"eval_every": min(100, steps), "checkpoint_every": min(50, steps), **settings}
    return RunConfig.model_validate(settings)


TINY = ArchitectureConfig(
    num_layers=2, width=32, num_heads=2, num_kv_heads=2, context=64, vocab_size=320, feed_forward=64
)


def measure(ctx: Context, config: RunConfig, *, step_s: float) -> None:
    """Record a run of this setting: what it took and how long its steps were."""
    device = choose_device(config, training_workers(ctx))
    with ctx.db.write() as session:
        version = session.query(DatasetVersion).first()
        setting = setting_of(config, SHAPE, device=device.kind, data=version.id if version else None)
        session.add(
            Measurement(
                origin="run",
                setting=setting.model_dump(mode="json"),
                setting_hash=setting.fingerprint,
                device=device.name,
                estimated_bytes=1,
                measured_bytes=50_000_000,
                tokens_per_s=config.tokens_per_step / step_s,
                facts={"step_s": step_s, "accumulated": 1},
            )
        )
