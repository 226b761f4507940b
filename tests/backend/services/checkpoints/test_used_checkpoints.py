"""Checkpoints of a running run that something would miss are marked, so that the run keeps them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import update

from backend.db.tables import Alias, Deployment
from backend.domain.serving.deployment import AdapterFiles, DeploymentConfig
from backend.domain.training.holds import mark_of_use
from backend.services.checkpoints.checkpoints import rename_checkpoint, set_checkpoint_notes
from backend.services.checkpoints.files import mark_used_checkpoints
from backend.services.context import LOCAL, Context
from backend.services.training.runs import launch_run
from tests.support.run_world import make_config
from tests.support.scenario import Scenario, add_row

USES: dict[str, Callable[[Context, Scenario, str], object]] = {
    "deployed": lambda _, scenario, one: scenario.endpoint("chat", one),
    "adapter": lambda _, scenario, one: scenario.endpoint(
        "chat", "Oak", config=DeploymentConfig(adapters={"tone": AdapterFiles(checkpoint_id=one, folder="x")})
    ),
    "draft": lambda _, scenario, one: scenario.endpoint("chat", "Oak", config=DeploymentConfig(draft=one)),
    "alias": lambda ctx, _, one: add_row(ctx, Alias(name="best", checkpoint_id=one)),
    "campaign": lambda _, scenario, one: scenario.campaign(one, "Oak", write=False),
    "evaluated": lambda _, scenario, one: scenario.evaluation(one, right=[1, 0, 1]),
    "base": lambda ctx, scenario, one: launch_run(
        ctx, make_config(name="next", base=one, architecture=None, tokenizer=None), person=LOCAL
    ),
    "named": lambda ctx, _, one: rename_checkpoint(ctx, one, "the good one", person=LOCAL),
    "described": lambda ctx, _, one: set_checkpoint_notes(ctx, one, "writes best", person=LOCAL),
}


@pytest.mark.parametrize("use", USES)
def test_a_checkpoint_in_use_is_marked_while_it_is(ctx: Context, scenario: Scenario, use: str) -> None:
    run = scenario.run(name="stories")
    used, _ = (scenario.checkpoint(run=run, step=step) for step in (10, 20))
    folders = [ctx.artifacts.folder("runs", run.id, "checkpoints", f"step-{step:06d}") for step in (10, 20)]
    mark_used_checkpoints(ctx, str(run.job_id))
    assert not any(mark_of_use(folder).exists() for folder in folders)
    USES[use](ctx, scenario, used)
    mark_used_checkpoints(ctx, str(run.job_id))
    assert [mark_of_use(folder).exists() for folder in folders] == [True, False]
    if use == "deployed":
        with ctx.db.write() as session:
            session.execute(update(Deployment).values(stopped_at=ctx.now()))
        mark_used_checkpoints(ctx, str(run.job_id))
        assert not mark_of_use(folders[0]).exists()
