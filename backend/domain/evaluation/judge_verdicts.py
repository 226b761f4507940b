"""Verdicts of a judge by item, and what they amount to: scores or a win rate with their intervals, biases, canaries,
cost, agreement.

A judge's verdicts stay apart from people's votes. A pair judged differently in the two orders is a tie, and counted as
inconsistent; an answer of the judge without a verdict is missing, and counted, never 0 and never a tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.domain.evaluation.judges import (
    JudgeConfig,
    JudgeItem,
    JudgeQuestion,
    JudgeSummary,
    Side,
    read_judge_label,
    read_score,
    read_side,
)
from backend.domain.evaluation.metrics.registry import Metric, MetricKind
from backend.domain.evaluation.metrics.score import estimate_mean
from backend.domain.statistics.agreement import pooled_kappa
from backend.domain.statistics.estimates import Estimate, proportion_estimate, ratio_estimate

POINTS = {"A": 1.0, "B": 0.0, "TIE": 0.5}
POINTS_METRIC = Metric("judge", "judge", MetricKind.MEAN, float)
DISTRUST = 0.25
"""Points of the null answer, 1 for a win and a half for a tie, above which a judge is marked: a half is chance."""


@dataclass(frozen=True)
class JudgeAnswer:
    """The judge's answer to one question, with the tokens that it cost. `failed` says why there is none."""

    key: str
    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failed: str = ""


@dataclass(frozen=True)
class ItemVerdict:
    """The verdict on one item; None: missing. `orders` are a pair's two, about its first and second answer."""

    item: str
    value: float | str | None
    orders: tuple[Side | None, Side | None] | None = None

    @property
    def inconsistent(self) -> bool:
        """Return whether the two orders gave different verdicts."""
        return self.orders is not None and None not in self.orders and self.orders[0] != self.orders[1]


def item_verdicts(
    items: Sequence[JudgeItem], answers: Mapping[str, JudgeAnswer], config: JudgeConfig, *, canary: bool = False
) -> list[ItemVerdict]:
    """Read the verdict on each item (or on each canary that was asked) from the judge's answers."""
    verdicts = []
    for item in items:
        if config.mode == "rubric":
            answer = answers.get(JudgeQuestion(item.id, "single", canary, ()).key)
            if answer is None and canary:
                continue
            text = "" if answer is None or answer.failed else answer.text
            verdicts.append(
                ItemVerdict(item.id, read_judge_label(text, config) if config.labels else read_score(text, config))
            )
            continue
        pair = [answers.get(JudgeQuestion(item.id, order, canary, ()).key) for order in ("ab", "ba")]
        if pair == [None, None] and canary:
            continue
        first, shown_second = (None if answer is None or answer.failed else read_side(answer.text) for answer in pair)
        swapped: dict[Side | None, Side | None] = {"A": "B", "B": "A", "TIE": "TIE", None: None}
        second = swapped[shown_second]
        value = None if first is None or second is None else first if first == second else "TIE"
        verdicts.append(ItemVerdict(item.id, value, (first, second)))
    return verdicts


def summarise_judgement(
    items: Sequence[JudgeItem], answers: Mapping[str, JudgeAnswer], config: JudgeConfig
) -> JudgeSummary:
    """Return what a judgement amounts to."""
    verdicts = item_verdicts(items, answers, config)
    canaries = item_verdicts(items, answers, config, canary=True)
    canary = _canary(verdicts, canaries, config)
    tokens = [
        sum(getattr(answer, name) for answer in answers.values()) for name in ("prompt_tokens", "completion_tokens")
    ]
    prices = (config.input_price, config.output_price)
    pairwise = config.mode == "pairwise"
    judged = [(item, verdict) for item, verdict in zip(items, verdicts, strict=True) if verdict.value is not None]
    reasons = Counter(answer.failed for answer in answers.values() if answer.failed)
    return JudgeSummary(
        items=len(items),
        missing=len(items) - len(judged),
        failed=sum(bool(answer.failed) for answer in answers.values()),
        scores=_scores(judged, config),
        label_shares=_label_shares(judged, config),
        tie_rate=_share([verdict.value == "TIE" for _, verdict in judged]) if pairwise else None,
        inconsistent=_share([verdict.inconsistent for _, verdict in judged]) if pairwise else None,
        position_bias=_position_bias(verdicts) if pairwise else None,
        length_bias=_length_preference(judged) if pairwise else _length_correlation(judged),
        canary=canary,
        trusted=None if canary is None else canary.value <= DISTRUST,
        kappa=_kappa(judged, config),
        human_votes=sum(len(item.human) for item in items),
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        price=(
            None if None in prices else sum(n * (price or 0.0) for n, price in zip(tokens, prices, strict=True)) / 1e6
        ),
        reason=reasons.most_common(1)[0][0] if reasons else "",
    )


Judged = Sequence[tuple[JudgeItem, ItemVerdict]]


def _share(hits: Sequence[bool]) -> Estimate | None:
    return proportion_estimate(sum(hits), len(hits)) if hits else None


def _scores(judged: Judged, config: JudgeConfig) -> dict[str, Estimate]:
    if config.labels:
        return {}
    groups: dict[str, list[float]] = {}
    for item, verdict in judged:
        if config.mode == "rubric":
            groups.setdefault(item.group or "answers", []).append(float(verdict.value or 0))
        else:
            first, second, points = item.group or "A", item.group_b or "B", POINTS[str(verdict.value)]
            if f"{second} over {first}" in groups:  # the two of a pair may be on either side
                first, second, points = second, first, 1 - points
            groups.setdefault(f"{first} over {second}", []).append(points)
    scale = (
        POINTS_METRIC
        if config.mode == "pairwise"
        else replace(POINTS_METRIC, low=float(config.low), high=float(config.high))
    )
    return {name: estimate_mean(values, metric=scale) for name, values in groups.items()}


def _label_shares(judged: Judged, config: JudgeConfig) -> dict[str, Estimate]:
    if not config.labels or not judged:
        return {}
    return {
        label: proportion_estimate(sum(v.value == label for _, v in judged), len(judged)) for label in config.labels
    }


def _position_bias(verdicts: Sequence[ItemVerdict]) -> Estimate | None:
    """Share of decisive verdicts for the answer shown first; the two of an item are not independent, so items are the
    units. Where all fall on one side the ratio's interval would have no width, which is false: then it is Wilson's.
    """
    firsts, decisive = [], []
    for verdict in verdicts:
        ab, ba = verdict.orders or (None, None)
        firsts.append(float(ab == "A") + float(ba == "B"))
        decisive.append(float(ab in ("A", "B")) + float(ba in ("A", "B")))
    if not sum(decisive):
        return None
    if sum(firsts) in (0, sum(decisive)):
        return _share([bool(sum(firsts)) for number in decisive if number])
    return ratio_estimate(firsts, decisive)


def _length_preference(judged: Judged) -> Estimate | None:
    gaps = [
        (len(item.answer) - len(item.answer_b or ""), verdict.value)
        for item, verdict in judged
        if verdict.value in ("A", "B")
    ]
    return _share([(gap > 0) == (side == "A") for gap, side in gaps if gap])


def _length_correlation(judged: Judged) -> Estimate | None:
    """Spearman's correlation of score and length with Fisher's interval (Bonett and Wright 2000)."""
    pairs = [(float(verdict.value), len(item.answer)) for item, verdict in judged if isinstance(verdict.value, float)]
    if len(pairs) < 4 or len({score for score, _ in pairs}) < 2 or len({length for _, length in pairs}) < 2:
        return None
    import scipy.stats

    rho = float(scipy.stats.spearmanr([score for score, _ in pairs], [length for _, length in pairs]).statistic)
    error = float(np.sqrt((1 + rho**2 / 2) / (len(pairs) - 3)))
    centre = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    low, high = (float(np.tanh(centre + sign * 1.959964 * error)) for sign in (-1, 1))
    return Estimate(rho, None, low, high, len(pairs), "Spearman, Fisher interval 95 %")


def _canary(verdicts: Sequence[ItemVerdict], canaries: Sequence[ItemVerdict], config: JudgeConfig) -> Estimate | None:
    """Mean points of the null answer against the items' own answers, by comparison or by the two grades."""
    if config.mode == "pairwise":
        points = [POINTS[str(canary.value)] for canary in canaries if canary.value is not None]
    else:
        graded = {verdict.item: _level(verdict.value, config) for verdict in verdicts}
        levels = [(_level(canary.value, config), graded[canary.item]) for canary in canaries]
        points = [
            0.5 if null == real else float(null > real)
            for null, real in levels
            if null is not None and real is not None
        ]
    return estimate_mean(points, metric=POINTS_METRIC) if points else None


def _level(value: float | str | None, config: JudgeConfig) -> float | None:
    return -float(config.labels.index(value)) if isinstance(value, str) else value


def _kappa(judged: Judged, config: JudgeConfig) -> Estimate | None:
    """Cohen's kappa of judge and people over all votes, its interval by resampling prompts. Labels of a pair name its
    contestants, as in `battles.agreement`: sides are shuffled, and their chance agreement is another.
    """
    pairs = [
        (item.prompt, tuple(_by_name(item, label) for label in (str(verdict.value), _human_label(vote, config))))
        for item, verdict in judged
        for vote in item.human
    ]
    return pooled_kappa([pair for _, pair in pairs], clusters=[prompt for prompt, _ in pairs])


def _by_name(item: JudgeItem, label: str) -> str:
    """Return a label with the sides in the order of the contestants' names."""
    return {"A": "B", "B": "A"}.get(label, label) if item.answer_b is not None and item.group > item.group_b else label


def _human_label(vote: str | float, config: JudgeConfig) -> str:
    if config.mode == "pairwise":
        return "TIE" if str(vote).upper() == "BOTH_BAD" else str(vote).upper()
    if config.labels:
        return next((label for label in config.labels if label.casefold() == str(vote).casefold()), str(vote))
    return str(float(vote))
