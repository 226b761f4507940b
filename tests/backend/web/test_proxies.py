"""Whose word on a visitor's address is believed."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from backend.web.proxies import TrustedProxies


def request(peer: str, *, forwarded: str = "", proto: str = "") -> Request:
    """A request as the server sees it."""
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    headers += [(b"x-forwarded-proto", proto.encode())] if proto else []
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/",
            "scheme": "http",
            "client": (peer, 1),
            "headers": headers,
            "server": ("h", 80),
        }
    )


@pytest.mark.parametrize(
    ("setting", "peer", "forwarded", "address"),
    [
        ("false", "127.0.0.1", "203.0.113.9", "127.0.0.1"),
        ("true", "127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("true", "203.0.113.1", "198.51.100.7", "203.0.113.1"),
        ("true", "127.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("true", "127.0.0.1", "192.168.1.7", "192.168.1.7"),
        ("10.0.0.1", "10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.2", "203.0.113.9", "10.0.0.2"),
        ("10.0.0.0/24", "10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.5", "203.0.113.9"),
        ("10.0.0.0/24", "10.0.0.1", "1.1.1.1, nonsense, 10.0.0.5", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_only_a_trusted_peer_sets_the_address_of_a_visitor(
    setting: str, peer: str, forwarded: str, address: str
) -> None:
    assert TrustedProxies.parse(setting).client_address(request(peer, forwarded=forwarded)) == address


def test_only_a_trusted_peer_sets_the_scheme_of_a_visitor() -> None:
    assert TrustedProxies.parse("10.0.0.1").is_https(request("10.0.0.1", proto="https"))
    assert not TrustedProxies.parse("10.0.0.1").is_https(request("10.0.0.2", proto="https"))
