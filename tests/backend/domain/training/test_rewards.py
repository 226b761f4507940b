"""Reward rules: the value of each, and the time limit of patterns."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from backend.domain.training.config_sections import RewardRule
from backend.domain.training.rewards import Rewards


def reward(completion: str, *answers: str, tokens: int = 5, **rule: object) -> float:
    return Rewards([RewardRule.model_validate(rule)]).of(completion, tokens=tokens, answers=answers)


@pytest.mark.parametrize(
    ("completion", "rule", "expected"),
    [
        (" Mill Lane \n", {"kind": "exact"}, 1.0),
        ("mill lane", {"kind": "exact"}, 1.0),
        ("the Mill Lane", {"kind": "exact"}, 0.0),
        ("She lives in mill LANE, I think.", {"kind": "contains"}, 1.0),
        ("nowhere", {"kind": "contains"}, 0.0),
        ("It is 42.", {"kind": "regex", "pattern": r"\b\d+\b"}, 1.0),
        ("It is none.", {"kind": "regex", "pattern": r"\b\d+\b"}, 0.0),
        ("any", {"kind": "length", "target": 5}, 1.0),
        ("any", {"kind": "length", "target": 4}, 0.75),
        ("any", {"kind": "length", "target": 2}, 0.0),
        ("any", {"kind": "length", "target": 5, "weight": -0.5}, -0.5),
    ],
)
def test_each_reward_rule_gives_its_value(completion: str, rule: dict[str, object], expected: float) -> None:
    assert reward(completion, "Mill Lane", **rule) == pytest.approx(expected)


def test_rewards_add_up_by_their_weights_and_any_right_answer_counts() -> None:
    rules = [RewardRule(kind="exact", weight=2.0), RewardRule(kind="regex", pattern="^N", weight=0.5)]
    rewards = Rewards(rules)
    assert rewards.of("North", tokens=1, answers=("south", "north")) == 2.5
    assert rewards.of("Nowhere", tokens=1, answers=("south", "north")) == 0.5
    assert rewards.of("", tokens=0, answers=()) == 0.0


def test_a_pattern_that_times_out_is_named_once() -> None:
    lines: list[str] = []
    rewards = Rewards([RewardRule(kind="regex", pattern=r"^(a|aa)+$")], log=lines.append)
    # without a time limit it would take centuries
    assert [rewards.of("a" * 60 + "!", tokens=60, answers=()) for _ in range(2)] == [0.0, 0.0]
    assert len(lines) == 1
    assert "'^(a|aa)+$'" in lines[0]


@pytest.mark.parametrize("pattern", ["a{99999999999}", "(?:(?:(?:a{99}){99}){99}){9}", "(", "a{1,9}{1,9}"])
def test_a_pattern_that_can_not_be_run_is_refused_at_once(pattern: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        RewardRule(kind="regex", pattern=pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(r"(?<=a+)\p{L}", "aab"), (r"^\d{4}-\d{2}-\d{2}$", "2024-02-29"), (r"(?:\w{2,60} ){3,99}", "ab cd ef ")],
)
def test_patterns_of_the_regex_library_are_accepted(pattern: str, text: str) -> None:
    assert Rewards([RewardRule(kind="regex", pattern=pattern)]).of(text, tokens=1, answers=()) == 1.0
