"""How long a curve's update takes with many viewers: concurrent polls of /live/points for one run, while nothing
trains.

    python -m tests.benchmarks.bench_viewers [VIEWERS] [SECONDS]

Each viewer polls twice a second as the chart does, asking for what came after the last step it saw, while points are
appended. Bounded: VIEWERS (default 25) for SECONDS (default 20), on loopback, against an installation that it starts
and stops itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from backend.db.tables import Run
from backend.domain.jobs.events import MetricsEvent
from backend.services.context import LOCAL
from backend.services.metrics.points import add_points
from backend.services.training.live import token_for_runs
from tests.support.installation import Installation

POLL_S = 0.5


def main(viewers: int, seconds: float) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        installation = Installation(Path(folder)).start()
        try:
            print(json.dumps(asyncio.run(measure(installation, viewers, seconds))))
        finally:
            installation.stop()


async def measure(installation: Installation, viewers: int, seconds: float) -> dict[str, float]:
    """Let viewers poll while a run of 5,000 points grows by five points a second."""
    ctx = installation.ctx
    with ctx.db.write() as session:
        run = Run(name="grows", objective="pretrain", config={})
        session.add(run)
        session.flush()
        run_id = run.id
        add_points(session, ctx.db, run_id, [point(step) for step in range(1, 5001)])
    token = token_for_runs(ctx, [run_id], person=LOCAL)
    seen = dict.fromkeys(("train_loss", "learning_rate", "grad_norm"), 5000)
    after = json.dumps({run_id: {"resets": 0, "metrics": seen}})
    ends_at = time.monotonic() + seconds
    times: list[float] = []

    async def grow() -> None:
        step = 5000
        while time.monotonic() < ends_at:
            step += 1
            await asyncio.to_thread(append, ctx, run_id, step)
            await asyncio.sleep(0.2)

    async def view(client: httpx2.AsyncClient, number: int) -> None:
        await asyncio.sleep(POLL_S * number / viewers)
        while time.monotonic() < ends_at:
            started = time.perf_counter()
            response = await client.get(f"{installation.url}/live/points", params={"token": token, "after": after})
            response.raise_for_status()
            times.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(POLL_S)

    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=viewers), timeout=10) as client:
        await asyncio.gather(grow(), *(view(client, n) for n in range(viewers)))
    times.sort()
    return {
        "viewers": viewers,
        "updates": len(times),
        "median_ms": round(times[len(times) // 2], 1),
        "p95_ms": round(times[int(len(times) * 0.95)], 1),
        "max_ms": round(times[-1], 1),
    }


def point(step: int) -> MetricsEvent:
    """Return a step's metrics."""
    return MetricsEvent(
        step=step, time=time.time(), values={"train_loss": 5.0 / step**0.3, "learning_rate": 1e-3, "grad_norm": 0.5}
    )


def append(ctx: object, run_id: str, step: int) -> None:
    """Write one step."""
    with ctx.db.write() as session:  # type: ignore[attr-defined]
        add_points(session, ctx.db, run_id, [point(step)])  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25, float(sys.argv[2]) if len(sys.argv) > 2 else 20.0)
