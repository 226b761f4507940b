"""Two checkpoints on every benchmark that both have, corrected for the number of benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.bootstrap import get_context
from backend.cli.evaluation.compare import comparison_text
from backend.cli.main import app
from backend.domain.evaluation.gate_config import GateConfig, GateVerdict
from backend.domain.statistics.paired import holm
from backend.services.context import Context
from backend.services.evaluation.baselines import (
    compare_across,
    compare_with_baseline,
    unlike_benchmarks,
    void_benchmarks,
)
from backend.services.evaluation.comparisons import compare
from backend.services.evaluation.gates import judge_config
from tests.support.evaluation_world import CHOICES
from tests.support.scenario import Scenario
from tests.support.settings import name_installation

RIGHT = {"facts": (8, 16), "letters": (9, 10), "names": (7, 14)}
"""Right answers of 30, by benchmark, of Oak and Elm."""


@pytest.fixture
def ids(scenario: Scenario) -> tuple[str, str]:
    """Return two checkpoints with three benchmarks and a text in common, and one that only the first has."""
    scenario.checkpoints("Oak", "Elm")
    for name in (*RIGHT, "alone"):
        scenario.benchmark(name, CHOICES)
    scenario.benchmark("stories", val=0)
    checkpoints = []
    for side, name in enumerate(("Oak", "Elm")):
        for benchmark, rights in RIGHT.items():
            made = scenario.evaluation(name, benchmark, [1.0] * rights[side] + [0.0] * (30 - rights[side]))
        scenario.evaluation(name, "stories", nlls=[12.0 + side, 20.0 + 2 * side, 15.0 + side])
        checkpoints.append(made.subject_id)
    scenario.evaluation("Oak", "alone", [1.0] * 30)
    return checkpoints[0], checkpoints[1]


def test_each_benchmark_is_compared_as_by_itself_and_adjusted_for_all(ctx: Context, ids: tuple[str, str]) -> None:
    differences = compare_across(ctx, *ids)
    assert [one.column.benchmark for one in differences] == ["facts@1", "letters@1", "names@1", "stories@1"]
    for one in differences:
        alone = compare(ctx, one.first.id, one.second.id)
        assert (one.difference, one.p_value) == (alone.difference, alone.p_value)
    known = [one.p_value for one in differences if one.p_value is not None]
    assert [one.p_adjusted for one in differences if one.p_value is not None] == holm(known)
    by_name = {one.column.benchmark: one for one in differences}
    assert by_name["facts@1"].better == "second"
    assert by_name["names@1"].p_value < 0.05  # type: ignore[operator]
    assert by_name["letters@1"].better is None
    assert by_name["stories@1"].better != "second"  # more bits per byte are worse


def test_benchmarks_that_were_never_evaluated_alike_are_named_with_what_differs(
    ctx: Context, scenario: Scenario, ids: tuple[str, str]
) -> None:
    scenario.benchmark("open", CHOICES)
    for name, chat in (("Oak", False), ("Elm", True)):
        scenario.evaluation(name, "open", [1.0] * 30, facts={"used_chat_template": chat})
    assert "open@1" not in [one.column.benchmark for one in compare_across(ctx, *ids)]
    assert unlike_benchmarks(ctx, *ids) == [
        "open@1, whose evaluations differ in whether text went through a chat template (no and yes)"
    ]


def test_a_benchmark_whose_every_item_was_cut_is_no_test_among_the_others(
    ctx: Context, scenario: Scenario, ids: tuple[str, str]
) -> None:
    """Holm counted it, so that a result without a score made a significant one undecided."""
    before = [one.p_adjusted for one in compare_across(ctx, *ids)]
    scenario.benchmark("long", CHOICES)
    cut = {"items": 30, "truncated_items": 30}
    pair = [scenario.evaluation(name, "long", [1.0, 0.0] * 15, facts=cut).id for name in ("Oak", "Elm")]
    assert [one.p_adjusted for one in compare_across(ctx, *ids)] == before
    left_out = void_benchmarks(ctx, *ids)
    assert [one.partition(": All 30 items were truncated")[0] for one in left_out] == ["long@1, Oak", "long@1, Elm"]
    assert "no comparison, Elm: All 30 items were truncated" in comparison_text(compare(ctx, *pair))
    (alone,) = compare_with_baseline(ctx, pair[0], pair[1:])
    assert (alone.p_holm, alone.q_value) == (None, None)
    gate = GateConfig.model_validate({"champion": "Oak", "benchmarks": [{"benchmark": "long"}], "margin": 0.5})
    outcome = judge_config(ctx, candidate="Elm", config=gate)
    assert outcome.verdict is GateVerdict.INCONCLUSIVE, "equal chances are no evidence"
    assert "Elm on long@1 (its context cut every item) is not evaluated" in outcome.reason


def test_the_command_says_how_p_was_adjusted(
    ctx: Context, scenario: Scenario, ids: tuple[str, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_installation(monkeypatch, home)
    result = CliRunner().invoke(app, ["eval", "compare", "Oak", "Elm", "--every-benchmark", "--json"])
    data = json.loads(result.stdout)
    assert data["correction"] == "Holm"
    assert [one["p_adjusted"] for one in data["benchmarks"]] == [one.p_adjusted for one in compare_across(ctx, *ids)]
    assert data["left_out"] == []
    scenario.benchmark("open", CHOICES)
    for name, chat in (("Oak", False), ("Elm", True)):
        scenario.evaluation(name, "open", [1.0] * 30, facts={"used_chat_template": chat})
    text = CliRunner().invoke(app, ["eval", "compare", "Oak", "Elm", "--every-benchmark"]).stdout
    assert "p adjusted for 4 benchmarks by Holm's correction" in text
    assert (
        "Left out: open@1, whose evaluations differ in whether text went through a chat template (no and yes)" in text
    )
    get_context.cache_clear()


def test_checkpoints_without_a_common_benchmark_are_an_empty_list(ctx: Context, ids: tuple[str, str]) -> None:
    other = Scenario(ctx).evaluation("Ash", "alone", [1.0] * 30, limit=3).subject_id
    assert compare_across(ctx, ids[1], other) == []
