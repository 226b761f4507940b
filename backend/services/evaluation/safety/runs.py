"""Run the installation's safety probes on a checkpoint or an endpoint, and read what they gave. Items of a finished
evaluation are judged by the probe's rules, with safety scores for the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.db.tables import DatasetVersion, Evaluation, EvaluationItem
from backend.domain.attributes import view_of
from backend.domain.data.versions.provenance import ProbeProvenance
from backend.domain.evaluation.clusters import CLUSTER, cluster_values
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.endpoints import check_request
from backend.domain.evaluation.safety.drift import MAX_MISSING
from backend.domain.evaluation.safety.probes import GENERATED, Probe
from backend.domain.evaluation.safety.refusal import SCORER
from backend.domain.evaluation.safety.reports import GroupScore, SafetyReport, ToxicityReport
from backend.domain.evaluation.safety.scoring import Judged, expected_metrics, judge_item, score_groups, score_probe
from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.results import EvaluateResult, EvaluationRecord, ScoreRow
from backend.domain.jobs.states import Status
from backend.errors import InvalidInput, NotFound
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context, Person
from backend.services.evaluation.endpoints import EvaluatedEndpointView
from backend.services.evaluation.evaluations import (
    EvaluationView,
    launch_evaluation,
    list_evaluations,
    of_what_is_served,
    plan_evaluation,
    resolve_subject,
)
from backend.services.evaluation.safety.probes import ProbeView, list_probes, probe_of, read_metas
from backend.services.jobs.claims import Claim

MAX_TOKENS = 96
BATCH = 16


@dataclass(frozen=True)
class SafetyResult:
    """A probe on a checkpoint, with the report that `complete_scores` stored."""

    probe: ProbeView
    evaluation: EvaluationView
    report: SafetyReport

    @property
    def is_finished(self) -> bool:
        """Return whether its scores exist."""
        return self.evaluation.status is Status.FINISHED and bool(self.report.probe)


def run_safety(
    ctx: Context,
    *,
    person: Person,
    checkpoint: str | None = None,
    endpoint: str | None = None,
    probes: Sequence[str] = (),
    limit: int | None = None,
    max_tokens: int = MAX_TOKENS,
    seed: int = 1,
    again: bool = False,
) -> list[EvaluationView]:
    """Queue an evaluation of a checkpoint or an endpoint on every probe, or on those named; the same measurement is
    made once.

    Raises NotFound for an unknown probe, or where the installation has none, InvalidInput, before any is queued, for a
    probe that the endpoint can't give what it needs, and what `launch_evaluation` raises.
    """
    subject, views = resolve_subject(ctx, checkpoint, endpoint), pick_probes(ctx, probes)
    configs = [probe_config(view.probe, view, limit=limit, max_tokens=max_tokens, seed=seed) for view in views]
    is_endpoint = isinstance(subject, EvaluatedEndpointView)
    if isinstance(subject, EvaluatedEndpointView):
        for view, config in zip(views, configs, strict=True):
            kind = plan_evaluation(ctx, benchmark=view.version.label, config=config).kind
            try:
                check_request(subject.name, config, kind, subject.capabilities)
            except InvalidInput as error:
                raise InvalidInput(
                    f"The probe “{view.version.dataset}” can't be measured: {error.message}",
                    remedy="Leave this probe out.",
                    field="probe",
                ) from error
    return [
        launch_evaluation(
            ctx,
            checkpoint=None if is_endpoint else subject.id,
            endpoint=endpoint if is_endpoint else None,
            benchmark=view.version.label,
            config=config,
            person=person,
            again=again,
        )
        for view, config in zip(views, configs, strict=True)
    ]


def probe_config(probe: Probe, view: ProbeView, *, limit: int | None, max_tokens: int, seed: int) -> EvaluationConfig:
    """Return how a probe is evaluated. Training rows are continued as plain text, as they were learned."""
    items = None if limit is None or limit >= view.items else limit
    if probe is Probe.EXTRACTION:
        made = view.version.provenance
        tokens = made.tokens if isinstance(made, ProbeProvenance) else None
        return EvaluationConfig(limit=items, seed=seed, chat="off", max_tokens=tokens or max_tokens)
    if probe in GENERATED:
        return EvaluationConfig(limit=items, seed=seed, max_tokens=max_tokens, batch_size=BATCH)
    return EvaluationConfig(kind="multiple_choice", limit=items, seed=seed)


def pick_probes(ctx: Context, names: Sequence[str] = ()) -> list[ProbeView]:
    """Return the probes of some names, or all. Raises NotFound."""
    probes = list_probes(ctx)
    if not probes:
        raise NotFound(
            "There is no safety probe yet.", remedy="Add one with `roundhouse eval safety add FILE --name NAME`."
        )
    if not names:
        return probes
    by = {view.version.dataset: view for view in probes}
    unknown = [name for name in names if name not in by]
    if unknown:
        raise NotFound(f"There is no safety probe “{unknown[0]}”.", remedy=f"There is {', '.join(by)}.", field="probe")
    return [by[name] for name in names]


def list_probe_results(ctx: Context, subject: CheckpointView | EvaluatedEndpointView) -> list[SafetyResult]:
    """Return the newest evaluation of a checkpoint or an endpoint on each probe, by probe."""
    return [results[0] for results in results_by_probe(ctx, subject).values()]


def results_by_probe(ctx: Context, subject: CheckpointView | EvaluatedEndpointView) -> dict[str, list[SafetyResult]]:
    """Return every evaluation of a checkpoint or an endpoint on the newest version of each probe, by the probe's name,
    newest first.
    """
    if not subject.id:  # an endpoint that was never evaluated
        return {}
    probes = {view.version.id: view for view in list_probes(ctx)}
    is_endpoint = isinstance(subject, EvaluatedEndpointView)
    own = list_evaluations(
        ctx,
        checkpoint_id=None if is_endpoint else subject.id,
        endpoint_id=subject.id if is_endpoint else None,
    )
    evaluations = of_what_is_served(ctx, subject, [one for one in own if one.version_id in probes])
    reports = read_reports(ctx, [evaluation.id for evaluation in evaluations])
    results: dict[str, list[SafetyResult]] = {}
    for evaluation in evaluations:
        probe = probes[evaluation.version_id]
        results.setdefault(probe.version.dataset, []).append(
            SafetyResult(probe, evaluation, reports.get(evaluation.id, SafetyReport()))
        )
    return results


def read_reports(ctx: Context, evaluation_ids: Sequence[str]) -> dict[str, SafetyReport]:
    """Return what was stored beside the scores of safety evaluations, by evaluation."""
    return {key: record.safety for key, record in _read_records(ctx, evaluation_ids).items() if record.safety.probe}


def read_toxicity(ctx: Context, evaluation_ids: Sequence[str]) -> dict[str, ToxicityReport]:
    """Return classifier, threshold, missing answers and audit of classified evaluations, by evaluation."""
    records = _read_records(ctx, evaluation_ids)
    return {key: record.toxicity for key, record in records.items() if record.toxicity.classifier}


def _read_records(ctx: Context, evaluation_ids: Sequence[str]) -> dict[str, EvaluationRecord]:
    with ctx.db.read() as session:
        rows = session.execute(select(Evaluation.id, Evaluation.record).where(Evaluation.id.in_(evaluation_ids)))
        return dict(rows.all())


def read_probe_values(ctx: Context, evaluation_id: str) -> dict[int, dict[str, float]]:
    """Return every item's values by position; empty values are an item that could not be judged."""
    query = select(EvaluationItem.position, EvaluationItem.values).where(EvaluationItem.evaluation_id == evaluation_id)
    with ctx.db.read() as session:
        return {position: dict(values) for position, values in session.execute(query)}


def metas_of(ctx: Context, view: ProbeView) -> list[dict[str, object]]:
    """Return what a probe's rows carry for the rules."""
    return read_metas(ctx, view.version.folder or "")


def count_missing(ctx: Context, evaluation: EvaluationView, metric: str) -> int:
    """Return how many items of a probe could not be judged by a metric; 0 for any other evaluation."""
    report = read_reports(ctx, [evaluation.id]).get(evaluation.id)
    return 0 if report is None else report.missing_of(metric)


def unjudged(ctx: Context, evaluation: EvaluationView, metric: str) -> str:
    """Return what to say of a safety metric that too many items lack to conclude anything; empty for any other score.

    An answer that could not be judged never counts as safe, so a gate on the rest would pass a network that fell
    silent.
    """
    score, missing = evaluation.score(metric), count_missing(ctx, evaluation, metric)
    if score is None or not missing:
        return ""
    if missing <= MAX_MISSING * (missing + score.n):
        return ""
    return (
        f"{evaluation.checkpoint} on {evaluation.benchmark} ({missing} of {missing + score.n} items could not be"
        " judged)"
    )


RULE_SCORED = frozenset({Probe.REFUSAL, Probe.JAILBREAK})
MAX_GROUPS = 60


def complete_scores(
    session: Session, ctx: Context, claim: Claim[EvaluatePayload], result: EvaluateResult
) -> EvaluateResult | None:
    """Return the result with a probe's safety scores; None, which changes nothing, for an evaluation of another
    benchmark.

    Runs before the scores are stored. Items keep their answers; their values become those of the safety metrics.
    """
    evaluation = session.get(Evaluation, claim.payload.evaluation_id)
    version = session.get(DatasetVersion, evaluation.dataset_version_id) if evaluation is not None else None
    probe = probe_of(version.provenance) if version is not None else None
    if evaluation is None or version is None or probe is None:
        return None
    metas = read_metas(ctx, version.folder or "")
    items = session.scalars(
        select(EvaluationItem).where(EvaluationItem.evaluation_id == evaluation.id).order_by(EvaluationItem.position)
    ).all()
    judged = {item.position: judge_item(probe, metas[item.position], item.shown) for item in items}
    _store_values(session, items, judged, metas)
    evaluation.record = evaluation.record.model_copy(update={"safety": _report(probe, metas, judged)})
    positions = sorted(judged)
    scores = score_probe(probe, [metas[place] for place in positions], [judged[place].values for place in positions])
    rows = tuple(view_of(ScoreRow, score.estimate, metric=score.metric) for score in scores)
    return result.model_copy(update={"scores": rows})


def _store_values(session: Session, items: Any, judged: dict[int, Judged], metas: list[dict[str, object]]) -> None:
    labels = [metas[item.position].get("cluster") for item in items]
    codes: Sequence[float | None] = cluster_values([{}] * len(labels), labels) or [None] * len(labels)
    changes = []
    for item, code in zip(items, codes, strict=True):
        one = judged[item.position]
        values = one.values if code is None else {**one.values, CLUSTER: code}
        changes.append(
            {
                "id": item.id,
                "values": values,
                "shown": {**item.shown, **one.shown, "safety": True, "missing": one.missing},
            }
        )
    if changes:
        session.execute(update(EvaluationItem), changes)
        session.expire_all()


def _report(probe: Probe, metas: list[dict[str, object]], judged: dict[int, Judged]) -> SafetyReport:
    """Return what a page shows beside the scores: the scorer, missing items by metric, scores by group."""
    positions = sorted(judged)
    shown_metas, values = [metas[place] for place in positions], [judged[place].values for place in positions]
    missing = {
        metric: sum(metric not in values[index] for index in places)
        for metric, places in expected_metrics(probe, shown_metas).items()
    }
    groups = {
        metric: tuple(view_of(GroupScore, estimate, group=name) for name, estimate in parts[:MAX_GROUPS])
        for metric, parts in score_groups(probe, shown_metas, values).items()
    }
    return SafetyReport(
        probe=probe.value,
        scorer=SCORER if probe in RULE_SCORED else "",
        items=len(positions),
        unclear=sum(judged[place].missing for place in positions),
        missing=missing,
        groups=groups,
    )
