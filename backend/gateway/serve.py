"""Run the gateway: `python -m backend.gateway.serve` on the socket that its supervisor holds, as standard input, or
with `HOST PORT`.

The supervisor keeps the socket open while the gateway is restarted, so new connections wait for it instead of being
refused.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn

from backend.infra.http_server import ClientTimeouts, Guard, connections_for, guarded, raise_file_limit

DRAIN_S = 10
KEEP_ALIVE_S = 75
"""Longer than proxies (60 s) and clients keep idle connections, so that none is closed as a request comes."""
BACKLOG = 1024


def server_of(app: Any, *, patience: ClientTimeouts = ClientTimeouts(), most: int | None = None) -> uvicorn.Server:
    """Return the server of a gateway's app: at most `most` connections (None: as many as the process may open files
    for), half of them from one address.
    """
    most = connections_for(raise_file_limit()) if most is None else most
    config = uvicorn.Config(
        app,
        # httptools, which uvicorn prefers where it is installed, reads heads of any size into memory
        http=guarded(Guard(most, max(1, most // 2), patience)),
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    return uvicorn.Server(config)


def main() -> None:
    """Serve until a signal arrives."""
    if len(sys.argv) == 3:
        family, kind, protocol, _, address = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_STREAM)[
            0
        ]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    else:
        # Family and protocol are read from the descriptor; asyncio switches Nagle's algorithm off only for a socket
        # that states them.
        listener = socket.socket(fileno=0)
    server_of("backend.gateway.main:app").run(sockets=[listener])


if __name__ == "__main__":
    main()
