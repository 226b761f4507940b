"""Texts on the power of a comparison, or of a gate, before it runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from backend.domain.statistics.power import PowerPlan
from backend.domain.wording import about, percent, plural
from backend.services.evaluation.evaluations import EvaluationView
from backend.services.evaluation.gates import GatePlan
from pages.components.words import when

DESIGN_EFFECT_SHOWN = 1.05


def format_power(plan: PowerPlan) -> str:
    """Return what a comparison can detect, on which assumption, and the items that smaller differences need."""
    if plan.measured_pairs:
        source = (
            f"differed on {percent(plan.discordance)} of items in {plural(plan.measured_pairs, 'earlier comparison')}"
        )
    else:
        source = (
            f"are assumed to differ on {percent(plan.discordance)} of items, as no two evaluations here"
            " share enough of its items yet"
        )
    if plan.detectable is not None:
        words = (
            f"Detects a difference of {100 * plan.detectable:.1f} points with {percent(plan.power)} power; checkpoints"
            f" {source}."
        )
    else:
        words = (
            f"Too few items to detect even {100 * plan.discordance:.1f} points with {percent(plan.power)} power, the"
            f" largest difference there can be: checkpoints {source}."
        )
    if plan.design_effect > DESIGN_EFFECT_SHOWN:
        words += f" Items of one passage count together: design effect {plan.design_effect:.1f}."
    needs = "; ".join(
        f"{plural(round(100 * difference), 'point')}: {about(items)}"
        for difference, items in plan.items_for
        if items > plan.n
    )
    return f"{words} Items needed for {needs}." if needs else words


def format_gate_power(plan: GatePlan, *, test: str) -> str:
    """Return how likely a gate is to pass and to fail on one benchmark, on which assumption, and the items it needs."""
    power = plan.power
    if power is None:
        return f"On {plan.benchmark}: power not known, as {plan.unknown}."
    points, twice = f"{100 * power.margin:g}", f"{200 * power.margin:g} points"
    head = f"On {plan.benchmark}, {plural(power.n, 'item')}:"
    wrong = f"one that is worse by {points} points passes in at most {percent(power.errs, digits=1)}"
    candidate = "an equal checkpoint"
    if test == "superiority":
        wrong = f"one that is better by just {points} points passes in at most {percent(power.errs, digits=1)}"
        candidate = f"a checkpoint that is better by {twice}"
    right = f"{candidate} passes in {percent(power.passes)} of cases"
    parts = [right, *([f"one that is worse by {twice} fails in {percent(power.fails)}"] if power.margin else []), wrong]
    source = (
        f"measured in {plural(plan.measured_pairs, 'pair')}" if plan.measured_pairs else "assumed, not measured yet"
    )
    needs = ""
    if power.items is not None and power.items > power.n:
        needs = f" With about {about(power.items)} items, {candidate} would pass in 80 % of cases."
    return f"{head} {'; '.join(parts)}. Checkpoints differ on {percent(plan.discordance)} of items ({source}).{needs}"


def format_counted(evaluations: Sequence[EvaluationView], *, now: datetime) -> str:
    """Return which evaluations count for a gate: of champion and candidate, or of the champion alone."""
    if not evaluations:
        return ""
    words = " and ".join(format_evaluation(one, now=now) for one in evaluations)
    alone = "; a candidate needs one with the same settings" if len(evaluations) == 1 else ""
    return f"Counted: {words}{alone}."


def format_evaluation(evaluation: EvaluationView, *, now: datetime) -> str:
    """Return whose evaluation it is, of when and of which items: “Oak, 14:32 (all items)”."""
    limit = evaluation.config.limit
    items = "all items" if limit is None else f"item limit {limit:,}"
    return f"{evaluation.checkpoint}, {when(evaluation.finished_at or evaluation.created_at, now=now)} ({items})"


def format_detectable(plan: PowerPlan | None) -> str:
    """Return the smallest difference that a comparison can detect; a dash where unknown before texts are scored."""
    if plan is None:
        return "–"
    return "none with so few items" if plan.detectable is None else f"{100 * plan.detectable:.1f} points"
