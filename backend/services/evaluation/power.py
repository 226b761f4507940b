"""Power of a comparison before it runs: discordance and clusters measured in earlier evaluations, else planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median

import numpy as np
from sqlalchemy import func, select

from backend.db.tables import Evaluation, Job
from backend.domain.evaluation.clusters import CLUSTER
from backend.domain.evaluation.config import EvaluationKind
from backend.domain.jobs.states import Status
from backend.domain.statistics.estimates import clustered_mean_estimate, mean_estimate
from backend.domain.statistics.power import PowerPlan, plan_power
from backend.services.context import Context
from backend.services.evaluation.packed_items import ItemValues, common_items, read_item_values

MAX_CHECKPOINTS = 6
MAX_EVALUATIONS = 100
"""Newest evaluations of a version, of which those with the same settings are taken."""
MIN_ITEMS = 30
"""Shared items from which on two evaluations measure a discordance."""


def plan_comparison(
    ctx: Context,
    *,
    version_id: str,
    kind: EvaluationKind,
    items: int,
    metric: str,
    settings: Mapping[str, object] | None = None,
    pair: Sequence[str] = (),
) -> PowerPlan | None:
    """Return what a comparison of two checkpoints by a metric on this many items of a version can detect; None for
    texts without a share.

    Discordance is that of a `pair` of evaluations, else the median over the pairs of the newest evaluations of up to
    six checkpoints with these `settings`, else with those of the newest.
    """
    if kind is EvaluationKind.PERPLEXITY or items < 1:
        return None
    evaluations = read_item_values(ctx, list(pair) or _newest(ctx, version_id, kind, settings)).values()
    pairs = [_measure(first, second, metric) for first, second in combinations(evaluations, 2)]
    measured = [one for one in pairs if one is not None]
    if not measured:
        return plan_power(items)
    discordance, design_effect = (median(values) for values in zip(*measured, strict=True))
    return plan_power(items, discordance=discordance, measured_pairs=len(measured), design_effect=design_effect)


def _newest(ctx: Context, version_id: str, kind: EvaluationKind, settings: Mapping[str, object] | None) -> list[str]:
    query = (
        select(
            Evaluation.id,
            func.coalesce(Evaluation.checkpoint_id, Evaluation.endpoint_id).label("subject_id"),
            Evaluation.record,
        )
        .join(Job, Job.id == Evaluation.job_id)
        .where(
            Evaluation.dataset_version_id == version_id, Evaluation.kind == kind.value, Job.status == Status.FINISHED
        )
        .order_by(Evaluation.created_at.desc())
        .limit(MAX_EVALUATIONS)
    )
    with ctx.db.read() as session:
        rows = session.execute(query).all()
    if settings is None and rows:
        settings = rows[0].record.settings
    alike = [row for row in rows if row.record.settings == settings]
    newest = {row.subject_id: row.id for row in reversed(alike)}
    return list(newest.values())[-MAX_CHECKPOINTS:]


def _measure(first: ItemValues, second: ItemValues, metric: str) -> tuple[float, float] | None:
    """Return (discordance, design effect) of two evaluations; None with fewer than 30 items in common.

    Of no discordant item at all the rule of three's bound is taken: two that never differed in n items may differ in
    3/n of them.
    """
    before, after = common_items(first, second, metric)
    known = np.isfinite(before) & np.isfinite(after)
    if known.sum() < MIN_ITEMS:
        return None
    gaps = after[known] - before[known]
    discordance = min(1.0, max(float((gaps**2).mean()), 3 / len(gaps)))
    clusters = common_items(first, second, CLUSTER)[0][known]
    if not np.isfinite(clusters).all():
        return discordance, 1.0
    plain, clustered = mean_estimate(gaps).stderr, clustered_mean_estimate(gaps, clusters.tolist()).stderr
    return discordance, max(1.0, (clustered / plain) ** 2) if plain and clustered else 1.0
