"""Cluster sandwiches: dense, chunked and sparse agree, contrasts agree with the matrix, and the correction keeps its
promises.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from backend.domain.battles import clusters
from backend.domain.battles.bradley_terry import Cells, Fit, Method, maximise, sum_votes, with_side
from backend.domain.battles.clusters import (
    Grouping,
    Scores,
    combine,
    contrast_spread,
    covariance,
    few,
    few_of_number,
    gap_variances,
    groupings,
    vote_scores,
)
from backend.domain.battles.rating_table import RatingOptions
from backend.domain.battles.ratings import control_columns, rate
from backend.domain.battles.votes import VoteColumns


def crossed_votes(*, prompts: int = 12, raters: int = 5, count: int = 400, with_forms: bool = False) -> VoteColumns:
    rng = np.random.default_rng(2)
    a = rng.integers(0, 4, count)
    b = (a + rng.integers(1, 4, count)) % 4
    return VoteColumns(
        contestants=tuple("wxyz"),
        prompts=tuple(map(str, range(prompts))),
        raters=tuple(map(str, range(raters))),
        a=a,
        b=b,
        label=rng.choice(3, count, p=[0.5, 0.3, 0.2]),
        prompt=rng.integers(0, prompts, count),
        rater=rng.integers(0, raters, count),
        forms=rng.uniform(-1, 1, (count, 4)) if with_forms else None,
    )


def fitted(columns: VoteColumns, method: Method = "bradley_terry", *, side: bool = False) -> tuple[Fit, Scores, Cells]:
    controls = control_columns(columns, ("length",) if columns.forms is not None else ())
    cells = sum_votes(columns, covariates=None if controls is None else controls.values)
    cells = with_side(cells) if side else cells
    fit = maximise(cells, method=method)
    assert fit is not None
    return fit, vote_scores(fit, cells, columns), cells


@pytest.mark.parametrize("method", ["bradley_terry", "davidson", "rao_kupper"])
@pytest.mark.parametrize("way", ["prompt", "rater", "two_way"])
def test_a_sparse_or_a_chunked_table_gives_the_meat_of_the_dense_one(
    method: Method, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = crossed_votes(with_forms=True)
    fit, scores, _ = fitted(columns, method, side=True)
    dense = covariance(fit, scores, groupings(columns, way)).matrix  # type: ignore[arg-type]
    monkeypatch.setattr(clusters, "CHUNK_CELLS", 21)
    chunked = covariance(fit, scores, groupings(columns, way)).matrix  # type: ignore[arg-type]
    monkeypatch.setattr(clusters, "SPARSE_BELOW", 1e9)
    sparse = covariance(fit, scores, groupings(columns, way)).matrix  # type: ignore[arg-type]
    np.testing.assert_allclose(chunked, dense, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(sparse, dense, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("method", ["bradley_terry", "davidson", "rao_kupper"])
def test_a_meat_is_the_sum_over_clusters_of_summed_scores(method: Method) -> None:
    columns = crossed_votes(with_forms=True)
    fit, scores, _ = fitted(columns, method, side=True)
    rows = np.zeros((len(columns), scores.width))
    votes = np.arange(len(columns))
    rows[votes, columns.a] += scores.gap
    rows[votes, columns.b] -= scores.gap
    rows[:, 4:6] = scores.gap[:, None] * scores.covariates
    if scores.tie is not None:
        rows[:, 6] = scores.tie
    np.testing.assert_allclose(rows.sum(0), 0, atol=1e-8)  # the scores of a maximum sum to 0
    for group in groupings(columns, "two_way"):
        sums = np.zeros((group.count, scores.width))
        np.add.at(sums, group.codes, rows)
        factor = group.count / (group.count - 1)
        expected = fit.inverse_hessian @ sums.T @ sums @ fit.inverse_hessian
        matrix = covariance(fit, scores, [group]).matrix
        np.testing.assert_allclose(matrix, factor * expected, rtol=1e-8, atol=1e-14)


def test_the_intersection_joins_votes_of_one_rater_on_one_prompt_alone() -> None:
    columns = crossed_votes(prompts=40, raters=30, count=300)
    group = groupings(columns, "two_way")[2]
    pairs = list(zip(columns.prompt.tolist(), columns.rater.tolist(), strict=True))
    assert group.count == len(set(pairs))
    assert len(set(zip(pairs, group.codes.tolist(), strict=True))) == group.count
    assert group.codes.max() == group.count - 1


def test_a_contrast_of_two_strengths_has_the_variance_that_the_matrix_gives() -> None:
    columns = crossed_votes()
    fit, scores, _ = fitted(columns)
    for way in ("none", "prompt", "rater", "two_way"):
        groups = groupings(columns, way)  # type: ignore[arg-type]
        spread = contrast_spread(scores, groups, fit.inverse_hessian[:, 0] - fit.inverse_hessian[:, 1])
        gaps = covariance(fit, scores, groups).gaps
        # the effective number of clusters differs: all votes for a contrast of anything, the two contestants' for their
        # difference
        assert float(spread.variance) == pytest.approx(gaps.variance[0, 1], rel=0.02)


@pytest.mark.parametrize("raters", [3, 6])
def test_a_balanced_design_has_the_variances_of_analysis_of_variance(raters: int) -> None:
    prompts = 9
    rng = np.random.default_rng(5)
    table = rng.normal(0, 1, (prompts, 1)) + rng.normal(0, 2, (1, raters)) + rng.normal(0, 0.5, (prompts, raters))
    table -= table.mean()
    rows, columns = table.mean(1), table.mean(0)
    rest = table - rows[:, None] - columns[None, :]
    squares = [raters * (rows**2).sum() / (prompts - 1), prompts * (columns**2).sum() / (raters - 1)]
    squares.append((rest**2).sum() / ((prompts - 1) * (raters - 1)))
    parts = [np.array((table.sum(1) ** 2).sum()), np.array((table.sum(0) ** 2).sum()), np.array((table**2).sum())]
    sizes = ((prompts, float(raters)), (raters, float(prompts)))
    ways = [few([np.array(count * size**power) for power in (1, 2, 3)]) for count, size in sizes]
    spread = combine(parts, ways)
    # of chi-squared / df with 2 degrees of freedom: log 2, by Wilson and Hilferty 0.702
    median = 0.7 if raters == 3 else 1.0
    expected = squares[0] + squares[1] / median - squares[2]
    assert float(spread.variance) == pytest.approx(prompts * raters * expected, rel=0.01)
    assert raters - 1 <= float(spread.df) <= prompts + raters


def test_two_ways_are_never_narrower_than_either_alone() -> None:
    parts = [np.array([5.0, 1.0, 3.0]), np.array([1.0, 5.0, 0.5]), np.array([4.0, 4.0, 0.2])]
    sizes = [few_of_number(np.full(3, 20.0)), few_of_number(np.full(3, 4.0))]
    both = combine(parts, sizes)
    for way in range(2):
        alone = combine([parts[way]], [sizes[way]])
        assert (both.variance >= alone.variance).all()
    assert both.df[0] == 19
    assert both.df[1] == 3


def test_intervals_are_never_narrower_than_those_of_independent_votes() -> None:
    """Three raters who happened to agree had given a contestant an interval below that of single votes."""
    narrower = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        columns = dataclasses.replace(
            crossed_votes(prompts=34, raters=3, count=150),
            label=rng.choice(3, 150, p=[0.5, 0.4, 0.1]),
            prompt=rng.integers(0, 34, 150),
            rater=rng.integers(0, 3, 150),
        )
        fit, scores, _ = fitted(columns)
        both = covariance(fit, scores, groupings(columns, "two_way"))
        meat = clusters._cluster_meat(scores, groupings(columns, "two_way")[2])
        independent = gap_variances(fit.inverse_hessian @ meat @ fit.inverse_hessian, 4) * (1 - 1e-9)
        assert (both.gaps.variance >= independent).all()
        alone = [covariance(fit, scores, groupings(columns, way)).gaps.variance for way in ("prompt", "rater")]
        narrower += bool((np.maximum(*alone) < independent).any())
    assert narrower > 5, "the ways alone are narrower now and then"


def test_effective_clusters_are_those_with_votes_on_the_pair() -> None:
    columns = crossed_votes()
    rare = (columns.a == 3) | (columns.b == 3)
    columns = columns.select(~rare | (columns.prompt < 3))
    fit, scores, _ = fitted(columns)
    df = covariance(fit, scores, groupings(columns, "prompt")).gaps.df
    z = columns.contestants.index("z")
    others = [code for code in range(4) if code != z]
    assert df[np.ix_(others, others)].min() > df[z, others].max()
    assert covariance(fit, scores, []).gaps.df.min() == np.inf


def test_many_clusters_get_a_bound_that_is_nearly_the_exact_number(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = crossed_votes(prompts=4000, count=4000)
    fit, scores, _ = fitted(columns)
    group = [Grouping(columns.prompt, columns.num_prompts)]
    bounded = covariance(fit, scores, group)
    monkeypatch.setattr(clusters, "MANY_CLUSTERS", 10**9)
    exact = covariance(fit, scores, group)
    np.testing.assert_allclose(np.sqrt(bounded.gaps.variance), np.sqrt(exact.gaps.variance), rtol=0.003)
    assert (bounded.gaps.df <= exact.gaps.df + 1e-9).all()
    np.testing.assert_allclose(gap_variances(bounded.matrix, 4), gap_variances(exact.matrix, 4))


def test_unequal_clusters_have_an_unbiased_variance() -> None:
    sizes, rng = np.array([120.0, 30.0, 15.0, 10.0, 5.0]), np.random.default_rng(8)
    effects = rng.normal(0, 1, (20_000, 5))
    centre = effects @ sizes / sizes.sum()
    sandwich = ((sizes * (effects - centre[:, None])) ** 2).sum(1) / sizes.sum() ** 2
    corrections = few([np.array((sizes**power).sum()) for power in (1, 2, 3)])
    assert float(corrections.factor) * sandwich.mean() == pytest.approx(centre.var(), rel=0.03)
    assert float(corrections.df) == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum() - 1)
    assert float(corrections.factor) > 2 * float(few_of_number(np.array(5.0)).factor)


def test_intervals_hold_where_few_raters_cast_unequal_numbers_of_votes() -> None:
    rng, held, notes = np.random.default_rng(12), [], []
    prompt, prompts = np.repeat(np.arange(200), 5), tuple(map(str, range(200)))
    for _ in range(200):
        shares = rng.pareto(1.2, 5)
        rater = rng.choice(5, len(prompt), p=shares / shares.sum())
        odds = 0.6 * rng.standard_normal(200)[prompt] + 0.4 * rng.standard_normal(5)[rater]
        label = np.where(rng.random(len(prompt)) < 1 / (1 + np.exp(-odds)), 0, 1)
        label[rng.random(len(prompt)) < 0.2] = 2
        voted, rater = np.unique(rater, return_inverse=True)
        columns = VoteColumns(
            ("a", "b"), prompts, tuple(map(str, voted)), 0 * label, 0 * label + 1, label, prompt, rater
        )
        table = rate(columns, RatingOptions(num_draws=20))
        pair = table.pair("a", "b")
        held.append(pair.low <= 0 <= pair.high)
        notes.append((np.bincount(rater).max() > 500) == any("are by one rater" in note for note in table.notes))
    assert np.mean(held) >= 0.92
    assert all(notes)
