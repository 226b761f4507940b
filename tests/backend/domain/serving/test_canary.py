"""A canary ends on errors or slowness, grows after enough requests and time, and is never judged by one lost
request.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from backend.domain.battles.inference.evidence import group_e_value, mixture_e_value
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
    with pytest.raises(InvalidInput, match=r"percent: .*\(got 120\)"):
        CanaryRules.read({"percent": 120})


def test_equal_answers_are_seldom_judged_by_their_votes_however_often_one_looks() -> None:
    rng = random.Random(5)
    wrong = 0
    for _ in range(300):
        wins = losses = 0
        for _ in range(60):
            new = count_paired_votes([rng.random() < 0.7], [rng.random() < 0.7])
            wins, losses = wins + new[0], losses + new[1]
            evidence = mixture_e_value(wins, losses)
            side = (wins > losses) - (wins < losses)
            votes = Votes(wins=wins, losses=losses, e_value=evidence, voter_e_value=evidence, voter_side=side)
            if votes.decision(0.05) != "undecided":
                wrong += 1
                break
    assert wrong <= 15, "5 % of 300"


def test_votes_end_a_canary_or_let_it_grow_by_the_sign_of_their_evidence() -> None:
    observed = Observed(requests=50, failures=0, p95_s=None, step_s=600)
    worse = replace(
        observed, votes=Votes(1, 10, 9, 10, 0, 8, e_value=28.4, voter_e_value=21.6, voter_side=-1, voters=12)
    )
    reason = "thumbs up on 1 of 10 answers, 9 of 10 of the stable revision, by 12 voters (e-value 22)"
    assert judge_canary(CanaryRules(), worse).reason == reason
    assert judge_canary(CanaryRules(vote_alpha=None), worse).action == "wait"
    patient = CanaryRules(step_up=True, step_on_votes=True)
    assert judge_canary(patient, observed).action == "wait"
    better = replace(observed, votes=Votes(9, 10, 1, 10, 8, 0, e_value=28.4, voter_e_value=28.4, voter_side=1))
    assert judge_canary(patient, better).action == "step"
    assert judge_canary(patient, replace(better, votes=replace(better.votes, e_value=19.9))).action == "wait"
    for change in ({"voter_e_value": 19.9}, {"voter_side": -1}, {"voter_side": 0}):
        votes = replace(better.votes, **change)
        assert judge_canary(patient, replace(better, votes=votes)).action == "wait", "both kinds of evidence, one side"


@pytest.mark.parametrize(("order", "share"), [("chance", 0.5), ("one after the other", 0.5), ("chance", 0.1)])
def test_voters_who_differ_seldom_decide_between_equals_however_often_one_looks(order: str, share: float) -> None:
    """Ten accounts, each on one side, like answers with log-odds of sd 1.5: pairs of thumbs alone decide in a quarter
    to a half of cases, since the few accounts of a side are one draw each.
    """
    by_pairs = by_both = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        voter = rng.integers(0, 10, 150)
        voter = np.sort(voter) if order != "chance" else voter
        canary = (rng.random(10) < share)[voter]
        odds = 1.4 + 1.5 * rng.standard_normal(10)[voter]
        thumb = (rng.random(150) < 1 / (1 + np.exp(-odds))).astype(float)
        alone = both = False
        for end in range(10, 151, 10):
            mine, stable = (thumb[:end][side] > 0 for side in (canary[:end], ~canary[:end]))
            wins, losses = count_paired_votes(mine.tolist(), stable.tolist())
            evidence, side = group_e_value(thumb[:end], voter[:end], canary[:end])
            votes = Votes(wins=wins, losses=losses, e_value=mixture_e_value(wins, losses), voter_e_value=evidence)
            alone |= votes.e_value >= 20
            both |= replace(votes, voter_side=side).decision(0.05) != "undecided"
        by_pairs, by_both = by_pairs + alone, by_both + both
    assert by_both <= 4, "2 % of 200"
    if share == 0.5:
        assert by_pairs >= 20, "what pairs alone decide"


def test_many_voters_who_agree_decide_and_how_often_one_votes_does_not_matter() -> None:
    voter = np.repeat(np.arange(40), 5)
    canary = voter % 2 == 0
    worse = np.where(canary, 0.0, 1.0)
    evidence, side = group_e_value(worse, voter, canary)
    assert (side, evidence >= 20) == (-1, True)
    assert group_e_value(1 - worse, voter, canary) == (evidence, 1)
    few = np.isin(voter, range(12))
    assert group_e_value(worse[few], voter[few], canary[few])[0] < 20, "six voters a side"
    assert group_e_value(np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=bool)) == (0.5, 0)
