"""Gates decide by evidence: simulated errors, worked cases, and rules of several benchmarks."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backend.domain.evaluation.gate_config import GateBenchmark, GateConfig, GateVerdict
from backend.domain.evaluation.gates import Evidence, Look, decide_gate, describe_procedure, plan_gate
from backend.domain.statistics.paired import paired_difference


def gate(*names: str, **settings: object) -> GateConfig:
    benchmarks = tuple(GateBenchmark(benchmark=name) for name in names or ("facts",))
    return GateConfig.model_validate({"champion": "Oak", "benchmarks": benchmarks, **settings})


def evidence(wins: int, losses: int, n: int, name: str = "facts", *, lower: bool = False) -> Evidence:
    before = np.array([0.0] * wins + [1.0] * (n - wins))
    after = np.array([1.0] * wins + [0.0] * losses + [1.0] * (n - wins - losses))
    return Evidence(
        GateBenchmark(benchmark=name), "acc", lower, lambda level: paired_difference(before, after, level=level)
    )


@pytest.mark.parametrize(
    ("wins", "losses", "n", "verdict"),
    [
        (60, 60, 2000, GateVerdict.PASS),
        (20, 200, 2000, GateVerdict.FAIL),
        (6, 7, 60, GateVerdict.INCONCLUSIVE),
        (0, 0, 500, GateVerdict.PASS),
    ],
    ids=["equal on many items", "nine points worse", "equal on few items", "never differed"],
)
def test_non_inferiority_passes_fails_or_says_that_it_can_not_tell(
    wins: int, losses: int, n: int, verdict: GateVerdict
) -> None:
    decision = decide_gate(gate(), [evidence(wins, losses, n)])
    (only,) = decision.benchmarks
    assert decision.verdict is only.verdict is verdict
    assert only.low is not None
    assert only.high is not None
    assert (only.low > -0.02) == (verdict is GateVerdict.PASS)
    assert (only.high < -0.02) == (verdict is GateVerdict.FAIL)


def test_inconclusive_names_the_items_that_settle_it_and_they_do() -> None:
    few = decide_gate(gate(), [evidence(12, 10, 100)])
    (only,) = few.benchmarks
    assert few.verdict is GateVerdict.INCONCLUSIVE
    assert only.items_to_settle is not None
    times = only.items_to_settle / 100
    rng = np.random.default_rng(0)
    shares, passed = [0.12, 0.10, 0.78], 0
    for wins, losses, _ in rng.multinomial(only.items_to_settle, shares, size=60):
        passed += (
            decide_gate(gate(), [evidence(int(wins), int(losses), only.items_to_settle)]).verdict is GateVerdict.PASS
        )
    assert times > 1
    assert passed / 60 == pytest.approx(0.8, abs=0.16)


def test_a_regression_as_large_as_the_margin_passes_in_one_case_of_forty() -> None:
    """Comparing the score with a threshold passed half of these."""
    rng, n, margin = np.random.default_rng(1), 400, 0.05
    shares, passed, above = [0.10, 0.15, 0.75], 0, 0
    for wins, losses, _ in rng.multinomial(n, shares, size=120):
        passed += decide_gate(gate(margin=margin), [evidence(int(wins), int(losses), n)]).verdict is GateVerdict.PASS
        above += (wins - losses) / n > -margin
    assert passed / 120 < 0.025 + 3 * np.sqrt(0.025 * 0.975 / 120)
    assert above / 120 > 0.4


def test_superiority_needs_an_interval_above_the_margin() -> None:
    better = evidence(120, 60, 1000)
    assert decide_gate(gate(test="superiority", margin=0.0), [better]).verdict is GateVerdict.PASS
    assert decide_gate(gate(test="superiority", margin=0.05), [better]).verdict is GateVerdict.INCONCLUSIVE
    assert decide_gate(gate(test="superiority", margin=0.1), [better]).verdict is GateVerdict.FAIL


def test_lower_is_better_turns_the_difference_round() -> None:
    (only,) = decide_gate(gate(), [evidence(20, 200, 2000, lower=True)]).benchmarks
    assert (only.verdict, only.difference) == (GateVerdict.PASS, pytest.approx(0.09))


def test_all_benchmarks_must_pass_and_one_that_fails_decides() -> None:
    good, bad, thin = evidence(60, 60, 2000, "a"), evidence(20, 200, 2000, "b"), evidence(6, 7, 60, "c")
    assert decide_gate(gate("a", "b"), [good, bad]).verdict is GateVerdict.FAIL
    assert decide_gate(gate("a", "c"), [good, thin]).verdict is GateVerdict.INCONCLUSIVE
    assert decide_gate(gate("a", "c", rule="any"), [good, thin]).verdict is GateVerdict.PASS
    assert decide_gate(gate("b", "c", rule="any"), [bad, thin]).verdict is GateVerdict.INCONCLUSIVE


def test_any_of_several_is_corrected_by_holm() -> None:
    """One of five that is better by p = 0.03 alone passes alone, and not among four that show nothing."""
    alone = evidence(40, 22, 500, "a")
    nothing = [evidence(30, 30, 500, name) for name in "bcde"]
    settings = {"test": "superiority", "margin": 0.0, "rule": "any"}
    assert decide_gate(gate("a", **settings), [alone]).verdict is GateVerdict.PASS
    assert decide_gate(gate(*"abcde", **settings), [alone, *nothing]).verdict is GateVerdict.INCONCLUSIVE


def test_power_of_the_gate_is_the_chance_that_equal_checkpoints_pass() -> None:
    rng, n = np.random.default_rng(2), 600
    stated, passed = [], 0
    for wins, losses, _ in rng.multinomial(n, [0.1, 0.1, 0.8], size=60):
        decision = decide_gate(gate(margin=0.05), [evidence(int(wins), int(losses), n)])
        stated.append(decision.power or 0.0)
        passed += decision.verdict is GateVerdict.PASS
    assert float(np.mean(stated)) == pytest.approx(passed / 60, abs=0.15)


def test_unclear_answers_that_may_hide_the_margin_leave_no_power() -> None:
    """With 8 % of the items unclear, equal checkpoints never pass a margin of 5 points."""
    clear = evidence(40, 40, 4000)
    powers = [
        decide_gate(gate(margin=0.05), [replace(clear, unclear=unclear)]).power or 0.0 for unclear in (0.0, 0.01, 0.08)
    ]
    assert powers[0] > 0.99
    assert powers[0] >= powers[1] > 0.9
    assert powers[2] < 0.001


def test_p_values_agree_with_the_interval() -> None:
    (only,) = decide_gate(gate(test="superiority", margin=0.0), [evidence(10, 2, 40)]).benchmarks
    assert only.p_pass == pytest.approx(0.03857, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"margin": 0.0}, "margin above 0"),
        ({"benchmarks": [{"benchmark": "a"}, {"benchmark": "a"}]}, "stands twice"),
        ({"levl": 0.9}, "levl"),
    ],
)
def test_a_gate_that_can_not_work_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        gate(**settings)


def test_procedure_states_test_margin_level_error_and_multiplicity_in_sentences() -> None:
    """It was one sentence of 60 words with brackets and four semicolons, which the page wrote in small letters."""
    assert describe_procedure(gate("a", "b", margin=0.03)).split(". ") == [
        "Non-inferiority: the candidate must not be worse by 3 points or more",
        "The two-sided interval of the paired difference decides: 95 % over all judgements, and so 97.5 % for a first"
        " one on some of the items, 95.5 % on all of them",
        "A wrong PASS and a wrong FAIL have a chance of at most 2.5 % each, however often a candidate is judged",
        "Each judgement of new items (a look) uses part of what earlier ones left of that chance: 50 % on some of the"
        " items, 90 % on all of them",
        "All benchmarks must pass (intersection-union test; FAIL after Holm's correction).",
    ]
    words = describe_procedure(gate("a", "b", margin=0.03, test="superiority", rule="any"))
    assert words.startswith("Superiority: the candidate must be better by more than 3 points. The two-sided")
    assert words.endswith("One benchmark must pass (after Holm's correction).")


def test_looks_share_one_error() -> None:
    shares: list[float] = []
    for _ in range(20):
        shares.append(Look.after(shares, is_whole=False).share)
    assert shares[:3] == [0.5, 0.25, 0.125]
    assert sum(shares) <= 1
    whole = Look.after(shares[:2], is_whole=True)
    assert (whole.number, whole.share, whole.left) == (3, pytest.approx(0.225), pytest.approx(0.025))


def test_a_later_look_needs_more_evidence_and_shows_the_interval_that_decides() -> None:
    first, fourth = (
        decide_gate(gate(), [dataclasses.replace(evidence(80, 60, 1000), look=look)]).benchmarks[0]
        for look in (Look(), Look.after([0.5, 0.25, 0.125], is_whole=False))
    )
    assert first.p_pass is not None
    assert fourth.p_pass == pytest.approx(16 * first.p_pass, rel=1e-3)
    assert (fourth.level, fourth.look, fourth.share) == (pytest.approx(1 - 0.05 / 16), 4, 1 / 16)
    assert fourth.low is not None
    assert first.low is not None
    assert fourth.low < first.low
    assert (fourth.verdict is GateVerdict.PASS) == (fourth.low > fourth.threshold)


@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 5))
def test_the_interval_of_a_look_decides_it(wins: int, losses: int, earlier: int) -> None:
    look = Look.after([0.5**number for number in range(1, earlier + 1)], is_whole=False)
    (only,) = decide_gate(gate(margin=0.05), [dataclasses.replace(evidence(wins, losses, 400), look=look)]).benchmarks
    assert only.low is not None
    assert only.high is not None
    assert (only.verdict is GateVerdict.PASS) == (only.low > only.threshold)
    assert (only.verdict is GateVerdict.FAIL) == (only.high < only.threshold)


def test_six_looks_err_no_more_often_than_one() -> None:
    """Worse by the margin, 6 looks at 200, 400, ... items: 8 to 9 % of such candidates passed when each look had the
    whole error.
    """
    rng, repeats, passed = np.random.default_rng(6), 150, 0
    for _ in range(repeats):
        gaps = rng.choice([1, -1, 0], p=[0.1, 0.15, 0.75], size=1200)
        shares: list[float] = []
        for n in range(200, 1201, 200):
            look = Look.after(shares, is_whole=False)
            shares.append(look.share)
            seen = gaps[:n]
            counts = int((seen > 0).sum()), int((seen < 0).sum()), n
            if (
                decide_gate(gate(margin=0.05), [dataclasses.replace(evidence(*counts), look=look)]).verdict
                is GateVerdict.PASS
            ):
                passed += 1
                break
    assert passed <= repeats * 0.025 + 3 * (repeats * 0.025 * 0.975) ** 0.5


def test_unclear_items_widen_the_interval_by_their_share() -> None:
    """Equal on 1,800 clear items of 2,000: the other 200 may be lost or won, which is ten points either way."""
    clear, hidden = evidence(0, 0, 1800), dataclasses.replace(evidence(0, 0, 1800), unclear=0.1)
    (known,), (bounded,) = decide_gate(gate(), [clear]).benchmarks, decide_gate(gate(), [hidden]).benchmarks
    assert (known.verdict, bounded.verdict) == (GateVerdict.PASS, GateVerdict.INCONCLUSIVE)
    assert known.low is not None
    assert known.high is not None
    assert (bounded.low, bounded.high) == pytest.approx((0.9 * known.low - 0.1, 0.9 * known.high + 0.1))
    assert bounded.items_to_settle is None, "no number of items would, while a tenth of them is unclear"
    lost = dataclasses.replace(evidence(0, 900, 1800), unclear=0.1)
    assert decide_gate(gate(), [lost]).verdict is GateVerdict.FAIL


@pytest.mark.parametrize(
    ("test", "n", "discordance", "seed"),
    [("non_inferiority", 400, 0.2, 1), ("non_inferiority", 900, 0.3, 2), ("superiority", 600, 0.3, 3)],
)
def test_a_planned_gate_passes_and_fails_as_often_as_it_promises(
    test: str, n: int, discordance: float, seed: int
) -> None:
    """The reference is the gate itself, decided on simulated items."""
    values = {"champion": "Oak", "benchmarks": [{"benchmark": "facts"}], "margin": 0.05, "test": test}
    gate = GateConfig.model_validate(values)
    (part,), tries, rng = gate.benchmarks, 300, np.random.default_rng(seed)

    def decide(difference: float) -> GateVerdict:
        share = max(discordance, abs(difference))
        draw, same = rng.random(n), rng.random(n) < 0.6
        won, lost = draw < (share + difference) / 2, draw > 1 - (share - difference) / 2
        after, before = np.where(won | (same & ~lost), 1.0, 0.0), np.where(lost | (same & ~won), 1.0, 0.0)
        look = Look.after([], is_whole=True)
        evidence = Evidence(part, "acc", False, lambda level: paired_difference(before, after, level=level), look)
        return decide_gate(gate, [evidence]).verdict

    def share_of(verdict: GateVerdict, difference: float) -> float:
        return sum(decide(difference) is verdict for _ in range(tries)) / tries

    plan = plan_gate(gate, part, n=n, discordance=discordance)
    expected = 0.0 if test == "non_inferiority" else 0.1
    assert share_of(GateVerdict.PASS, expected) == pytest.approx(plan.passes, abs=0.09)
    assert share_of(GateVerdict.FAIL, -0.1) == pytest.approx(plan.fails, abs=0.09)
    assert share_of(GateVerdict.PASS, gate.threshold_of(part)) <= plan.errs + 0.025
    assert plan.items is not None
    assert plan_gate(gate, part, n=plan.items, discordance=discordance).passes == pytest.approx(0.8, abs=0.005)


def test_a_look_at_a_part_of_a_benchmark_promises_less_than_one_at_all_of_it() -> None:
    one = gate(margin=0.03)
    whole = plan_gate(one, one.benchmarks[0], n=1000, discordance=0.2)
    partly = plan_gate(one, one.benchmarks[0], n=1000, discordance=0.2, is_whole=False)
    assert (round(whole.passes, 3), round(partly.passes, 3)) == (0.546, 0.452)
    assert (whole.items, partly.items) == (1801, 2113)


def test_a_gate_of_several_benchmarks_plans_with_its_correction() -> None:
    values = {"champion": "Oak", "benchmarks": [{"benchmark": "a"}, {"benchmark": "b"}], "margin": 0.05}
    every = GateConfig.model_validate({**values, "rule": "all"})
    one = GateConfig.model_validate({**values, "rule": "any"})
    plans = [plan_gate(gate, gate.benchmarks[0], n=400, discordance=0.2) for gate in (every, one)]
    assert plans[0].passes > plans[1].passes
    assert plans[0].fails < plans[1].fails
    assert plans[1].errs == plans[0].errs / 2
