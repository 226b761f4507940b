"""Decide on a checkpoint: promote it to an alias, reject it, or roll an alias back. Endpoints that follow the alias are
deployed again.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Alias, Battle, Campaign, Completion, Contestant, Gate, GateResult, Promotion, Vote
from backend.domain.attributes import attributes_of, view_of
from backend.domain.battles.promotion import GateOpinion, PromotionEvidence, PromotionVerdict
from backend.domain.battles.verdicts import PairVerdict
from backend.domain.evaluation.gate_config import GATE_WORDS, GateVerdict
from backend.domain.serving.names import check_alias_name
from backend.errors import Conflict, InvalidInput
from backend.services.battles.quality import excluded_raters
from backend.services.battles.standings import standings
from backend.services.battles.views import CampaignView, campaign_view, get_campaign, vote_holds
from backend.services.checkpoints.checkpoints import CheckpointView, get_checkpoint, resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.serving.aliases import (
    PROMOTE,
    REJECT,
    ROLLBACK,
    AliasView,
    PromotionView,
    decisions_on,
    find_alias,
    following_endpoints,
    promotion_view,
    standing_promotions,
)
from backend.services.serving.deployments import deploy, refuse_undeployable
from backend.services.serving.requirements import check_requirement, requirement_of

MAX_REASON = 2000
NO_EVIDENCE = "No votes and no gate support it."


def gather_evidence(
    ctx: Context, checkpoint_id: str, *, campaign_id: str | None, against_id: str | None = None
) -> PromotionEvidence:
    """Return what supports a promotion: the campaign's verdicts on the checkpoint and each gate's newest one.

    The verdict is on the pair with `against_id` (the alias's present checkpoint) if that is a contestant, else with the
    checkpoint's parent, else with the first other contestant of the board, an endpoint or not. `against` lists what
    does not support it: worse or undecided, worse than another contestant, FAIL or INCONCLUSIVE, or that there is no
    evidence at all.
    """
    gates = _gates(ctx, checkpoint_id)
    evidence = _of_campaign(ctx, checkpoint_id, campaign_id, against_id) if campaign_id else PromotionEvidence()
    verdict, against = evidence.verdict, []
    if campaign_id and verdict is None:
        against.append("The campaign has no verdict on this checkpoint.")
    elif verdict is not None and verdict.outcome != "better":
        against.append(verdict.sentence)
    elif verdict is None and not gates:
        against.append(NO_EVIDENCE)
    against += [other.sentence for other in evidence.others if other.outcome == "worse"]
    against += [
        f"The gate “{gate.gate}” {GATE_WORDS[GateVerdict(gate.verdict)]}." for gate in gates if gate.verdict != "PASS"
    ]
    return evidence.model_copy(update={"gates": gates, "against": tuple(against)})


@dataclass(frozen=True)
class FollowerRequirement:
    """A requirement of an endpoint that follows an alias, on a checkpoint: its gate's verdict (None: not judged on the
    newest evaluations), and why it would refuse the checkpoint. `gate_id` is empty for the safety gate.
    """

    endpoint: str
    gate: str
    gate_id: str
    verdict: GateVerdict | None
    reason: str
    remedy: str

    @property
    def refuses(self) -> bool:
        """Return whether a promotion would be refused."""
        return self.verdict in (GateVerdict.FAIL, GateVerdict.INCONCLUSIVE)


def requirements_of_followers(ctx: Context, checkpoint_id: str, *, alias: str) -> list[FollowerRequirement]:
    """Return what the endpoints that follow an alias require of a checkpoint before it can be promoted. Nothing is
    judged. Raises NotFound for an unknown checkpoint.
    """
    # imports scipy, which no other command on aliases needs
    from backend.services.evaluation.gates import read_required_gates

    with ctx.db.read() as session:
        followers = [row[0] for row in following_endpoints(session, alias)]
    rows = []
    for endpoint in followers:
        if (required := requirement_of(ctx, endpoint)) is not None:
            try:
                check_requirement(ctx, checkpoint_id, name=endpoint, requirement=required)
            except Conflict as error:
                remedy = error.remedy or ""
                rows.append(FollowerRequirement(endpoint, "safety", "", GateVerdict.FAIL, error.message, remedy))
        rows += [
            FollowerRequirement(endpoint, one.gate, one.gate_id, one.verdict, one.reason, one.remedy)
            for one in read_required_gates(ctx, endpoint=endpoint, checkpoint_id=checkpoint_id)
        ]
    return rows


def campaigns_with(ctx: Context, checkpoint_id: str) -> list[CampaignView]:
    """Return the campaigns with a checkpoint as a contestant: most counted votes on it first, then the newest."""
    authors = select(Completion.id).join(Contestant).where(Contestant.checkpoint_id == checkpoint_id)
    on_it = or_(Battle.completion_a_id.in_(authors), Battle.completion_b_id.in_(authors))
    campaigns = select(Campaign).join(Contestant).where(Contestant.checkpoint_id == checkpoint_id)
    with ctx.db.read() as session:

        def count(campaign: Campaign) -> int:
            votes = select(func.count(Vote.id)).join(Battle, Battle.id == Vote.battle_id)
            is_counted = Vote.rater_id.not_in(excluded_raters(session, campaign.id))
            of_campaign = Battle.campaign_id == campaign.id
            return (
                session.scalar(votes.where(of_campaign, Battle.purpose == "vote", vote_holds(), on_it, is_counted)) or 0
            )

        rows = session.scalars(campaigns.order_by(Campaign.created_at.desc(), Campaign.id)).all()
        return [campaign_view(session, row) for row in sorted(rows, key=count, reverse=True)]


def promote(
    ctx: Context,
    checkpoint: str,
    *,
    alias: str,
    person: Person,
    campaign_id: str | None = None,
    reason: str = "",
    asks_evidence: bool = True,
) -> PromotionView:
    """Move an alias to a checkpoint, making the alias if it is new, and deploy the endpoints that follow it again.
    Without `asks_evidence` it needs a reason only where there is evidence, and that speaks against it.

    Raises InvalidInput for a bad alias, or without a reason when the evidence does not support the promotion; Conflict
    if the checkpoint holds the alias already, or where a following endpoint's gate refuses it; NotFound; NotAllowed.
    """
    require_builder(person)
    check_alias_name(alias)
    subject = resolve_checkpoint(ctx, checkpoint)
    if campaign_id:
        get_campaign(ctx, campaign_id)
    held = _held(ctx, alias)
    if held == subject.id:
        raise Conflict(f"“{subject.name}” holds {alias} already.", field="alias")
    evidence = gather_evidence(ctx, subject.id, campaign_id=campaign_id, against_id=held)
    doubts = [text for text in evidence.against if asks_evidence or text != NO_EVIDENCE]
    if doubts and not reason.strip():
        raise InvalidInput(
            f"The evidence {'speaks against' if evidence.speaks_against else 'does not decide'} this promotion:"
            f" {' '.join(doubts)}",
            remedy="Give a reason to promote it nevertheless; it is stored.",
            field="reason",
        )
    return _move(
        ctx,
        PROMOTE,
        alias,
        subject,
        held=held,
        person=person,
        campaign_id=campaign_id,
        reason=reason,
        evidence=evidence,
    )


@retry_races
def reject(
    ctx: Context, checkpoint: str, *, alias: str, person: Person, campaign_id: str | None = None, reason: str = ""
) -> PromotionView:
    """Record that a checkpoint was not promoted to an alias, with the evidence. The alias stays where it is."""
    require_builder(person)
    check_alias_name(alias)
    subject = resolve_checkpoint(ctx, checkpoint)
    held = _held(ctx, alias)
    evidence = gather_evidence(ctx, subject.id, campaign_id=campaign_id, against_id=held)
    with ctx.db.write() as session:
        row = _ensure_alias(session, ctx, alias, person)
        made = _add(
            session,
            ctx,
            REJECT,
            row,
            subject.id,
            held,
            person=person,
            campaign_id=campaign_id,
            reason=reason,
            evidence=evidence,
        )
        return promotion_view(session, made, alias)


def rollback(ctx: Context, alias: str, *, person: Person, reason: str = "") -> PromotionView:
    """Move an alias back to the checkpoint that held it before. Raises Conflict without one or its files."""
    require_builder(person)
    with ctx.db.read() as session:
        row = find_alias(session, alias)
        standing, held = standing_promotions(decisions_on(session, row.id))[0], row.checkpoint_id
    if len(standing) < 2:
        raise Conflict(
            f"No other checkpoint held {alias} before, so there is nothing to go back to.",
            remedy="Promote another checkpoint.",
        )
    subject = resolve_checkpoint(ctx, standing[-2].checkpoint_id)
    return _move(
        ctx,
        ROLLBACK,
        alias,
        subject,
        held=held,
        person=person,
        campaign_id=None,
        reason=reason,
        evidence=PromotionEvidence(),
    )


def describe_alias(view: AliasView) -> dict[str, object]:
    """Return an alias as the command line's JSON."""
    return {
        "alias": view.name,
        "checkpoint": view.checkpoint,
        "checkpoint_id": view.checkpoint_id,
        "rollback_to": view.rollback,
        "endpoints": list(view.endpoints),
        "serving_another": dict(view.apart),
        "updated_at": view.updated_at.isoformat(),
    }


def describe_promotion(view: PromotionView) -> dict[str, object]:
    """Return a decision as the command line's JSON."""
    return {
        **attributes_of(view, "decision", "alias", "checkpoint", "checkpoint_id", "previous", "campaign", "reason"),
        "against_evidence": list(view.against),
        "evidence": view.evidence.dump(),
        "by": view.by,
        "at": view.created_at.isoformat(),
        "rolled_back_at": view.rolled_back_at.isoformat() if view.rolled_back_at else None,
    }


@retry_races
def _move(
    ctx: Context,
    decision: str,
    alias: str,
    subject: CheckpointView,
    *,
    held: str | None,
    person: Person,
    campaign_id: str | None,
    reason: str,
    evidence: PromotionEvidence,
) -> PromotionView:
    """Move the alias if it still stands where it was read, then deploy its endpoints, which were checked before."""
    with ctx.db.read() as session:
        followers = following_endpoints(session, alias)
    for name, _, _, _ in followers:
        refuse_undeployable(ctx, name=name, checkpoint_id=subject.id, person=person)
    with ctx.db.write() as session:
        row = _ensure_alias(session, ctx, alias, person)
        is_same = Alias.checkpoint_id.is_(None) if held is None else Alias.checkpoint_id == held
        moved = session.execute(
            update(Alias)
            .where(Alias.id == row.id, is_same)
            .values(checkpoint_id=subject.id, updated_at=ctx.now())
            .returning(Alias.id)
        ).scalar()
        if moved is None:
            raise Conflict(f"{alias} was moved in the meantime.", remedy="Look at its history, then decide again.")
        made = _add(
            session,
            ctx,
            decision,
            row,
            subject.id,
            held,
            person=person,
            campaign_id=campaign_id,
            reason=reason,
            evidence=evidence,
        )
        view = promotion_view(session, made, alias)
    for name, num_replicas, config, served in followers:
        if served != subject.id:
            deploy(
                ctx,
                checkpoint_id=subject.id,
                name=name,
                num_replicas=num_replicas,
                config=config.dump(),
                follows=True,
                person=person,
            )
    return view


def _add(
    session: Session,
    ctx: Context,
    decision: str,
    alias: Alias,
    checkpoint_id: str,
    previous_id: str | None,
    *,
    person: Person,
    campaign_id: str | None,
    reason: str,
    evidence: PromotionEvidence,
) -> Promotion:
    row = Promotion(
        alias_id=alias.id,
        decision=decision,
        checkpoint_id=checkpoint_id,
        previous_id=previous_id,
        campaign_id=campaign_id,
        reason=reason.strip()[:MAX_REASON],
        evidence=evidence,
        created_by=person.id,
        created_at=ctx.now(),
    )
    session.add(row)
    session.flush()
    return row


def _ensure_alias(session: Session, ctx: Context, name: str, person: Person) -> Alias:
    row = session.scalar(select(Alias).where(Alias.name == name))
    if row is None:
        row = Alias(name=name, created_by=person.id, created_at=ctx.now(), updated_at=ctx.now())
        session.add(row)
        session.flush()
    return row


def _held(ctx: Context, alias: str) -> str | None:
    with ctx.db.read() as session:
        return session.scalar(select(Alias.checkpoint_id).where(Alias.name == alias))


def _gates(ctx: Context, checkpoint_id: str) -> tuple[GateOpinion, ...]:
    query = (
        select(Gate.name, GateResult.verdict, GateResult.report, GateResult.id)
        .join(Gate, Gate.id == GateResult.gate_id)
        .where(GateResult.checkpoint_id == checkpoint_id)
        .order_by(GateResult.created_at, GateResult.id)
    )
    with ctx.db.read() as session:
        rows = session.execute(query).all()
    newest = {row[0]: row for row in rows}
    return tuple(
        GateOpinion(gate=name, verdict=row[1], reason=row[2].reason, result_id=row[3])
        for name, row in sorted(newest.items())
    )


def _of_campaign(ctx: Context, checkpoint_id: str, campaign_id: str, against_id: str | None) -> PromotionEvidence:
    board = standings(ctx, campaign_id)
    names = {checkpoint: name for name, checkpoint in board.checkpoints.items()}
    own, parent = names.get(checkpoint_id), get_checkpoint(ctx, checkpoint_id).parent_id
    rated = board.table.contestants if board.table else ()
    by_opponent = {}
    for pair in board.verdicts:
        if own in (pair.first, pair.second):
            verdict = _seen_from(pair, str(own))
            by_opponent[verdict.opponent] = verdict
    preferred = (names.get(against_id or ""), names.get(parent or ""), *rated, *by_opponent)
    first = next((name for name in preferred if name in by_opponent), None)
    return PromotionEvidence(
        verdict=by_opponent.get(first or ""),
        others=tuple(by_opponent[name] for name in rated if name in by_opponent and name != first),
        rank=rated.index(own) + 1 if own in rated else None,
        num_rated=len(rated),
    )


def _seen_from(pair: PairVerdict, own: str) -> PromotionVerdict:
    def outcome(word: str) -> str:
        return word if pair.first == own else {"better": "worse", "worse": "better"}.get(word, word)

    return view_of(
        PromotionVerdict,
        pair,
        opponent=pair.second if pair.first == own else pair.first,
        outcome=outcome(pair.outcome),
        for_these_raters=outcome(pair.for_these_raters),
        votes=pair.num_cast,
        prompts=pair.num_cast_prompts,
    )
