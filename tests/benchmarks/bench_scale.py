"""A run of a million metric points and a list of ten thousand runs: how long until they are on the screen, in Chromium
and in the services.

    python -m tests.benchmarks.bench_scale [POINTS] [RUNS] [FOLDER]

Makes an installation of its own (in FOLDER, where it is found again, or for once), fills it as a worker would, starts
the pages' server and opens the pages: the run as the first page of a new server in a new browser, and in new browsers
(whose caches are empty) after that; then both pages again and again. Prints one JSON document.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from playwright.sync_api import Page, sync_playwright
from sqlalchemy import insert

from backend.bootstrap import build_context
from backend.db.base import new_id
from backend.db.tables import Job, Run
from backend.domain.jobs.events import MetricsEvent
from backend.domain.jobs.states import Status
from backend.services.context import Context
from backend.services.metrics.curves import CurveCache, stream_csv
from backend.services.metrics.points import add_points, pack_points, unpack_from
from backend.services.training.diagnosis import diagnose_run
from backend.services.training.run_table import (
    RunQuery,
    RunTableCache,
    find_runs,
    fold_runs,
    read_run_table,
    stream_runs_csv,
)
from backend.services.training.views import list_runs
from tests.support.installation import PROJECT, free_port, wait_until
from tests.support.run_world import claim, end, make_config
from tests.support.scenario import Scenario
from tests.support.settings import make_settings

METRICS = ("train_loss", "learning_rate", "grad_norm", "tok_per_sec")
PLOT = "document.querySelector('[data-panel=\"loss\"] .rh-plot')"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main(points: int, runs: int, home: Path) -> None:
    """Fill, unless that was done before, measure, print."""
    is_new = not (home / "models.db").exists()
    ctx = build_context(make_settings(home))
    began = time.perf_counter()
    if is_new:
        Scenario(ctx).parts()
        fill_run(ctx, points)
        fill_list(ctx, runs)
        print(f"filled in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    run_id = find_runs(ctx, RunQuery(text="long"))[0].id
    result: dict[str, Any] = {
        "points": points,
        "runs": runs,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "database_mb": round((home / "models.db").stat().st_size / 2**20),
    }
    result["services_s"] = measure_services(ctx, run_id)
    result["browser_s"] = measure_browser(home, ctx, run_id)
    print(json.dumps(result, indent=1))


def fill_run(ctx: Context, points: int) -> str:
    """Insert one run with this many points over four metrics, packed as a worker packs them."""
    launched = Scenario(ctx).run(name="long", max_steps=points // len(METRICS))
    taken, run_id = claim(ctx, launched), launched.id
    rng = np.random.default_rng(0)
    steps = points // len(METRICS)
    for first in range(1, steps + 1, 20_000):
        rows = [
            MetricsEvent(
                step=step,
                time=1e9 + step / 5,
                values=dict(
                    zip(
                        METRICS,
                        (
                            1.7 + 4 / (1 + step / 500) ** 0.4 + rng.normal(0, 0.05),
                            3e-4,
                            abs(rng.normal(0.4, 0.05)),
                            rng.normal(2e4, 300),
                        ),
                        strict=True,
                    )
                ),
            )
            for step in range(first, min(first + 20_000, steps + 1))
        ]
        with ctx.db.write() as session:
            add_points(session, ctx.db, run_id, rows)
            run = session.get_one(Run, run_id)
            run.last_step = rows[-1].step
            pack_points(session, run)
    end(ctx, taken, Status.FINISHED)
    return run_id


def fill_list(ctx: Context, number: int) -> None:
    """Insert finished runs with configs, tags and summaries as wide as real ones."""
    config = make_config(max_steps=600).model_dump(mode="json")
    spark = [[step, round(5 / (1 + step / 50) ** 0.4, 5)] for step in range(0, 640, 10)]
    jobs, rows = [], []
    for index in range(number):
        job = {
            "id": new_id(),
            "kind": "train",
            "queue": "train",
            "title": f"Train run {index}",
            "status": "finished",
            "progress": None,
            "payload": {"config": config},
        }
        jobs.append(job)
        rows.append(
            {
                "id": new_id(),
                "name": f"run {index}",
                "objective": "pretrain",
                "config": config,
                "job_id": job["id"],
                "last_step": 600,
                "tags": ["sweep", f"group-{index % 40}"],
                "notes": "A note of a sentence or two, as somebody writes it." * 2,
                "summary": {
                    "last": {"train_loss": 1.9, "val_loss": 2.0},
                    "spark": spark,
                    "best_val_loss": 2.0,
                    "best_val_step": 600,
                },
            }
        )
    with ctx.db.write() as session:
        session.execute(insert(Job.__table__), jobs)
        session.execute(insert(Run.__table__), rows)


def timed(act: Callable[[], object], *, times: int = 3) -> float:
    """Return the median seconds of an act."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return round(sorted(seconds)[times // 2], 3)


def measure_services(ctx: Context, run_id: str) -> dict[str, float]:
    """Time the services behind both pages; the curve also as it was read before there were blocks."""
    warm = CurveCache()
    warm.points_json(ctx, run_id, after={}, resets=None)
    table = read_run_table(ctx)
    result = {
        "curve, nothing cached": timed(lambda: CurveCache().points_json(ctx, run_id, after={}, resets=None)),
        "curve, cached": timed(lambda: warm.points_json(ctx, run_id, after={}, resets=None)),
        "diagnosis": timed(lambda: diagnose_run(ctx, run_id)),
        "every point as CSV": timed(lambda: sum(len(part) for part in stream_csv(ctx, [run_id])), times=1),
        "list, first page": timed(lambda: list_runs(ctx, limit=30)),
        "table, by a text": timed(lambda: find_runs(ctx, RunQuery(text="run 99"))),
        "table, first reading": timed(lambda: RunTableCache().read(ctx)),
        "table, again": timed(lambda: read_run_table(ctx)),
        "table, by a filter": timed(lambda: find_runs(ctx, RunQuery(filter="lr < 0.01 and tag = group-7"))),
        "table, by a field of a section": timed(lambda: find_runs(ctx, RunQuery(filter="preference.beta is missing"))),
        "table, sorted": timed(lambda: find_runs(ctx, RunQuery(order="-tokens"))),
        "table, folded": timed(lambda: fold_runs(table, table.rows, "tags")),
        "table as CSV": timed(lambda: sum(map(len, stream_runs_csv(table, table.rows, ["learning_rate", "tags"])))),
    }
    with ctx.db.write() as session:
        unpack_from(session, session.get_one(Run, run_id), 0)
    result["curve, nothing cached, single rows"] = timed(
        lambda: CurveCache().points_json(ctx, run_id, after={}, resets=None)
    )
    with ctx.db.write() as session:
        pack_points(session, session.get_one(Run, run_id))
    return result


def measure_browser(home: Path, ctx: Context, run_id: str) -> dict[str, list[float]]:
    """Open both pages in Chromium; each time from the address to curve or rows on the screen."""
    port = free_port()
    environment = {
        **os.environ,
        "ROUNDHOUSE_HOME": str(home),
        "DATABASE_URL": ctx.db.url,
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app.py",
        "--server.port",
        str(port),
        "--server.address",
        "127.0.0.1",
    ]
    server = subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(f"{url}/healthz"), what="the pages' server", timeout_s=90)
        with sync_playwright() as playwright:
            run, curve = f"{url}/run?run={run_id}", f"{PLOT}?.data?.length > 0"
            result: dict[str, list[float]] = {
                "run, server and browser new": [],
                "run, browser new": [],
                "run": [],
                "list of runs": [],
            }
            for name in ("run, server and browser new", "run, browser new", "run, browser new", "run, browser new"):
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
                page = browser.new_context(viewport={"width": 1300, "height": 1000}).new_page()
                result[name].append(open_page(page, run, curve))
                if len(result["run, browser new"]) == 3:
                    result["run"] = [open_page(page, run, curve) for _ in range(5)]
                    rows = "document.querySelectorAll('.rr-name').length === 50"
                    result["list of runs"] = [open_page(page, f"{url}/runs", rows) for _ in range(5)]
                    num_names = page.evaluate("document.querySelectorAll('.rr-name').length")
                browser.close()
        assert num_names == 50
        return result
    finally:
        server.terminate()
        server.wait(20)


def open_page(page: Page, url: str, shown: str) -> float:
    """Return the seconds from asking for an address until something is shown."""
    began = time.perf_counter()
    page.goto(url)
    page.wait_for_function(shown, polling=20, timeout=60_000)
    return round(time.perf_counter() - began, 2)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


if __name__ == "__main__":
    given = sys.argv[1:]
    numbers = (int(given[0]) if given else 1_000_000, int(given[1]) if len(given) > 1 else 10_000)
    if len(given) > 2:
        main(*numbers, Path(given[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(*numbers, Path(folder))
