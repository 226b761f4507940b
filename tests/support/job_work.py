"""Do a queued job here: claim it, run its room, record what it said, as a worker's parent process does."""

from __future__ import annotations

import json

from backend.domain.jobs.states import Status
from backend.services import job_events as outcomes
from backend.services.context import Context
from backend.services.jobs.jobs import JobView, claim_job, end_job, get_job
from jobs.run import run_child


def do_job(ctx: Context, job_id: str) -> JobView:
    """Run one job in this process. Returns it as it ended."""
    claim = claim_job(ctx, job_id, owner="test", host="here")
    assert claim is not None, f"job {job_id} can't be claimed: {get_job(ctx, job_id).status}"
    folder = ctx.artifacts.job_folder(job_id) / "attempt-1"
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "id": job_id,
        "attempt": claim.attempt,
        "kind": claim.kind.value,
        "payload": claim.payload,
        "artifacts": str(ctx.artifacts.root),
        "job_folder": str(ctx.artifacts.job_folder(job_id)),
    }
    (folder / "job.json").write_text(json.dumps(spec))
    run_child(folder)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    last = events[-1]
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, events)
        if last["type"] == "result":
            outcomes.record_finish(session, ctx, claim, last["result"])
            end_job(session, ctx, claim, Status.FINISHED, result=last["result"])
        else:
            error = {key: last.get(key) for key in ("cause", "remedy", "field")}
            outcomes.record_bad_end(session, ctx, claim, error)
            end_job(session, ctx, claim, Status.FAILED, error=error)
    return get_job(ctx, job_id)
