"""Rows and rewards before a launch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.domain.training.config_sections import RewardRule
from backend.domain.training.objectives import Objective
from backend.services.checkpoints.bases import add_base
from backend.services.context import LOCAL, Context
from backend.services.training.row_preview import preview_training_rows, try_rewards
from tests.support.job_work import do_job
from tests.support.networks.base_folders import save_base
from tests.support.scenario import Scenario
from tests.support.training_rooms import write_dataset

PAIR = {
    "prompt": [{"role": "user", "content": "How?"}],
    "chosen": [{"role": "assistant", "content": "So."}],
    "rejected": [{"role": "assistant", "content": "Thus."}],
}


@pytest.mark.parametrize(
    ("objective", "row", "parts"),
    [
        (Objective.PRETRAIN, {"text": "Once."}, [("Text", "Once.", True)]),
        (
            Objective.SFT,
            {"prompt": "How?", "completion": "So."},
            [("User", "How?", False), ("Assistant", "So.", True)],
        ),
        (Objective.DPO, PAIR, [("User", "How?", False), ("Chosen", "So.", True), ("Rejected", "Thus.", True)]),
        (
            Objective.KTO,
            {"prompt": PAIR["prompt"], "completion": PAIR["chosen"], "label": False},
            [("User", "How?", False), ("Completion, rated bad", "So.", True)],
        ),
        (
            Objective.GRPO,
            {"question": "Where?", "answers": ["here", "there"]},
            [("Prompt", "Where?", False), ("Accepted answers", "here\nthere", False)],
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Objective) else "",
)
def test_a_row_is_shown_as_its_objective_reads_it(
    ctx: Context, objective: Objective, row: dict[str, Any], parts: list[tuple[str, str, bool]]
) -> None:
    Scenario(ctx).dataset("rows")
    write_dataset(ctx.artifacts.path("datasets/rows"), train=[row])
    (shown,) = preview_training_rows(ctx, "rows", objective)
    assert [(part.title, part.text, part.is_trained) for part in shown] == parts


def test_rules_that_do_not_tell_answers_apart_are_reported(ctx: Context, scenario: Scenario) -> None:
    scenario.dataset("asks", kind="instruction")
    write_dataset(ctx.artifacts.path("datasets/asks"), train=[{"prompt": "1 + 1?", "completion": "2"}])
    same = try_rewards(ctx, [RewardRule(kind="regex", pattern="x")], dataset="asks", base=None)
    assert [row.total for row in same.rows] == [0.0, 0.0, 0.0]
    assert "Every completion here gets 0" in same.problems[0]
    wrong = try_rewards(ctx, [RewardRule(kind="exact", weight=-1)], dataset="asks", base=None)
    assert wrong.problems == ("No completion at all gets more than the accepted answer.",)
    slow = try_rewards(
        ctx, [RewardRule(kind="regex", pattern="(a|aa)+$")], dataset="asks", base=None, own="a" * 60 + "b"
    )
    assert any("timed out" in problem for problem in slow.problems)
    good = try_rewards(
        ctx, [RewardRule(kind="contains"), RewardRule(kind="length", target=1)], dataset="asks", base="gone"
    )
    assert [(row.completion, row.scores) for row in good.rows] == [
        ("2", (1.0, 1.0)),
        ("The answer is 2.", (1.0, 0.0)),
        ("", (0.0, 0.0)),
    ]
    assert good.counts_words
    assert good.problems == ()


def test_what_the_longest_completion_can_not_be_is_reported(ctx: Context, scenario: Scenario, tmp_path: Path) -> None:
    added = add_base(ctx, name="tiny", source=str(save_base(tmp_path / "tiny")), person=LOCAL)
    do_job(ctx, added.job_id)
    scenario.dataset("asks", kind="instruction")
    write_dataset(ctx.artifacts.path("datasets/asks"), train=[{"prompt": "Spell it.", "completion": "quixotic zephyr"}])
    rules = [RewardRule(kind="exact"), RewardRule(kind="length", target=24)]
    short = try_rewards(ctx, rules, dataset="asks", base="tiny", max_new_tokens=3).problems
    assert [" ".join(problem.split()[:5]) for problem in short] == [
        "A length reward has a",
        "An accepted answer has 15",
    ], short
    assert try_rewards(ctx, rules, dataset="asks", base="tiny", max_new_tokens=64).problems == ()


def test_a_dataset_without_rows_has_nothing_to_show(ctx: Context, scenario: Scenario) -> None:
    scenario.dataset("later", ready=False)
    assert preview_training_rows(ctx, "later", Objective.PRETRAIN) == []
    assert try_rewards(ctx, [RewardRule(kind="exact")], dataset="later", base=None).rows == ()
