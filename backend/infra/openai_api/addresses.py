"""Addresses of other servers: those that are never called, and those that are one server by two names."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

from backend.domain.serving.upstream import is_forbidden
from backend.errors import InvalidInput, Unavailable

REFUSED_ADDRESS = "its name resolves to a link-local, metadata or multicast address"


def refuse_address(address: str) -> None:
    """Raise OSError for an address that is never called."""
    if is_forbidden(ipaddress.ip_address(address.partition("%")[0])):
        raise OSError(REFUSED_ADDRESS)


def refuse_host(url: str) -> None:
    """Raise InvalidInput for a host whose address is never called, Unavailable for one that does not resolve."""
    parts = urlsplit(url)
    try:
        addresses = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"The host {parts.hostname} is not known here.", remedy="Check the address.") from error
    try:
        for address in addresses:
            refuse_address(str(address[4][0]))
    except OSError as error:
        raise InvalidInput(f"{parts.hostname} is not called: {REFUSED_ADDRESS}.", field="url") from error


def is_same_server(url: str, own: str) -> bool:
    """Return whether two addresses are one port of one machine, whatever their names. A proxy in front hides it."""
    first, second = urlsplit(url), urlsplit(own)
    return _port(first) == _port(second) and bool(_machines(first) & _machines(second))


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _machines(parts: SplitResult) -> set[str]:
    """Return the addresses of a host, empty for one that does not resolve; those of this machine are one."""
    try:
        entries = socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {"here" if _is_here(family, str(address[0])) else str(address[0]) for family, _, _, _, address in entries}


def _is_here(family: socket.AddressFamily, address: str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))  # succeeds for addresses of this machine alone
        except OSError:
            return False
    return True
