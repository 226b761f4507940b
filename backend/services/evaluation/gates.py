"""Gates: save them, judge a checkpoint against the champion, and refuse a deployment without its required gate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Checkpoint, Deployment, Endpoint, Gate, GateResult, RequiredGate, User
from backend.domain.attributes import attributes_of
from backend.domain.evaluation.boards import unequal_cuts
from backend.domain.evaluation.config import EvaluationKind, describe_way, is_score_lower_better, score_name
from backend.domain.evaluation.gate_config import (
    GATE_WORDS,
    GateBenchmark,
    GateConfig,
    GateReport,
    GateVerdict,
    ReportedBenchmark,
)
from backend.domain.evaluation.gates import (
    Evidence,
    GateDecision,
    Look,
    PlannedPower,
    decide_gate,
    describe_procedure,
    plan_gate,
)
from backend.domain.evaluation.score_text import interval_text, score_text
from backend.domain.evaluation.tasks.metric_names import is_averaged
from backend.domain.jobs.states import Status
from backend.domain.names import clean_name
from backend.domain.serving.upstream import UPSTREAM
from backend.domain.wording import about
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.checkpoints.checkpoints import CheckpointView, get_checkpoint, resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.views import VersionView
from backend.services.evaluation.board import cuts_of, void_reason_of
from backend.services.evaluation.comparisons import column_key, refuse_unlike
from backend.services.evaluation.endpoints import (
    EvaluatedEndpointView,
    find_own,
    list_evaluated,
    read_subjects,
    resolve_evaluated,
    store_own,
)
from backend.services.evaluation.evaluations import EvaluationView, get_evaluations, list_evaluations, of_what_is_served
from backend.services.evaluation.packed_items import count_common, read_item_values
from backend.services.evaluation.pairing import comparison_at, count_unclear
from backend.services.evaluation.power import plan_comparison
from backend.services.evaluation.safety.runs import count_missing, unjudged
from backend.services.evaluation.tasks import suggest_task
from backend.services.lookups import find_named
from backend.services.serving.endpoints import is_in_charge

ENDPOINT_PREFIX = "endpoint:"
NOT_EVALUATED_REMEDY = "Evaluate what is missing with the same settings as the champion, then try again."
RELEASE_REMEDY = "That account and admins release the endpoint."


@dataclass(frozen=True)
class GateOutcome:
    """A gate's decision on a candidate. `missing` names what was not evaluated, which leaves the gate INCONCLUSIVE.

    `evaluations`: (champion's, candidate's) of each decided benchmark; `available`: its items; `cuts`: what contexts
    and unclear answers may have done to it; `tasks`: what scored it.
    """

    candidate: str
    champion: str
    decision: GateDecision
    evaluations: tuple[tuple[str, str], ...] = ()
    available: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    gate: str | None = None
    cuts: tuple[tuple[str, ...], ...] = ()
    tasks: tuple[str, ...] = ()

    @property
    def verdict(self) -> GateVerdict:
        """The verdict."""
        return self.decision.verdict

    @property
    def reason(self) -> str:
        """The verdict's reason in one or two sentences, with what would settle it."""
        parts = [f"{name} is not evaluated" for name in self.missing]
        cuts = self.cuts or [()] * len(self.available)
        rows = zip(self.decision.benchmarks, self.available, cuts, self.tasks, strict=True)
        for result, available, cut, task in rows:
            metric, look = result.metric, "" if result.look == 1 else f", look {result.look}"
            interval = interval_text(metric, result.low, result.high, signed=True)
            size = score_text(metric, abs(result.difference), signed=True).removeprefix("+")
            text = f"{result.verdict.capitalize()} on {result.benchmark} by {task}{look}:"
            text += f" {'worse' if result.difference < 0 else 'better'} by {size} ({interval or 'no interval'}) on"
            text += f" {result.n:,} common items, threshold {score_text(metric, result.threshold, signed=True)}"
            if result.items_to_settle is not None:
                short = (
                    f", more than the {available:,} that the benchmark has"
                    if result.items_to_settle > available
                    else ""
                )
                text += f"; at this difference about {about(result.items_to_settle)} items would settle it{short}"
            parts.append("; ".join([text, *(f"on {result.benchmark} {one}" for one in cut)]))
        return "; ".join(parts) or "the candidate is the champion"


@dataclass(frozen=True)
class GateView:
    """A saved gate with its newest verdicts, and the endpoints that require it."""

    id: str
    name: str
    config: GateConfig
    created_at: datetime
    endpoints: tuple[str, ...]
    results: tuple[GateResultView, ...]


@dataclass(frozen=True)
class GateResultView:
    """A recorded verdict; `checkpoint` and `champion` are names, of endpoints too."""

    checkpoint: str
    champion: str
    verdict: GateVerdict
    report: GateReport
    created_at: datetime


@retry_races
def create_gate(ctx: Context, *, name: str, config: GateConfig, person: Person) -> GateView:
    """Save a gate. Raises Conflict for a name in use, NotFound for an unknown champion or benchmark, NotAllowed."""
    require_builder(person)
    name = clean_name(name, what="The gate")
    if config.champion.startswith(ENDPOINT_PREFIX):
        if not config.champion.removeprefix(ENDPOINT_PREFIX):
            raise InvalidInput("The champion names no endpoint.", remedy="Write endpoint:NAME.", field="champion")
    else:
        # a run's name means another later
        config = config.model_copy(update={"champion": resolve_checkpoint(ctx, config.champion).id})
    config = config.model_copy(
        update={"benchmarks": tuple(_with_task(ctx, config, part) for part in config.benchmarks)}
    )
    with ctx.db.write() as session:
        if session.scalar(select(Gate.id).where(Gate.name == name)) is not None:
            raise Conflict(f"There is a gate “{name}” already.", remedy="Gates never change: choose another name.")
        session.add(Gate(name=name, config=config, created_by=person.id, created_at=ctx.now()))
    return get_gate(ctx, name)


def get_gate(ctx: Context, name_or_id: str) -> GateView:
    """Return a gate. Raises NotFound."""
    with ctx.db.read() as session:
        return _view(session, _find(session, name_or_id))


def list_gates(ctx: Context) -> list[GateView]:
    """Return all gates, newest first."""
    with ctx.db.read() as session:
        return [
            _view(session, gate) for gate in session.scalars(select(Gate).order_by(Gate.created_at.desc(), Gate.id))
        ]


def delete_gate(ctx: Context, name_or_id: str, *, person: Person) -> None:
    """Delete a gate with its verdicts. Raises Conflict while an endpoint requires it."""
    require_builder(person)
    with ctx.db.write() as session:
        gate = _find(session, name_or_id)
        endpoints = _endpoints(session, gate.id)
        if endpoints:
            raise Conflict(
                f"The endpoint {endpoints[0]!r} requires the gate “{gate.name}”.",
                remedy="Remove the endpoint from the gate first.",
            )
        session.execute(delete(GateResult).where(GateResult.gate_id == gate.id))
        session.delete(gate)


@retry_races
def require_gate(ctx: Context, name_or_id: str, *, endpoint: str, person: Person) -> GateView:
    """Let an endpoint accept only checkpoints that pass the gate."""
    require_builder(person)
    with ctx.db.write() as session:
        gate = _find(session, name_or_id)
        if endpoint not in _endpoints(session, gate.id):
            session.add(RequiredGate(endpoint=endpoint, gate_id=gate.id, created_by=person.id, created_at=ctx.now()))
    return get_gate(ctx, name_or_id)


def release_endpoint(ctx: Context, name_or_id: str, *, endpoint: str, person: Person) -> GateView:
    """Let an endpoint accept checkpoints without this gate. Raises NotAllowed where another person required it."""
    require_builder(person)
    with ctx.db.write() as session:
        gate = _find(session, name_or_id)
        if reason := _why_not_release(session, gate.id, endpoint, person):
            raise NotAllowed(reason, remedy=RELEASE_REMEDY)
        session.execute(delete(RequiredGate).where(RequiredGate.gate_id == gate.id, RequiredGate.endpoint == endpoint))
    return get_gate(ctx, name_or_id)


def why_not_release(ctx: Context, gate_id: str, *, endpoint: str, person: Person) -> str:
    """Return why a person may not release an endpoint from a gate, empty where they may."""
    with ctx.db.read() as session:
        reason = _why_not_release(session, gate_id, endpoint, person)
    return f"{reason} {RELEASE_REMEDY}" if reason else ""


def _why_not_release(session: Session, gate_id: str, endpoint: str, person: Person) -> str:
    row = session.scalar(select(RequiredGate).where(RequiredGate.gate_id == gate_id, RequiredGate.endpoint == endpoint))
    if row is None or is_in_charge(session, row.created_by, person=person):
        return ""
    owner = session.get(User, row.created_by) if row.created_by else None
    return f"The gate was required {'without an account' if owner is None else f'by {owner.name}'}."


def judge(ctx: Context, *, candidate: str, gate: str, person: Person) -> GateOutcome:
    """Judge a checkpoint, or `endpoint:NAME`, by a saved gate and record the verdict. Raises as `judge_config`."""
    require_builder(person)
    view = get_gate(ctx, gate)
    outcome = replace(_judge(ctx, candidate, config_of(ctx, view), is_recorded=True), gate=view.name)
    subject, champion = _candidate(ctx, candidate), _champion(ctx, view.config)
    with ctx.db.write() as session:
        keys = [_keys(session, ctx, one, person) for one in (subject, champion)]
        session.add(
            GateResult(
                gate_id=view.id,
                checkpoint_id=keys[0][0],
                endpoint_id=keys[0][1],
                champion_id=keys[1][0],
                champion_endpoint_id=keys[1][1],
                verdict=outcome.verdict.value,
                report=report_of(outcome),
                created_by=person.id,
                created_at=ctx.now(),
            )
        )
    return outcome


def judge_config(ctx: Context, *, candidate: str, config: GateConfig) -> GateOutcome:
    """Judge a checkpoint, or `endpoint:NAME`, from the like evaluations of it and the champion that have the most items
    in common, the newest of equals; nothing is recorded.

    No look is known then, so each earlier evaluation of the candidate counts as one. A benchmark that one of them was
    not evaluated on leaves the gate INCONCLUSIVE. Raises NotFound for unknown names, Conflict, naming what differs,
    where both were evaluated and no two evaluations were made alike.
    """
    return _judge(ctx, candidate, config, is_recorded=False)


def _judge(ctx: Context, candidate: str, config: GateConfig, *, is_recorded: bool) -> GateOutcome:
    subject, champion = _candidate(ctx, candidate), _champion(ctx, config)
    if subject.id and subject.id == champion.id:
        return GateOutcome(
            subject.name, champion.name, GateDecision(GateVerdict.PASS, (), None, describe_procedure(config))
        )
    evidence, pairs, available, cuts, tasks = [], [], [], [], []
    missing: list[str] = []
    for part in config.benchmarks:
        paired = _pair_up(ctx, part, champion, subject)
        missing += paired.missing
        if paired.pair is None:
            continue
        version, metric, (first, second) = paired.version, paired.metric, paired.pair
        if is_recorded:
            earlier = _recorded_looks(ctx, (subject, champion), second, metric, until=(first.id, second.id))
        else:
            earlier = _possible_looks(paired.candidates, until=second.id)
        look = Look.after(earlier, is_whole=second.config.limit is None)
        compare_at = comparison_at(ctx, first.id, second.id, metric)
        missing_after = count_missing(ctx, second, metric)
        unclear, total = count_unclear(ctx, first, second, metric, missing=missing_after)
        share = unclear / total if unclear else 0.0
        evidence.append(Evidence(part, metric, is_score_lower_better(metric), compare_at, look, share))
        pairs.append((first.id, second.id))
        tasks.append(describe_way(second.config, kind=second.kind))
        available.append(version.rows)
        cuts.append(
            (
                *unequal_cuts(cuts_of(first), cuts_of(second)),
                *([f"{unclear} of {total} items have unclear answers, counted either way"] if unclear else ()),
            )
        )
    decision = decide_gate(config, evidence)
    return GateOutcome(
        subject.name,
        champion.name,
        decision,
        tuple(pairs),
        tuple(available),
        tuple(missing),
        cuts=tuple(cuts),
        tasks=tuple(tasks),
    )


@dataclass(frozen=True)
class _Paired:
    """Evaluations of champion and candidate that decide on one benchmark, or what is missing. `candidates`: all of the
    candidate's that are scored alike, newest first.
    """

    version: VersionView
    candidates: Sequence[EvaluationView]
    metric: str = ""
    pair: tuple[EvaluationView, EvaluationView] | None = None
    missing: tuple[str, ...] = ()


def _pair_up(ctx: Context, part: GateBenchmark, champion: Subject, subject: Subject) -> _Paired:
    version = resolve_version(ctx, part.benchmark)
    scored = [_finished(ctx, version.id, who, part) for who in (champion, subject)]
    way = part.task or _choose_way(ctx, version, *scored)
    sides = [[one for one in side if one.way == way] for side in scored]
    missing = [
        f"{who.name} on {version.label}"
        + (f" by {str(way).replace('_', ' ')}" if others or way not in (None, *EvaluationKind) else "")
        for who, others, evaluations in zip((champion, subject), scored, sides, strict=True)
        if not evaluations
    ]
    if missing:
        return _Paired(version, sides[1], missing=tuple(missing))
    first, second, _items = _choose_pair(ctx, *sides)
    metric = part.metric or first.main_metric
    silent = [text for side in (first, second) if (text := unjudged(ctx, side, metric))]
    silent += [
        f"{side.checkpoint} on {side.benchmark} (its context cut every item)"
        for side in (first, second)
        if void_reason_of(side)
    ]
    if silent:
        return _Paired(version, sides[1], metric, missing=tuple(silent))
    return _Paired(version, sides[1], metric, (first, second))


@dataclass(frozen=True)
class GatePlan:
    """Power of a gate on one benchmark. `power` is None where it is not known, and `unknown` says why.

    `discordance`: share of items on which two checkpoints are taken to differ; `measured_pairs` counts the pairs of
    earlier evaluations that it is the median of, 0 where it is planned. `evaluations`: those that count, the champion's
    and, of a candidate that has one made alike, the candidate's.
    """

    benchmark: str
    power: PlannedPower | None
    discordance: float = 0.0
    measured_pairs: int = 0
    unknown: str = ""
    evaluations: tuple[EvaluationView, ...] = ()


def plan_gates(ctx: Context, config: GateConfig, *, candidate: str | None = None) -> list[GatePlan]:
    """Return the power of a gate on each benchmark: of a candidate, by the pair of evaluations that judges it; without
    one, or without such a pair, on as many items as the champion was evaluated on at most.

    Raises NotFound for an unknown champion, candidate or benchmark.
    """
    champion, plans = _champion(ctx, config), []
    subject = None if candidate is None else _candidate(ctx, candidate)
    for part in config.benchmarks:
        version = resolve_version(ctx, part.benchmark)
        scored = _finished(ctx, version.id, champion, part)
        others = [] if subject is None else _finished(ctx, version.id, subject, part)
        way = part.task or _choose_way(ctx, version, scored, others)
        counted, items = _plan_evaluations(
            ctx, part, *([one for one in side if one.way == way] for side in (scored, others))
        )
        if not counted:
            why = f"“{champion.name}” is not evaluated on it yet"
            plans.append(GatePlan(version.label, None, unknown=why))
            continue
        evaluation = counted[0]
        metric = part.metric or evaluation.main_metric
        plan = plan_comparison(
            ctx,
            version_id=version.id,
            kind=evaluation.kind,
            items=items,
            metric=metric,
            settings=evaluation.settings,
            pair=[one.id for one in counted] if len(counted) == 2 else (),
        )
        if plan is None or not is_averaged(metric):
            why = f"{score_name(metric)} is not a share, so nothing is known before a candidate is scored"
            plans.append(GatePlan(version.label, None, unknown=why, evaluations=counted))
            continue
        named = part.model_copy(update={"benchmark": version.label})
        power = plan_gate(
            config,
            named,
            n=items,
            discordance=plan.discordance,
            design_effect=plan.design_effect,
            is_whole=evaluation.config.limit is None,
        )
        plans.append(GatePlan(version.label, power, plan.discordance, plan.measured_pairs, evaluations=counted))
    return plans


def _plan_evaluations(
    ctx: Context, part: GateBenchmark, champions: Sequence[EvaluationView], candidates: Sequence[EvaluationView]
) -> tuple[tuple[EvaluationView, ...], int]:
    """Return the evaluations that count before a candidate is judged, and of how many items: the pair that judges it,
    else the champion's with the most items.
    """

    def size(evaluation: EvaluationView) -> int:
        score = evaluation.score(part.metric or evaluation.main_metric)
        return score.n if score else 0

    if champions and candidates:
        with suppress(Conflict):
            first, second, items = _choose_pair(ctx, champions, candidates)
            return (first, second), min(items, size(first), size(second))
    if not champions:
        return (), 0
    largest = max(champions, key=size)
    return (largest,), size(largest)


@dataclass(frozen=True)
class RequiredGateView:
    """A checkpoint's standing at a gate that an endpoint requires. `verdict` None: the evaluations that decide now were
    not judged yet. `reason` and `remedy` say why the gate would refuse the checkpoint.
    """

    gate_id: str
    gate: str
    verdict: GateVerdict | None
    reason: str = ""
    remedy: str = ""


def read_required_gates(ctx: Context, *, endpoint: str, checkpoint_id: str) -> list[RequiredGateView]:
    """Return what the gates that an endpoint requires say of a checkpoint, without a look at new evaluations: a look
    spends error, so its verdict is recorded.
    """
    with ctx.db.read() as session:
        gates = [_view(session, _find(session, name)) for name in _required(session, endpoint)]
    return [_as_it_stands(ctx, gate, checkpoint_id) for gate in gates]


def _as_it_stands(ctx: Context, gate: GateView, checkpoint_id: str) -> RequiredGateView:
    subject = resolve_checkpoint(ctx, checkpoint_id)
    try:
        config = config_of(ctx, gate)
        champion = _champion(ctx, config)
        if champion.id == subject.id:
            return RequiredGateView(gate.id, gate.name, GateVerdict.PASS)
        paired = [_pair_up(ctx, part, champion, subject) for part in config.benchmarks]
    except (Conflict, NotFound) as error:
        return RequiredGateView(gate.id, gate.name, GateVerdict.INCONCLUSIVE, error.message, error.remedy or "")
    if missing := [f"{name} is not evaluated" for one in paired for name in one.missing]:
        reason = f"{'; '.join(missing)}."
        return RequiredGateView(gate.id, gate.name, GateVerdict.INCONCLUSIVE, reason, NOT_EVALUATED_REMEDY)
    query = (
        select(GateResult.verdict, GateResult.report)
        .where(GateResult.gate_id == gate.id, GateResult.checkpoint_id == checkpoint_id)
        .order_by(GateResult.created_at.desc(), GateResult.id)
    )
    with ctx.db.read() as session:
        newest = session.execute(query.limit(1)).first()
    decided_by = {(one.pair[0].id, one.pair[1].id) for one in paired if one.pair}
    if newest is None or decided_by != {
        (one.champion_evaluation, one.candidate_evaluation) for one in newest.report.benchmarks
    }:
        return RequiredGateView(gate.id, gate.name, None)
    verdict = GateVerdict(newest.verdict)
    remedy = "" if verdict is GateVerdict.PASS else _remedy(newest.report)
    return RequiredGateView(gate.id, gate.name, verdict, f"{newest.report.reason}.", remedy)


def refuse_without_gates(ctx: Context, *, endpoint: str, checkpoint_id: str, person: Person) -> None:
    """Raise Conflict unless a checkpoint passes every gate that an endpoint requires, judged now and recorded."""
    with ctx.db.read() as session:
        names = _required(session, endpoint)
    for name in names:
        outcome = judge(ctx, candidate=checkpoint_id, gate=name, person=person)
        if outcome.verdict is not GateVerdict.PASS:
            raise Conflict(
                f"{outcome.candidate} can't be deployed to {endpoint!r}: its gate “{name}”"
                f" {GATE_WORDS[outcome.verdict]}. {outcome.reason}.",
                remedy=_remedy(report_of(outcome)),
            )


def report_of(outcome: GateOutcome) -> GateReport:
    """Return an outcome as the command line prints it and a verdict keeps it."""
    decision = outcome.decision
    rows = zip(decision.benchmarks, outcome.evaluations, outcome.available, outcome.cuts, outcome.tasks, strict=True)
    benchmarks = tuple(
        ReportedBenchmark(
            **dict(result),
            error=(1 - result.level) / 2,
            champion_evaluation=first,
            candidate_evaluation=second,
            items=items,
            cuts=cuts,
            task=task,
        )
        for result, (first, second), items, cuts, task in rows
    )
    return GateReport(
        **attributes_of(outcome, "gate", "verdict", "candidate", "champion", "reason", "missing"),
        power=decision.power,
        items_to_settle=max(
            (one.items_to_settle for one in benchmarks if one.items_to_settle is not None), default=None
        ),
        procedure=decision.procedure,
        benchmarks=benchmarks,
    )


def _remedy(report: GateReport) -> str:
    if report.missing:
        return NOT_EVALUATED_REMEDY
    if report.verdict is GateVerdict.INCONCLUSIVE:
        if any(one.n < one.items for one in report.benchmarks if one.verdict is GateVerdict.INCONCLUSIVE):
            return "Evaluate both on more items, or choose a gate with a larger margin."
        return "Require a gate with a larger margin or more benchmarks, or release the endpoint from this one."
    return "Deploy another checkpoint, or release the endpoint from the gate."


def _required(session: Session, endpoint: str) -> list[str]:
    query = select(Gate.name).join(RequiredGate, RequiredGate.gate_id == Gate.id)
    return list(session.scalars(query.where(RequiredGate.endpoint == endpoint).order_by(Gate.name)))


Subject = CheckpointView | EvaluatedEndpointView


def _candidate(ctx: Context, name: str) -> Subject:
    if name.startswith(ENDPOINT_PREFIX):
        return resolve_evaluated(ctx, name.removeprefix(ENDPOINT_PREFIX))
    return resolve_checkpoint(ctx, name)


def _keys(session: Session, ctx: Context, subject: Subject, person: Person) -> tuple[str | None, str | None]:
    """Return a subject's ids as verdicts keep them: checkpoint, endpoint."""
    if isinstance(subject, EvaluatedEndpointView):
        return None, store_own(session, ctx, subject, person=person)
    return subject.id, None


def _champion(ctx: Context, config: GateConfig) -> Subject:
    """Return the champion: a checkpoint, the one that an endpoint serves, or the model of a registered API. An endpoint
    whose model is on another server is itself what was evaluated.
    """
    if not config.champion.startswith(ENDPOINT_PREFIX):
        return resolve_checkpoint(ctx, config.champion)
    name = config.champion.removeprefix(ENDPOINT_PREFIX)
    query = (
        select(Deployment.checkpoint_id)
        .join(Endpoint, Endpoint.id == Deployment.endpoint_id)
        .where(Endpoint.name == name, Deployment.role == "stable")
        .order_by(Deployment.stopped_at.is_not(None), Deployment.revision.desc())
        .limit(1)
    )
    with ctx.db.read() as session:
        checkpoint_id = session.scalar(query)
    if checkpoint_id is None:
        registered = [one for one in list_evaluated(ctx) if not one.is_own and one.name == name]
        if registered:
            return registered[0]
        raise NotFound(
            f"The endpoint {name!r}, whose checkpoint is the champion, serves none.",
            remedy="Remove it from the gate, deploy the champion, and require the gate again.",
        )
    checkpoint = get_checkpoint(ctx, checkpoint_id)
    return find_own(ctx, name) if checkpoint.origin == UPSTREAM else checkpoint


def _finished(ctx: Context, version_id: str, subject: Subject, part: GateBenchmark) -> list[EvaluationView]:
    """Return a subject's finished evaluations on a version that have the metric, newest first."""
    if not subject.id:  # an endpoint that was never evaluated
        return []
    is_endpoint = isinstance(subject, EvaluatedEndpointView)
    own = list_evaluations(
        ctx,
        version_id=version_id,
        checkpoint_id=None if is_endpoint else subject.id,
        endpoint_id=subject.id if is_endpoint else None,
    )
    return [
        evaluation
        for evaluation in of_what_is_served(ctx, subject, own)
        if evaluation.status is Status.FINISHED and evaluation.score(part.metric or evaluation.main_metric) is not None
    ]


def _choose_way(
    ctx: Context,
    version: VersionView,
    champions: Sequence[EvaluationView],
    candidates: Sequence[EvaluationView] = (),
) -> str | None:
    """Return the way of scoring that a gate compares which names none: of those that both sides have (else one side)
    the suggested task, the way without a task, or the first by name; not the newest, which changes between looks.
    """
    by_champion, by_candidate = ({one.way for one in side} for side in (champions, candidates))
    ways = (by_champion & by_candidate) or by_champion or by_candidate
    suggested = suggest_task(ctx, version)
    if suggested is not None and suggested.name in ways:
        return suggested.name
    return min(ways, key=lambda way: (way not in list(EvaluationKind), way), default=None)


def _with_task(ctx: Context, config: GateConfig, part: GateBenchmark) -> GateBenchmark:
    """Return a benchmark with the task that a new gate keeps for it: by the champion's results. Raises NotFound."""
    version = resolve_version(ctx, part.benchmark)
    if part.task:
        return part
    try:
        champions = _finished(ctx, version.id, _champion(ctx, config), part)
    except NotFound:  # the endpoint serves nothing yet
        return part
    return part.model_copy(update={"task": _choose_way(ctx, version, champions)})


def config_of(ctx: Context, gate: GateView) -> GateConfig:
    """Return a gate's config with the tasks that it judges by: those that it keeps, else those of its newest verdicts,
    so that a later evaluation by another task changes no verdict.
    """
    reported = {part.benchmark: part for result in reversed(gate.results) for part in result.report.benchmarks}
    looked_at = get_evaluations(ctx, [part.candidate_evaluation for part in reported.values()])
    ways = {evaluation.id: evaluation.way for evaluation in looked_at}
    parts = [
        part.model_copy(update={"task": ways.get(reported[part.benchmark].candidate_evaluation)})
        if part.task is None and part.benchmark in reported
        else part
        for part in gate.config.benchmarks
    ]
    return gate.config.model_copy(update={"benchmarks": tuple(parts)})


def _choose_pair(
    ctx: Context, champions: Sequence[EvaluationView], candidates: Sequence[EvaluationView]
) -> tuple[EvaluationView, EvaluationView, int]:
    """Return the evaluations that were made alike and have the most items in common, the newest of equals, with the
    number of those items; raise Conflict with the newest two's differences where there are none.

    The number says nothing of the scores, so choosing by it spends no error; the newest alone may be of a few items.
    """
    across = champions[0].endpoint is not None or candidates[0].endpoint is not None
    columns: dict[str, list[EvaluationView]] = {}
    for champion in champions:
        columns.setdefault(column_key(champion, across=across), []).append(champion)
    pairs = [
        (champion, candidate)
        for candidate in candidates
        for champion in columns.get(column_key(candidate, across=across), ())
    ]
    if not pairs:
        refuse_unlike(champions[0], candidates[0])
        raise Conflict(
            "The evaluations of candidate and champion were not made alike.",
            remedy="Evaluate both with the same settings.",
        )
    values = read_item_values(ctx, list({one.id for pair in pairs for one in pair}))
    counted = [(*pair, count_common(*(values[one.id] for one in pair))) for pair in pairs]
    return max(counted, key=lambda pair: pair[2])


def _recorded_looks(
    ctx: Context, pair: tuple[Subject, Subject], judged: EvaluationView, metric: str, *, until: tuple[str, str]
) -> list[float]:
    """Return the shares of the error that looks at a candidate (against a champion) spent, by any gate, before the look
    at two evaluations: those at results of the same benchmark and task as the judged one.

    The same evaluations judged again are the same look. A verdict of a version that knew no shares counts as a look
    too.
    """
    subject = GateResult.endpoint_id if isinstance(pair[0], EvaluatedEndpointView) else GateResult.checkpoint_id
    against = GateResult.champion_endpoint_id if isinstance(pair[1], EvaluatedEndpointView) else GateResult.champion_id
    query = select(GateResult.report).where(subject == pair[0].id, against == pair[1].id)
    with ctx.db.read() as session:
        parts = [
            part
            for report in session.scalars(query.order_by(GateResult.created_at, GateResult.id))
            for part in report.benchmarks
            if part.metric == metric
        ]
    same = (judged.version_id, judged.way)
    looked_at_before = get_evaluations(ctx, list({part.candidate_evaluation for part in parts}))
    known = {one.id for one in looked_at_before if (one.version_id, one.way) == same}
    shares: dict[tuple[str, str], float] = {}
    for part in parts:
        looked_at = (part.champion_evaluation, part.candidate_evaluation)
        if looked_at == until:
            break
        if looked_at[1] in known and looked_at not in shares:
            shares[looked_at] = part.share or Look.after(list(shares.values()), is_whole=False).share
    return list(shares.values())


def _possible_looks(evaluations: Sequence[EvaluationView], *, until: str) -> list[float]:
    """Return the shares that looks at a candidate's earlier evaluations would have spent, newest first."""
    shares: list[float] = []
    for evaluation in reversed(evaluations):
        if evaluation.id == until:
            break
        shares.append(Look.after(shares, is_whole=evaluation.config.limit is None).share)
    return shares


def _find(session: Session, name_or_id: str) -> Gate:
    return find_named(session, Gate, name_or_id, what="gate", remedy="List them with `roundhouse gate list`.")


def _endpoints(session: Session, gate_id: str) -> list[str]:
    return list(
        session.scalars(
            select(RequiredGate.endpoint).where(RequiredGate.gate_id == gate_id).order_by(RequiredGate.endpoint)
        )
    )


def _view(session: Session, gate: Gate) -> GateView:
    query = (
        select(GateResult)
        .where(GateResult.gate_id == gate.id)
        .order_by(GateResult.created_at.desc(), GateResult.id)
        .limit(20)
    )
    rows = list(session.scalars(query))
    ids = {one for row in rows for one in (row.checkpoint_id, row.champion_id) if one}
    names = dict(session.execute(select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_(ids))).all())
    far = {one for row in rows for one in (row.endpoint_id, row.champion_endpoint_id) if one}
    names |= {key: f"{view.name} (endpoint)" for key, view in read_subjects(session, far).items()}
    results = tuple(
        GateResultView(
            names[row.checkpoint_id or row.endpoint_id or ""],
            names[row.champion_id or row.champion_endpoint_id or ""],
            GateVerdict(row.verdict),
            row.report,
            row.created_at,
        )
        for row in rows
    )
    return GateView(gate.id, gate.name, gate.config, gate.created_at, tuple(_endpoints(session, gate.id)), results)
