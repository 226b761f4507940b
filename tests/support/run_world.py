"""What tests of runs start from: parts that fit together, and a training job that reports without training."""

from __future__ import annotations

import random
from typing import Any

from backend.db.tables import Checkpoint, Dataset, DatasetVersion, Job, Measurement, Run, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.setting import setting_of
from backend.domain.jobs.events import event_of
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import JobKind, Status
from backend.domain.training.config import RunConfig
from backend.services import job_events as outcomes
from backend.services.architectures import save_architecture
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import Claim, end_job, renew
from backend.services.jobs.devices import choose_device, training_workers
from backend.services.training.runs import launch_run
from backend.services.training.views import RunView
from tests.support.jobs import add_stored_job, take_job
from tests.support.scenario import add_row

SHAPE = ArchitectureConfig(
    num_layers=2, width=32, num_heads=2, num_kv_heads=2, context=64, vocab_size=300, feed_forward=64
)


def add_dataset(ctx: Context, name: str = "tales", *, kind: str = "text", ready: bool = True) -> str:
    """Insert a dataset with one version, imported or still waiting for its import. Returns the version's id."""
    with ctx.db.write() as session:
        dataset = Dataset(name=name, kind=kind)
        session.add(dataset)
        session.flush()
        job = add_stored_job(session, ctx, JobKind.IMPORT_DATASET, title=f"Import {name}")
        job.status = Status.FINISHED if ready else Status.QUEUED
        version = DatasetVersion(
            dataset_id=dataset.id, number=1, job_id=job.id, train_rows=90 if ready else 0, val_rows=10 if ready else 0
        )
        version.folder = f"datasets/{name}" if ready else None
        session.add(version)
        session.flush()
        return version.id


def add_tokenizer(ctx: Context, name: str = "pieces", *, vocab_size: int = 300) -> None:
    """Insert a trained tokenizer."""
    add_row(ctx, Tokenizer(name=name, kind="bpe", vocab_size=vocab_size, folder=f"tokenizers/{name}"))


def add_parts(ctx: Context) -> None:
    """Insert a dataset, a tokenizer and an architecture that fit together."""
    add_dataset(ctx)
    add_tokenizer(ctx)
    save_architecture(ctx, name="small", config=SHAPE, person=LOCAL)


def add_checkpoint(ctx: Context, run: RunView, step: int) -> str:
    """Insert a checkpoint of a run."""
    return add_row(
        ctx,
        Checkpoint(
            name=f"{run.name} · step {step}",
            origin="run",
            run_id=run.id,
            step=step,
            folder=f"runs/{run.id}/checkpoints/step-{step:06d}",
        ),
    )


def make_config(**values: Any) -> RunConfig:
    """A pre-training config that fits `add_parts`."""
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


def launch(ctx: Context, **values: Any) -> RunView:
    """Launch such a run."""
    return launch_run(ctx, make_config(**values), person=LOCAL)


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


def finished(ctx: Context, name: str, loss: float, *, bpb: float | None = None, **values: object) -> RunView:
    """A finished run with this val_loss at its end."""
    run = launch(ctx, name=name, **values)
    taken = claim(ctx, run)
    measured = {"val_loss": loss, **({} if bpb is None else {"val_bpb": bpb})}
    report(ctx, taken, {"type": "metrics", "step": 100, "time": 1.0, "values": measured})
    end(ctx, taken, Status.FINISHED)
    return run


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
