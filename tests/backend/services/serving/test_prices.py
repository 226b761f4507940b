"""Prices of device-hours: set on the Costs page before those of the environment, by admins alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.domain.estimates.prices import DevicePrices
from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.people.accounts import add_user
from backend.services.serving.prices import current_prices, list_prices, remove_price, set_price


@pytest.fixture
def priced(ctx: Context) -> Context:
    prices = DevicePrices(default=2.0, named={"H100": 2.5, "cpu": 0.04})
    return replace(ctx, policy=replace(ctx.policy, prices=prices))


def test_a_price_of_the_page_comes_before_the_one_of_the_environment_until_it_is_removed(priced: Context) -> None:
    ada = add_user(priced, "ada", "a long password", role="admin", person=LOCAL)
    set_price(priced, " h100 ", 3.0, person=LOCAL)
    set_price(priced, "", 1.0, person=ada)
    prices = current_prices(priced)
    assert (prices.hour_usd("NVIDIA H100 80GB", "gpu"), prices.hour_usd("AMD", "cpu")) == (3.0, 0.04)
    assert prices.hour_usd("NVIDIA A10", "gpu") == 1.0
    set_price(priced, "H100", 4.0, person=LOCAL)
    assert [(line.name, line.hour_usd, line.author) for line in list_prices(priced)] == [
        ("", 1.0, "ada"),
        ("h100", 4.0, ""),
    ]
    remove_price(priced, "H100", person=LOCAL)
    assert current_prices(priced).hour_usd("NVIDIA H100 80GB", "gpu") == 2.5
    with pytest.raises(NotFound) as missing:
        remove_price(priced, "h100", person=LOCAL)
    assert missing.value.remedy == "Prices are set for: other devices."


@pytest.mark.parametrize(
    ("name", "usd", "said"),
    [
        ("gpu", -1.0, "-1 is not a price"),
        ("gpu", float("nan"), "nan is not a price"),
        ("gpu", float("inf"), "inf is not a price"),
        ("gpu", 1e9, "1e"),
        ("gpu", None, "The price of an hour is missing"),
        ("a=b", 1.0, "a=b"),
        ("x" * 81, 1.0, "not part of a device"),
    ],
)
def test_what_is_no_price_is_refused(priced: Context, name: str, usd: float | None, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        set_price(priced, name, usd, person=LOCAL)
    assert caught.value.remedy
    assert list_prices(priced) == []


def test_only_admins_set_prices(priced: Context) -> None:
    for role in ("lead", "engineer"):
        with pytest.raises(NotAllowed):
            set_price(priced, "gpu", 1.0, person=Person("x", "x", role))
        with pytest.raises(NotAllowed):
            remove_price(priced, "gpu", person=Person("x", "x", role))
