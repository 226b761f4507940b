"""The pages' server: `streamlit run app.py`. Puts script, routes and middleware together; no logic."""

from __future__ import annotations

import gc

gc.disable()  # a fifth of the time of the imports below; the warm-up switches it on again

# ruff: noqa: E402
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from backend.bootstrap import get_context, host_rules
from backend.infra.hosts import HostGuard
from backend.infra.processes import trim_memory_beside
from backend.services.health import HEALTH
from backend.services.serving.chat.generation import ANSWERS
from backend.settings import DOCS, SITE, Settings
from backend.web.ballots import ballot_routes
from backend.web.chat import chat_routes
from backend.web.downloads import download_routes
from backend.web.help import help_routes
from backend.web.live import live_routes
from backend.web.not_found import UnknownPages
from backend.web.proxies import TrustedProxies
from backend.web.server import PageHeads, send_small_answers_at_once, warm_up
from backend.web.sign_in import SecurityHeaders, SignInGate, sign_in_routes
from pages.components import routes


@asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[dict[str, Any]]:
    """Open the database before the first request; import what pages need beside it, and send what waits for the store.
    Answers on their way are stored at the end.
    """
    ctx = get_context()
    HEALTH.start(ctx)
    ctx.artifacts.start_sending()
    send_small_answers_at_once()
    warm_up("pages.components")
    trim_memory_beside()
    yield {}
    HEALTH.close()
    await run_in_threadpool(ANSWERS.close)


settings = Settings()
PAGE_STYLE = (Path(routes.__file__).parent / "browser/page.css").read_text()
app = st.App(
    Path(routes.__file__).parents[1] / "shell.py",
    lifespan=lifespan,
    routes=[
        *live_routes(get_context),
        *chat_routes(get_context),
        *ballot_routes(get_context, proxies=TrustedProxies.parse(settings.trust_proxy)),
        *download_routes(get_context),
        *help_routes(site=SITE, markdown=DOCS),
        *sign_in_routes(get_context, proxies=TrustedProxies.parse(settings.trust_proxy)),
    ],
    middleware=[
        Middleware(SecurityHeaders),
        Middleware(HostGuard, rules=host_rules(settings)),
        Middleware(SignInGate, get_context=get_context),
        Middleware(UnknownPages, addresses=routes.addresses()),
        Middleware(PageHeads, addresses=routes.addresses(), style=PAGE_STYLE),
    ],
)
