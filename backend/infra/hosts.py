"""Check Host and Origin of requests to the HTTP servers, as ASGI middleware around every route.

A web page can point its own name at 127.0.0.1 (DNS rebinding) and then read this server as its own origin: `Host` and
`Origin` agree on the foreign name. So requests under unknown names are refused. An IP address in `Host` can't be
rebound: the browser connected to that address.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

Refusal = Callable[[int, str], "ASGIApp"]


@dataclass(frozen=True)
class HostRules:
    """Names that a server answers to, and origins that may open a websocket or send a form with another `Host`.

    `names` may hold `*.example.org` for every name below a domain and `*` for every name. `any_address` allows every IP
    address. Loopback names and addresses are always allowed.
    """

    names: frozenset[str] = frozenset()
    any_address: bool = False
    origins: frozenset[str] = frozenset()

    def allows(self, host: str) -> bool:
        """Return whether a `Host` header is one of this server's."""
        authority = parse_authority(host)
        if authority is None:
            return False
        name = authority[0]
        if is_loopback_host(name) or "*" in self.names or name in self.names:
            return True
        if _is_address(name):
            return self.any_address
        return any(pattern.startswith("*.") and name.endswith(pattern[1:]) for pattern in self.names)

    def allows_origin(self, origin: str, host: str) -> bool:
        """Return whether a page of this origin may use the server at `host`, ports included."""
        if origin.lower() in self.origins:
            return True
        scheme, _, rest = origin.partition("://")
        ours, theirs = parse_authority(host), parse_authority(rest)
        default = DEFAULT_PORTS.get(scheme.lower())
        if ours is None or theirs is None or default is None:
            return False
        return ours[0] == theirs[0] and (ours[1] or default) == (theirs[1] or default)


def make_host_rules(*, listens_on: str, names: Iterable[str], urls: Iterable[str | None]) -> HostRules:
    """Return the rules of a server from its listen address, its public URLs and the operator's names.

    A server that listens on every address answers to every IP address and to this machine's own name.
    """
    public = [url for url in urls if url]
    everywhere = listens_on in WILDCARDS
    machine = socket.gethostname().lower()
    own = {machine, f"{machine.partition('.')[0]}.local"} if everywhere else {listens_on}
    hosts = {urlsplit(url).hostname or "" for url in public}
    return HostRules(
        names=frozenset(
            name.strip().strip("[]").lower().rstrip(".") for name in (*own, *hosts, *names) if name.strip()
        ),
        any_address=everywhere,
        origins=frozenset(_origin(url) for url in public),
    )


def parse_authority(value: str) -> tuple[str, int | None] | None:
    """Return name (lower case, without brackets or a final dot) and port of `name:port`, or None for anything else."""
    parts = AUTHORITY.fullmatch(value)
    if parts is None:
        return None
    return parts[1].strip("[]").lower().rstrip("."), int(parts[2]) if parts[2] else None


def is_loopback_host(name: str) -> bool:
    """Return whether a name or address always means this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def reachable_host(listens_on: str) -> str:
    """Return the host to put into links: this machine's network address where a server listens on every address."""
    if listens_on not in WILDCARDS:
        return f"[{listens_on}]" if ":" in listens_on else "127.0.0.1" if listens_on == "localhost" else listens_on
    family, target = (socket.AF_INET, "192.0.2.1") if listens_on != "::" else (socket.AF_INET6, "2001:db8::1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))  # selects the outgoing address; connecting a datagram socket sends nothing
            address = str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
    if ip_address(address).is_loopback:
        return socket.gethostname()
    return f"[{address}]" if ":" in address else address


def machine_name(host: str) -> str:
    """Return a machine's name as readers on this one know it: `this machine`, or the name of another."""
    return "this machine" if host == socket.gethostname() else host


class HostGuard:
    """Refuses requests and websockets under a foreign name, and websockets and forms of another origin's page."""

    def __init__(
        self, app: ASGIApp, *, rules: HostRules, check_origin: bool = True, refuse: Refusal | None = None
    ) -> None:
        self._app, self._rules, self._check_origin = app, rules, check_origin
        self._refuse = refuse or _plain_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        hosts = _headers(scope, b"host")
        if len(hosts) != 1 or not self._rules.allows(hosts[0]):
            await self._answer(400, _wrong_host(hosts), scope, receive, send)
            return
        origins = _headers(scope, b"origin")
        sends = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if self._check_origin and sends and not all(self._rules.allows_origin(origin, hosts[0]) for origin in origins):
            await self._answer(403, "This request was sent by a page of another site.", scope, receive, send)
            return
        if scope["type"] == "websocket" and origins:
            # Streamlit compares with `Host`, which a proxy may have changed, and otherwise asks an internet server for
            # this machine's
            # public address. The origin has been checked here, so it is replaced by this server's own.
            headers = [(name, value) for name, value in scope["headers"] if name != b"origin"]
            scope = {**scope, "headers": [*headers, (b"origin", f"http://{hosts[0]}".encode("latin-1"))]}
        await self._app(scope, receive, send)

    async def _answer(self, status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
        else:
            await self._refuse(status, reason)(scope, receive, send)


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _wrong_host(hosts: list[str]) -> str:
    authority = parse_authority(hosts[0]) if len(hosts) == 1 else None
    if authority is None:
        return "The request names no valid host."
    return f"This server does not answer to the name {authority[0]}. Add it to ROUNDHOUSE_ALLOWED_HOSTS if it is yours."


def _plain_refusal(status: int, reason: str) -> ASGIApp:
    from starlette.responses import PlainTextResponse  # only servers need it

    return PlainTextResponse(reason, status_code=status)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
