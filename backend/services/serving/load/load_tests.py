"""Load tests of deployments: against the gateway and against the replicas themselves; the difference is the gateway's overhead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import select

from backend.db.tables import Deployment, LoadTest
from backend.domain.serving.key_limits import KeyScopes
from backend.domain.serving.load import LoadConfig, LoadSummary, Spread, summarise
from backend.errors import Unavailable
from backend.infra.load_generator import LoadTarget, run_level
from backend.services.context import Context, Person, require_builder
from backend.services.people.keys import create_key, list_keys, revoke_key
from backend.services.serving.endpoints import find_endpoint
from backend.services.serving.replicas import ready_targets

KEY_NAME = "Load test"
KEY_LASTS = timedelta(hours=2)


@dataclass(frozen=True)
class LoadTestView:
    """A stored load test. `result`: see `run_load_test`."""

    id: str
    config: dict[str, Any]
    result: dict[str, Any]
    created_at: datetime


def run_load_test(
    ctx: Context,
    name: str,
    config: LoadConfig,
    *,
    person: Person,
    gateway_url: str = "",
    key: str = "",
    on_progress: Callable[[str], None] | None = None,
) -> LoadTestView:
    """Run a load test of an endpoint and store its result beside its deployment.

    `result["levels"]` holds, per number of users, a summary of the gateway, one of the replicas directly, and the overhead in milliseconds
    (the difference of medians). Raises Unavailable where the endpoint has no ready replica or the gateway does not answer.
    """
    require_builder(person)
    url = (gateway_url or ctx.gateway_url).rstrip("/").removesuffix("/v1")
    replicas = ready_targets(ctx).get(name, [])
    with ctx.db.read() as session:
        endpoint_id = find_endpoint(session, name).id
        newest = select(Deployment.id).where(Deployment.endpoint_id == endpoint_id, Deployment.stopped_at.is_(None))
        deployment_id = session.scalar(newest.order_by(Deployment.created_at.desc()).limit(1))
    if not replicas or deployment_id is None:
        raise Unavailable(f"No replica of {name!r} is ready.", remedy="Deploy or start it first.")
    _require_gateway(url)
    direct = [LoadTarget("replica", target.url, name, target.internal_token) for target in replicas]
    levels = []
    with _key(ctx, person, key=key) as secret:
        through = [LoadTarget("gateway", url, name, secret)]
        for users in config.users if not config.is_open else (0,):
            summaries = {}
            for label, targets in (("gateway", through), ("replica", direct)):
                if on_progress is not None:
                    on_progress(f"{label}: {'open loop' if config.is_open else f'{users} users'}")
                records = run_level(config, targets, users=max(1, users))
                summaries[label] = summarise(records, slo_ttft_ms=config.slo_ttft_ms, slo_itl_ms=config.slo_itl_ms)
            levels.append(_level(users, summaries["gateway"], summaries["replica"]))
    result = {"replicas": len(replicas), "levels": levels}
    with ctx.db.write() as session:
        row = LoadTest(
            endpoint_id=endpoint_id,
            deployment_id=deployment_id,
            config=config.model_dump(mode="json"),
            result=result,
            created_by=person.id,
            created_at=ctx.now(),
        )
        session.add(row)
        session.flush()
        return LoadTestView(row.id, row.config, result, row.created_at)


def list_load_tests(ctx: Context, name: str, *, limit: int = 10) -> list[LoadTestView]:
    """Return the load tests of an endpoint, newest first."""
    with ctx.db.read() as session:
        query = select(LoadTest).where(LoadTest.endpoint_id == find_endpoint(session, name).id).order_by(LoadTest.created_at.desc())
        return [LoadTestView(row.id, dict(row.config), dict(row.result), row.created_at) for row in session.scalars(query.limit(limit))]


def _level(users: int, gateway: LoadSummary, replica: LoadSummary) -> dict[str, Any]:
    def less(of: str) -> float | None:
        through, direct = getattr(gateway, of), getattr(replica, of)
        return through.p50_ms - direct.p50_ms if isinstance(through, Spread) and isinstance(direct, Spread) else None

    overhead = {f"{name}_p50_ms": less(name) for name in ("ttft", "itl", "e2e")}
    return {"users": users or None, "gateway": asdict(gateway), "replica": asdict(replica), "gateway_overhead": overhead}


def _require_gateway(url: str) -> None:
    try:
        httpx.get(f"{url}/health", timeout=10, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise Unavailable(
            f"The gateway at {url} does not answer ({type(error).__name__}).", remedy="Start it with `roundhouse up`."
        ) from error


@contextmanager
def _key(ctx: Context, person: Person, *, key: str) -> Iterator[str]:
    """Give the key of a load test: the one that is given, none where none is needed, else one of its own that is revoked at the end."""
    if key or not ctx.sign_in:
        yield key
        return
    before = {view.id for view in list_keys(ctx, person=person)}
    secret = create_key(ctx, KEY_NAME, person=person, scopes=KeyScopes(endpoints=("completions",)), expires_at=ctx.now() + KEY_LASTS)
    try:
        yield secret
    finally:
        for view in list_keys(ctx, person=person):
            if view.id not in before and view.name == KEY_NAME:
                revoke_key(ctx, view.id, person=person)
