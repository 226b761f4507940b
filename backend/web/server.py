"""Warm up the pages' server before its first visitor, and tell its pages early what they need."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import socket
import threading
from collections.abc import Collection

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.services.browser_assets import plotly_bundle, plotly_url

CURVE_PAGES = frozenset({"/run"})
SERVER_ADDRESS = '<script>window.__streamlit = {BACKEND_BASE_URL: location.origin + "/"}</script>'
ONE_STEP_BACK = """<script>(() => {
const push = history.pushState
let half = null
history.pushState = function (state, title, url) {
  const from = new URL(location.href), to = new URL(url ?? "", from)
  const isOther = from.pathname !== to.pathname
  const completes = isOther && half === from.href && from.search === to.search
  ;(completes ? history.replaceState : push).call(history, state, title, url)
  half = isOther ? null : to.href
  if (half) setTimeout(() => { if (half === to.href) half = null }, 3000)
}
})()</script>"""
"""Streamlit's `switch_page` adds two entries to the browser's history: the old page with the new parameters, then the
new page. Make them one, so that going back leads to where the visitor was.
"""
CONDITIONS = (b"accept-encoding", b"if-none-match", b"if-modified-since")


def send_small_answers_at_once() -> None:
    """Disable Nagle's algorithm for every connection that this process accepts.

    Streamlit makes its socket without naming a protocol, and asyncio then leaves the algorithm on: a second small
    answer on a connection waits 40 ms for the browser's acknowledgement. A page is made of sixty files. Connections
    inherit the options of the listening socket.
    """
    for candidate in gc.get_objects():
        if (
            issubclass(type(candidate), socket.socket)
            and candidate.family in {socket.AF_INET, socket.AF_INET6}
            and _listens(candidate)
        ):
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def warm_up(components: str) -> threading.Thread:
    """Import every module of the pages and compress plotly.js, in a background thread. Then freeze these objects for
    the garbage collector, which the caller has disabled, and enable it.
    """
    thread = threading.Thread(target=_warm_up, args=(components,), name="warm-up", daemon=True)
    thread.start()
    return thread


def _warm_up(components: str) -> None:
    try:
        for module in pkgutil.walk_packages(importlib.import_module(components).__path__, f"{components}."):
            importlib.import_module(module.name)
        plotly_bundle()
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def _listens(sock: socket.socket) -> bool:
    return (
        sock.fileno() >= 0
        and sock.type is socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    )


class PageHeads:
    """Adds to the head of the pages at these addresses what a browser needs early.

    The server's address: Streamlit's own guess asks for two files below the page's address first, which are not there.
    Where a page begins with curves also plotly.js, which loads while the page's script runs.
    """

    def __init__(self, app: ASGIApp, *, addresses: Collection[str]) -> None:
        self.app, self.addresses = app, frozenset(addresses)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").rstrip("/") or "/"
        if scope["type"] != "http" or path not in self.addresses:
            await self.app(scope, receive, send)
            return
        head: Message = {}
        body = bytearray()

        async def send_with_scripts(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = bytes(body).replace(b"</head>", f"{_scripts(path)}</head>".encode(), 1)
            headers = MutableHeaders(raw=list(head["headers"]))
            del headers["etag"], headers["last-modified"]
            if "content-length" in headers and body:
                headers["content-length"] = str(len(page))
            await send({**head, "headers": headers.raw})
            await send({**message, "body": page})

        plain = [(name, value) for name, value in scope["headers"] if name not in CONDITIONS]
        await self.app({**scope, "headers": plain}, receive, send_with_scripts)


def _scripts(path: str) -> str:
    charts = f'<script async src="{plotly_url()}" onerror="this.remove()"></script>' if path in CURVE_PAGES else ""
    return SERVER_ADDRESS + ONE_STEP_BACK + charts
