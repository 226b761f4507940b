"""Ratings from votes: strengths on the Elo-like scale, with intervals that account for correlated votes on a prompt and
by a rater.

Half credit for a tie and for "both bad" (which keeps its own count), or a model of ties. Intervals are clustered by
prompt and rater unless asked otherwise: on a fixed set of prompts an interval that ignores this is about 1.6 times too
narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.domain.battles.adjustments import CONTROL_PENALTY, ControlColumns, control_columns, pair_weights
from backend.domain.battles.bradley_terry import (
    Cells,
    Fit,
    maximise,
    strong_components,
    sum_votes,
    weak_components,
    with_side,
)
from backend.domain.battles.clusters import (
    ClusterBy,
    Grouping,
    Scores,
    contrast_spread,
    covariance,
    groupings,
    vote_scores,
)
from backend.domain.battles.comparisons import (
    PRIOR_SD,
    FitOutcome,
    compare_methods,
    fit_method,
    order_of,
    tie_parameter,
)
from backend.domain.battles.intervals import EMPTY, floored, rank_ranges
from backend.domain.battles.likelihoods import LOSS, METHOD_NAMES, WIN, FloatArray, IntArray
from backend.domain.battles.options import RatingOptions
from backend.domain.battles.rating_table import (
    ELO_PER_UNIT,
    ControlEffect,
    Rating,
    RatingTable,
    WinMatrix,
    count_wins,
)
from backend.domain.battles.votes import VoteColumns, VoteRecord, encode_votes
from backend.domain.statistics.estimates import Estimate, student_quantile
from backend.domain.wording import list_first, percent
from backend.errors import InvalidInput

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
            notes.append(f"{percent(share)} of the votes are {where}: intervals are wide, and hold a little too often.")
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
