"""Which runs are seeds of one config, and what may be said about two configs."""

from __future__ import annotations

import pytest

from backend.domain.jobs.states import Status
from backend.services.context import LOCAL, Context
from backend.services.training.comparisons import compare_by_seed
from backend.services.training.imported_runs import import_log
from backend.services.training.views import RunView
from tests.support.run_world import add_parts, claim, end, launch, report


def finished(ctx: Context, name: str, loss: float, **values: object) -> RunView:
    """A finished run with this val_loss at its end."""
    run = launch(ctx, name=name, **values)
    taken = claim(ctx, run)
    report(ctx, taken, {"type": "metrics", "step": 100, "time": 1.0, "values": {"val_loss": loss}})
    end(ctx, taken, Status.FINISHED)
    return run


@pytest.fixture
def world(ctx: Context) -> Context:
    add_parts(ctx)
    return ctx


def test_runs_that_differ_in_the_seed_are_one_group_whether_they_were_picked_or_not(world: Context) -> None:
    slow = [finished(world, f"slow {seed}", 2.0 + seed / 1000, seed=seed, learning_rate=0.001) for seed in (1, 2, 3)]
    fast = [finished(world, f"fast {seed}", 1.5 + seed / 1000, seed=seed, learning_rate=0.01, priority=seed) for seed in (1, 2)]
    groups, comparisons = compare_by_seed(world, [slow[1].id, fast[0].id])
    assert [group.label for group in groups] == ["fast 1", "slow 2"]
    assert [len(group.runs) for group in groups] == [2, 3]
    assert (groups[1].picked, groups[1].free_seed) == ((slow[1].id,), 4)
    (comparison,) = comparisons
    assert comparison.result.is_beyond_noise
    assert comparison.result.seeds == (2, 3)
    assert comparison.result.difference == pytest.approx(2.002 - 1.5015)


def test_a_single_seed_each_says_nothing(world: Context) -> None:
    runs = [finished(world, "a", 2.0), finished(world, "b", 1.9, learning_rate=0.01)]
    _, (comparison,) = compare_by_seed(world, [run.id for run in runs])
    assert comparison.result.is_beyond_noise is None
    assert comparison.needed is None


def test_a_seed_that_was_run_twice_is_no_second_seed(world: Context) -> None:
    runs = [finished(world, "a", 2.0, seed=7), finished(world, "a again", 2.0, seed=7)]
    (group,), comparisons = compare_by_seed(world, [run.id for run in runs])
    assert (len(group.runs), len(group.losses.losses), comparisons) == (2, 1, [])


def test_what_has_not_finished_or_was_imported_is_no_evidence(world: Context) -> None:
    waiting = launch(world, name="waiting")
    (theirs,) = import_log(world, b"step,val_loss\n1,2.5\n", filename="theirs.csv", person=LOCAL)
    assert compare_by_seed(world, [waiting.id, theirs.id]) == ([], [])
