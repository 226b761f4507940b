"""Calibration against known values and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.statistics.calibration import brier, calibration
from backend.errors import InvalidInput


def test_confidence_of_eighty_with_sixty_right_has_ece_of_a_fifth() -> None:
    confidences, correct = [0.8] * 50, [1.0] * 30 + [0.0] * 20
    assert calibration(confidences, correct).ece == pytest.approx(0.2)
    assert brier(confidences, correct) == pytest.approx(0.28)


@given(st.permutations(range(30)))
def test_calibration_error_does_not_depend_on_the_order_of_items(order: list[int]) -> None:
    confidences = np.repeat([0.3, 0.55, 0.9], 10)
    correct = (np.arange(30) % 3 > 0).astype(float)
    assert calibration(confidences[order], correct[order]).ece == pytest.approx(calibration(confidences, correct).ece)


def test_a_report_of_eighty_with_sixty_right_is_miscalibrated() -> None:
    report = calibration([0.8] * 50, [1.0] * 30 + [0.0] * 20)
    assert (report.ece, report.brier, report.n) == (pytest.approx(0.2), pytest.approx(0.28), 50)
    (only,) = report.bins
    assert only.low < 0.6 < only.high < 0.8
    assert only.band_low > 0.6
    assert report.is_miscalibrated


def test_a_calibrated_network_stays_in_its_band_in_nineteen_of_twenty_cases() -> None:
    rng = np.random.default_rng(2)
    outside, inside = 0, []
    for seed in range(200):
        sure = rng.beta(4, 2, size=150)
        report = calibration(sure, (rng.random(150) < sure).astype(float), num_draws=200, seed=seed)
        outside += report.is_miscalibrated
        inside += [part.band_low <= part.accuracy <= part.band_high for part in report.bins]
        assert report.ece_expected > 0.02  # the error of few items is no miscalibration
    assert outside / 200 < 0.11
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)


def test_bins_hold_every_item_once_and_equal_confidences_together() -> None:
    report = calibration([0.5] * 90 + [0.9] * 10, [1.0] * 100)
    assert [(part.n, round(part.confidence, 9)) for part in report.bins] == [(90, 0.5), (10, 0.9)]


def test_a_confidence_above_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"1\.2 is not a probability"):
        calibration([0.5, 1.2], [1, 0])
