"""Gates: may a checkpoint take the place of a champion? Decided by intervals of paired differences against a margin.
Pure rules.

A score below a threshold proves nothing: of small benchmarks a five-point regression passes such a gate in most cases.
Here PASS and FAIL both need evidence, and everything else is INCONCLUSIVE, with the number of items that would settle
it. Who follows that advice looks again, and each look may err: the looks at one candidate share one error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import scipy

from backend.domain.evaluation.gate_config import BenchmarkVerdict, GateBenchmark, GateConfig, GateVerdict
from backend.domain.statistics.paired import PairedComparison, holm
from backend.domain.statistics.power import items_needed, power_of
from backend.domain.wording import percent

PLANNED_POWER = 0.8
SHARE_OF_A_LOOK = 0.5
"""Part of the error left over by earlier looks that a look may spend."""
SHARE_OF_THE_WHOLE = 0.9
"""The same where a benchmark's items are all used, so that more of them can't follow."""
MIN_QUANTILE, MAX_QUANTILE = 1e-6, 6.0
"""Standard errors between which intervals are inverted: p values below 2e-9 are given as that."""
CompareAt = Callable[[float], PairedComparison]
"""A comparison of candidate less champion at a level; its difference is positive where the candidate's are larger."""


@dataclass(frozen=True)
class Look:
    """One of the looks at a candidate's items of a benchmark. `share`: of the gate's error what it may spend; `left`:
    after it.

    The chance that any look errs is at most the sum of their chances, however the looks depend on each other, so shares
    that sum to at most 1 hold the gate's error (alpha spending by the union bound).
    """

    number: int = 1
    share: float = 1.0
    left: float = 0.0

    @classmethod
    def after(cls, earlier: Sequence[float], *, is_whole: bool) -> Look:
        """Return the look that follows looks which spent these shares. `is_whole`: all items are used."""
        left = 1 - sum(earlier)
        share = left * (SHARE_OF_THE_WHOLE if is_whole else SHARE_OF_A_LOOK)
        return cls(len(earlier) + 1, share, left - share)


@dataclass(frozen=True)
class GateDecision:
    """Verdict of a gate. `power`: chance to pass if all differences are the expected ones and independent. `procedure`
    states the test in sentences.
    """

    verdict: GateVerdict
    benchmarks: tuple[BenchmarkVerdict, ...]
    power: float | None
    procedure: str


@dataclass(frozen=True)
class Evidence:
    """Measured comparison for one benchmark of a gate. `unclear` is the share of its items on which an answer may be
    either of 0 and 1, and which the comparison leaves out: the interval that decides holds them either way.
    """

    part: GateBenchmark
    metric: str
    lower_is_better: bool
    compare_at: CompareAt
    look: Look = Look()
    unclear: float = 0.0

    def over_all(self, difference: float) -> float:
        """Return the part of a difference over all items that the clear ones make up."""
        return (1 - self.unclear) * difference


@dataclass(frozen=True)
class PlannedPower:
    """Power of the first look at a benchmark of `n` items, before a candidate is judged.

    `passes`: chance to PASS a candidate whose true difference is the expected one (superiority: twice the margin).
    `fails`: chance to FAIL one that is truly worse by twice the margin; 0 without a margin. `errs`: most that a
    candidate exactly at the threshold passes. `items`: what `passes` needs to reach 80 %, None where no number would.
    """

    benchmark: str
    n: int
    margin: float
    passes: float
    fails: float
    errs: float
    items: int | None


def plan_gate(
    config: GateConfig,
    part: GateBenchmark,
    *,
    n: int,
    discordance: float,
    design_effect: float = 1.0,
    is_whole: bool = True,
) -> PlannedPower:
    """Return the power of a gate on 0/1 scores of a benchmark, by the normal approximation (Connor 1987).

    `discordance` is the share of items on which candidate and champion differ. A look at a part of the benchmark (not
    `is_whole`) leaves error for later ones, and spends less. Several benchmarks are corrected as
    `decide_gate` corrects them where all are undecided.
    """
    error, count = (1 - config.level) * Look.after([], is_whole=is_whole).share, len(config.benchmarks)
    passing, failing = (error / count, error) if config.rule == "any" else (error, error / count)
    margin, threshold = config.margin_of(part), config.threshold_of(part)
    true = config.expected_difference if config.test == "non_inferiority" else 2 * margin

    def power(difference: float, distance: float, share: float) -> float:
        return power_of(
            difference,
            n,
            discordance=discordance,
            design_effect=design_effect,
            level=1 - share,
            margin=distance - difference,
        )

    items = None
    if true > threshold:
        items = items_needed(
            true,
            discordance=discordance,
            design_effect=design_effect,
            level=1 - passing,
            power=PLANNED_POWER,
            margin=-threshold,
        )
    return PlannedPower(
        benchmark=part.benchmark,
        n=n,
        margin=margin,
        passes=power(true, true - threshold, passing),
        fails=power(2 * margin, threshold + 2 * margin, failing) if margin else 0.0,
        errs=passing / 2,
        items=items,
    )


def decide_gate(config: GateConfig, evidence: Sequence[Evidence]) -> GateDecision:
    """Decide a gate from one comparison per benchmark; one without a comparison is undecided.

    `all`: PASS where every benchmark passes at the level, which needs no correction (intersection-union test, Berger
    1982); FAIL where one fails after Holm's correction. `any`: PASS where one passes after Holm's correction; FAIL
    where every one fails at the level. A p value is divided by its look's share of the error first, so that all looks
    together err no more often than the gate says.
    """
    alpha, count = 1 - config.level, len(config.benchmarks)
    undecided = [1.0] * (count - len(evidence))
    raw = [_p_values(one, config.threshold_of(one.part)) for one in evidence]
    passes, fails = ([1.0 if pair[side] is None else float(pair[side] or 0.0) for pair in raw] for side in (0, 1))
    if config.rule == "any":
        passes = holm([*passes, *undecided])[: len(evidence)]
    else:
        fails = holm([*fails, *undecided])[: len(evidence)]
    verdicts = [
        GateVerdict.PASS if p < alpha else GateVerdict.FAIL if f < alpha else GateVerdict.INCONCLUSIVE
        for p, f in zip(passes, fails, strict=True)
    ]
    spread = count if config.rule == "any" else 1
    parts = tuple(
        _describe(
            config,
            one,
            verdict,
            p if raw_p is not None else None,
            f if raw_f is not None else None,
            error=alpha / spread,
        )
        for one, verdict, p, f, (raw_p, raw_f) in zip(evidence, verdicts, passes, fails, raw, strict=True)
    )
    decisive = {"all": (GateVerdict.FAIL, GateVerdict.PASS), "any": (GateVerdict.PASS, GateVerdict.FAIL)}[config.rule]
    unanimous = not undecided and set(verdicts) == {decisive[1]}
    verdict = decisive[0] if decisive[0] in verdicts else decisive[1] if unanimous else GateVerdict.INCONCLUSIVE
    powers = [*(part.power for part in parts), *([None] * len(undecided))]
    return GateDecision(verdict, parts, _joint_power(config.rule, powers), describe_procedure(config))


def describe_procedure(config: GateConfig) -> str:
    """State a gate's test, margin, level, error over all looks and multiplicity in a few sentences."""
    margins = sorted({config.margin_of(part) for part in config.benchmarks})
    points = [f"{100 * margin:g}" for margin in (margins[:1] if len(margins) == 1 else (margins[0], margins[-1]))]
    margin = f"{' to '.join(points)} points"
    claim = "not be worse by {} or more" if config.test == "non_inferiority" else "be better by more than {}"
    first = [
        percent(1 - (1 - config.level) * Look.after([], is_whole=is_whole).share, digits=1)
        for is_whole in (False, True)
    ]
    sentences = [
        f"{config.test.replace('_', '-').capitalize()}: the candidate must {claim.format(margin)}.",
        f"The two-sided interval of the paired difference decides: {100 * config.level:g} % over all judgements, and so"
        f" {first[0]} for a first one on some of the items, {first[1]} on all of them.",
        f"A wrong PASS and a wrong FAIL have a chance of at most {50 * (1 - config.level):.3g} % each, however often a"
        " candidate is judged.",
        "Each judgement of new items (a look) uses part of what earlier ones left of that chance:"
        f" {percent(SHARE_OF_A_LOOK)} on some of the items, {percent(SHARE_OF_THE_WHOLE)} on all of them.",
    ]
    if len(config.benchmarks) > 1:
        sentences.append(
            "All benchmarks must pass (intersection-union test; FAIL after Holm's correction)."
            if config.rule == "all"
            else "One benchmark must pass (after Holm's correction)."
        )
    return " ".join(sentences)


def _p_values(evidence: Evidence, threshold: float) -> tuple[float | None, float | None]:
    """Return the smallest levels of error whose interval lies above, or below, the threshold, over the look's share."""

    def distance(quantile: float) -> float:
        low, high = _oriented(evidence, 1 - 2 * float(scipy.special.ndtr(-quantile)))
        return 0.0 if low is None or high is None else (low - threshold if is_above else threshold - high)

    low, high = _oriented(evidence, 0.95)
    if low is None or high is None:
        return None, None
    is_above = low + high > 2 * threshold
    if distance(MIN_QUANTILE) <= 0:  # an interval that is not symmetrical may shrink to the other side of the threshold
        is_above = not is_above
    if distance(MIN_QUANTILE) <= 0:
        return 1.0, 1.0
    quantile = MAX_QUANTILE
    if distance(quantile) < 0:
        quantile = scipy.optimize.brentq(distance, MIN_QUANTILE, MAX_QUANTILE, xtol=1e-9, rtol=1e-9)
    p_value = min(1.0, 2 * float(scipy.special.ndtr(-quantile)) / evidence.look.share)
    return (p_value, 1.0) if is_above else (1.0, p_value)


def _oriented(evidence: Evidence, level: float) -> tuple[float | None, float | None]:
    gap = evidence.compare_at(level).difference
    if gap.low is None or gap.high is None:
        return None, None
    low, high = evidence.over_all(gap.low) - evidence.unclear, evidence.over_all(gap.high) + evidence.unclear
    return (-high, -low) if evidence.lower_is_better else (low, high)


def _describe(
    config: GateConfig,
    evidence: Evidence,
    verdict: GateVerdict,
    p_pass: float | None,
    p_fail: float | None,
    *,
    error: float,
) -> BenchmarkVerdict:
    look, threshold = evidence.look, config.threshold_of(evidence.part)
    level = 1 - (1 - config.level) * look.share
    comparison = evidence.compare_at(level)
    low, high = _oriented(evidence, level)
    difference = -comparison.difference.value if evidence.lower_is_better else comparison.difference.value
    stderr = comparison.difference.stderr
    critical = -float(scipy.special.ndtri(error * look.share / 2))
    expected = evidence.over_all(config.expected_difference) - evidence.unclear  # expected lower end
    power = float(scipy.special.ndtr((expected - threshold) / evidence.over_all(stderr) - critical)) if stderr else None
    items = None
    is_settled_by_items = abs(evidence.over_all(difference) - threshold) > evidence.unclear
    if verdict is GateVerdict.INCONCLUSIVE and stderr and is_settled_by_items:
        next_share = SHARE_OF_A_LOOK * look.left or look.share
        spread = (
            float(scipy.special.ndtri(PLANNED_POWER)) - float(scipy.special.ndtri(error * next_share / 2))
        ) * stderr
        distance = abs(evidence.over_all(difference) - threshold) - evidence.unclear
        items = max(comparison.n + 1, math.ceil(comparison.n * (evidence.over_all(spread) / distance) ** 2))
    return BenchmarkVerdict(
        benchmark=evidence.part.benchmark,
        metric=evidence.metric,
        threshold=threshold,
        difference=difference,
        low=low,
        high=high,
        n=comparison.n,
        clusters=comparison.clusters,
        p_pass=p_pass,
        p_fail=p_fail,
        verdict=verdict,
        power=power,
        items_to_settle=items,
        procedure=comparison.method,
        level=level,
        look=look.number,
        share=look.share,
    )


def _joint_power(rule: str, powers: Sequence[float | None]) -> float | None:
    known = [power for power in powers if power is not None]
    if len(known) < len(powers):
        return None
    return math.prod(known) if rule == "all" else 1 - math.prod(1 - power for power in known)
