"""What a worker does at each heartbeat beside the heartbeat."""

from __future__ import annotations

import pytest

from backend.db.tables import SuiteResult
from backend.domain.evaluation.suites import SuiteConfig
from backend.services.context import LOCAL, Context
from backend.services.evaluation.open_suites import list_open_results
from backend.services.evaluation.suites import create_suite, list_results
from jobs import celery_app
from tests.support.battle_world import add_checkpoint
from tests.support.evaluation_world import CHOICES, add_benchmark


def test_a_worker_launches_the_evaluations_of_suites_that_training_runs_opened(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint_id = add_checkpoint(ctx, "Oak")
    add_benchmark(ctx, "facts", CHOICES)
    suite = create_suite(ctx, SuiteConfig.model_validate({"name": "core", "members": ["facts"]}), person=LOCAL)
    with ctx.db.write() as session:  # as the recorder of a run's checkpoint adds it
        row = SuiteResult(suite_id=suite.id, checkpoint_id=checkpoint_id, config=suite.config.model_dump(mode="json"), created_at=ctx.now())
        session.add(row)
    monkeypatch.setattr(celery_app, "get_context", lambda: ctx)
    celery_app._recover(["train"])
    assert len(list_open_results(ctx)) == 1  # launched by the workers of the queue `eval` alone
    celery_app._recover(["eval"])
    assert list_open_results(ctx) == []
    assert list_results(ctx)[0].members[0].evaluation is not None
