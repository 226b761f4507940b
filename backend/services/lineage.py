"""Lineage: from an endpoint or checkpoint through alias, decision, votes, evaluations, gates, run, data to files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import (
    Alias,
    Architecture,
    Campaign,
    Checkpoint,
    Contestant,
    Dataset,
    DatasetVersion,
    Deployment,
    Endpoint,
    Evaluation,
    Gate,
    GateResult,
    Promotion,
    Run,
    Tokenizer,
)
from backend.domain.data.versions.provenance import VotesProvenance
from backend.domain.wording import percent, plural
from backend.errors import NotFound
from backend.services.battles.views import count_votes
from backend.services.checkpoints.checkpoints import get_checkpoint, resolve_checkpoint
from backend.services.context import Context
from backend.services.data.versions import merged_id
from backend.services.serving.aliases import (
    PROMOTE,
    REJECT,
    ROLLBACK,
    decisions_on,
    promotion_view,
    standing_promotions,
)
from backend.services.serving.endpoints import find_endpoint

MAX_NODES = 150
MAX_EVALUATIONS = 6
VOTES = "votes"


@dataclass(frozen=True)
class LineageNode:
    """One object. `id` is kind and key; `facts` are (label, value); `refers_to` is what the object's page is opened
    with: its id, a dataset's id with the number of the version, a decision's campaign; None without a page.
    """

    id: str
    kind: str
    name: str
    facts: tuple[tuple[str, str], ...] = ()
    refers_to: str | None = None


@dataclass(frozen=True)
class LineageEdge:
    """`made` rests on `source`; `label` says how."""

    made: str
    source: str
    label: str


@dataclass(frozen=True)
class Lineage:
    """Nodes in the order in which they were reached from the root, edges, and what is missing as sentences."""

    root: str
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]
    gaps: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name of the root."""
        return self.nodes[0].name

    def to_document(self) -> dict[str, object]:
        """Return the lineage as JSON."""
        return {
            "root": self.root,
            "nodes": [{**asdict(node), "facts": dict(node.facts)} for node in self.nodes],
            "edges": [asdict(edge) for edge in self.edges],
            "gaps": list(self.gaps),
        }


def lineage_of_endpoint(ctx: Context, name: str) -> Lineage:
    """Return the lineage of an endpoint's newest deployment. Raises NotFound."""
    with ctx.db.read() as session:
        endpoint = find_endpoint(session, name)
        walk = _Walk(session)
        walk.endpoint(endpoint)
        return walk.result()


def lineage_of_checkpoint(ctx: Context, checkpoint: str) -> Lineage:
    """Return the lineage of a checkpoint: a name, an id (also of a deleted one), a run or an alias. Raises NotFound."""
    try:
        checkpoint_id = get_checkpoint(ctx, checkpoint).id
    except NotFound:
        checkpoint_id = resolve_checkpoint(ctx, checkpoint).id
    with ctx.db.read() as session:
        walk = _Walk(session)
        walk.checkpoint(session.get_one(Checkpoint, checkpoint_id))
        return walk.result()


def lineage_of(ctx: Context, name: str) -> Lineage:
    """Return the lineage of an endpoint of this name, else of a checkpoint. Raises NotFound."""
    with ctx.db.read() as session:
        known = session.scalar(select(Endpoint.id).where(Endpoint.name == name))
    return lineage_of_endpoint(ctx, name) if known else lineage_of_checkpoint(ctx, name)


def card_lines(ctx: Context, checkpoint_id: str) -> list[str]:
    """Return decisions, votes and preference sets in a checkpoint's lineage, and the gates that judged the checkpoint
    itself, as sentences for its model card, without files, people and their reasons.
    """
    lineage = lineage_of_checkpoint(ctx, checkpoint_id)
    shown = {"promotion": "decision", "campaign": "votes of campaign", "votes": "preference set", "gate": "gate"}
    own = {edge.source for edge in lineage.edges if edge.made == lineage.root}
    lines = []
    for node in lineage.nodes:
        kind = VOTES if node.kind == "dataset" and ("Made from", VOTES) in node.facts else node.kind
        if kind in shown and (kind != "gate" or node.id in own):
            facts = ", ".join(
                f"{label.lower()} {value}" for label, value in node.facts if label not in ("By", "Reason", "Made from")
            )
            lines.append(f"{shown[kind]} {node.name}" + (f" ({facts})" if facts else ""))
    return lines


@dataclass
class _Walk:
    """Visit every object once; a node is added before its sources, so one reached twice closes no circle."""

    session: Session
    nodes: dict[str, LineageNode] = field(default_factory=dict)
    edges: list[LineageEdge] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def result(self) -> Lineage:
        nodes = tuple(self.nodes.values())
        return Lineage(nodes[0].id, nodes, tuple(dict.fromkeys(self.edges)), tuple(dict.fromkeys(self.gaps)))

    def endpoint(self, row: Endpoint) -> None:
        deployment = self.session.scalars(
            select(Deployment)
            .where(Deployment.endpoint_id == row.id, Deployment.role == "stable")
            .order_by(Deployment.stopped_at.is_not(None), Deployment.revision.desc())
            .limit(1)
        ).one()
        facts = {"Replicas": str(deployment.num_replicas), "Deployed": _day(deployment.created_at)}
        node = self._add("endpoint", row.name, row.name, facts, refers_to=row.name)
        name = deployment.config.alias
        alias = self.session.scalar(select(Alias).where(Alias.name == name)) if name else None
        if alias is not None:
            self._link(node, self._alias(alias), "follows")
        else:
            self.gaps.append("The endpoint follows no alias, so no decision chose what it serves.")
        checkpoint = self.session.get_one(Checkpoint, deployment.checkpoint_id)
        if alias is None or alias.checkpoint_id != checkpoint.id:
            self._link(node, self.checkpoint(checkpoint), "serves")

    def _alias(self, row: Alias) -> str:
        node = self._add("alias", row.id, row.name, {"Moved": _day(row.updated_at)}, refers_to=row.name)
        newest = self.session.scalars(
            select(Promotion)
            .where(
                Promotion.alias_id == row.id, Promotion.checkpoint_id == row.checkpoint_id, Promotion.decision != REJECT
            )
            .order_by(Promotion.created_at.desc(), Promotion.id.desc())
            .limit(1)
        ).one_or_none()
        if newest is not None:
            self._link(node, self._promotion(newest), "moved by")
            self._standing(newest, node, "promoted by")
        if row.checkpoint_id is not None:
            self._link(node, self.checkpoint(self.session.get_one(Checkpoint, row.checkpoint_id)), "holds")
        return node

    def _promotion(self, row: Promotion) -> str:
        decision = promotion_view(self.session, row, self.session.get_one(Alias, row.alias_id).name)
        verdict = row.evidence.verdict
        facts = {
            "Decision": row.decision,
            "Decided": _day(row.created_at),
            "By": decision.by,
            "Reason": row.reason.rstrip("."),  # stands in a list
            "Verdict": verdict.sentence.rstrip(".") if verdict else "",
        }
        if row.evidence.against:
            facts["Evidence"] = "against it" if row.evidence.speaks_against else "decides nothing"
        node = self._add("promotion", row.id, decision.alias, facts, refers_to=row.campaign_id)
        if row.campaign_id is not None:
            self._link(
                node, self._campaign(self.session.get_one(Campaign, row.campaign_id), origin=False), "verdict of"
            )
        elif row.decision == PROMOTE:
            self.gaps.append(f"The decision on {decision.alias} names no campaign, so no votes support it.")
        return node

    def checkpoint(self, row: Checkpoint) -> str:
        key = f"checkpoint:{row.id}"
        if key in self.nodes or len(self.nodes) >= MAX_NODES:
            return key if key in self.nodes else ""
        is_first = not any(node.kind == "checkpoint" for node in self.nodes.values())
        facts = {
            "Step": f"{row.step:,}" if row.step is not None else "",
            "Parameters": f"{row.parameters:,}" if row.parameters else "",
            "Files": "deleted" if row.deleted_at is not None else "",
        }
        node = self._add("checkpoint", row.id, row.name, facts, refers_to=row.id)
        run = self.session.get(Run, row.run_id) if row.run_id else None
        if run is not None:
            self._link(node, self._run(run), "written by")
        else:
            if row.source:
                revision = row.facts.revision
                key = f"{row.source}@{revision}" if revision else row.id
                self._link(node, self._file(row.source, key), "added from")
            if row.parent_id and (parent := self.session.get(Checkpoint, row.parent_id)) is not None:
                self._link(node, self.checkpoint(parent), "exported from")
        if is_first:  # decisions on bases and on others of a campaign say nothing of what descends from them
            self._decisions(row, node)
        self._evaluations(row, node, is_first=is_first)
        self._gates(row, node, is_first=is_first)
        return node

    def _decisions(self, row: Checkpoint, node: str) -> None:
        query = select(Promotion).where(Promotion.checkpoint_id == row.id)
        newest: dict[str, Promotion] = {}
        for decision in self.session.scalars(query.order_by(Promotion.created_at.desc(), Promotion.id.desc())):
            newest.setdefault(decision.alias_id, decision)
        for decision in newest.values():
            holder = self.session.get_one(Alias, decision.alias_id).checkpoint_id
            once = "" if holder == row.id else "once "
            label = {PROMOTE: f"{once}promoted by", ROLLBACK: f"{once}restored by", REJECT: "rejected by"}
            self._link(node, self._promotion(decision), label[decision.decision])
            self._standing(decision, node, label[PROMOTE])

    def _standing(self, decision: Promotion, node: str, label: str) -> None:
        """Link the promotion that a rollback went back to, if it was not taken back itself."""
        if decision.decision == ROLLBACK:
            standing, _ = standing_promotions(decisions_on(self.session, decision.alias_id))
            promoted = next((row for row in reversed(standing) if row.checkpoint_id == decision.checkpoint_id), None)
            if promoted is not None:
                self._link(node, self._promotion(promoted), label)

    def _evaluations(self, row: Checkpoint, node: str, *, is_first: bool) -> None:
        query = (
            select(Evaluation, Dataset.name, DatasetVersion.number)
            .join(DatasetVersion, DatasetVersion.id == Evaluation.dataset_version_id)
            .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
            .where(Evaluation.checkpoint_id == row.id)
            .order_by(Evaluation.created_at.desc())
        )
        newest: dict[str, Evaluation] = {}
        for evaluation, name, number in self.session.execute(query):
            newest.setdefault(f"{name}@{number}", evaluation)
        if not newest and is_first:
            self.gaps.append(f"“{row.name}” was not evaluated on a benchmark.")
        for label, evaluation in list(newest.items())[:MAX_EVALUATIONS]:
            self._link(node, self._add("evaluation", evaluation.id, label, {}, refers_to=evaluation.id), "evaluated on")

    def _gates(self, row: Checkpoint, node: str, *, is_first: bool) -> None:
        query = (
            select(GateResult, Gate.name)
            .join(Gate, Gate.id == GateResult.gate_id)
            .where(GateResult.checkpoint_id == row.id)
        )
        newest: dict[str, GateResult] = {}
        for result, name in self.session.execute(query.order_by(GateResult.created_at.desc())):
            newest.setdefault(name, result)
        if not newest and is_first:
            self.gaps.append(f"No gate has judged “{row.name}”.")
        for name, result in newest.items():
            facts = {"Verdict": result.verdict, "Judged": _day(result.created_at)}
            self._link(node, self._add("gate", result.id, name, facts, refers_to=result.gate_id), "judged by")

    def _run(self, row: Run) -> str:
        key = f"run:{row.id}"
        if key in self.nodes:
            return key
        facts = {
            "Objective": row.objective,
            "Method": row.config.method if row.config else "",
            "Steps": f"{row.last_step:,}",
            "Learning rate": str(row.config.learning_rate) if row.config else "",
            "Seed": str(row.config.seed) if row.config else "",
        }
        node = self._add("run", row.id, row.name, facts, refers_to=row.id)
        sources: tuple[tuple[type[Any], str | None, Callable[[Any], str], str], ...] = (
            (DatasetVersion, row.dataset_version_id, self._version, "trained on"),
            (Checkpoint, row.base_id, self.checkpoint, "started from"),
            (Architecture, row.architecture_id, self._architecture, "with"),
            (Tokenizer, row.tokenizer_id, self._tokenizer, "with"),
        )
        for table, row_id, visit, label in sources:
            source = self.session.get(table, row_id) if row_id else None
            if source is not None:
                self._link(node, visit(source), label)
        return node

    def _version(self, row: DatasetVersion) -> str:
        key = f"dataset:{row.id}"
        if key in self.nodes:
            return key
        dataset = self.session.get_one(Dataset, row.dataset_id)
        votes = row.provenance if isinstance(row.provenance, VotesProvenance) else None
        agreement = votes.mean_agreement if votes else None
        facts = {
            "Kind": dataset.kind,
            "Rows": f"{row.rows:,}",
            "Content": (row.content_hash or "")[:12],
            "Made from": VOTES if votes else "",
            "Mean agreement": percent(agreement) if agreement is not None else "",
        }
        node = self._add(
            "dataset", row.id, f"{dataset.name}@{row.number}", facts, refers_to=f"{dataset.id}@{row.number}"
        )
        campaign = self.session.get(Campaign, votes.campaign_id) if votes else None
        if votes and campaign is not None:
            num = len({vote for pair in votes.rows for vote in pair.get("votes", ())})
            self._link(node, self._campaign(campaign, origin=True), plural(num, "vote"))
        parents = [self.session.get(DatasetVersion, one) for one in (row.parent_id, merged_id(row.provenance)) if one]
        for parent in filter(None, parents):
            self._link(node, self._version(parent), "derived from")
        if campaign is None and not any(parents) and row.source:
            source = row.source if votes is None else VOTES
            self._link(node, self._file(source, row.content_hash or row.id, row.content_hash), "imported from")
        return node

    def _campaign(self, row: Campaign, *, origin: bool) -> str:
        key = f"campaign:{row.id}"
        is_new = key not in self.nodes
        if is_new:
            votes, raters = count_votes(self.session, row.id)
            facts = {"Votes": f"{votes:,}", "Raters": f"{raters:,}"}
            if row.record.held_out:
                facts["Prompts"] = "held out"
            self._add("campaign", row.id, row.name, facts, refers_to=row.id)
            version = self.session.get(DatasetVersion, row.dataset_version_id) if row.dataset_version_id else None
            if version is not None:
                self._link(key, self._version(version), "prompts from")
        if origin:
            contestants = select(Checkpoint).join(Contestant, Contestant.checkpoint_id == Checkpoint.id)
            for checkpoint in self.session.scalars(
                contestants.where(Contestant.campaign_id == row.id).order_by(Checkpoint.name)
            ):
                self._link(key, self.checkpoint(checkpoint), "answers of")
        return key

    def _architecture(self, row: Architecture) -> str:
        return self._add("architecture", row.id, row.name, {"Parameters": f"{row.parameters:,}"}, refers_to=row.id)

    def _tokenizer(self, row: Tokenizer) -> str:
        node = self._add(
            "tokenizer",
            row.id,
            row.name,
            {"Vocabulary": f"{row.vocab_size:,}" if row.vocab_size else ""},
            refers_to=row.id,
        )
        version = self.session.get(DatasetVersion, row.dataset_version_id) if row.dataset_version_id else None
        if version is not None:
            self._link(node, self._version(version), "trained on")
        return node

    def _file(self, source: str, key: str, content_hash: str | None = None) -> str:
        """Add a file. Its key is what it holds, or whose it is: different files have the same name."""
        name = source.rstrip("/").rpartition("/")[2] or source
        return self._add("file", key, name, {"Source": source, "Content": (content_hash or "")[:12]})

    def _add(self, kind: str, key: str, name: str, facts: dict[str, str], *, refers_to: str | None = None) -> str:
        node_id = f"{kind}:{key}"
        known = tuple((label, value) for label, value in facts.items() if value)
        self.nodes.setdefault(node_id, LineageNode(node_id, kind, name, known, refers_to))
        return node_id

    def _link(self, made: str, source: str, label: str) -> None:
        if source:
            self.edges.append(LineageEdge(made, source, label))


def _day(moment: Any) -> str:
    return f"{moment:%Y-%m-%d}"
