"""What reporting costs a training run: CPU time inside the reporter over the child's CPU time, and how late a point
reaches the database.

    python -m tests.benchmarks.bench_reporter [STEPS]

Starts an installation of its own, trains the starter network for STEPS steps (default 300) and prints one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from backend.domain.jobs.states import Status
from backend.recipes import RECIPES, STARTER
from backend.services.context import LOCAL
from backend.services.jobs.jobs import get_job
from backend.services.metrics.points import last_values
from backend.services.tokenizers.tokenizers import get_tokenizer
from backend.services.training.runs import launch_run
from backend.services.training.views import get_run
from tests.support.installation import Installation, wait_until


def main(steps: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        installation = Installation(Path(folder)).start()
        ctx = installation.ctx
        try:
            wait_until(
                lambda: get_tokenizer(ctx, "pebblewick-bpe-2048").folder, timeout_s=120, what="the starter content"
            )
            config = RECIPES[STARTER].config.model_copy(update={"max_steps": steps})
            run = launch_run(ctx, config, person=LOCAL).id
            lags, seen, last_seen_at = [], 0, time.time()
            while get_run(ctx, run).status not in (Status.FINISHED, Status.FAILED, Status.CANCELLED):
                step = int(last_values(ctx, run).get("train_loss", (0, 0.0))[0])
                now = time.time()
                if step > seen:
                    with ctx.db.engine.connect() as connection:
                        written = connection.exec_driver_sql(
                            "SELECT max(time) FROM metric_points WHERE run_id = ?", (run,)
                        ).scalar()
                    lags.append(now - float(written or now))
                    seen, last_seen_at = step, now
                time.sleep(0.02)
            result = get_job(ctx, get_run(ctx, run).job_id or "").result
            print(
                json.dumps(
                    {
                        "steps": steps,
                        "reporter_share": round(result["reporter_cpu_s"] / result["cpu_s"], 6),
                        "reporter_cpu_s": round(result["reporter_cpu_s"], 3),
                        "child_cpu_s": round(result["cpu_s"], 1),
                        "lag_to_database_median_s": round(statistics.median(lags), 3),
                        "batches": len(lags),
                        "last_seen_at": last_seen_at,
                    }
                )
            )
        finally:
            installation.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
