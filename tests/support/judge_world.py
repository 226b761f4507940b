"""Judgements that are finished without asking a model."""

from __future__ import annotations

import json
from pathlib import Path

from backend.services.context import Context
from jobs.evaluation.judges import run
from jobs.evaluation.judges.run import ANSWERS
from tests.support.jobs import MemoryReporter, finish_job, make_spec, take_job


def finish_judgement(ctx: Context, job_id: str, side: str, *, canary: str = "TIE") -> None:
    """Finish a judgement as its job does, with the same verdict on each item in both orders, and one on its empty
    answers.
    """
    claim = take_job(ctx, job_id)
    folder = ctx.artifacts.job_folder(job_id)
    folder.mkdir(parents=True, exist_ok=True)
    items = [json.loads(line) for line in ctx.artifacts.path(claim.payload.items_file).read_text().splitlines()]
    swapped = {"A": "B", "B": "A"}.get(side, side)
    replies = [
        {"key": f"{kind}:{order}:{item['id']}", "text": f"Verdict: {text}"}
        for item in items
        for kind, order, text in (
            ("item", "ab", side),
            ("item", "ba", swapped),
            ("item", "single", side),
            ("canary", "ab", canary),
            ("canary", "ba", {"A": "B", "B": "A"}.get(canary, canary)),
        )
    ]
    (folder / ANSWERS).write_text("".join(json.dumps(reply) + "\n" for reply in replies))
    spec = make_spec("judge", claim.payload.dump(), root=Path(ctx.artifacts.root), folder=folder)
    result = run.run(spec, MemoryReporter()).dump()
    with ctx.db.write() as session:
        finish_job(session, ctx, claim, **result)
