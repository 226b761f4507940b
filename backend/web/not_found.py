"""Answer 404 for unknown page addresses, for which Streamlit serves the page application."""

from __future__ import annotations

import difflib
import html
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OTHER_HTML = ("/auth/", "/help/", "/_stcore/", "/component/", "/media/")
"""Addresses whose HTML is not the page application."""

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Not found · Roundhouse</title><style>
:root {{ color-scheme: light dark; --bg:#fdfcfa; --fg:#22201c; --line:#e3ddd2; --brand:#9a3b18; --soft:#f4f1eb }}
@media (prefers-color-scheme: dark) {{ :root {{
--bg:#171614; --fg:#ece8e1; --line:#37332d; --brand:#f0a27c; --soft:#211f1c }} }}
body {{ margin:0; min-height:100vh; display:grid; place-items:center; background:var(--bg); color:var(--fg);
font:16px/1.5 system-ui,sans-serif }}
main {{ width:min(30rem,88vw); padding:2rem; border:1px solid var(--line); border-radius:.7rem;
background:var(--soft); overflow-wrap:anywhere }}
h1 {{ font-size:1.35rem; margin:0 0 .6rem }} p {{ margin:.4rem 0 }} a {{ color:var(--brand) }}
</style></head><body><main><h1>There is no such page</h1><p>Nothing is at <b>{path}</b>.</p>{near}
<p><a href="/">Back to the overview</a></p></main></body></html>"""


class UnknownPages:
    """Answer 404 where Streamlit would serve the page application for an unknown address."""

    def __init__(self, app: ASGIApp, *, addresses: Mapping[str, str]) -> None:
        self.app, self.addresses = app, addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or (path.rstrip("/") or "/") in self.addresses or path.startswith(OTHER_HTML):
            await self.app(scope, receive, send)
            return
        is_replaced = False

        async def send_or_replace(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and _is_page(message):
                is_replaced = True
                await not_found_page(path, self.addresses)(scope, receive, send)
            elif not is_replaced:
                await send(message)

        await self.app(scope, receive, send_or_replace)


def not_found_page(path: str, addresses: Mapping[str, str]) -> HTMLResponse:
    """Return the page with a link back, and the address that was probably meant, by a word of its title or its own."""
    address = path.lower().strip("/")
    titled = [other for other, title in addresses.items() if address in title.lower().split()]
    near = titled[:1] or difflib.get_close_matches(f"/{address}", sorted(addresses), n=1, cutoff=0.6)
    link = "".join(f'<p>Did you mean <a href="{html.escape(meant)}">{html.escape(meant)}</a>?</p>' for meant in near)
    return HTMLResponse(PAGE.format(path=html.escape(path), near=link), status_code=404)


def _is_page(start: Message) -> bool:
    headers = Headers(raw=list(start.get("headers", [])))
    return (
        start["status"] == 200
        and headers.get("content-type", "").startswith("text/html")
        and "content-disposition" not in headers
    )
