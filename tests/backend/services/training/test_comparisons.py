"""Which runs are seeds of one config, which configs differ by more than their seeds, and which are not comparable."""

from __future__ import annotations

import pytest

from backend.db.tables import Run
from backend.domain.training.comparability import Aspect
from backend.domain.training.config_sections import GrpoConfig
from backend.domain.training.objectives import Objective
from backend.services.context import LOCAL, Context
from backend.services.training.comparisons import compare_runs, loss_basis
from backend.services.training.imported_runs import import_log
from tests.support.run_world import (
    add_checkpoint,
    add_dataset,
    add_parts,
    add_tokenizer,
    finished,
    launch,
)


@pytest.fixture
def world(ctx: Context) -> Context:
    add_parts(ctx)
    add_dataset(ctx, "poems")
    add_tokenizer(ctx, "coarse")
    return ctx


def test_runs_that_differ_in_the_seed_are_one_group_whether_they_were_picked_or_not(world: Context) -> None:
    slow = [finished(world, f"slow {seed}", 2.0 + seed / 1000, seed=seed, learning_rate=0.001) for seed in (1, 2, 3)]
    fast = [
        finished(world, f"fast {seed}", 1.5 + seed / 1000, seed=seed, learning_rate=0.01, priority=seed)
        for seed in (1, 2)
    ]
    compared = compare_runs(world, [slow[1].id, fast[0].id])
    assert [group.label for group in compared.groups] == ["fast 1", "slow 2"]
    assert [len(group.runs) for group in compared.groups] == [2, 3]
    assert (compared.groups[1].picked, compared.groups[1].free_seed) == ((slow[1].id,), 4)
    assert compared.obstacles == ()
    (comparison,) = compared.comparisons
    assert comparison.result is not None
    assert comparison.result.is_beyond_noise
    assert comparison.result.seeds == (2, 3)
    assert comparison.result.difference == pytest.approx(2.002 - 1.5015)


def test_a_single_seed_each_gives_no_conclusion(world: Context) -> None:
    runs = [finished(world, "a", 2.0), finished(world, "b", 1.9, learning_rate=0.01)]
    (comparison,) = compare_runs(world, [run.id for run in runs]).comparisons
    assert comparison.result is not None
    assert comparison.result.is_beyond_noise is None
    assert comparison.needed is None


def test_a_seed_that_was_run_twice_is_no_second_seed(world: Context) -> None:
    runs = [finished(world, "a", 2.0, seed=7), finished(world, "a again", 2.0, seed=7)]
    compared = compare_runs(world, [run.id for run in runs])
    (group,) = compared.groups
    assert (len(group.runs), len(group.losses.losses), compared.comparisons) == (2, 1, ())


def test_losses_on_other_data_are_not_comparable(world: Context) -> None:
    runs = [finished(world, "tales run", 2.0, bpb=0.7), finished(world, "poems run", 1.2, bpb=0.4, dataset="poems")]
    compared = compare_runs(world, [run.id for run in runs])
    (obstacle,) = compared.obstacles
    assert (obstacle.aspect, obstacle.sides) == (
        Aspect.DATA,
        (("tales@1", ("tales run",)), ("poems@1", ("poems run",))),
    )
    (comparison,) = compared.comparisons
    assert comparison.result is None, "bits per byte of different texts are no test either"
    assert (comparison.better.label, comparison.other.label) == ("tales run", "poems run"), (
        "neither is called the better one"
    )


def test_other_tokenizers_are_compared_by_bits_per_byte(world: Context) -> None:
    runs = [finished(world, f"pieces {seed}", 2.0, bpb=0.70 + seed / 1000, seed=seed) for seed in (1, 2)]
    runs += [
        finished(world, f"coarse {seed}", 2.6, bpb=0.60 + seed / 1000, seed=seed, tokenizer="coarse") for seed in (1, 2)
    ]
    compared = compare_runs(world, [run.id for run in runs])
    assert [obstacle.aspect for obstacle in compared.obstacles] == [Aspect.TOKENIZER]
    (comparison,) = compared.comparisons
    assert (comparison.better.label, comparison.other.label) == ("coarse 1", "pieces 1"), (
        "whose val_loss is higher, per longer token"
    )
    assert comparison.result is not None
    assert comparison.result.difference == pytest.approx(0.1)
    assert comparison.result.is_beyond_noise


def test_other_tokenizers_without_bits_per_byte_are_not_compared(world: Context) -> None:
    runs = [finished(world, "pieces", 2.0), finished(world, "coarse", 2.6, bpb=0.6, tokenizer="coarse")]
    (comparison,) = compare_runs(world, [run.id for run in runs]).comparisons
    assert comparison.result is None


def test_a_run_on_a_base_has_the_tokenizer_of_its_first_ancestor(world: Context) -> None:
    scratch = finished(world, "scratch", 2.0)
    base = add_checkpoint(world, scratch, 100)
    more = finished(world, "more", 1.9, architecture=None, tokenizer=None, base="scratch · step 100")
    assert base
    assert compare_runs(world, [scratch.id, more.id]).obstacles == ()
    other = finished(world, "other", 2.1, tokenizer="coarse")
    (obstacle,) = compare_runs(world, [more.id, other.id]).obstacles
    assert obstacle.sides == (("pieces", ("more",)), ("coarse", ("other",)))


def test_tokenizers_of_the_same_content_are_the_same(world: Context) -> None:
    for name in ("pieces", "coarse"):
        folder = world.artifacts.folder("tokenizers", name)
        (folder / "tokenizer.json").write_text('{"model": {}}')
    runs = [finished(world, "pieces", 2.0), finished(world, "coarse", 2.1, tokenizer="coarse")]
    assert compare_runs(world, [run.id for run in runs]).obstacles == ()


def test_unfinished_and_imported_runs_are_obstacles_but_not_in_a_group(world: Context) -> None:
    waiting = launch(world, name="waiting")
    (theirs,) = import_log(world, b"step,val_loss\n1,2.5\n", filename="theirs.csv", person=LOCAL)
    compared = compare_runs(world, [waiting.id, theirs.id])
    assert (compared.groups, compared.comparisons) == ((), ())
    assert {Aspect.DATA, Aspect.TOKENIZER} <= {obstacle.aspect for obstacle in compared.obstacles}


def test_rewards_of_other_rules_are_no_common_measure(world: Context) -> None:
    run, keys = finished(world, "rewarded", 1.0), []
    for weight, length in ((1.0, 64), (10.0, 64), (1.0, 128), (1.0, 64)):
        with world.db.read() as session:
            row = session.get_one(Run, run.id)
            session.expunge(row)
            rules = GrpoConfig.model_validate(
                {"rewards": [{"kind": "exact", "weight": weight}], "max_new_tokens": length}
            )
            assert row.config is not None
            row.config = row.config.model_copy(update={"objective": Objective.GRPO, "grpo": rules})
            keys.append(loss_basis(world, session, row).key)
    assert len(set(keys)) == 3
    assert keys[0] == keys[3]
