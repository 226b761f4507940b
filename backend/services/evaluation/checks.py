"""Check an evaluation against another engine: the same items by both, and the largest difference."""

from __future__ import annotations

from typing import Literal

from backend.db.tables import Job
from backend.domain.jobs.payloads import CheckRequest, EvaluatePayload
from backend.domain.jobs.results import EngineCheck
from backend.domain.jobs.states import Status, status_word
from backend.errors import Conflict, InvalidInput, NotFound, require_library
from backend.services.context import Context, Person, require_builder
from backend.services.evaluation.evaluations import find_evaluation, get_evaluation
from backend.services.jobs.jobs import JobView, add_job, view, wake

Against = Literal["lm_eval", "plain"]
LABEL: dict[Against, str] = {"lm_eval": "lm-eval", "plain": "the plain engine"}


def launch_check(
    ctx: Context, evaluation_id: str, *, person: Person, against: Against = "lm_eval", items: int = 0
) -> JobView:
    """Queue the check of a finished evaluation on randomly drawn items (0: all). Read it with `read_check` once the job
    has finished.

    Raises NotFound, NotAllowed, Conflict if the evaluation has not finished, InvalidInput for a negative number.
    """
    require_builder(person)
    if items < 0:
        raise InvalidInput(
            f"{items} items can't be checked.", remedy="Give a positive number, or 0 for all.", field="items"
        )
    if against == "lm_eval":
        require_library("lm_eval", extra="harness", needed_for="A check against lm-evaluation-harness")
    evaluation = get_evaluation(ctx, evaluation_id)
    if evaluation.status is not Status.FINISHED:
        raise Conflict(f"The evaluation is {status_word(evaluation.status)}.", remedy="Check it when it has finished.")
    if evaluation.endpoint is not None:
        raise InvalidInput(
            "The model of an endpoint is not here, so no other engine can compute its items.",
            remedy="Check an evaluation of a checkpoint.",
        )
    with ctx.db.write() as session:
        row = session.get(Job, evaluation.job_id) if evaluation.job_id else None
        if row is None:
            raise NotFound(
                "The evaluation was imported, so its items are not at hand.", remedy="Evaluate the checkpoint here."
            )
        payload = EvaluatePayload.read(row.payload).model_copy(
            update={"check": CheckRequest(against=against, items=items)}
        )
        title = f"{evaluation.benchmark} on {evaluation.checkpoint}, checked against {LABEL[against]}"
        job = add_job(session, ctx, payload, title=title, created_by=person.id)
        session.flush()
        queued = view(job)
    wake(ctx, "eval")
    return queued


def read_check(ctx: Context, evaluation_id: str) -> EngineCheck | None:
    """Return the newest check of an evaluation, None without one. Raises NotFound."""
    with ctx.db.read() as session:
        return find_evaluation(session, evaluation_id).record.check
