"""Record a finished safety evaluation: judge items by the probe's rules, with safety scores for the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.db.tables import DatasetVersion, Evaluation, EvaluationItem
from backend.domain.attributes import view_of
from backend.domain.evaluation.clusters import CLUSTER, cluster_values
from backend.domain.evaluation.safety.probes import Probe
from backend.domain.evaluation.safety.refusal import SCORER
from backend.domain.evaluation.safety.reports import GroupScore, SafetyReport
from backend.domain.evaluation.safety.scoring import Judged, expected_metrics, judge_item, score_groups, score_probe
from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.results import EvaluateResult, ScoreRow
from backend.services.context import Context
from backend.services.evaluation.safety.probes import probe_of, read_metas
from backend.services.jobs.claims import Claim

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
