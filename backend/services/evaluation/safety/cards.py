"""The safety card of a checkpoint or an endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from backend.domain.attributes import view_of
from backend.domain.evaluation.safety.card import CardScore, render_card
from backend.domain.evaluation.safety.probes import Probe
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context
from backend.services.evaluation.endpoints.registry import EvaluatedEndpointView
from backend.services.evaluation.evaluations import resolve_subject
from backend.services.evaluation.safety.agreements import agreement_line
from backend.services.evaluation.safety.drifts import SafetyDrift, safety_drift
from backend.services.evaluation.safety.harm import JudgedHarm, read_harm
from backend.services.evaluation.safety.runs import SafetyResult, list_probe_results, read_toxicity
from backend.services.evaluation.safety.toxicity import describe_toxicity


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

    @property
    def markdown(self) -> str:
        """The card as Markdown."""
        drift = self.drift
        return render_card(
            self.scores,
            agreement=self.agreement,
            drift=drift.sentences if drift else (),
            base=drift.base.name if drift else "",
            verdict=drift.verdict.value if drift else "",
            unmeasured=drift.unmeasured if drift else (),
            notes=self.notes,
        )


def safety_card(
    ctx: Context, checkpoint: str | None = None, *, endpoint: str | None = None, base: str | None = None
) -> SafetyCard:
    """Return the safety card of a checkpoint or an endpoint. Raises NotFound, InvalidInput unless one is named."""
    subject = resolve_subject(ctx, checkpoint, endpoint)
    results = list_probe_results(ctx, subject)
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
        for result in sorted(results, key=lambda r: list(Probe).index(r.probe.probe))
        if result.is_finished
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
    return SafetyCard(subject, scores, agreement_line(ctx), drift, problem, pending, notes)


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
