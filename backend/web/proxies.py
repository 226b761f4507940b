"""Address and scheme of a visitor, also behind trusted proxies."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.requests import Request

Network = IPv4Network | IPv6Network
UNKNOWN = "unknown"
NEARBY = tuple(
    map(
        ip_network, ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10")
    )
)


@dataclass(frozen=True)
class TrustedProxies:
    """Peers whose `X-Forwarded-*` headers are believed: listed networks, or every loopback and private address."""

    networks: tuple[Network, ...] = ()
    nearby: bool = False

    @classmethod
    def parse(cls, setting: str) -> TrustedProxies:
        """Read ROUNDHOUSE_TRUST_PROXY: empty or `false` for none, `true` for near ones, or addresses and networks."""
        text = setting.strip().lower()
        if text in {"", "0", "false", "no", "off"}:
            return cls()
        if text in {"1", "true", "yes", "on"}:
            return cls(nearby=True)
        return cls(networks=tuple(ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()))

    def client_address(self, request: Request) -> str:
        """Return the visitor's address: the last in X-Forwarded-For that is not a trusted proxy, if the peer is."""
        peer = request.client.host if request.client else UNKNOWN
        if not self._trusts_peer(peer):
            return peer
        forwarded = [
            part.strip()
            for header in request.headers.getlist("x-forwarded-for")
            for part in header.split(",")
            if part.strip()
        ]
        for address in reversed(forwarded):
            if not _is_address(address):
                break  # earlier entries may be forged
            if not self._lists(address):
                return address
        return forwarded[0] if forwarded and all(self._lists(part) for part in forwarded) else peer

    def is_https(self, request: Request) -> bool:
        """Return whether the visitor's browser uses TLS, as reported by a trusted proxy, else by the connection."""
        peer = request.client.host if request.client else UNKNOWN
        forwarded = request.headers.get("x-forwarded-proto") if self._trusts_peer(peer) else None
        return (forwarded or request.url.scheme).split(",")[-1].strip() == "https"

    def _trusts_peer(self, peer: str) -> bool:
        return _is_in(peer, NEARBY if self.nearby else self.networks)

    def _lists(self, address: str) -> bool:
        return _is_in(address, self.networks)


def _is_in(text: str, networks: tuple[Network, ...]) -> bool:
    if not _is_address(text):
        return False
    address = ip_address(text)
    # an IPv4 peer of a server that listens on ::
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
