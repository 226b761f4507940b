"""Which runs are seeds of one config, which configs differ by more than their seeds, and which are not comparable."""

from __future__ import annotations

import pytest

from backend.db.tables import Run
from backend.domain.training.comparisons import Aspect
from backend.domain.training.config_sections import GrpoConfig
from backend.domain.training.objectives import Objective
from backend.services.context import LOCAL, Context
from backend.services.training.comparisons import compare_runs, loss_basis
from backend.services.training.imported_runs import import_log
from tests.support.scenario import Scenario


@pytest.fixture(autouse=True)
def _other_parts(scenario: Scenario) -> None:
    scenario.dataset("poems")
    scenario.tokenizer("coarse")


def test_runs_that_differ_in_the_seed_are_one_group_whether_they_were_picked_or_not(ctx: Context) -> None:
    slow = [
        Scenario(ctx).finished(2.0 + seed / 1000, name=f"slow {seed}", seed=seed, learning_rate=0.001)
        for seed in (1, 2, 3)
    ]
    fast = [
        Scenario(ctx).finished(1.5 + seed / 1000, name=f"fast {seed}", seed=seed, learning_rate=0.01, priority=seed)
        for seed in (1, 2)
    ]
    compared = compare_runs(ctx, [slow[1].id, fast[0].id])
    assert [group.label for group in compared.groups] == ["fast 1", "slow 2"]
    assert [len(group.runs) for group in compared.groups] == [2, 3]
    assert (compared.groups[1].picked, compared.groups[1].free_seed) == ((slow[1].id,), 4)
    assert compared.obstacles == ()
    (comparison,) = compared.comparisons
    assert comparison.result is not None
    assert comparison.result.is_beyond_noise
    assert comparison.result.seeds == (2, 3)
    assert comparison.result.difference == pytest.approx(2.002 - 1.5015)


def test_runs_validated_on_different_parts_of_the_data_are_named(ctx: Context, scenario: Scenario) -> None:
    runs = [
        scenario.finished(2.0, name="a", eval_batches=8, micro_batch=4),
        scenario.finished(1.9, name="b", eval_batches=4, micro_batch=8),
        scenario.finished(1.8, name="c", eval_batches=8, micro_batch=8),
    ]
    assert compare_runs(ctx, [run.id for run in runs[:2]]).validated == {}
    assert compare_runs(ctx, [run.id for run in runs[1:]]).validated == {
        "b": "32 sequences of 32 tokens",
        "c": "64 sequences of 32 tokens",
    }


def test_a_single_seed_each_gives_no_conclusion(ctx: Context, scenario: Scenario) -> None:
    runs = [scenario.finished(2.0, name="a"), scenario.finished(1.9, name="b", learning_rate=0.01)]
    (comparison,) = compare_runs(ctx, [run.id for run in runs]).comparisons
    assert comparison.result is not None
    assert comparison.result.is_beyond_noise is None
    assert comparison.needed is None


def test_a_seed_that_was_run_twice_is_no_second_seed(ctx: Context, scenario: Scenario) -> None:
    runs = [scenario.finished(2.0, name="a", seed=7), scenario.finished(2.0, name="a again", seed=7)]
    compared = compare_runs(ctx, [run.id for run in runs])
    (group,) = compared.groups
    assert (len(group.runs), len(group.losses.losses), compared.comparisons) == (2, 1, ())


def test_losses_on_other_data_are_not_comparable(ctx: Context, scenario: Scenario) -> None:
    runs = [
        scenario.finished(2.0, name="tales run", bpb=0.7),
        scenario.finished(1.2, name="poems run", bpb=0.4, dataset="poems"),
    ]
    compared = compare_runs(ctx, [run.id for run in runs])
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


def test_other_tokenizers_are_compared_by_bits_per_byte(ctx: Context, scenario: Scenario) -> None:
    runs = [scenario.finished(2.0, name=f"pieces {seed}", bpb=0.70 + seed / 1000, seed=seed) for seed in (1, 2)]
    runs += [
        scenario.finished(2.6, name=f"coarse {seed}", bpb=0.60 + seed / 1000, seed=seed, tokenizer="coarse")
        for seed in (1, 2)
    ]
    compared = compare_runs(ctx, [run.id for run in runs])
    assert [obstacle.aspect for obstacle in compared.obstacles] == [Aspect.TOKENIZER]
    (comparison,) = compared.comparisons
    assert (comparison.better.label, comparison.other.label) == ("coarse 1", "pieces 1"), (
        "whose val_loss is higher, per longer token"
    )
    assert comparison.result is not None
    assert comparison.result.difference == pytest.approx(0.1)
    assert comparison.result.is_beyond_noise


def test_other_tokenizers_without_bits_per_byte_are_not_compared(ctx: Context, scenario: Scenario) -> None:
    runs = [scenario.finished(2.0, name="pieces"), scenario.finished(2.6, name="coarse", bpb=0.6, tokenizer="coarse")]
    (comparison,) = compare_runs(ctx, [run.id for run in runs]).comparisons
    assert comparison.result is None


def test_a_run_on_a_base_has_the_tokenizer_of_its_first_ancestor(ctx: Context, scenario: Scenario) -> None:
    scratch = scenario.finished(2.0, name="scratch")
    base = scenario.checkpoint(run=scratch, step=100)
    more = scenario.finished(1.9, name="more", architecture=None, tokenizer=None, base="scratch · step 100")
    assert base
    assert compare_runs(ctx, [scratch.id, more.id]).obstacles == ()
    other = scenario.finished(2.1, name="other", tokenizer="coarse")
    (obstacle,) = compare_runs(ctx, [more.id, other.id]).obstacles
    assert obstacle.sides == (("pieces", ("more",)), ("coarse", ("other",)))


def test_tokenizers_of_the_same_content_are_the_same(ctx: Context, scenario: Scenario) -> None:
    for name in ("pieces", "coarse"):
        folder = ctx.artifacts.folder("tokenizers", name)
        (folder / "tokenizer.json").write_text('{"model": {}}')
    runs = [scenario.finished(2.0, name="pieces"), scenario.finished(2.1, name="coarse", tokenizer="coarse")]
    assert compare_runs(ctx, [run.id for run in runs]).obstacles == ()


def test_unfinished_and_imported_runs_are_obstacles_but_not_in_a_group(ctx: Context, scenario: Scenario) -> None:
    waiting = scenario.run(name="waiting")
    (theirs,) = import_log(ctx, b"step,val_loss\n1,2.5\n", filename="theirs.csv", person=LOCAL)
    compared = compare_runs(ctx, [waiting.id, theirs.id])
    assert (compared.groups, compared.comparisons) == ((), ())
    assert {Aspect.DATA, Aspect.TOKENIZER} <= {obstacle.aspect for obstacle in compared.obstacles}


def test_rewards_of_other_rules_are_no_common_measure(ctx: Context, scenario: Scenario) -> None:
    run, keys = scenario.finished(1.0, name="rewarded"), []
    for weight, length in ((1.0, 64), (10.0, 64), (1.0, 128), (1.0, 64)):
        with ctx.db.read() as session:
            row = session.get_one(Run, run.id)
            session.expunge(row)
            rules = GrpoConfig.model_validate(
                {"rewards": [{"kind": "exact", "weight": weight}], "max_new_tokens": length}
            )
            assert row.config is not None
            row.config = row.config.model_copy(update={"objective": Objective.GRPO, "grpo": rules})
            keys.append(loss_basis(ctx, session, row).key)
    assert len(set(keys)) == 3
    assert keys[0] == keys[3]
