"""Dollars and epochs are written in plain digits."""

from __future__ import annotations

import pytest

from backend.domain.wording import format_epochs, format_usd, visible


@pytest.mark.parametrize(
    ("usd", "total", "price"),
    [
        (0.0, "$0.00", "$0.00"),
        (3.13e-05, "under $0.01", "$0.0000313"),
        (0.004, "under $0.01", "$0.004"),
        (0.006, "$0.01", "$0.006"),
        (0.5, "$0.50", "$0.50"),
        (0.035, "$0.04", "$0.035"),
        (0.99999, "$1.00", "$1.00"),
        (2.5, "$2.50", "$2.50"),
        (1_234_567.0, "$1,234,567.00", "$1,234,567.00"),
    ],
)
def test_no_amount_has_powers_of_ten(usd: float, total: str, price: str) -> None:
    assert (format_usd(usd), format_usd(usd, is_price=True)) == (total, price)


def test_a_part_of_an_epoch_is_not_none_of_it() -> None:
    """The log of a run of five steps said 0.0 epochs."""
    formatted = [format_epochs(number) for number in (0.0031, 1.0, 4.136, 808_000.4)]
    assert formatted == ["0.31 % of one epoch", "1 epoch", "4.14 epochs", "808,000 epochs"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\n", "a\n"), ("", "(nothing)"), ("\n" * 5, "(5 line breaks)"), (" \n", "(1 line break)"), ("  ", "(blanks)")],
)
def test_a_text_without_anything_to_see_says_what_it_is(text: str, shown: str) -> None:
    assert visible(text) == shown
