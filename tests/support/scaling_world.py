"""A study of runs whose losses follow a known law."""

from __future__ import annotations

from backend.db.tables import DatasetVersion, Job, Run, Tokenizer
from backend.domain.jobs.events import MetricsEvent
from backend.domain.jobs.states import Status
from backend.domain.scaling.laws import PUBLISHED
from backend.domain.scaling.shapes import count_all
from backend.domain.scaling.study import StudyConfig
from backend.services.context import Context
from backend.services.metrics.points import add_points
from backend.services.scaling.studies import (
    StudyView,
)

LAW = PUBLISHED["besiroglu-2024"]


STUDY = StudyConfig(name="sizes", dataset="tales", tokenizer="pieces", budgets=(1e13, 3e13, 1e14), sizes=5, context=64)


def finish(ctx: Context, run_id: str, loss: float, *, rate: float = 1000.0) -> None:
    """End a run as if it had been trained: all steps, a val_loss, a rate."""
    with ctx.db.write() as session:
        run = session.get_one(Run, run_id)
        job = session.get_one(Job, run.job_id)
        job.status, job.finished_at, job.owner = Status.FINISHED, ctx.now(), "here/train#1"
        steps = run.config.max_steps
        run.last_step = steps
        run.summary = {"last": {"val_loss": loss}, "result": {"final_step": steps}}
        add_points(session, ctx.db, run.id, [MetricsEvent(step=1, values={"tok_per_sec": rate})])


def finish_by_law(ctx: Context, study: StudyView) -> None:
    """Finish a study's runs with the losses of a known law."""
    with ctx.db.read() as session:
        rows = [(run.id, run.config) for run in session.query(Run).filter(Run.group_id == study.id)]
    for run_id, config in rows:
        assert not isinstance(config.architecture, str)
        assert config.architecture is not None
        finish(ctx, run_id, LAW.loss(count_all(config.architecture), config.max_steps * config.tokens_per_step) / 4)


def make_text(ctx: Context, text_bytes: int = 4_000_000_000) -> None:
    """Say how much text the dataset holds, and how many bytes a token is."""
    with ctx.db.write() as session:
        session.query(DatasetVersion).one().facts = {"text_bytes": text_bytes}
        session.query(Tokenizer).one().facts = {"bytes_per_token": 4.0}
