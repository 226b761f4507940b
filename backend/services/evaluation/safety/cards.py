"""The safety card of a checkpoint or an endpoint, and the measured agreement of the refusal scorer with human labels
that stands beside its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from backend.db.tables import Analysis, Job, JudgedItem
from backend.domain.attributes import view_of
from backend.domain.evaluation.safety.agreement import (
    NOT_MEASURED,
    ScorerAgreement,
    measure_agreement,
    read_agreement,
    read_labelled,
)
from backend.domain.evaluation.safety.harm import HARM_RUBRIC, harmful_share
from backend.domain.evaluation.safety.probes import METRICS, Probe
from backend.domain.evaluation.safety.refusal import SCORER
from backend.domain.evaluation.safety.reports import CardScore, SafetyReport, Unjudged, render_safety_card
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.states import JobKind, Status
from backend.domain.statistics.estimates import Estimate
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context, Person, require_builder
from backend.services.evaluation.endpoints import EvaluatedEndpointView
from backend.services.evaluation.evaluations import EvaluationView, resolve_subject
from backend.services.evaluation.safety.drifts import SafetyDrift, safety_drift
from backend.services.evaluation.safety.runs import SafetyResult, list_probe_results, read_toxicity
from backend.services.evaluation.safety.toxicity import describe_toxicity
from backend.services.serving.endpoints import list_endpoints

KIND = "scorer_agreement"


def add_agreement(ctx: Context, *, rows: Sequence[Mapping[str, Any]], file: str, person: Person) -> ScorerAgreement:
    """Measure the scorer on a labelled file and store the result. Raises InvalidInput, NotAllowed."""
    require_builder(person)
    agreement = measure_agreement(read_labelled(rows), file=file)
    with ctx.db.write() as session:
        session.add(
            Analysis(
                kind=KIND,
                config={"file": file, "scorer": agreement.scorer},
                result=agreement.dump(),
                created_by=person.id,
                created_at=ctx.now(),
            )
        )
    return agreement


def list_agreements(ctx: Context) -> list[ScorerAgreement]:
    """Return the present scorer's newest agreement on each file, newest first. Those of earlier rules are left out."""
    query = select(Analysis).where(Analysis.kind == KIND).order_by(Analysis.created_at.desc())
    with ctx.db.read() as session:
        stored = [read_agreement(row.result) for row in session.scalars(query)]
    newest: dict[str, ScorerAgreement] = {}
    for agreement in stored:
        if agreement.scorer == SCORER:
            newest.setdefault(agreement.file, agreement)
    return list(newest.values())


def agreement_line(ctx: Context) -> str:
    """Return the line shown beside the scorer's numbers."""
    agreements = list_agreements(ctx)
    return agreements[0].sentence if agreements else f"{SCORER}: {NOT_MEASURED}"


@dataclass(frozen=True)
class SafetyCard:
    """Scores of a checkpoint or an endpoint on the safety probes, with what they are worth, and a checkpoint's drift
    from its base where both were measured.
    """

    subject: CheckpointView | EvaluatedEndpointView
    scores: tuple[CardScore, ...]
    agreement: str
    drift: SafetyDrift | None
    problem: str = ""  # why there is no drift, where there could be one
    pending: int = 0
    notes: tuple[str, ...] = ()  # classifier and threshold of each toxicity
    unjudged: tuple[Unjudged, ...] = ()

    @property
    def markdown(self) -> str:
        """The card as Markdown."""
        drift = self.drift
        return render_safety_card(
            self.scores,
            agreement=self.agreement,
            drift=drift.sentences if drift else (),
            base=drift.base.name if drift else "",
            verdict=drift.verdict.value if drift else "",
            unmeasured=drift.unmeasured if drift else (),
            notes=self.notes,
            unjudged=self.unjudged,
        )


def safety_card(
    ctx: Context, checkpoint: str | None = None, *, endpoint: str | None = None, base: str | None = None
) -> SafetyCard:
    """Return the safety card of a checkpoint or an endpoint. Raises NotFound, InvalidInput unless one is named."""
    subject = resolve_subject(ctx, checkpoint, endpoint)
    results = sorted(list_probe_results(ctx, subject), key=lambda r: list(Probe).index(r.probe.probe))
    finished = [result for result in results if result.is_finished]
    scores = tuple(
        view_of(
            CardScore,
            score,
            probe=result.probe.probe,
            benchmark=result.evaluation.benchmark,
            missing=result.report.missing_of(score.metric)
            if score.metric != "toxic"
            else (result.report.items or score.n) - score.n,
        )
        for result in finished
        for score in result.evaluation.scores
    )
    harm = read_harm(ctx, [result.evaluation.id for result in results])
    scores = (
        *(_harm_score(result, harm[result.evaluation.id]) for result in results if result.evaluation.id in harm),
        *scores,
    )
    drift, problem = None, ""
    if scores and isinstance(subject, CheckpointView) and (base or subject.parent_id):
        try:
            drift = safety_drift(ctx, checkpoint=subject.id, base=base)
        except (Conflict, InvalidInput, NotFound) as error:
            problem = str(error)
        if drift is not None and not drift.changes:
            drift = None
    toxicity = read_toxicity(ctx, [result.evaluation.id for result in results])
    notes = tuple(dict.fromkeys(describe_toxicity(report) for report in toxicity.values()))
    pending = sum(result.evaluation.is_active for result in results)
    unjudged = tuple(one for result in finished for one in list_unjudged(result.evaluation, result.report))
    return SafetyCard(subject, scores, agreement_line(ctx), drift, problem, pending, notes, unjudged)


def list_unjudged(evaluation: EvaluationView, report: SafetyReport) -> list[Unjudged]:
    """Return the metrics of a probe that no item of an evaluation could be judged by."""
    return [
        Unjudged(Probe(report.probe), evaluation.benchmark, metric, report.missing_of(metric))
        for metric in METRICS
        if report.missing_of(metric) and evaluation.score(metric) is None
    ]


def _harm_score(result: SafetyResult, harm: JudgedHarm) -> CardScore:
    share = harm.share
    return view_of(
        CardScore,
        share,
        probe=result.probe.probe,
        benchmark=result.evaluation.benchmark,
        metric="harm",
        missing=harm.missing,
        method=f"judge {harm.judge}; {share.method}",
    )


MAX_JUDGEMENTS = 500


@dataclass(frozen=True)
class JudgedHarm:
    """Share of harmful answers of an evaluation by its newest judgement of harm; `missing` answers have no verdict."""

    judge: str
    job_id: str
    share: Estimate
    missing: int


def read_harm(ctx: Context, evaluation_ids: list[str]) -> dict[str, JudgedHarm]:
    """Return the harm of evaluations' answers by evaluation, where a finished judgement asked by that rubric."""
    judgements = select(Job).where(Job.kind == JobKind.JUDGE.value, Job.status == Status.FINISHED.value)
    by_evaluation: dict[str, JudgedHarm] = {}
    with ctx.db.read() as session:
        for job in session.scalars(judgements.order_by(Job.created_at.desc()).limit(MAX_JUDGEMENTS)):
            payload = JudgePayload.read(job.payload)
            is_of_harm = (payload.config.criteria, payload.config.labels) == (HARM_RUBRIC.criteria, HARM_RUBRIC.labels)
            if not is_of_harm or len(payload.evaluations) != 1 or payload.evaluations[0] not in evaluation_ids:
                continue
            evaluation_id = payload.evaluations[0]
            if evaluation_id in by_evaluation:
                continue
            verdicts = list(session.scalars(select(JudgedItem.verdict).where(JudgedItem.job_id == job.id)))
            share = harmful_share(verdicts)
            if share is not None:
                by_evaluation[evaluation_id] = JudgedHarm(
                    payload.judge, job.id, share, sum(verdict is None for verdict in verdicts)
                )
    return by_evaluation


def has_judge(ctx: Context) -> bool:
    """Return whether a judge is at hand: an API for judges, or a running endpoint."""
    return ctx.policy.judge_url is not None or bool(list_endpoints(ctx, include_stopped=False))
