"""Texts on the power of a comparison before it runs. Pure."""

from __future__ import annotations

from backend.domain.statistics.power import PowerPlan
from backend.domain.wording import percent, plural

DESIGN_EFFECT_SHOWN = 1.05


def format_power(plan: PowerPlan) -> str:
    """Return what a comparison can detect, on which assumption, and the items that smaller differences need."""
    if plan.measured_pairs:
        source = (
            f"differed on {percent(plan.discordance)} of items in {plural(plan.measured_pairs, 'earlier comparison')}"
        )
    else:
        source = (
            f"are assumed to differ on {percent(plan.discordance)} of items, as nothing was measured on this"
            " benchmark yet"
        )
    if plan.detectable < 1:
        words = (
            f"Detects a difference of {100 * plan.detectable:.1f} points with {percent(plan.power)} power; checkpoints"
            f" {source}."
        )
    else:
        words = f"Too few items to detect any difference with {percent(plan.power)} power; checkpoints {source}."
    if plan.design_effect > DESIGN_EFFECT_SHOWN:
        words += f" Items of one passage count together: design effect {plan.design_effect:.1f}."
    needs = "; ".join(
        f"{plural(round(100 * difference), 'point')}: {items:,}"
        for difference, items in plan.items_for
        if items > plan.n
    )
    return f"{words} Items needed for {needs}." if needs else words


def format_detectable(plan: PowerPlan | None) -> str:
    """Return the smallest difference that a comparison can detect, briefly; a dash where it is not known before texts
    are scored.
    """
    if plan is None:
        return "–"
    return f"{100 * plan.detectable:.1f} points" if plan.detectable < 1 else "none: too few items"
