"""Run the gateway on the socket that its supervisor holds: `python -m backend.gateway.serve`, with the socket as standard input.

The supervisor keeps the socket open while the gateway is restarted, so new connections wait for it instead of being refused.
"""

from __future__ import annotations

import socket

import uvicorn

DRAIN_S = 10
KEEP_ALIVE_S = 75  # longer than proxies (60 s) and clients keep idle connections, so that none is closed as a request comes


def main() -> None:
    """Serve until a signal arrives."""
    # Family and protocol are read from the descriptor; asyncio switches Nagle's algorithm off only for a socket that states them.
    listener = socket.socket(fileno=0)
    config = uvicorn.Config(
        "backend.gateway.main:app",
        http="h11",  # httptools, which uvicorn prefers where it is installed, reads heads of any size into memory
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
