"""Warm up the pages' server before its first visitor, and tell its pages early what they need."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import re
import socket
import threading
from collections.abc import Collection
from functools import lru_cache
from importlib.resources import files

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.services.browser_assets import plotly_bundle, plotly_url

CURVE_PAGES = frozenset({"/run"})
ROOM = """<script>(() => {
const root = document.documentElement, acted = () => root.classList.remove("rr-opening")
root.classList.add("rr-opening")
for (const kind of ["pointerdown", "keydown", "wheel", "touchstart"]) {
  addEventListener(kind, acted, {once: true, capture: true, passive: true})
}
setTimeout(acted, 20_000) // a widget that never comes hides what is below it no longer
try {
  const kept = localStorage, height = sessionStorage.getItem("roundhouseHealth")
  const isAlone = location.pathname.endsWith("/ballot") && !kept.getItem("stSidebarSectionsState-")
  const isFolded = kept.getItem("stSidebarCollapsed-") === "true"
  const width = Number.parseInt(kept.getItem("sidebarWidth"), 10)
  if (!isAlone && !isFolded) root.style.setProperty("--rr-sidebar", width > 0 ? `${width}px` : "18.75rem")
  if (height) { root.style.setProperty("--rr-health", height); root.classList.add("rr-outage") }
} catch {} // a browser that keeps nothing
})()</script>"""
"""Reserves the room of the sidebar and of an outage's line as this browser had them last, and tells when the visitor
first acts; for `page.css`.
"""
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
WIDGETS = [
    "BidiComponent",
    "Button",
    "ButtonGroup",
    "Checkbox",
    "Html",
    "LinkButton",
    "Metric",
    "NumberInput",
    "PageLink",
    "Selectbox",
    "TextArea",
    "TextInput",
]
STATIC_IMPORT = re.compile(r'from"\./([^"]+\.js)"')
LARGEST_FILE = 120_000
"""Bytes of a file that is loaded before it is known to be needed."""
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
    `style`, so that nothing moves when the theme and the layout arrive. Streamlit's files for the usual widgets, and
    plotly.js where a page begins with curves: they load while the page's script runs.
    """

    def __init__(self, app: ASGIApp, *, addresses: Collection[str], style: str = "") -> None:
        self.app, self.addresses, self.style = app, frozenset(addresses), style

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
            page = bytes(body).replace(b"</head>", f"{self._head(path)}</head>".encode(), 1)
            headers = MutableHeaders(raw=list(head["headers"]))
            del headers["etag"], headers["last-modified"]
            if "content-length" in headers and body:
                headers["content-length"] = str(len(page))
            await send({**head, "headers": headers.raw})
            await send({**message, "body": page})

        plain = [(name, value) for name, value in scope["headers"] if name not in CONDITIONS]
        await self.app({**scope, "headers": plain}, receive, send_with_scripts)

    def _head(self, path: str) -> str:
        charts = f'<script async src="{plotly_url()}" onerror="this.remove()"></script>' if path in CURVE_PAGES else ""
        return f"{SERVER_ADDRESS}{ONE_STEP_BACK}{ROOM}<style>{self.style}</style>{widget_files()}{charts}"


@lru_cache(maxsize=1)
def widget_files() -> str:
    """Return links that load Streamlit's files of the usual widgets early. Without them each first widget of its kind
    is drawn as a grey line until its file has come, and what is below it moves.
    """
    folder = files("streamlit") / "static/static/js"
    texts = {file.name: file for file in folder.iterdir() if file.name.endswith(".js")}
    index = (files("streamlit") / "static/index.html").read_text()
    names: dict[str, None] = {}
    waiting = [name for widget in WIDGETS for name in texts if name.startswith(f"{widget}.")]
    while waiting:
        name = waiting.pop()
        if name in names or name in index or len(text := texts[name].read_text()) > LARGEST_FILE:
            continue
        names[name] = None
        waiting += STATIC_IMPORT.findall(text)
    return "".join(f'<link rel="modulepreload" crossorigin href="./static/js/{name}">' for name in names)
