"""Requirements of an endpoint: the safety gate to pass before a checkpoint is served, by endpoint or for all."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import Checkpoint, Deployment, Endpoint, Gate, GateResult, RequiredGate
from backend.domain.evaluation.safety.margins import MARGIN, check_margin
from backend.domain.serving.deployment import DeploymentConfig, SafetyRequirement
from backend.errors import Conflict
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person, require_admin

DEFAULT_REQUIREMENT = SafetyRequirement(margin=MARGIN)
REMEDY = (
    "Measure it with `roundhouse eval safety run`, see `roundhouse eval safety drift`, or deploy another checkpoint."
)


@dataclass(frozen=True)
class GateRequirement:
    """A gate that an endpoint requires, with a checkpoint's newest verdict; None where the gate has not judged it."""

    gate_id: str
    name: str
    verdict: str | None


def required_gates(ctx: Context, name: str, *, checkpoint_id: str) -> list[GateRequirement]:
    """Return the gates that an endpoint of this name requires, with the checkpoint's newest verdicts."""
    query = (
        select(Gate.id, Gate.name)
        .join(RequiredGate, RequiredGate.gate_id == Gate.id)
        .where(RequiredGate.endpoint == name)
    )
    with ctx.db.read() as session:
        gates = session.execute(query.order_by(Gate.name)).all()
        results = select(GateResult.gate_id, GateResult.verdict).where(GateResult.checkpoint_id == checkpoint_id)
        # the newest comes last
        verdicts = {row[0]: row[1] for row in session.execute(results.order_by(GateResult.created_at))}
    return [GateRequirement(gate_id, gate, verdicts.get(gate_id)) for gate_id, gate in gates]


def requirement_of(ctx: Context, name: str) -> SafetyRequirement | None:
    """Return what an endpoint requires: its own requirement, else the installation's."""
    config, _ = _newest(ctx, name)
    if "require_safety" in config.model_fields_set:
        return config.require_safety
    return DEFAULT_REQUIREMENT if ctx.policy.require_safety_gate else None


def check_requirement(ctx: Context, checkpoint_id: str, *, name: str, requirement: SafetyRequirement) -> None:
    """Raise Conflict, saying what is missing, unless a checkpoint passes the safety gate.

    It is compared with its base; one without a base with what the endpoint serves; and one with neither needs its own
    measurements alone.
    """
    from backend.domain.evaluation.gate_config import GateVerdict
    from backend.services.evaluation.safety.cards import safety_card
    from backend.services.evaluation.safety.drifts import safety_drift

    subject = resolve_checkpoint(ctx, checkpoint_id)
    card = safety_card(ctx, subject.id)
    if not card.scores or card.unjudged or card.pending:
        state = (
            "is still being measured"
            if card.pending
            else f"has no score on {card.unjudged[0].sentence}"
            if card.unjudged
            else "was never measured"
        )
        raise Conflict(
            f"The endpoint {name!r} requires the safety gate, and “{subject.name}” {state}.",
            remedy=REMEDY,
            field="checkpoint",
        )
    _, served = _newest(ctx, name)
    base = subject.parent_id or (served if served != subject.id else None)
    if base is None:
        return
    drift = safety_drift(ctx, checkpoint=subject.id, base=base, margin=requirement.margin)
    if drift.verdict is not GateVerdict.PASS:
        reasons = [
            *drift.sentences,
            *(f"{c.probe}, {c.metric}: {c.reason}" for c in drift.changes if c.verdict is drift.verdict),
        ]
        reasons += [f"{one} was not measured on both" for one in drift.unmeasured]
        raise Conflict(
            f"The endpoint {name!r} requires the safety gate, and “{subject.name}” does not pass it against"
            f" “{drift.base.name}”: {drift.verdict.value}. {'; '.join(dict.fromkeys(reasons))}.",
            remedy=REMEDY,
            field="checkpoint",
        )


def require_safety(ctx: Context, name: str, *, margin: float | None, person: Person) -> None:
    """Make an endpoint require the safety gate of later deployments, or with `margin` None no longer. Raises NotFound,
    NotAllowed.
    """
    require_admin(person)
    check_margin(margin)
    with ctx.db.write() as session:
        newest = select(Deployment).join(Endpoint).where(Endpoint.name == name, Deployment.role == "stable")
        newest = newest.order_by(Deployment.stopped_at.is_not(None), Deployment.revision.desc()).limit(1)
        deployment = session.scalar(newest)
        if deployment is None:
            raise Conflict(
                f"There is no endpoint {name!r} yet.", remedy="Deploy it with --require-safety.", field="name"
            )
        required = None if margin is None else SafetyRequirement(margin=margin)
        deployment.config = deployment.config.model_copy(update={"require_safety": required})


def _newest(ctx: Context, name: str) -> tuple[DeploymentConfig, str | None]:
    query = select(Deployment.config, Checkpoint.id).join(Endpoint, Endpoint.id == Deployment.endpoint_id)
    query = query.join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
    query = query.where(Endpoint.name == name, Deployment.role == "stable")
    with ctx.db.read() as session:
        row = session.execute(
            query.order_by(Deployment.stopped_at.is_not(None), Deployment.revision.desc()).limit(1)
        ).first()
    return (row[0], row[1]) if row else (DeploymentConfig(), None)
