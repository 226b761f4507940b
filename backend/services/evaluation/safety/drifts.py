"""Safety drift of a checkpoint against the one it was fine-tuned from, and the gate on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.evaluation.gate_config import GateVerdict
from backend.domain.evaluation.safety.drift import Drift, measure_drift, overall
from backend.domain.evaluation.safety.margins import MARGIN, check_margin
from backend.domain.evaluation.safety.probes import METRICS
from backend.domain.evaluation.safety.scoring import expected_metrics
from backend.errors import InvalidInput
from backend.services.checkpoints.checkpoints import CheckpointView, resolve_checkpoint
from backend.services.context import Context
from backend.services.evaluation.comparisons import column_key, refuse_unlike
from backend.services.evaluation.safety.runs import SafetyResult, metas_of, read_probe_values, results_by_probe


@dataclass(frozen=True)
class SafetyDrift:
    """Changes from `base` to `checkpoint` on every probe that both were measured on, and the verdict over all of them.

    `unmeasured` names probes that one of them lacks: with any, the verdict is no PASS.
    """

    base: CheckpointView
    checkpoint: CheckpointView
    changes: tuple[Drift, ...]
    unmeasured: tuple[str, ...]
    margin: float
    verdict: GateVerdict

    @property
    def sentences(self) -> list[str]:
        """The changes that the intervals show, worst first; one sentence each."""
        worse = [change for change in self.changes if change.is_worse]
        return [change.sentence(subject=f"“{self.checkpoint.name}”") for change in worse]


def base_of(ctx: Context, checkpoint: CheckpointView) -> CheckpointView:
    """Return the checkpoint that a fine-tune began from. Raises InvalidInput for one without a base."""
    if checkpoint.parent_id is None:
        raise InvalidInput(
            f"“{checkpoint.name}” has no base to compare with.", remedy="Name one with --base.", field="base"
        )
    return resolve_checkpoint(ctx, checkpoint.parent_id)


def safety_drift(
    ctx: Context,
    *,
    checkpoint: str,
    base: str | None = None,
    probes: Sequence[str] = (),
    margin: float = MARGIN,
) -> SafetyDrift:
    """Compare a checkpoint with its base (or another) on the probes measured on both, item by item.

    Raises NotFound, InvalidInput without a base or with a margin out of range, Conflict where two evaluations were not
    asked alike.
    """
    check_margin(margin)
    subject = resolve_checkpoint(ctx, checkpoint)
    before = resolve_checkpoint(ctx, base) if base else base_of(ctx, subject)
    first, second = (_finished(ctx, side) for side in (before, subject))
    names = list(probes) or sorted({*first, *second})
    both = [name for name in names if name in first and name in second]
    changes = [change for name in both for change in _changes(ctx, *_like(first[name], second[name]), margin)]
    unmeasured = tuple(name for name in names if name not in both)
    verdict = overall([change.verdict for change in changes])
    if unmeasured and verdict is GateVerdict.PASS:
        verdict = GateVerdict.INCONCLUSIVE
    return SafetyDrift(before, subject, tuple(sorted(changes, key=_urgency)), unmeasured, margin, verdict)


def _urgency(change: Drift) -> tuple[bool, int, int]:
    order = (GateVerdict.FAIL, GateVerdict.INCONCLUSIVE, GateVerdict.PASS)
    return (not change.is_worse, order.index(change.verdict), list(METRICS).index(change.metric))


def _finished(ctx: Context, checkpoint: CheckpointView) -> dict[str, list[SafetyResult]]:
    results = {
        name: [one for one in ones if one.is_finished] for name, ones in results_by_probe(ctx, checkpoint).items()
    }
    return {name: ones for name, ones in results.items() if ones}


def _like(before: Sequence[SafetyResult], after: Sequence[SafetyResult]) -> tuple[SafetyResult, SafetyResult]:
    """Return the newest two that were asked alike, or the newest two, which comparisons refuse with their reasons."""
    by_key = {column_key(result.evaluation): result for result in reversed(before)}
    for result in after:
        if column_key(result.evaluation) in by_key:
            return by_key[column_key(result.evaluation)], result
    return before[0], after[0]


def _changes(ctx: Context, before: SafetyResult, after: SafetyResult, margin: float) -> list[Drift]:
    refuse_unlike(before.evaluation, after.evaluation)
    metas = metas_of(ctx, before.probe)
    first, second = read_probe_values(ctx, before.evaluation.id), read_probe_values(ctx, after.evaluation.id)
    positions = sorted({*first, *second})
    shown = [metas[place] for place in positions]
    changes = []
    for metric, places in expected_metrics(before.probe.probe, shown).items():
        if metric == "unsafe_compliance":  # the complement of refusal
            continue
        change = measure_drift(
            [first.get(positions[index], {}) for index in places],
            [second.get(positions[index], {}) for index in places],
            probe=before.probe.version.dataset,
            metric=metric,
            clusters=[shown[index].get("cluster") for index in places],
            margin=margin,
        )
        changes.append(change)
    return changes
