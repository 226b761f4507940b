"""Agreement against Krippendorff's own table, evalica, Gwet's and worked examples."""

from __future__ import annotations

from typing import Any

import evalica
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from backend.domain.statistics.agreement import (
    Resampling,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    pooled_kappa,
)
from backend.domain.statistics.estimates import wilson_interval

NAN = float("nan")
TEXTBOOK = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


def units_of(table: list[list[float]]) -> list[list[float]]:
    return [[value for value in column if not np.isnan(value)] for column in np.array(table).T]


def test_alpha_of_krippendorffs_table_is_krippendorffs() -> None:
    estimate = krippendorff_alpha(units_of(TEXTBOOK))
    assert estimate is not None
    assert estimate.value == pytest.approx(0.743421, abs=1e-6)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < 0.743421 < estimate.high


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, NAN]), min_size=6, max_size=6), min_size=2, max_size=4))
def test_alpha_equals_evalicas(table: list[list[float]]) -> None:
    ours = krippendorff_alpha(units_of(table), resampling=Resampling(10))
    assume(ours is not None)
    assert ours is not None
    theirs = evalica.alpha(pd.DataFrame(table), solver="naive")
    assert ours.value == pytest.approx(theirs.alpha, abs=1e-9)


def test_perfect_agreement_is_one_and_one_label_alone_is_undefined() -> None:
    perfect = krippendorff_alpha([["x", "x"], ["y", "y"], ["x", "x"]])
    assert perfect is not None
    assert perfect.value == pytest.approx(1.0)
    assert krippendorff_alpha([["x", "x"], ["x", "x"]]) is None
    assert krippendorff_alpha([["x"], ["y"]]) is None


@pytest.mark.parametrize("measure", [krippendorff_alpha, gwet_ac1, pooled_kappa])
def test_perfect_agreement_of_few_is_not_certain(measure: Any) -> None:
    """It was shown as 1.00 [1.00, 1.00]: no resample of raters who never disagree varies."""
    few, many = ([["x", "x"], ["y", "y"]] * number for number in (4, 200))
    estimate = measure(few)
    assert (estimate.value, estimate.high, estimate.stderr) == (1.0, 1.0, None)
    hidden = 1 - wilson_interval(1.0, 8, critical=1.959964)[0]
    assert estimate.low == pytest.approx(1 - hidden / 0.5, abs=0.05), "of a chance agreement of one half"
    assert 0.95 < measure(many).low < 1
    clustered = measure([["x", "x"], ["y", "y"]] * 200, clusters=[f"{n % 8}" for n in range(400)])
    assert clustered.low == pytest.approx(estimate.low, abs=0.05), "eight prompts, not 400 items"
    assert "without a disagreement" in estimate.method


def test_perfect_percent_agreement_counts_prompts() -> None:
    units = [["x", "x"], ["y", "y"]] * 100
    assert percent_agreement(units, clusters=[f"{n % 5}" for n in range(200)]).low < 0.6  # type: ignore[union-attr]
    assert percent_agreement(units).low > 0.97  # type: ignore[union-attr]


def test_chance_agreement_is_about_zero() -> None:
    labels = np.random.default_rng(0).integers(3, size=(400, 3)).tolist()
    estimate = krippendorff_alpha(labels)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.0, abs=0.06)


def test_percent_agreement_counts_pairs_of_raters() -> None:
    estimate = percent_agreement([["x", "x", "y"], ["y", "y"], ["x"]])
    assert estimate is not None
    assert estimate.value == pytest.approx(2 / 4)
    assert estimate.n == 2


def test_full_agreement_on_three_items_is_not_certain() -> None:
    estimate = percent_agreement([["x", "x"], ["y", "y"], ["x", "x"]])
    assert estimate is not None
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low is not None
    assert estimate.low < 0.5


def test_ac1_of_gwets_table_is_the_published_one() -> None:
    estimate = gwet_ac1(units_of(TEXTBOOK))
    assert estimate is not None
    assert estimate.value == pytest.approx(0.77544, abs=1e-5)
    assert estimate.stderr == pytest.approx(0.14295, abs=0.03)


def test_ac1_holds_where_one_label_dominates_and_alpha_collapses() -> None:
    units = [["x", "x"]] * 96 + [["x", "y"]] * 4
    ac1, alpha = gwet_ac1(units), krippendorff_alpha(units)
    assert ac1 is not None
    assert alpha is not None
    assert ac1.value > 0.95
    assert alpha.value < 0.05
    assert gwet_ac1([["x", "x"]]) is None
    assert gwet_ac1([["x"], ["y"]]) is None


def test_pooled_kappa_is_cohens() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    estimate = pooled_kappa(pairs)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.4) == cohen_kappa_score(*zip(*pairs, strict=True))
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < 0.4 < estimate.high
    assert pooled_kappa([("x", "x")] * 3) is None
    assert pooled_kappa([]) is None


def test_battles_of_one_prompt_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(20) < 0.5
    units = [["x", "y" if hard[prompt] else "x"] for prompt in range(20) for _ in range(10)]
    apart, together = (
        percent_agreement(units, clusters=clusters) for clusters in (None, [place // 10 for place in range(200)])
    )
    assert apart is not None
    assert together is not None
    assert apart.stderr is not None
    assert together.stderr is not None
    assert together.stderr == pytest.approx(apart.stderr * 10**0.5, rel=0.1)
