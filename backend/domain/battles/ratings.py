"""Ratings from votes: strengths on the Elo-like scale, with intervals that account for correlated votes on a prompt and
by a rater.

Half credit for a tie and for "both bad" (which keeps its own count), or a model of ties. Intervals are clustered by
prompt and rater unless asked otherwise: on a fixed set of prompts an interval that ignores this is about 1.6 times too
narrow.

A fit is adjusted for how its battles were drawn (weights of votes) and for the form of the answers (covariates of
length and style), and compared with the other methods on the same votes. Sources: Chiang et al. (2024, arXiv
2403.04132), equation 7, for the weights; Li, Angelopoulos and Chiang (2024) for the covariates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from backend.domain.battles.bradley_terry import (
    LOSS,
    METHOD_NAMES,
    TIE,
    WIN,
    Cells,
    Fit,
    FloatArray,
    IntArray,
    Method,
    gaps_of,
    maximise,
    strong_components,
    sum_votes,
    weak_components,
    with_side,
)
from backend.domain.battles.clusters import (
    ClusterBy,
    ContrastSpread,
    Covariance,
    Grouping,
    Scores,
    contrast_spread,
    covariance,
    gap_variances,
    groupings,
    own_variances,
    vote_scores,
)
from backend.domain.battles.rating_table import (
    ELO_PER_UNIT,
    Control,
    ControlEffect,
    MethodFit,
    RankChange,
    Rating,
    RatingOptions,
    RatingTable,
    WinMatrix,
    count_wins,
)
from backend.domain.battles.votes import FEATURES, VoteColumns, VoteRecord, encode_votes
from backend.domain.statistics.estimates import Estimate, student_quantile
from backend.domain.wording import list_first, percent, plural
from backend.errors import InvalidInput

MIN_PAIR = 50
"""A pair with fewer votes weighs no more than one with this many: its few votes would rule the ratings."""
CONTROL_PENALTY = 1.0
"""Precision of the prior on an effect, in natural units per standard deviation: 174 Elo are one."""
CONTROL_FEATURES: dict[Control, tuple[str, ...]] = {"length": ("length",), "style": ("headers", "lists", "bold")}


@dataclass(frozen=True, slots=True)
class Weights:
    """A weight per vote with mean 1, and the sentence that explains them."""

    values: FloatArray
    note: str


@dataclass(frozen=True, slots=True)
class ControlColumns:
    """A column per feature, in units of its standard deviation `deviations` (about 0, so that swapping sides changes
    signs alone).
    """

    features: tuple[str, ...]
    values: FloatArray
    deviations: FloatArray
    notes: tuple[str, ...]


def pair_weights(columns: VoteColumns) -> Weights:
    """Weight votes as if pairs were uniform: by 1 / (logged probability), or by 1 / max(votes of the pair, 50)."""
    if columns.probability is not None and not np.isnan(columns.probability).any():
        raw, rule = 1 / columns.probability, "the logged probability of its battle"
    else:
        size = len(columns.contestants)
        pair = np.minimum(columns.a, columns.b) * size + np.maximum(columns.a, columns.b)
        raw = 1 / np.maximum(np.bincount(pair, minlength=size * size), MIN_PAIR)[pair]
        rule = f"the votes on its pair (at least {MIN_PAIR})"
    values = raw / raw.mean()
    effective = len(values) ** 2 / float(values @ values)
    return Weights(
        values,
        f"Each vote is weighted by 1 / {rule}, as if every pair had been drawn equally often. "
        f"If the model fits, this only widens intervals: {plural(len(values), 'vote')} count as {effective:,.0f}.",
    )


def control_columns(columns: VoteColumns, control: Sequence[Control]) -> ControlColumns | None:
    """Return the features to hold equal, standardised; None without control. Raises InvalidInput if no vote has one."""
    features = [feature for name in control for feature in CONTROL_FEATURES[name]]
    if not features:
        return None
    forms = columns.forms
    names, values, deviations, notes = [], [], [], []
    for feature in features:
        column = np.full(len(columns), np.nan) if forms is None else forms[:, FEATURES.index(feature)]
        known = ~np.isnan(column)
        if not known.any():
            raise InvalidInput(
                f"No vote has the {feature} of both answers, so the ratings can't be controlled for it.",
                remedy=f"Add the columns {feature}_a and {feature}_b, or rate without this control.",
                field="control",
            )
        deviation = float(np.sqrt(np.mean(column[known] ** 2)))
        if deviation == 0:
            notes.append(f"The answers never differ in {feature}, so it has no effect here.")
            continue
        if not known.all():
            notes.append(
                f"{plural(int((~known).sum()), 'vote')} without {feature} count as answers of equal {feature}."
            )
        names.append(feature)
        values.append(np.where(known, column, 0.0) / deviation)
        deviations.append(deviation)
    table = np.column_stack(values) if values else np.zeros((len(columns), 0))
    return ControlColumns(tuple(names), table, np.array(deviations), tuple(notes))


TESTED = {"prompt": 8, "rater": 3}
"""Fewest prompts and raters for which the intervals were simulated (`docs/benchmarks/ratings.md`)."""
MAX_SHARE = 0.5
"""Share of the votes of one prompt or rater from which the table names it."""
FEW = 12
"""With fewer of both, intervals by both held in 97 to 98 % of simulated campaigns."""


@dataclass(frozen=True, slots=True)
class _Model:
    """Votes ready to fit: their cells, weights, controls, clusters, and what must be said about them."""

    columns: VoteColumns
    cells: Cells
    weights: FloatArray | None
    controls: ControlColumns | None
    groups: list[Grouping]
    cluster_words: str
    notes: list[str]

    @property
    def penalty(self) -> FloatArray | None:
        """Precision of the prior on each effect of a control."""
        return None if self.controls is None else np.full(len(self.controls.features), CONTROL_PENALTY)


@dataclass(frozen=True, slots=True)
class _RowColumns:
    """The columns of the leaderboard by contestant's code, and the order of the codes."""

    order: list[int]
    ratings: FloatArray
    errors: FloatArray
    df: FloatArray
    ranks: IntArray
    uncontrolled: FloatArray | None


def fit_ratings(votes: Iterable[VoteRecord] | VoteColumns, **options: Any) -> RatingTable:
    """Rate every contestant that the votes name; `RatingOptions` explains the options.

    Raises InvalidInput for no votes, an unknown label, anchor, category or option, and for a control whose features no
    vote has. A million votes on 200 contestants take about a second once they are `VoteColumns`.

    >>> table = fit_ratings([VoteRecord("p1", "ann", "x", "y", "A"), VoteRecord("p2", "ann", "y", "x", "TIE")])
    >>> table.contestants
    ('x', 'y')
    """
    return rate(votes if isinstance(votes, VoteColumns) else encode_votes(votes), RatingOptions.of(**options))


def rate(columns: VoteColumns, options: RatingOptions) -> RatingTable:
    """Rate contestants by encoded votes. Raises what `fit_ratings` raises."""
    columns = of_category(columns, options.category)
    if not len(columns):
        raise InvalidInput(
            "There are no votes to rate.",
            remedy="Cast votes on battles between at least two contestants first.",
            field="votes",
        )
    anchor_at = _anchor_code(options.anchor, columns)
    model = _prepare(columns, options)
    unbounded = connection_note(model.cells, columns.contestants)
    outcome = fit_method(model.cells, method=options.method, penalty=model.penalty, connection_note=unbounded)
    fit = outcome.fit
    scores = vote_scores(fit, model.cells, columns, weights=model.weights)
    spread = covariance(fit, scores, model.groups, anchor_at=anchor_at)
    gaps, own, is_floored = floored(fit, spread, anchor_at=anchor_at)
    notes = [outcome.note] if outcome.note else []
    notes += model.notes
    if is_floored:
        notes.append(
            "Some votes never differ or are too few to show their spread; there the intervals rest on the number of"
            " votes alone."
        )
    bias = _position_bias(model, fit, level=options.level)
    if bias is None:
        notes.append("These votes can't determine the advantage of a side.")
    order = order_of(fit, columns.contestants)
    wins = count_wins(columns, order)
    rows = _RowColumns(
        order=order,
        ratings=_scale(fit.theta, options, anchor_at),
        errors=ELO_PER_UNIT * np.sqrt(own.variance),
        df=own.df,
        ranks=rank_ranges(fit, spread, gaps, options),
        uncontrolled=_uncontrolled(model, outcome, options, anchor_at),
    )
    regularised = f"regularised (prior sd {PRIOR_SD} units), " if outcome.note else ""
    ties = "half credit for ties, " if options.method == "bradley_terry" else ""
    controlled = f"controlled for {' and '.join(options.control)}, " if options.control else ""
    level = percent(options.level, digits=None)
    name = f"{METHOD_NAMES[options.method]}, {ties}{controlled}{regularised}sandwich {model.cluster_words}, {level}"
    return RatingTable(
        ratings=_rows(wins, rows, level=options.level),
        wins=wins,
        position_bias=bias,
        controls=_control_effects(model, fit, scores, level=options.level),
        fits=compare_methods(
            outcome, model.cells, columns.contestants, penalty=model.penalty, connection_note=unbounded
        ),
        log_likelihood=fit.log_likelihood,
        tie_parameter=None if options.method == "bradley_terry" else tie_parameter(fit, model.cells),
        method=name,
        notes=tuple(notes),
        regularised=bool(outcome.note),
        options=options,
        num_votes=len(columns),
        num_prompts=columns.num_prompts,
        num_raters=columns.num_raters,
        _gaps=ELO_PER_UNIT * (fit.theta[order][:, None] - fit.theta[order][None, :]),
        _gap_errors=ELO_PER_UNIT * np.sqrt(gaps.variance[np.ix_(order, order)]),
        _gap_df=gaps.df[np.ix_(order, order)],
    )


def of_category(columns: VoteColumns, category: str | None) -> VoteColumns:
    """Return the votes on prompts of a category, all for None. Raises InvalidInput for an unknown one."""
    if category is None:
        return columns
    if columns.category is None or category not in columns.categories:
        known = ", ".join(name for name in columns.categories if name)
        raise InvalidInput(
            f"No vote has the category {category!r}.",
            remedy=f"Choose one of {known}." if known else "Give the votes a column category.",
            field="category",
        )
    return columns.select(columns.category == columns.categories.index(category))


def _prepare(columns: VoteColumns, options: RatingOptions) -> _Model:
    cluster_by, cluster_words, notes = _choose_clusters(columns, options.cluster_by)
    weights = pair_weights(columns) if options.reweight else None
    controls = control_columns(columns, options.control)
    values = None if weights is None else weights.values
    notes = [*([weights.note] if weights else []), *(controls.notes if controls else ()), *notes]
    cells = sum_votes(columns, weights=values, covariates=None if controls is None else controls.values)
    return _Model(columns, cells, values, controls, groupings(columns, cluster_by), cluster_words, notes)


def _anchor_code(anchor: str | None, columns: VoteColumns) -> int | None:
    if anchor is None:
        return None
    if anchor not in columns.contestants:
        raise InvalidInput(
            f"The anchor {anchor!r} has no votes.",
            remedy=f"Choose one of {', '.join(columns.contestants)}.",
            field="anchor",
        )
    return columns.contestants.index(anchor)


def _choose_clusters(columns: VoteColumns, cluster_by: ClusterBy) -> tuple[ClusterBy, str, list[str]]:
    """Return the clustering that the votes allow, its description, and warnings."""
    counts = {"prompt": columns.num_prompts, "rater": columns.num_raters}
    ways = [way for way in counts if cluster_by in (way, "two_way")]
    notes = [
        f"All votes come from one {way}: intervals say nothing about other {way}s"
        + (" and treat votes as independent." if len(ways) == 1 else ".")
        for way in ways
        if counts[way] < 2
    ]
    notes += [
        f"Only {counts[way]} {way}s: intervals are tested from {TESTED[way]} {way}s on and may not hold; add {way}s."
        + (" They are for other raters, too, so they are far wider than a verdict's for these." * (way == "rater"))
        for way in ways
        if 2 <= counts[way] < TESTED[way]
    ]
    for way, codes in (("prompt", columns.prompt), ("rater", columns.rater)):
        share = int(np.bincount(codes).max()) / len(columns)
        if way in ways and counts[way] >= TESTED[way] and share > MAX_SHARE:
            where = "on one prompt" if way == "prompt" else "by one rater"
            notes.append(f"{percent(share)} of the votes are {where}: intervals are a little wider than they need be.")
    if len(ways) == 2 and not notes and max(counts.values()) < FEW:
        sizes = f"{counts['prompt']} prompts and {counts['rater']} raters"
        notes.append(f"With {sizes} intervals are a little too wide: 97 to 98 of 100 hold.")
    notes += [
        f"Votes {'on one prompt' if way == 'prompt' else 'by one rater'} are treated as independent: intervals may be"
        " too narrow."
        for way in counts
        if way not in ways and counts[way] >= 2
    ]
    ways = [way for way in ways if counts[way] >= 2]
    if not ways:
        return "none", "over independent votes", notes
    words = f"clustered by {' and '.join(f'{way} ({counts[way]})' for way in ways)}"
    return "two_way" if len(ways) == 2 else "prompt" if ways == ["prompt"] else "rater", words, notes


def connection_note(cells: Cells, contestants: tuple[str, ...]) -> str:
    """Return why the maximum does not exist; empty if it does (Ford 1957)."""
    strong = strong_components(cells)
    if strong.max() == 0:
        return ""
    weak = weak_components(cells)
    tail = "Ratings are regularised: a weak prior pulls them to the mean."
    if weak.max() > 0:
        apart = [contestants[code] for code in np.flatnonzero(weak != np.bincount(weak).argmax())]
        names = list_first(apart, 5)
        return f"{names} never met the rest, even through others, so the gap between them is the prior's. {tail}"
    earned = np.isin(
        np.arange(cells.size), np.concatenate([cells.a[cells.outcome != LOSS], cells.b[cells.outcome != WIN]])
    )
    lost = np.isin(
        np.arange(cells.size), np.concatenate([cells.a[cells.outcome != WIN], cells.b[cells.outcome != LOSS]])
    )
    unbeaten, winless = ([contestants[code] for code in np.flatnonzero(~flags)] for flags in (lost, earned))
    causes = ([f"{list_first(unbeaten, 5)} lost no vote"] if unbeaten else []) + (
        [f"{list_first(winless, 5)} won no vote"] if winless else []
    )
    return (
        f"{' and '.join(causes) or 'One group won every vote against the others'}, so the votes set no bound to the"
        f" gap. {tail}"
    )


def _position_bias(model: _Model, fit: Fit, *, level: float) -> Estimate | None:
    """Return the Elo advantage of being shown as side a, an intercept in the same regression."""
    cells = with_side(model.cells)
    penalty = None if model.penalty is None else np.concatenate([[0.0], model.penalty])
    biased = maximise(cells, method=fit.method, precision=fit.precision, penalty=penalty, start=fit.theta)
    if biased is None:
        return None
    scores = vote_scores(biased, cells, model.columns, weights=model.weights)
    return _effect(biased, scores, model, number=0, level=level, words="Elo for side a, intercept")


def _control_effects(model: _Model, fit: Fit, scores: Scores, *, level: float) -> tuple[ControlEffect, ...]:
    if model.controls is None:
        return ()
    return tuple(
        ControlEffect(
            feature,
            _effect(fit, scores, model, number=number, level=level, words=f"Elo per standard deviation of {feature}"),
            float(model.controls.deviations[number]),
        )
        for number, feature in enumerate(model.controls.features)
    )


def _effect(fit: Fit, scores: Scores, model: _Model, *, number: int, level: float, words: str) -> Estimate:
    column = len(fit.theta) + number
    spread = contrast_spread(scores, model.groups, fit.inverse_hessian[:, column])
    variance, least = float(spread.variance), float(fit.inverse_hessian[column, column])
    stderr = ELO_PER_UNIT * math.sqrt(variance if variance > EMPTY * least else least)
    value, margin = ELO_PER_UNIT * float(fit.effects[number]), student_quantile(level, df=float(spread.df)) * stderr
    name = f"{words} of {METHOD_NAMES[fit.method]}, {percent(level, digits=None)}"
    return Estimate(value, stderr, value - margin, value + margin, len(model.columns), name)


def _scale(theta: FloatArray, options: RatingOptions, anchor_at: int | None) -> FloatArray:
    """Return ratings: the anchor's (or else the mean, 1000) fixed."""
    return ELO_PER_UNIT * theta + (
        1000.0 if anchor_at is None else options.anchor_rating - ELO_PER_UNIT * theta[anchor_at]
    )


def _uncontrolled(
    model: _Model, outcome: FitOutcome, options: RatingOptions, anchor_at: int | None
) -> FloatArray | None:
    if model.controls is None:
        return None
    cells = sum_votes(model.columns, weights=model.weights)
    plain = fit_method(cells, method=options.method, penalty=None, connection_note=outcome.note)
    return _scale(plain.fit.theta, options, anchor_at)


def _rows(wins: WinMatrix, columns: _RowColumns, *, level: float) -> tuple[Rating, ...]:
    rows = []
    for row, contestant in enumerate(wins.contestants):
        code = columns.order[row]
        won, tied, bad = sum(wins.wins[row]), sum(wins.ties[row]), sum(wins.both_bad[row])
        lost = sum(other[row] for other in wins.wins)
        value, error, df = (float(column[code]) for column in (columns.ratings, columns.errors, columns.df))
        margin = student_quantile(level, df=df) * error
        rows.append(
            Rating(
                contestant=contestant,
                rating=value,
                stderr=error,
                low=value - margin,
                high=value + margin,
                rank_low=int(columns.ranks[code, 0]),
                rank_high=int(columns.ranks[code, 1]),
                votes=won + lost + tied + bad,
                wins=won,
                losses=lost,
                ties=tied,
                both_bad=bad,
                df=df,
                uncontrolled=None if columns.uncontrolled is None else float(columns.uncontrolled[code]),
                identical=sum(wins.identical[row]),
            )
        )
    return tuple(rows)


PRIOR_SD = 2.5
"""Standard deviation of the prior, natural units, keeps ratings finite without connecting votes (434 Elo)."""


@dataclass(frozen=True, slots=True)
class FitOutcome:
    """A fit and the reason for which it needed a prior, empty if it did not."""

    fit: Fit
    note: str


def fit_method(
    cells: Cells, *, method: Method, penalty: FloatArray | None, connection_note: str, start: FloatArray | None = None
) -> FitOutcome:
    """Fit one method; with a weak prior if the votes do not bound the strengths."""
    tied = method != "bradley_terry" and bool((cells.outcome == TIE).all())
    if not connection_note and not tied:
        fit = maximise(cells, method=method, penalty=penalty, start=start)
        if fit is not None:
            return FitOutcome(fit, "")
    note = connection_note or (
        f"The votes do not bound the strengths of {METHOD_NAMES[method]}'s model, so a weak prior pulls them to the "
        "mean."
    )
    fit = maximise(cells, method=method, precision=PRIOR_SD**-2, penalty=penalty)
    if fit is None:
        raise ArithmeticError(f"{method} with a prior has a maximum")
    return FitOutcome(fit, note)


def order_of(fit: Fit, contestants: Sequence[str]) -> list[int]:
    """Return the contestants' codes, best first; equal strengths by name."""
    return sorted(range(len(fit.theta)), key=lambda code: (-round(float(fit.theta[code]), 9), contestants[code]))


def compare_methods(
    chosen: FitOutcome, cells: Cells, contestants: Sequence[str], *, penalty: FloatArray | None, connection_note: str
) -> tuple[MethodFit, ...]:
    """Fit every method to the same votes and compare its order with the chosen one's."""
    order = order_of(chosen.fit, contestants)
    rows = []
    for method in METHOD_NAMES:
        outcome = (
            chosen
            if method == chosen.fit.method
            else fit_method(
                cells, method=method, penalty=penalty, connection_note=connection_note, start=chosen.fit.theta
            )
        )
        other = {code: rank for rank, code in enumerate(order_of(outcome.fit, contestants), start=1)}
        changes = [
            RankChange(contestants[code], rank, other[code])
            for rank, code in enumerate(order, start=1)
            if other[code] != rank
        ]
        rows.append(
            MethodFit(
                method=method,
                log_likelihood=outcome_log_likelihood(outcome.fit, cells),
                tie_parameter=tie_parameter(outcome.fit, cells),
                kendall_tau=_kendall_tau([other[code] for code in order]),
                rank_changes=tuple(changes),
                regularised=bool(outcome.note),
            )
        )
    return tuple(rows)


def tie_parameter(fit: Fit, cells: Cells) -> float:
    """Return nu of Davidson, eta of Rao-Kupper (both 0 without ties) or, of Bradley-Terry, the share of ties."""
    if fit.method == "bradley_terry":
        return float(cells.weight[cells.outcome == TIE].sum() / cells.weight.sum())
    if fit.tie is None:
        return 0.0
    return math.exp(fit.tie) if fit.method == "davidson" else fit.tie


def outcome_log_likelihood(fit: Fit, cells: Cells) -> float:
    """Return the log-likelihood of wins, ties and losses.

    Bradley-Terry with half credit says nothing about ties: here every battle ties with the same chance, and the
    log-odds of a decisive vote are a common multiple of the gap, both fitted. Its gaps are smaller than those of
    decisive votes, since ties pull them together.
    """
    if fit.tie is not None:
        return fit.log_likelihood
    tied = cells.outcome == TIE
    ties, decisive = float(cells.weight[tied].sum()), float(cells.weight[~tied].sum())
    total = ties + decisive
    chance = sum(count * math.log(count / total) for count in (ties, decisive) if count > 0)
    if not ties or not decisive:
        return chance + fit.log_likelihood * (decisive > 0)
    signed = np.where(cells.outcome == WIN, 1.0, -1.0) * gaps_of(cells, theta=fit.theta, effects=fit.effects)
    gap, weight = signed[~tied], cells.weight[~tied]
    best = scipy.optimize.minimize_scalar(
        lambda scale: weight @ np.logaddexp(0.0, -scale * gap), bounds=(0.0, 50.0), method="bounded"
    )
    return chance - float(best.fun)


def _kendall_tau(ranks: Sequence[int]) -> float:
    if len(ranks) < 2:
        return 1.0
    order = np.array(ranks)
    signs = np.sign(order[None, :] - order[:, None])
    return float(np.triu(signs).sum() / (len(ranks) * (len(ranks) - 1) / 2))


EMPTY = 1e-9
"""A sandwich below this share of the model's variance is empty: votes that never differ."""


def floored(fit: Fit, spread: Covariance, *, anchor_at: int | None) -> tuple[ContrastSpread, ContrastSpread, bool]:
    """Return the spread of all differences and of each rating; with only ties the model's, and True."""
    size = len(fit.theta)
    model_gaps = gap_variances(fit.inverse_hessian, size)
    model_own = own_variances(fit.inverse_hessian, size, anchor_at)
    empty_gaps, empty_own = spread.gaps.variance < EMPTY * model_gaps, spread.own.variance < EMPTY * model_own
    gaps = ContrastSpread(np.where(empty_gaps, model_gaps, spread.gaps.variance), spread.gaps.df)
    own = ContrastSpread(np.where(empty_own, model_own, spread.own.variance), spread.own.df)
    return gaps, own, bool(empty_gaps.any() or empty_own.any())


def rank_ranges(fit: Fit, spread: Covariance, gaps: ContrastSpread, options: RatingOptions) -> IntArray:
    """Best and worst rank of each contestant from simultaneous intervals of all differences (max-t).

    The critical value is a quantile of the simulated largest |t| at the pairs' median degrees of freedom; each pair
    gets Student's t at the same error rate with its own. Source: Hothorn, Bretz and Westfall (2008), Biometrical
    Journal 50.
    """
    size = len(fit.theta)
    rows, columns = np.triu_indices(size, 1)
    block = spread.matrix[:size, :size]
    deviations = np.sqrt(np.maximum(gap_variances(block, size), EMPTY * gaps.variance))
    rng, df = np.random.default_rng(options.seed), float(np.median(gaps.df[rows, columns]))
    draws = rng.standard_normal((options.num_draws, spread.root.shape[1])) @ spread.root[:size].T
    largest = _largest(draws, deviations)
    if math.isfinite(df):
        largest /= np.sqrt(rng.chisquare(df, options.num_draws) / df)
    error_rate = min(2 * float(scipy.special.stdtr(df, -float(np.quantile(largest, options.level)))), 1 - options.level)
    margins = -scipy.special.stdtrit(gaps.df, error_rate / 2) * np.sqrt(gaps.variance)
    clearly_above = fit.theta[:, None] - fit.theta[None, :] > np.where(margins > 0, margins, np.inf)
    return np.column_stack([1 + clearly_above.sum(0), size - clearly_above.sum(1)]).astype(np.int64)


def _largest(draws: FloatArray, deviations: FloatArray) -> FloatArray:
    """Return the largest standardised difference of each draw."""
    by_contestant = np.ascontiguousarray(draws.T, dtype=np.float32)
    precisions = (1 / (deviations + np.eye(len(deviations)))).astype(np.float32)
    largest = np.zeros(len(draws), dtype=np.float32)
    for code in range(len(by_contestant) - 1):
        gaps = np.abs(by_contestant[code + 1 :] - by_contestant[code])
        gaps *= precisions[code + 1 :, code, None]
        np.maximum(largest, gaps.max(0), out=largest)
    return largest.astype(np.float64)
