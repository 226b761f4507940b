"""Two networks on this computer with a cable between them that can be pulled. Needs root and iproute2.

The network of the tests themselves stays as it is: browsers of other tests break off what they load when it changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.workers.workers import process


def can_make_networks() -> bool:
    """Return whether this process may make network namespaces."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"try{os.getpid()}"
    is_made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if is_made:
        _ip("netns", "del", name)
    return is_made


@dataclass(frozen=True)
class Network:
    """One end of a cable: a namespace and its address there."""

    name: str
    address: str

    @property
    def within(self) -> list[str]:
        """The words before a command that is to run there."""
        return ["ip", "netns", "exec", self.name]

    def pull(self) -> None:
        """Pull the cable: what is sent is lost without a word."""
        _ip("-n", self.name, "link", "set", "cable", "down")

    def plug(self) -> None:
        """Plug the cable in again."""
        _ip("-n", self.name, "link", "set", "cable", "up")


@contextmanager
def two_networks() -> Iterator[tuple[Network, Network]]:
    """Two namespaces with a cable between them."""
    near, far = (Network(f"gang{os.getpid()}{end}", f"10.213.0.{end}") for end in (1, 2))
    for one in (near, far):
        _ip("netns", "add", one.name)
    try:
        _ip("-n", near.name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far.name)
        for one in (near, far):
            _ip("-n", one.name, "addr", "add", f"{one.address}/30", "dev", "cable")
            for device in ("cable", "lo"):
                _ip("-n", one.name, "link", "set", device, "up")
        yield near, far
    finally:
        for one in (near, far):
            _ip("netns", "del", one.name)


@contextmanager
def forwarded(network: Network, port: int, socket_file: str) -> Iterator[None]:
    """Listen on a network's address for a server of this computer with a socket file."""
    command = [*network.within, sys.executable, "-m", "tests.support.workers.forwarder"]
    with process([*command, network.address, str(port), socket_file]):
        yield


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
