"""Do a queued job here: claim it, run its room, record what it said, as a worker's parent process does."""

from __future__ import annotations

from backend.domain.jobs.events import ErrorEvent, ResultEvent
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.services import job_events as outcomes
from backend.services.context import Context
from backend.services.jobs.claims import claim_job, end_job
from backend.services.jobs.jobs import JobView, get_job
from jobs.reporter import JobSpec
from jobs.run import run_child
from jobs.tailing import parse_events
from tests.support.jobs import finish_job


def do_job(ctx: Context, job_id: str | None) -> JobView:
    """Run one job in this process. Returns it as it ended."""
    assert job_id is not None
    taken = claim_job(ctx, job_id, owner="test", host="here")
    assert taken is not None, f"job {job_id} can't be claimed: {get_job(ctx, job_id).status}"
    claim = outcomes.prepare_claim(ctx, taken)
    folder = ctx.artifacts.job_folder(job_id) / "attempt-1"
    folder.mkdir(parents=True, exist_ok=True)
    JobSpec(job_id, claim.attempt, claim.payload, ctx.artifacts.root, ctx.artifacts.job_folder(job_id)).write(
        folder / "job.json"
    )
    run_child(folder)
    events = parse_events((folder / "events.jsonl").read_bytes().splitlines())
    last = events[-1]
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, events)
        if isinstance(last, ResultEvent):
            finish_job(session, ctx, claim, **last.result)
        else:
            assert isinstance(last, ErrorEvent)
            outcomes.record_bad_end(session, ctx, claim)
            end_job(
                session,
                ctx,
                claim,
                Status.FAILED,
                error=JobFailure(cause=last.cause, remedy=last.remedy, field=last.field),
            )
    return get_job(ctx, job_id)
