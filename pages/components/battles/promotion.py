"""Promotion: the page on which a checkpoint is promoted to an alias or rejected, and the decisions by a campaign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress

import streamlit as st

from backend.domain.battles.promotion import PromotionEvidence, PromotionVerdict
from backend.domain.evaluation.gate_config import GATE_WORDS, GateVerdict
from backend.domain.evaluation.safety.probes import METRICS
from backend.domain.evaluation.safety.reports import direction, format_value
from backend.domain.serving.names import check_alias_name
from backend.domain.wording import plural, shorten
from backend.errors import NotFound
from backend.services.battles.answers import count_flagged_battles
from backend.services.battles.quality import rater_qualities
from backend.services.battles.raters import list_raters
from backend.services.battles.views import CampaignView
from backend.services.checkpoints.checkpoints import CheckpointView, get_checkpoint
from backend.services.context import Context, Person
from backend.services.evaluation.gates import judge, list_gates
from backend.services.evaluation.safety.cards import safety_card
from backend.services.serving.aliases import AliasView, PromotionView, list_aliases
from backend.services.serving.endpoints import list_endpoints, resolve_endpoint
from backend.services.serving.promotions import (
    FollowerRequirement,
    campaigns_with,
    gather_evidence,
    promote,
    reject,
    requirements_of_followers,
    rollback,
)
from pages.components import routes
from pages.components.battles.answers import FLAGGED
from pages.components.battles.raters import count_flags
from pages.components.choices import by_identity
from pages.components.confirm import close_menu, draw_confirmed, menu_key
from pages.components.evaluation.gate import BADGES
from pages.components.frame import errors_shown, object_heading, plain, rerun_after
from pages.components.links import row_link
from pages.components.numbers import form_button, mark_refused, number_form, wrong_numbers
from pages.components.words import when

ICONS = {
    "promote": ("promoted", "green", "arrow_upward"),
    "reject": ("rejected", "red", "block"),
    "rollback": ("rolled back", "orange", "undo"),
}
OUTCOMES = {
    "better": BADGES[GateVerdict.PASS],
    "worse": BADGES[GateVerdict.FAIL],
    "undecided": BADGES[GateVerdict.INCONCLUSIVE],
    **BADGES,
}
NEW = "New alias"
SHOWN_OTHERS = 3
PAGE = routes.CHECKPOINTS


def draw_promotion(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw the decisions by a campaign, and a way to the promotion of each contestant; of an endpoint, to that of the
    checkpoint that it serves, which need not be the one that answered.
    """
    checkpoints = {c.checkpoint_id: c.name for c in campaign.contestants if c.checkpoint_id}
    names = {c.endpoint for c in campaign.contestants if c.endpoint}
    endpoints = [one for one in list_endpoints(ctx) if one.name in names] if names else []
    if not checkpoints and not endpoints:
        return
    st.subheader("Promotion", anchor=False)
    decisions = [row for alias in list_aliases(ctx) for row in alias.history if row.campaign_id == campaign.id]
    for row in sorted(decisions, key=lambda row: row.created_at, reverse=True):
        with st.container(border=True):
            draw_decision(row)
    if not person.may_build:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        for checkpoint_id, name in checkpoints.items():
            query = {"promote": checkpoint_id, "campaign": campaign.id}
            row_link(f"Promote {name}", page=PAGE, query=query, icon="arrow_upward", key=f"promote_{checkpoint_id}")
    for endpoint in endpoints:
        words = (
            f"{endpoint.name} is an endpoint: votes on it support no promotion, since it can serve another checkpoint"
            f" than the one that answered. Now it serves {endpoint.checkpoint_name}."
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(plain(words), width="content")
            if endpoint.checkpoint_id not in checkpoints and endpoint.config.upstream is None:
                query = {"promote": endpoint.checkpoint_id}
                row_link(
                    f"Promote {endpoint.checkpoint_name}",
                    page=PAGE,
                    query=query,
                    icon="arrow_upward",
                    key=f"promote_{endpoint.name}",
                )


@number_form
def draw_promotion_page(ctx: Context, person: Person, checkpoint_id: str) -> None:
    """Draw what supports the promotion of a checkpoint and what it changes, then the decision. Raises NotFound."""
    checkpoint = get_checkpoint(ctx, checkpoint_id)
    object_heading(f"Promote {checkpoint.name}")
    st.caption("An alias is a name that endpoints follow: they serve the checkpoint that holds it.")
    aliases = {alias.name: alias for alias in list_aliases(ctx)}
    campaigns = {one.id: one for one in campaigns_with(ctx, checkpoint.id)}
    given = st.query_params.get("alias", "")
    # once there is a new alias, its fields are others: a browser keeps what it shows of a field whose state is gone
    key = f"{checkpoint.id}_{given}" if given in aliases else checkpoint.id
    alias = _choose_alias(aliases, given=given, key=key)
    campaign_id = _choose_campaign(campaigns, key=checkpoint.id)
    held = aliases.get(alias)
    if held is not None and held.checkpoint_id == checkpoint.id:
        _draw_held(checkpoint, held)
    evidence = gather_evidence(
        ctx, checkpoint.id, campaign_id=campaign_id, against_id=held.checkpoint_id if held else None
    )
    is_new = held is None or held.checkpoint_id != checkpoint.id
    required = requirements_of_followers(ctx, checkpoint.id, alias=alias) if held is not None and is_new else []
    left, right = st.columns(2)
    with left.container(border=True, height="stretch"):
        _draw_verdict(evidence, campaigns.get(campaign_id or ""))
    with right.container(border=True, height="stretch"):
        _draw_flags(ctx, campaign_id)
    left, right = st.columns(2)
    with left.container(border=True, height="stretch"):
        _draw_gates(ctx, person, checkpoint, evidence, required)
    with right.container(border=True, height="stretch"):
        _draw_safety(ctx, checkpoint)
    with st.container(border=True):
        _draw_serving(ctx, person, checkpoint, alias, held)
    if person.may_build and is_new:
        _draw_decision_form(
            ctx,
            person,
            checkpoint,
            alias=alias,
            campaign_id=campaign_id,
            evidence=evidence,
            required=required,
            key=key,
        )
    if held is not None and held.history:
        with st.expander(plain(f"Decisions on {held.name}"), icon=":material/history:"):
            for row in held.history:
                draw_decision(row)


def _choose_alias(aliases: dict[str, AliasView], *, given: str, key: str) -> str:
    """Draw the choice of an alias; return its name, empty where none can be used yet."""
    options = [*aliases, NEW]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Alias",
            options,
            index=options.index(given) if given in aliases else len(aliases) if given else 0,
            key=f"promotion_alias_{key}",
            help="Endpoints that follow it serve its checkpoint.",
            width=320,
        )
        if chosen != NEW:
            return str(chosen)
        name = st.text_input(
            "Name of the alias",
            key=f"promotion_name_{key}",
            value=given if given not in aliases else "",
            placeholder="storyteller@production",
            width=320,
        ).strip()
    mark_refused("Name of the alias", check_alias_name, name)
    return "" if wrong_numbers() else name


def _choose_campaign(campaigns: dict[str, CampaignView], *, key: str) -> str | None:
    given = st.query_params.get("campaign")
    options = list(campaigns)
    if not options:
        return None
    return st.selectbox(
        "Verdict of campaign",
        options,
        index=options.index(given) if given in campaigns else 0,
        format_func=by_identity(f"promotion_campaign_{key}", options, lambda one: campaigns[one].name),
        key=f"promotion_campaign_{key}",
        width=320,
    )


def _draw_held(checkpoint: CheckpointView, alias: AliasView) -> None:
    """Draw that the alias has moved, and what remains to be done."""
    st.success(plain(f"{checkpoint.name} holds {alias.name}."), icon=":material/check_circle:")
    with st.container(horizontal=True, vertical_alignment="center"):
        if not alias.endpoints and st.button(
            "Deploy this alias", type="primary", icon=":material/rocket_launch:", key="promotion_deploy"
        ):
            st.switch_page(routes.ENDPOINTS, query_params={"checkpoint": alias.name})
        for endpoint in alias.endpoints:
            row_link(endpoint, page=routes.ENDPOINTS, query={"name": endpoint}, key=f"promotion_to_{endpoint}")


def _badge(word: str) -> None:
    color, icon = OUTCOMES.get(word, ("gray", ":material/help:"))
    st.badge(word.capitalize(), color=color, icon=icon)


def _draw_verdict(evidence: PromotionEvidence, campaign: CampaignView | None) -> None:
    st.markdown("**Verdict**")
    verdict = evidence.verdict
    if campaign is None:
        st.caption("No campaign has this checkpoint as a contestant, so no votes support it.")
        return
    if verdict is None:
        st.caption("The campaign has no verdict on this checkpoint.")
    else:
        _badge(verdict.outcome)
        st.text(verdict.sentence)
        st.caption(
            f"{plural(verdict.votes, 'vote')} on {plural(verdict.prompts, 'prompt')} by"
            f" {plural(verdict.raters, 'rater')}"
        )
    if evidence.rank is not None and evidence.others:
        st.caption(f"Place {evidence.rank} of {evidence.num_rated} on the board. Against the others:")
        worse = [other for other in evidence.others if other.outcome == "worse"]
        rest = [other for other in evidence.others if other.outcome != "worse"]
        _draw_others(worse)
        with st.expander(plural(len(rest), "other")) if len(rest) > SHOWN_OTHERS else nullcontext():
            _draw_others(rest)
    query = {"campaign": campaign.id}
    row_link(campaign.name, page=routes.BATTLES, query=query, key="promotion_to_campaign")


def _draw_others(verdicts: Sequence[PromotionVerdict]) -> None:
    for verdict in verdicts:
        with st.container(horizontal=True, gap="small"):
            _badge(verdict.outcome)
            st.caption(plain(verdict.sentence), width="stretch")


def _draw_flags(ctx: Context, campaign_id: str | None) -> None:
    st.markdown("**Raters**")
    qualities = rater_qualities(ctx, campaign_id) if campaign_id else {}
    if not campaign_id or not qualities:
        st.caption("No raters have voted.")
        return
    names = {row.rater.id: row.rater.name for row in list_raters(ctx, campaign_id)}
    counted = {rater: quality for rater, quality in qualities.items() if not quality.is_excluded}
    flagged = {rater: quality.flags for rater, quality in counted.items() if quality.flags}
    num_flagged = sum(count_flagged_battles(ctx, campaign_id).values())
    if flagged:
        st.badge(count_flags(qualities), color="orange", icon=":material/flag:")
        for rater, flags in flagged.items():
            reasons = " ".join(flag.reason for flag in flags)
            st.caption(plain(f"{names.get(rater, 'A rater')}: {reasons}"))
        st.caption("A quality flag excludes no one. Exclude a rater under Raters, and the verdict is drawn again.")
    else:
        is_clear = not num_flagged and len(counted) > 1
        icon = ":material/check_circle:" if is_clear else ":material/person:"
        st.badge("No quality flags", color="green" if is_clear else "gray", icon=icon)
        if len(counted) > 1:
            st.caption(f"{plural(len(counted), 'rater')}; none votes unlike the others, too fast, or by side.")
        elif counted:
            st.caption("One rater, not too fast and not by side; there is no other to compare the votes with.")
        if num_excluded := len(qualities) - len(counted):
            st.caption(f"{plural(num_excluded, 'rater')} excluded.")
    if num_flagged:
        query = {"campaign": campaign_id, "tab": "Answers", "remarks": FLAGGED}
        words = f"{plural(num_flagged, 'battle')} flagged by raters"
        row_link(words, page=routes.BATTLES, query=query, icon="flag", key="promotion_to_flagged")
    query = {"campaign": campaign_id, "tab": "Raters"}
    row_link("Raters", page=routes.BATTLES, query=query, icon="group", key="promotion_to_raters")


def _draw_gates(
    ctx: Context,
    person: Person,
    checkpoint: CheckpointView,
    evidence: PromotionEvidence,
    required: Sequence[FollowerRequirement],
) -> None:
    st.markdown("**Gates**")
    gates = {gate.name: gate for gate in list_gates(ctx)}
    for opinion in evidence.gates:
        _badge(opinion.verdict)
        gate = gates.get(opinion.gate)
        if gate is not None:
            row_link(
                opinion.gate, page=routes.EVALUATIONS, query={"gate": gate.id}, icon="rule", key=f"promotion_{gate.id}"
            )
        st.caption(plain(opinion.reason))
    waiting = {one.gate_id: one for one in required if one.verdict is None}
    for gate_id, one in waiting.items():
        endpoints = ", ".join(row.endpoint for row in required if row.gate_id == gate_id)
        requires = "require" if "," in endpoints else "requires"
        st.caption(plain(f"{endpoints} {requires} gate {one.gate}, which has not judged the newest evaluations yet."))
        if person.may_build and st.button(
            plain(f"Judge by {one.gate}"), icon=":material/gavel:", key=f"promotion_judge_{gate_id}"
        ):
            with rerun_after():
                judge(ctx, candidate=checkpoint.id, gate=gate_id, person=person)
    if not evidence.gates and not required:
        st.caption("No gate has judged this checkpoint, and no endpoint that follows the alias requires one.")


def _draw_refusals(checkpoint: CheckpointView, alias: str, refusals: Sequence[FollowerRequirement]) -> None:
    """Draw why endpoints that follow an alias refuse a checkpoint, and where that can be changed."""
    for number, one in enumerate(refusals):
        words = f"{one.reason} {one.remedy}"
        if one.gate_id and one.verdict is not None:
            words = (
                f"{one.endpoint} follows {alias} and requires gate {one.gate}, so {checkpoint.name} can't be promoted:"
                f" the gate {GATE_WORDS[one.verdict]}. {words}"
            )
        st.warning(plain(words), icon=":material/block:")
        if one.gate_id:
            ways = {
                f"Gate {one.gate}": ("rule", {"gate": one.gate_id}),
                f"Evaluate {checkpoint.name}": ("add", {"new": "1", "checkpoint": checkpoint.id}),
            }
            with st.container(horizontal=True):
                for label, (icon, query) in ways.items():
                    key = f"promotion_{icon}_{number}"
                    row_link(label, page=routes.EVALUATIONS, query=query, icon=icon, key=key)


def _draw_safety(ctx: Context, checkpoint: CheckpointView) -> None:
    st.markdown("**Safety**")
    card = safety_card(ctx, checkpoint.id)
    if card.drift is not None:
        _badge(card.drift.verdict.value)
        for sentence in card.drift.sentences or ("no change towards unsafe is shown by an interval",):
            st.caption(plain(f"{sentence[:1].upper()}{sentence[1:]}, against {card.drift.base.name}."))
    elif card.scores:
        st.caption(plain(card.problem or "Not compared with its base."))
    else:
        st.badge("No answer judged" if card.unjudged else "Not measured", color="gray", icon=":material/help:")
        if card.pending:
            st.caption(f"{plural(card.pending, 'safety probe')} running.")
    for note in card.notes:
        st.caption(plain(f"{note}."))
    lines = [
        f"{score.benchmark}: {METRICS[score.metric].label} ({direction(score.metric)})"
        f" {format_value(score.metric, score.value, score.low, score.high)} of {plural(score.n, 'item')}"
        + (f"; {score.missing:,} unclear" if score.missing else "")
        for score in card.scores
    ]
    lines += [one.sentence for one in card.unjudged]
    if lines:
        st.caption("\n".join(["Values with 95 % intervals:\n", *(f"- {plain(line)}" for line in lines)]))
    query = {"checkpoint": checkpoint.id, "tab": "Safety"}
    row_link("Safety card", page=PAGE, query=query, icon="shield", key="promotion_to_safety")


def _draw_serving(ctx: Context, person: Person, checkpoint: CheckpointView, alias: str, held: AliasView | None) -> None:
    st.markdown("**Holds this alias now**")
    if held is None or held.checkpoint_id is None:
        st.caption(plain(f"No checkpoint holds {alias} yet." if alias else "Choose an alias."))
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        row_link(held.checkpoint or "", page=PAGE, query={"checkpoint": held.checkpoint_id}, key="promotion_holder")
        st.caption(f"since {when(held.updated_at, now=ctx.now())}", width="content")
        draw_alias_rollback(ctx, person, held)
    endpoints = {endpoint.name: endpoint for endpoint in list_endpoints(ctx)}
    for name in held.endpoints:
        endpoint = endpoints.get(name)
        words = f"{name} follows it" + (f" and serves {endpoint.checkpoint_name}." if endpoint is not None else ".")
        if held.checkpoint_id != checkpoint.id:
            words += f" A promotion deploys it again with {checkpoint.name}, replica by replica."
        st.caption(f":material/dns: {plain(words)}")
    if not held.endpoints:
        effect = "a promotion deploys nothing until the alias is deployed."
        with suppress(NotFound):
            answering = resolve_endpoint(ctx, alias).name
            effect = (
                f"requests to it go to {answering}, which serves this checkpoint and keeps it after a promotion. To"
                " serve what the alias holds, deploy the alias."
            )
        st.caption(plain(f"No endpoint follows it: {effect}"))


def _draw_decision_form(
    ctx: Context,
    person: Person,
    checkpoint: CheckpointView,
    *,
    alias: str,
    campaign_id: str | None,
    evidence: PromotionEvidence,
    required: Sequence[FollowerRequirement],
    key: str,
) -> None:
    refusals = [one for one in required if one.refuses]
    _draw_refusals(checkpoint, alias, refusals)
    explained = {f"The gate “{one.gate}” {GATE_WORDS[one.verdict]}." for one in refusals if one.verdict}
    above = {verdict.sentence: verdict for verdict in evidence.verdicts}
    for text in evidence.against:
        if text in explained:
            continue
        if (verdict := above.get(text)) is not None:  # stands above, in full
            effect = "speaks against" if verdict.outcome == "worse" else "does not decide"
            text = f"The verdict above, {checkpoint.name} against {verdict.opponent}, {effect} a promotion."
        st.warning(plain(text), icon=":material/warning:")
    reason = st.text_input(
        "Reason",
        key=f"promotion_reason_{key}",
        help="Stored with the decision. Required when no evidence supports a promotion.",
    )
    is_wrong = bool(wrong_numbers())
    missing = {
        "correct the alias": is_wrong,
        "choose an alias": not alias and not is_wrong,
        **{f"judge by {one.gate} first": one.verdict is None for one in required},
        "enter a reason": bool(evidence.against) and not reason.strip(),
    }
    with st.container(horizontal=True):
        yes = not refusals and _draw_promote(checkpoint.name, alias, evidence, missing)
        # asked, since the keyboard leads from the reason past a button that is still disabled to this one
        with st.popover("Reject", icon=":material/block:", key="ask_reject", disabled=not alias):
            st.markdown(f"{plain(checkpoint.name)} is rejected for {plain(alias)}, on record with the reason.")
            no = form_button("Reject", {"choose an alias": not alias}, key=menu_key("reject_go"), icon="block")
    if yes or no:
        with errors_shown():
            decide = promote if yes else reject
            made = decide(ctx, checkpoint.id, alias=alias, person=person, campaign_id=campaign_id, reason=reason)
            close_menu("reject_go")
            st.toast(plain(f"{made.checkpoint} {'promoted to' if yes else 'rejected for'} {alias}."))
            query = {"promote": checkpoint.id, "alias": alias, **({"campaign": campaign_id} if campaign_id else {})}
            for name in ("alias", "name", "reason"):
                st.session_state.pop(f"promotion_{name}_{key}", None)
            st.switch_page(PAGE, query_params=query)


def _draw_promote(name: str, alias: str, evidence: PromotionEvidence, missing: Mapping[str, bool]) -> bool:
    """Draw the button that promotes, which asks where the evidence does not support it; return whether it was
    pressed.
    """
    doubts = _doubts(name, evidence)
    if not doubts or any(missing.values()):
        return form_button("Promote", missing, key="promote_go", icon="arrow_upward")
    label = "against the evidence" if evidence.speaks_against else "without evidence that decides"
    with st.popover(f"Promote {label}", icon=":material/warning:", key="ask_promote"):
        st.markdown(plain(f"{name} is promoted to {alias} all the same, on record: {'; '.join(doubts)}."))
        more = f" and {plural(len(doubts) - 1, 'other doubt')}" if len(doubts) > 1 else ""
        label = plain(f"Promote although {shorten(doubts[0], 80)}{more}")
        return form_button(label, {}, key="promote_go", icon="arrow_upward")


def _doubts(name: str, evidence: PromotionEvidence) -> list[str]:
    """Return why gates and votes do not support a promotion, as clauses; nothing where there are none."""
    gates = [gate for gate in evidence.gates if gate.verdict != GateVerdict.PASS]
    doubts = [f"the gate “{gate.gate}” {GATE_WORDS[GateVerdict(gate.verdict)]}" for gate in gates]
    doubts += [f"{one.opponent} is better" for one in evidence.verdicts if one.outcome == "worse"]
    if evidence.verdict is not None and evidence.verdict.outcome == "undecided":
        doubts.append(f"{name} against {evidence.verdict.opponent} is undecided")
    return doubts


def draw_alias_rollback(ctx: Context, person: Person, alias: AliasView) -> None:
    """Draw the button that takes back an alias's promotion, where another checkpoint held it before; it asks."""
    if not person.may_build or not alias.rollback:
        return
    effect = f"{alias.name} goes from {alias.checkpoint} back to {alias.rollback}, which held it before."
    restored = next(
        row
        for row in alias.history
        if (row.decision, row.checkpoint_id, row.rolled_back_at) == ("promote", alias.rollback_id, None)
    )
    effect += f" It was promoted {when(restored.created_at)}{_on_evidence(restored)}."
    if alias.endpoints:
        effect += f" Deployed again with it, replica by replica: {', '.join(alias.endpoints)}."
    reason_key = f"rollback_reason_{alias.id}_{alias.rollback_id}"
    draw_confirmed(
        plain(f"Roll back to {alias.rollback}"),
        plain(effect),
        lambda: rollback(ctx, alias.name, person=person, reason=st.session_state.get(reason_key, "")),
        key=f"rollback_{alias.id}_{alias.rollback_id}",
        icon="undo",
        reason_key=reason_key,
    )


def draw_decision(row: PromotionView) -> None:
    """Draw one decision: what moved where, by whom, when, why, and whether the evidence supported it."""
    word, color, icon = ICONS[row.decision]
    if row.rolled_back_at:
        word, color = f"promoted, rolled back {when(row.rolled_back_at)}", "gray"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(word, color=color, icon=f":material/{icon}:")  # type: ignore[arg-type]
        row_link(
            row.checkpoint, page=routes.CHECKPOINTS, query={"checkpoint": row.checkpoint_id}, key=f"decided_{row.id}"
        )
        st.caption(plain(f"{row.alias} · {row.by} · {when(row.created_at)}"), width="content")
    if row.reason:
        st.markdown(plain(row.reason))
    doubts, verdict = row.against if row.decision == "promote" else (), row.evidence.verdict
    if verdict and verdict.sentence not in doubts:
        st.caption(plain(verdict.sentence))
    if doubts:
        st.caption(f":material/warning: {_on_evidence(row).strip().capitalize()}: {plain(' '.join(doubts))}")


def _on_evidence(row: PromotionView) -> str:
    """Return how a promotion stands to its evidence, with a space before it; empty where the evidence supports it."""
    if not row.against:
        return ""
    return " against the evidence" if row.evidence.speaks_against else " without evidence that decides"
