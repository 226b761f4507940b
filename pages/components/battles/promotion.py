"""The decision after a campaign: promote a contestant to an alias or reject it, and the decisions so far."""

from __future__ import annotations

import streamlit as st

from backend.services.battles.views import CampaignView
from backend.services.context import Context, Person
from backend.services.serving.aliases import PromotionView, list_aliases
from backend.services.serving.promotions import gather_evidence, promote, reject
from pages.components import routes
from pages.components.choices import by_identity
from pages.components.frame import errors_shown, plain
from pages.components.links import row_link
from pages.components.words import when

ICONS = {
    "promote": ("promoted", "green", "arrow_upward"),
    "reject": ("rejected", "red", "block"),
    "rollback": ("rolled back", "orange", "undo"),
}
NEW = "New alias"


def draw_promotion(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw the evidence on a contestant, the form that promotes or rejects it, and the decisions by this campaign."""
    checkpoints = {c.checkpoint_id: c.name for c in campaign.contestants if c.checkpoint_id}
    if not checkpoints:
        return
    aliases = {alias.name: alias for alias in list_aliases(ctx)}
    st.subheader("Promotion", anchor=False)
    decisions = [row for alias in aliases.values() for row in alias.history if row.campaign_id == campaign.id]
    for row in sorted(decisions, key=lambda row: row.created_at, reverse=True):
        with st.container(border=True):
            draw_decision(row)
    if not person.may_build:
        return
    with errors_shown(), st.container(border=True):
        ids = list(checkpoints)
        grid = st.grid(2, min_column_width=240)
        words = by_identity("promotion_checkpoint", ids, checkpoints.__getitem__)
        checkpoint = grid.selectbox(
            "Checkpoint", ids, index=len(ids) - 1, format_func=words, key="promotion_checkpoint"
        )
        chosen = grid.selectbox(
            "Alias", [*aliases, NEW], key="promotion_alias", help="Endpoints that follow it serve its checkpoint."
        )
        alias = chosen
        if chosen == NEW:
            alias = st.text_input(
                "Name of the alias", key="promotion_name", placeholder="storyteller@production"
            ).strip()
        held = aliases[alias].checkpoint_id if alias in aliases else None
        _draw_evidence(ctx, checkpoint, campaign_id=campaign.id, held=held)
        reason = st.text_input(
            "Reason", key="promotion_reason", help="Required when the evidence speaks against a promotion."
        )
        with st.container(horizontal=True):
            yes = st.button(
                "Promote", type="primary", key="promote_go", icon=":material/arrow_upward:", disabled=not alias
            )
            no = st.button("Reject", key="reject_go", icon=":material/block:", disabled=not alias)
        if yes or no:
            decide = promote if yes else reject
            made = decide(ctx, checkpoint, alias=alias, person=person, campaign_id=campaign.id, reason=reason or "")
            st.toast(plain(f"{made.checkpoint} {'promoted to' if yes else 'rejected for'} {alias}."))
            st.rerun()


def _draw_evidence(ctx: Context, checkpoint: str, *, campaign_id: str, held: str | None) -> None:
    evidence = gather_evidence(ctx, checkpoint, campaign_id=campaign_id, against_id=held)
    verdict = evidence.verdict
    if verdict is not None and verdict.outcome == "better":
        st.success(plain(verdict.sentence), icon=":material/check_circle:")
    for text in evidence.against:
        st.warning(plain(text), icon=":material/warning:")
    passed = [gate.gate for gate in evidence.gates if gate.verdict == "PASS"]
    if passed:
        st.caption(plain(f"Gates passed: {', '.join(passed)}."))


def draw_decision(row: PromotionView) -> None:
    """Draw one decision: what moved where, by whom, when, why, and whether the evidence supported it."""
    word, color, icon = ICONS[row.decision]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(word, color=color, icon=f":material/{icon}:")  # type: ignore[arg-type]
        row_link(
            row.checkpoint,
            page=routes.CHECKPOINTS,
            query={"checkpoint": row.checkpoint_id},
            icon="deployed_code",
            key=f"decided_{row.id}",
        )
        st.caption(plain(f"{row.alias} · {row.by} · {when(row.created_at)}"), width="content")
    if row.reason:
        st.markdown(plain(row.reason))
    if row.evidence.verdict:
        st.caption(plain(row.evidence.verdict.sentence))
    if row.against and row.decision == "promote":
        st.caption(f":material/warning: Against the evidence: {plain(' '.join(row.against))}")
