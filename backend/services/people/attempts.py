"""Rate limits on wrong passwords by address and by name, which do not lock out an account's owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network

from backend.domain.names import name_key
from backend.errors import NotAllowed

WINDOW_S = 300.0
PAIR_LIMIT = 8
"""Wrong passwords for one name from one address, and from one device that has signed in to the account before."""
ADDRESS_LIMIT = 40
"""Wrong passwords from one address for any names."""
NAME_LIMIT = 200
"""Wrong passwords for one name from all unknown devices together: a limit on guessing from many addresses."""
MAX_REMEMBERED = 1000

Key = tuple[str, ...]


@dataclass
class Attempts:
    """Times of unsuccessful attempts, in this process's memory. `clock` returns seconds."""

    clock: Callable[[], float] = time.monotonic
    moments: dict[Key, list[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begin(self, *, name: str, address: str, device: str | None = None) -> tuple[Key, ...]:
        """Count an attempt before its password is checked, so that parallel attempts can't exceed the limit. A device
        that has signed in to the account before is counted separately, so that others' failures don't lock its owner
        out. Returns the counters for `succeed`. Raises NotAllowed when one of them is full.
        """
        limits = _limits(name_key(name)[:80], _network(address), device)
        now = self.clock()
        with self._lock:
            if len(self.moments) > MAX_REMEMBERED:
                self.moments = {key: moments for key, moments in self.moments.items() if now - moments[-1] < WINDOW_S}
            recent = {
                key: [moment for moment in self.moments.get(key, []) if now - moment < WINDOW_S] for key in limits
            }
            if any(len(moments) >= limits[key] for key, moments in recent.items()):
                raise NotAllowed("Too many failed attempts.", remedy=f"Try again in {int(WINDOW_S / 60)} minutes.")
            for key, moments in recent.items():
                self.moments[key] = [*moments, now]
        return tuple(limits)

    def succeed(self, keys: tuple[Key, ...]) -> None:
        """Remove a successful attempt, and the failures of the same name from the same place."""
        with self._lock:
            for key in keys:
                left = [] if key[0] in {"pair", "device"} else self.moments.get(key, [])[:-1]
                if left:
                    self.moments[key] = left
                else:
                    self.moments.pop(key, None)


def _limits(name: str, address: str, device: str | None) -> dict[Key, int]:
    if device is not None:
        return {("device", device): PAIR_LIMIT}
    return {("pair", address, name): PAIR_LIMIT, ("address", address): ADDRESS_LIMIT, ("name", name): NAME_LIMIT}


def _network(address: str) -> str:
    """Return a visitor's network: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:80]
    return str(ip_network(f"{parsed}/64", strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)
