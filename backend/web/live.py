"""Routes polled by the browser in addition to Streamlit's: small updates behind signed tokens, without a script run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backend.errors import InvalidInput, NotAllowed, RoundhouseError
from backend.services.browser_assets import PLOTLY_ROUTE, plotly_bundle
from backend.services.context import LOCAL, Context
from backend.services.health import HEALTH
from backend.services.metrics.curves import CurveCache, stream_csv
from backend.services.people.sessions import COOKIE, person_from_cookie
from backend.services.search import search
from backend.services.training.live import (
    RunState,
    StateCache,
    active_run_ids,
    queue_counts,
    run_states,
    runs_of_token,
)
from backend.services.training.views import list_sample_steps, list_samples
from backend.web.replies import NEVER_STORED, reply

FOREVER = "public, max-age=31536000, immutable"
MAX_RUNS = 60


def live_routes(get_context: Callable[[], Context]) -> list[Route]:
    """Return the routes; the context is created at the first request."""
    curves, states = CurveCache(), StateCache()

    def health(_request: Request) -> Response:
        outages = [dataclasses.asdict(outage) for outage in HEALTH.outages()]
        return reply({"status": "failing" if outages else "ok", "outages": outages})

    def points(request: Request) -> Response:
        return _answer(lambda: _points(get_context(), curves, states, request))

    def table(request: Request) -> Response:
        return _table(get_context(), request)

    def samples(request: Request) -> Response:
        return _answer(lambda: _samples(get_context(), request))

    def overview(request: Request) -> Response:
        return _answer(lambda: _overview(get_context(), request))

    def search_hits(request: Request) -> Response:
        return _answer(lambda: _search(get_context(), request))

    return [
        Route("/healthz", health),
        Route("/live/points", points),
        Route("/live/points.csv", table),
        Route("/live/samples", samples),
        Route("/live/overview", overview),
        Route("/live/search", search_hits),
        Route(PLOTLY_ROUTE, plotly_asset),
    ]


def plotly_asset(request: Request) -> Response:
    """Serve plotly.js, compressed once in memory and cached by browsers without limit: its address has its hash."""
    bundle = plotly_bundle()
    headers = {"cache-control": FOREVER, "etag": f'"{bundle.digest}"', "vary": "accept-encoding"}
    if request.headers.get("if-none-match") == f'"{bundle.digest}"':
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(bundle.packed, media_type="text/javascript", headers={**headers, "content-encoding": "gzip"})
    return Response(bundle.plain, media_type="text/javascript", headers=headers)


def _answer(body: Callable[[], str]) -> Response:
    try:
        return Response(body(), media_type="application/json", headers=NEVER_STORED)
    except NotAllowed as error:
        return JSONResponse({"error": str(error)}, status_code=403, headers=NEVER_STORED)
    except RoundhouseError as error:
        return JSONResponse({"error": str(error)}, status_code=422, headers=NEVER_STORED)


def _points(ctx: Context, curves: CurveCache, known_states: StateCache, request: Request) -> str:
    """Answer /live/points?token=...&after={run: {"resets": n, "metrics": {name: step}}}."""
    run_ids = runs_of_token(ctx, request.query_params.get("token", ""))[:MAX_RUNS]
    known_steps = _read_known_steps(request.query_params.get("after", "{}"))
    states = known_states.read(ctx, run_ids)
    parts = []
    for run_id in run_ids:
        state = states.get(run_id)
        if state is None:
            continue
        resets, after = known_steps.get(run_id, (None, {}))
        points = curves.points_json(ctx, run_id, after=after, resets=resets)
        parts.append(f'{json.dumps(run_id)}:{{"state":{json.dumps(_state(state))},"curves":{points}}}')
    return f'{{"now":{ctx.now().timestamp():.1f},"runs":{{{",".join(parts)}}}}}'


def _table(ctx: Context, request: Request) -> Response:
    """Answer /live/points.csv?token=...: every stored point of the runs in the token, streamed."""
    try:
        run_ids = runs_of_token(ctx, request.query_params.get("token", ""))[:MAX_RUNS]
    except NotAllowed as error:
        return JSONResponse({"error": str(error)}, status_code=403, headers=NEVER_STORED)
    headers = {**NEVER_STORED, "content-disposition": 'attachment; filename="curves.csv"'}
    return StreamingResponse(stream_csv(ctx, run_ids), media_type="text/csv; charset=utf-8", headers=headers)


def _samples(ctx: Context, request: Request) -> str:
    """Answer /live/samples?token=...&run=...: the steps with samples, or with &step=... the samples of that step."""
    run_id, step = request.query_params.get("run", ""), request.query_params.get("step")
    if run_id not in runs_of_token(ctx, request.query_params.get("token", "")):
        raise NotAllowed("This address is not for that run.")
    if step is None:
        return json.dumps({"steps": list_sample_steps(ctx, run_id)[::-1]})
    if not step.isascii() or not step.isdigit() or len(step) > 9:
        raise InvalidInput("`step` is not a step.", field="step")
    return json.dumps(
        {
            "samples": [
                {"prompt": one.prompt, "completion": one.completion}
                for one in list_samples(ctx, run_id, step=int(step))
            ]
        }
    )


def _overview(ctx: Context, request: Request) -> str:
    """Answer /live/overview?token=...: the state of the runs in the token, which are active, and how many jobs wait."""
    states = run_states(ctx, runs_of_token(ctx, request.query_params.get("token", ""))[:MAX_RUNS], with_spark=True)
    answer = {
        "runs": {run_id: _state(state) for run_id, state in states.items()},
        "active": active_run_ids(ctx),
        "queues": queue_counts(ctx),
    }
    return json.dumps(answer, separators=(",", ":"))


def _search(ctx: Context, request: Request) -> str:
    """Answer /live/search?q=...: the objects that the visitor may find by these words."""
    person = person_from_cookie(ctx, request.cookies.get(COOKIE)) if ctx.sign_in else LOCAL
    if person is None or person.role == "rater":
        raise NotAllowed("Sign in with an account of the team to search.")
    hits = search(ctx, request.query_params.get("q", ""), person=person)
    answer = [
        {"kind": hit.kind, "key": hit.key, "name": hit.name, "when": f"{hit.created_at:%-d %b %Y}"} for hit in hits
    ]
    return json.dumps({"hits": answer})


def _read_known_steps(text: str) -> dict[str, tuple[int | None, dict[str, int]]]:
    try:
        data = json.loads(text)
        return {
            str(run): (int(item["resets"]), {str(name): int(step) for name, step in item["metrics"].items()})
            for run, item in data.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidInput("`after` is malformed.", field="after") from error


def _state(state: RunState) -> dict[str, object]:
    answer: dict[str, object] = {
        "name": state.name,
        "status": state.status,
        "active": state.is_active,
        "line": state.line,
        "share": state.share,
        "step": state.last_step,
        "last": state.last,
    }
    if state.spark is not None:
        answer["spark"] = [round(value, 5) for value in state.spark]
    return answer
