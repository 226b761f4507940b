"""Prices of device-hours, by device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

DeviceKind = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class DevicePrices:
    """US dollars for an hour of one device. `named` holds parts of device names, such as `H100`, and the kinds `gpu`
    and `cpu`; `default` holds for every other device. On the CPU a job counts as one device.
    """

    default: float | None = None
    named: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def are_set(self) -> bool:
        """Return whether any price is set."""
        return self.default is not None or bool(self.named)

    def hour_usd(self, name: str, kind: DeviceKind) -> float | None:
        """Return the price of a device: of the longest listed part of its name, else of its kind, else the default."""
        parts = [part for part in self.named if part.lower() not in {"gpu", "cpu"} and part.lower() in name.lower()]
        if parts:
            return self.named[max(parts, key=len)]
        return next((price for part, price in self.named.items() if part.lower() == kind), self.default)


def parse_prices(text: str) -> dict[str, float]:
    """Read `H100=2.5,cpu=0.04`. Raises ValueError that names the part at fault."""
    prices: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, price = (piece.strip() for piece in part.partition("="))
        try:
            value = float(price)
        except ValueError:
            value = -1.0
        if not name or not equals or not 0 <= value < float("inf"):
            raise ValueError(
                f"{part!r} is not a price: give DEVICE=DOLLARS with commas between, such as H100=2.5,cpu=0.04"
            )
        prices[name] = value
    return prices
