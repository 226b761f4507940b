"""Load an endpoint: requests through the gateway and to its replicas, timed by one client."""

from __future__ import annotations

from backend.domain.jobs.load_test import LoadTestPayload, LoadTestResult
from backend.domain.wording import plural
from backend.infra.load_generator import LoadProgress, run_load
from jobs.reporter import PROGRESS_EVERY_S, JobSpec, Reporter


def run(spec: JobSpec[LoadTestPayload], reporter: Reporter) -> LoadTestResult:
    """Run the levels of a payload. A stopped test returns those it has finished."""
    payload = spec.payload
    reported_s = -PROGRESS_EVERY_S

    def report(progress: LoadProgress) -> None:
        nonlocal reported_s
        if progress.elapsed_s - reported_s >= PROGRESS_EVERY_S or progress.elapsed_s < reported_s:
            reported_s = progress.elapsed_s
            reporter.progress(progress.share, 1, unit="", message=describe_level(progress))

    levels = run_load(
        payload.config, payload.targets, on_progress=report, should_stop=lambda: reporter.should_stop() is not None
    )
    replicas = sum(target.kind == "replica" for target in payload.targets)
    return LoadTestResult(replicas=replicas, levels=levels, stopped=reporter.should_stop())


def describe_level(progress: LoadProgress) -> str:
    """Return a level's progress in one line: target, load, requests, tokens a second, errors."""
    load = plural(progress.users, "user") if progress.users else "open loop"
    rate = progress.tokens / progress.elapsed_s if progress.elapsed_s > 0 else 0.0
    parts = [
        f"{progress.target.capitalize()}, {load}: {plural(progress.done, 'request')} ended",
        f"{rate:,.0f} tokens/s",
    ]
    return ", ".join(parts + ([plural(progress.errors, "error")] if progress.errors else []))
