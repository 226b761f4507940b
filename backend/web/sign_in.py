"""Sign-in routes, and the middleware that protects every HTTP response of the pages' server.

Plain HTML, without dependencies on the pages.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from enum import Enum
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from backend.errors import NotAllowed
from backend.services.context import Context, Person
from backend.services.people.sessions import (
    COOKIE,
    COOKIE_AGE_S,
    DEVICE_AGE_S,
    DEVICE_COOKIE,
    TooManyAttempts,
    end_sessions,
    person_from_cookie,
    sign_in,
    why_ended,
)
from backend.web.proxies import TrustedProxies

CSP = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "frame-src 'self' blob: data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
OPEN_PATHS = ("/auth/", "/healthz", "/ballot", "/_stcore/", "/static/", "/assets/", "/component/", "/favicon")
UPLOADS = (  # Streamlit accepts uploads from any session, without sign-in, so the gate requires one
    "/_stcore/upload_file/"
)

MAX_FORM_BYTES = 4096
NO_PROXIES = TrustedProxies()

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sign in · Roundhouse</title><style>
:root {{ color-scheme: light dark;
--bg:#fdfcfa; --fg:#22201c; --line:#e3ddd2; --brand:#b4471f; --on:#fff; --soft:#f4f1eb }}
@media (prefers-color-scheme: dark) {{ :root {{
--bg:#171614; --fg:#ece8e1; --line:#37332d; --brand:#dd784a; --on:#171614; --soft:#211f1c }} }}
body {{ margin:0; min-height:100vh; display:grid; place-items:center;
background:var(--bg); color:var(--fg); font:16px/1.5 system-ui,sans-serif }}
form {{ width:min(26rem,92vw); box-sizing:border-box; padding:2rem;
border:1px solid var(--line); border-radius:.7rem; background:var(--soft) }}
h1 {{ font-size:1.35rem; margin:0 0 1.2rem }} label {{ display:block; margin:.8rem 0 .25rem; font-size:.9rem }}
input {{ width:100%; box-sizing:border-box; padding:.55rem .7rem; border:1px solid var(--line);
border-radius:.45rem; background:var(--bg); color:var(--fg); font:inherit }}
button {{ margin-top:1.3rem; width:100%; padding:.6rem; border:0; border-radius:.45rem;
background:var(--brand); color:var(--on); font:inherit; font-weight:600; cursor:pointer }}
p {{ margin:0; color:var(--brand); font-size:.92rem }} small {{ display:block; margin-top:1.3rem }}
</style></head><body><form method="post" action="/auth/login"><h1>Roundhouse</h1>{error}
<input type="hidden" name="next" value="{next}">
<label for="name">Name</label><input id="name" name="name" autocomplete="username" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button type="submit">Sign in</button>
<small>Lost your password? An admin sets a new one under <i>People and keys</i>; on the server,
<code>roundhouse user password NAME</code> does.</small></form></body></html>"""


def sign_in_routes(get_context: Callable[[], Context], *, proxies: TrustedProxies = NO_PROXIES) -> list[Route]:
    """Return /auth/login and /auth/logout."""

    async def show(request: Request) -> Response:
        reason = await run_in_threadpool(why_ended, get_context(), request.cookies.get(COOKIE))
        return _page(_safe_next(request.query_params.get("next", "/")), error=reason)

    async def submit(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:  # open to everyone, so its size is limited
                return _page("/", error="This form is too large.", status=413)
        form = {
            key: values[0] for key, values in parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).items()
        }
        target = _safe_next(form.get("next", "/"))
        try:
            cookies = await run_in_threadpool(
                sign_in,
                get_context(),
                form.get("name", ""),
                form.get("password", ""),
                address=proxies.client_address(request),
                device=request.cookies.get(DEVICE_COOKIE),
            )
        except TooManyAttempts as error:
            answer = _page(target, error=str(error), status=429)
            answer.headers["retry-after"] = str(math.ceil(error.retry_after_s))
            return answer
        except NotAllowed as error:
            return _page(target, error=str(error), status=401)
        response = RedirectResponse(target, status_code=303)
        for name, value, age_s in (
            (COOKIE, cookies.session, COOKIE_AGE_S),
            (DEVICE_COOKIE, cookies.device, DEVICE_AGE_S),
        ):
            response.set_cookie(
                name, value, max_age=age_s, httponly=True, samesite="lax", secure=proxies.is_https(request)
            )
        return response

    async def leave(request: Request) -> Response:
        person = await run_in_threadpool(person_from_cookie, get_context(), request.cookies.get(COOKIE))
        if person is not None and person.id is not None and request.headers.get("sec-fetch-site") != "cross-site":
            await run_in_threadpool(end_sessions, get_context(), person.id, person=person)
        response = RedirectResponse("/auth/login", status_code=303)
        response.delete_cookie(COOKIE)
        return response

    return [
        Route("/auth/login", show, methods=["GET"]),
        Route("/auth/login", submit, methods=["POST"]),
        Route("/auth/logout", leave, methods=["GET"]),
    ]


class _Page(Enum):
    """State of an open page: drawn for the present person; for an earlier one, whose run may still end; or being drawn
    for the present one.
    """

    PRESENT = "present"
    OUTDATED = "outdated"
    BEGUN = "begun"


class SignInGate:
    """Redirects a browser without a valid cookie to the sign-in page, and ends open pages of an account that lost
    access. The page script checks the visitor only when it runs from the top; fragments and buttons inside them keep
    the person of the last full run. So every message of a signed-in visitor is checked here.
    """

    def __init__(self, app: ASGIApp, *, get_context: Callable[[], Context]) -> None:
        self.app, self.get_context = app, get_context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and self.get_context().sign_in:
            await self._watch(scope, receive, send)
        elif (
            scope["type"] == "http"
            and not _is_open(scope["path"])
            and self.get_context().sign_in
            and await self._who(scope) is None
        ):
            await _ask_to_sign_in(scope)(scope, receive, send)
        else:  # for a deep link the browser first probes PATH/_stcore/..., and needs a 404 to fall back to the root
            await self.app(scope, receive, send)

    async def _who(self, scope: Scope) -> Person | None:
        cookie = HTTPConnection(scope).cookies.get(COOKIE)
        return await run_in_threadpool(person_from_cookie, self.get_context(), cookie)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the script from the top at the first message after the account was disabled, signed out or given another
        role, whatever the message asks for; values of widgets and calls of fragments count again once it has run.
        """
        person, page = await self._who(scope), _Page.PRESENT

        async def receive_for_present_person() -> Message:
            nonlocal person, page
            while True:
                message = await receive()
                if message["type"] != "websocket.receive":
                    return message
                if person is not None and (present := await self._who(scope)) != person:
                    person, page = present, _Page.OUTDATED
                if page is _Page.PRESENT:
                    return message
                if (run := _run_from_the_top(message)) is not None:
                    return run

        async def send_and_note_runs(message: Message) -> None:
            nonlocal page
            if page is not _Page.PRESENT:
                sent = ForwardMsg.FromString(message.get("bytes") or b"")
                if sent.HasField("new_session"):
                    page = _Page.BEGUN
                elif page is _Page.BEGUN and _ends_a_whole_run(sent):
                    page = _Page.PRESENT
            await send(message)

        await self.app(scope, receive_for_present_person, send_and_note_runs)


def _ends_a_whole_run(sent: ForwardMsg) -> bool:
    return bool(sent.HasField("script_finished") and sent.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY)


def _run_from_the_top(message: Message) -> Message | None:
    """Return a message to Streamlit's server that asks for the page alone; None if it asks for no run or is none."""
    try:
        request = BackMsg.FromString(message.get("bytes") or b"")
    except Exception:  # protobuf's DecodeError, which Streamlit does not name
        return None
    if not request.HasField("rerun_script"):
        return None
    for field in ("widget_states", "fragment_id", "is_auto_rerun"):
        request.rerun_script.ClearField(field)
    return {"type": "websocket.receive", "bytes": request.SerializeToString()}


class SecurityHeaders:
    """Adds security headers to every response: pages load nothing from elsewhere, whatever a network writes."""

    HEADERS = (
        (b"content-security-policy", CSP.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.HEADERS]
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _ask_to_sign_in(scope: Scope) -> Response:
    if "text/html" not in Request(scope).headers.get("accept", "text/html"):
        return PlainTextResponse("Sign in first.", status_code=401)
    query = f"?{scope['query_string'].decode('latin-1')}" if scope.get("query_string") else ""
    return RedirectResponse(f"/auth/login?next={quote(scope['path'] + query)}", status_code=303)


def _is_open(path: str) -> bool:
    return UPLOADS not in path and (path.startswith(OPEN_PATHS) or "/_stcore/" in path)


def _page(target: str, *, error: str = "", status: int = 200) -> HTMLResponse:
    shown = f"<p role='alert'>{html.escape(error)}</p>" if error else ""
    return HTMLResponse(PAGE.format(error=shown, next=html.escape(target)), status_code=status)


def _safe_next(target: str) -> str:
    """Only a path of this site: `//host` and `/\\host` would leave it."""
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/"
