"""Requests and load tests as gateway and jobs store them, written without an endpoint that answers."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from backend.db.tables import Deployment, Endpoint, LoadTest
from backend.domain.serving.load import LevelRun, LoadConfig, RequestTiming, overhead, summarise_load
from backend.domain.serving.request_log import LoggedBody
from backend.services.context import Context
from backend.services.serving.usage import UsageRow, UsageStatus, add_usage

STATUSES: tuple[UsageStatus, ...] = ("finished", "finished", "aborted", "lost", "refused")


def store_requests(ctx: Context, endpoint: str, *, replica_id: str, prompt: str, answer: str) -> str:
    """Store requests of every result over the last minutes, and return the id of a finished one whose texts are
    logged.
    """
    rows = []
    for number, status in enumerate(STATUSES):
        body = LoggedBody("chat", {"temperature": 0.7, "max_tokens": 64}, [{"role": "user", "content": prompt}])
        body.add(answer)
        rows.append(
            UsageRow(
                f"chatcmpl-{number:024}",
                endpoint,
                None,
                replica_id,
                120,
                64,
                41.0,
                1234.5,
                status,
                ctx.now() - timedelta(minutes=number),
                cached_tokens=96,
                itl_ms=18.9,
                queue_ms=2.0,
                gaps={24: 63},
                device_s=0.61,
                cost_usd=0.00034,
                finish_reason="stop" if status == "finished" else None,
                logged=body,
            )
        )
    add_usage(ctx, rows)
    return rows[0].id


def store_load_test(ctx: Context, endpoint: str, *, speed: float) -> str:
    """Store a load test of two users, whose every time is divided by `speed`, and return its id."""

    def run(added: float) -> LevelRun:
        records = [
            RequestTiming(n / speed, (n + 0.9) / speed, (0.1 + added) / speed, (0.1 / speed,) * 5, 9, 6)
            for n in range(20)
        ]
        return LevelRun(tuple(records), 0.0, 20 / speed)

    gateway, replica = run(0.01), run(0.0)
    summaries = [asdict(summarise_load([side], slo_ttft_ms=105, slo_itl_ms=200)) for side in (gateway, replica)]
    level = {
        "users": 2,
        "gateway": summaries[0],
        "replica": summaries[1],
        "gateway_overhead": overhead([gateway], [replica]),
    }
    with ctx.db.write() as session:
        endpoint_id = session.query(Endpoint.id).filter_by(name=endpoint).scalar()
        row = LoadTest(
            endpoint_id=endpoint_id,
            deployment_id=session.query(Deployment.id).filter_by(endpoint_id=endpoint_id).scalar(),
            config=LoadConfig(users=(2,)).model_dump(mode="json"),
            result={"replicas": 1, "levels": [level]},
        )
        session.add(row)
        session.flush()
        return row.id
