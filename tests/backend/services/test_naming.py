"""Notes of datasets, checkpoints and runs: kept whole, and never written over unseen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backend.db.tables import Dataset
from backend.errors import Conflict, InvalidInput
from backend.services.checkpoints.checkpoints import get_checkpoint, set_checkpoint_notes
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import get_dataset, set_dataset_notes
from backend.services.naming import MAX_NOTES
from backend.services.training.runs import set_notes
from backend.services.training.views import get_run
from tests.support.scenario import Scenario

Setter = Callable[..., None]


@pytest.mark.parametrize("what", ["dataset", "checkpoint", "run"])
def test_notes_that_somebody_changed_meanwhile_are_not_overwritten(ctx: Context, scenario: Scenario, what: str) -> None:
    run = scenario.run(name="first")
    checkpoint = scenario.checkpoint(run=run, step=10)
    with ctx.db.read() as session:
        dataset = session.query(Dataset).one().id
    row_id, write, read = {
        "dataset": (dataset, set_dataset_notes, get_dataset),
        "checkpoint": (checkpoint, set_checkpoint_notes, get_checkpoint),
        "run": (run.id, set_notes, get_run),
    }[what]
    put: Setter = write
    put(ctx, row_id, "mine", person=LOCAL, before="")
    with pytest.raises(Conflict, match="Another person changed these notes meanwhile, so yours are not saved"):
        put(ctx, row_id, "theirs", person=LOCAL, before="")
    assert read(ctx, row_id).notes == "mine"
    put(ctx, row_id, "mine", person=LOCAL, before="")  # the same twice is no conflict
    put(ctx, row_id, "both", person=LOCAL, before="mine")
    with pytest.raises(InvalidInput, match="20,001 characters"):
        put(ctx, row_id, "x" * (MAX_NOTES + 1), person=LOCAL, before="both")
    assert read(ctx, row_id).notes == "both", "nothing is cut off unseen"
