"""A canary ends on errors or slowness, grows after enough requests and time, and is never judged by one lost
request.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from backend.domain.battles.inference.evidence import mixture_e_value
from backend.domain.serving.canary import CanaryRules, Observed, Votes, count_paired_votes, judge_canary
from backend.errors import InvalidInput

GROWS = CanaryRules(percent=10, step_up=True, step_minutes=1, min_requests=20)


@pytest.mark.parametrize(
    ("requests", "failures", "action"),
    [(1, 1, "wait"), (4, 2, "abort"), (40, 2, "wait"), (40, 6, "abort"), (1000, 40, "wait"), (1000, 70, "abort")],
)
def test_it_ends_where_its_error_rate_is_clearly_above_the_limit(requests: int, failures: int, action: str) -> None:
    observed = Observed(requests=requests, failures=failures, p95_s=0.1, step_s=1)
    assert judge_canary(CanaryRules(abort_error_rate=0.05), observed).action == action
    assert judge_canary(CanaryRules(abort_error_rate=None), observed).action == "wait"


def test_it_ends_where_its_first_token_is_late_or_its_replicas_do_not_start() -> None:
    rules = CanaryRules(abort_p95_s=0.5)
    assert judge_canary(rules, Observed(requests=19, failures=0, p95_s=2.0, step_s=1)).action == "wait"
    assert (
        judge_canary(rules, Observed(requests=20, failures=0, p95_s=2.0, step_s=1)).reason
        == "p95 of the first token is 2.00 s, above 0.5 s"
    )
    assert judge_canary(rules, Observed(requests=0, failures=0, p95_s=None, step_s=1, starts=3)).action == "abort"


def test_it_grows_step_by_step_and_is_promoted_at_the_end() -> None:
    percent, steps = 10.0, []
    while percent < 100:
        verdict = judge_canary(GROWS.model_copy(update={"percent": percent}), Observed(20, 0, 0.1, 60))
        assert verdict.action == "step"
        percent = verdict.percent
        steps.append(percent)
    assert steps == [25, 50, 100]
    assert judge_canary(GROWS.model_copy(update={"percent": 100}), Observed(20, 0, 0.1, 60)).action == "promote"
    assert judge_canary(GROWS, Observed(19, 0, 0.1, 60)).action == "wait"
    assert judge_canary(GROWS, Observed(20, 0, 0.1, 59)).action == "wait"


def test_a_share_out_of_range_is_named() -> None:
    with pytest.raises(InvalidInput, match="percent = 120"):
        CanaryRules.read({"percent": 120})


def test_equal_answers_are_seldom_judged_by_their_votes_however_often_one_looks() -> None:
    rng = random.Random(5)
    wrong = 0
    for _ in range(300):
        wins = losses = 0
        for _ in range(60):
            new = count_paired_votes([rng.random() < 0.7], [rng.random() < 0.7])
            wins, losses = wins + new[0], losses + new[1]
            votes = Votes(wins=wins, losses=losses, e_value=mixture_e_value(wins, losses))
            if votes.decision(0.05) != "undecided":
                wrong += 1
                break
    assert wrong <= 15, "5 % of 300"


def test_votes_end_a_canary_or_let_it_grow_by_the_sign_of_their_evidence() -> None:
    observed = Observed(requests=50, failures=0, p95_s=None, step_s=600)
    worse = replace(observed, votes=Votes(1, 10, 9, 10, wins=0, losses=8, e_value=28.4, voters=12))
    reason = "thumbs up on 1 of 10 answers, 9 of 10 of the stable revision, by 12 voters (e-value 28)"
    assert judge_canary(CanaryRules(), worse).reason == reason
    assert judge_canary(CanaryRules(vote_alpha=None), worse).action == "wait"
    patient = CanaryRules(step_up=True, step_on_votes=True)
    assert judge_canary(patient, observed).action == "wait"
    better = replace(observed, votes=Votes(9, 10, 1, 10, wins=8, losses=0, e_value=28.4))
    assert judge_canary(patient, better).action == "step"
    assert judge_canary(patient, replace(better, votes=replace(better.votes, e_value=19.9))).action == "wait"
