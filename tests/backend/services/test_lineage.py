"""Lineage from an endpoint back to files; partial ones say what is missing."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from backend.db.tables import Checkpoint, Dataset, DatasetVersion, Gate, GateResult, Run, Tokenizer
from backend.errors import NotFound
from backend.services.battles.rematches import enter_new_checkpoint
from backend.services.battles.vote_training import train_on_votes
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.lineage import Lineage, card_lines, lineage_of, lineage_of_checkpoint
from backend.services.serving.deployments import deploy
from backend.services.serving.promotions import promote, reject, rollback
from tests.support.battle_world import write_all
from tests.support.scenario import Scenario

ALIAS = "storyteller@production"


def trained_on_votes(ctx: Context) -> str:
    """The loop, with the worker's part written by hand: votes, preference set, run, won rematch, promotion,
    endpoint.
    """
    campaign = Scenario(ctx).campaign(num_prompts=8, dataset_rows=40)
    Scenario(ctx).votes(campaign, "Elm")
    launch = train_on_votes(ctx, campaign.id, person=LOCAL, idempotency_key="k")
    folder = ctx.artifacts.relative(ctx.artifacts.folder("runs", launch.run_id, "step-10"))
    with ctx.db.write() as session:
        run = session.get_one(Run, launch.run_id)
        session.add(
            Checkpoint(
                name="New", origin="run", run_id=run.id, step=10, is_final=True, folder=folder, parent_id=run.base_id
            )
        )
    enter_new_checkpoint(ctx, launch.rematch.id, person=LOCAL)
    write_all(ctx, launch.rematch.id)
    Scenario(ctx).votes(launch.rematch.id, "New")
    promoted = promote(ctx, "New", alias=ALIAS, campaign_id=launch.rematch.id, reason="won", person=LOCAL)
    deploy(ctx, checkpoint_id=promoted.checkpoint_id, name="tales", alias=ALIAS, person=LOCAL)
    return promoted.checkpoint_id


def chain(lineage: Lineage) -> set[tuple[str, str, str]]:
    """The edges as (kind, label, kind)."""
    return {(edge.made.split(":")[0], edge.label, edge.source.split(":")[0]) for edge in lineage.edges}


def test_an_endpoint_is_traced_through_alias_decision_votes_run_and_preference_set_to_the_bases(ctx: Context) -> None:
    trained_on_votes(ctx)
    lineage = lineage_of(ctx, "tales")
    assert chain(lineage) >= {
        ("endpoint", "follows", "alias"),
        ("alias", "moved by", "promotion"),
        ("alias", "holds", "checkpoint"),
        ("promotion", "verdict of", "campaign"),
        ("checkpoint", "written by", "run"),
        ("run", "trained on", "dataset"),
        ("run", "started from", "checkpoint"),
        ("dataset", "8 votes", "campaign"),
        ("campaign", "answers of", "checkpoint"),
        ("campaign", "prompts from", "dataset"),
    }
    names = {node.kind: node.name for node in lineage.nodes}
    assert (names["endpoint"], names["alias"], names["promotion"]) == ("tales", ALIAS, ALIAS)
    assert lineage.gaps == ("“New” was not evaluated on a benchmark.", "No gate has judged “New”.")
    assert {node.id for node in lineage.nodes} >= {end for edge in lineage.edges for end in (edge.made, edge.source)}


def test_no_input_is_called_by_its_kind_twice(ctx: Context, scenario: Scenario) -> None:
    """It said: architecture architecture small."""
    checkpoint = scenario.checkpoint(run=scenario.run(), step=10)
    edges = chain(lineage_of(ctx, checkpoint))
    assert {("run", "with", "architecture"), ("run", "with", "tokenizer")} <= edges


def test_the_lineage_as_json_has_every_node_once(ctx: Context) -> None:
    trained_on_votes(ctx)
    document = json.loads(json.dumps(lineage_of(ctx, "tales").to_document()))
    ids = [node["id"] for node in document["nodes"]]
    assert len(ids) == len(set(ids))
    assert document["root"] == ids[0]
    assert next(node for node in document["nodes"] if node["kind"] == "promotion")["facts"]["Reason"] == "won"


def test_a_model_card_names_decision_and_votes_without_files(ctx: Context) -> None:
    checkpoint_id = trained_on_votes(ctx)
    lines = card_lines(ctx, checkpoint_id)
    assert [line for line in lines if line.startswith("preference set Stories votes@1")]
    assert [line for line in lines if line.startswith("votes of campaign Stories (votes 8, raters 1)")]
    assert not [line for line in lines if "uploads" in line]


def test_a_checkpoint_from_a_file_says_what_is_missing(ctx: Context, scenario: Scenario) -> None:
    scenario.checkpoint("Oak", source="/data/oak.gguf")
    lineage = lineage_of(ctx, "Oak")
    assert [(node.kind, node.name) for node in lineage.nodes] == [("checkpoint", "Oak"), ("file", "oak.gguf")]
    assert len(lineage.gaps) == 2
    with pytest.raises(NotFound, match="no checkpoint"):
        lineage_of(ctx, "nothere")


def test_files_of_one_name_are_one_node_only_if_they_hold_the_same(ctx: Context, scenario: Scenario) -> None:
    """The prompts of a vote were drawn as made from the training file, since both were called rows.jsonl."""
    run = scenario.run()
    scenario.checkpoint("Oak", run=run, step=10)

    def files(*contents: tuple[str, str | None]) -> list[set[str]]:
        """What the run's dataset and its tokenizer's are imported from, both from rows.jsonl."""
        with ctx.db.write() as session:
            row = session.get_one(Run, run.id)
            versions = [session.get_one(DatasetVersion, row.dataset_version_id)]
            tokenizer = session.get_one(Tokenizer, row.tokenizer_id)
            dataset = Dataset(name=f"words {contents}", kind="text")
            session.add(dataset)
            session.flush()
            versions.append(DatasetVersion(dataset_id=dataset.id, number=1))
            session.add(versions[1])
            session.flush()
            tokenizer.dataset_version_id = versions[1].id
            for version, (source, content) in zip(versions, contents, strict=True):
                version.source, version.content_hash = source, content
            nodes = [f"dataset:{version.id}" for version in versions]
        edges = lineage_of_checkpoint(ctx, run.name).edges
        return [
            {edge.source for edge in edges if edge.made == node and edge.label == "imported from"} for node in nodes
        ]

    trained, other = files(("rows.jsonl", "83fda3cf"), ("rows.jsonl", "8cd3cbe7"))
    assert len(trained) == len(other) == 1
    assert trained != other
    trained, other = files(("rows.jsonl", None), ("rows.jsonl", None))
    assert len(trained) == len(other) == 1
    assert trained != other
    trained, other = files(("rows.jsonl", "83fda3cf"), ("again.jsonl", "83fda3cf"))
    assert trained == other
    names = [node.name for node in lineage_of_checkpoint(ctx, run.name).nodes if node.kind == "file"]
    assert names == ["rows.jsonl"]


def test_bases_from_one_path_are_of_one_file_only_at_one_revision(ctx: Context, scenario: Scenario) -> None:
    for name in ("Oak", "Ash"):
        scenario.checkpoint(name, source="/data/model.gguf")
    files = {
        node.id for name in ("Oak", "Ash") for node in lineage_of_checkpoint(ctx, name).nodes if node.kind == "file"
    }
    assert len(files) == 2


def test_a_deleted_ancestor_stays_in_the_lineage(ctx: Context) -> None:
    checkpoint_id = trained_on_votes(ctx)
    with ctx.db.write() as session:
        parent = session.scalars(select(Checkpoint).where(Checkpoint.name == "Elm")).one()
        parent.deleted_at = ctx.now()
        assert session.scalars(select(DatasetVersion)).all()
    nodes = {node.name: dict(node.facts) for node in lineage_of_checkpoint(ctx, checkpoint_id).nodes}
    assert nodes["Elm"]["Files"] == "deleted"


@pytest.mark.parametrize("is_served", [False, True])
def test_a_checkpoint_shows_who_promoted_it_to_which_alias_by_which_campaign(ctx: Context, *, is_served: bool) -> None:
    """It showed a failed gate, and no trace that it was promoted all the same."""
    campaign = Scenario(ctx).campaign(num_prompts=8, dataset_rows=40)
    Scenario(ctx).votes(campaign, "Elm")
    promoted = promote(ctx, "Elm", alias=ALIAS, campaign_id=campaign.id, reason="all the same", person=LOCAL)
    if is_served:
        deploy(ctx, checkpoint_id=promoted.checkpoint_id, name="tales", alias=ALIAS, person=LOCAL)
    lineage = lineage_of_checkpoint(ctx, "Elm")
    decision = next(node for node in lineage.nodes if node.kind == "promotion")
    assert (decision.name, dict(decision.facts)["Decision"]) == (ALIAS, "promote")
    assert dict(decision.facts).items() >= {"By": promoted.by, "Reason": "all the same"}.items()
    assert {("checkpoint", "promoted by", "promotion"), ("promotion", "verdict of", "campaign")} <= chain(lineage)
    ids = [node.id for node in lineage.nodes]
    assert len(ids) == len(set(ids))


def test_a_card_names_the_gates_that_judged_the_checkpoint_and_none_of_its_base(
    ctx: Context, scenario: Scenario
) -> None:
    oak, elm = scenario.checkpoints("Oak", "Elm")
    with ctx.db.write() as session:
        session.get_one(Checkpoint, elm).parent_id = oak
        session.add(gate := Gate(name="facts", config={"champion": "Oak", "benchmarks": [{"benchmark": "facts"}]}))
        session.flush()
        session.add(
            GateResult(gate_id=gate.id, checkpoint_id=oak, champion_id=oak, verdict="FAIL", created_at=ctx.now())
        )
    assert card_lines(ctx, elm) == []
    (line,) = card_lines(ctx, oak)
    assert line.startswith("gate facts (verdict FAIL, judged ")


def test_a_decision_on_a_base_is_none_on_what_descends_from_it_and_its_reason_is_on_no_card(
    ctx: Context, scenario: Scenario
) -> None:
    scenario.checkpoints("Oak", "Elm")
    promote(ctx, "Oak", alias=ALIAS, reason="Acme complained about the other", person=LOCAL)
    oak, elm = (resolve_checkpoint(ctx, name).id for name in ("Oak", "Elm"))
    with ctx.db.write() as session:
        session.get_one(Checkpoint, elm).parent_id = oak
    assert ("checkpoint", "exported from", "checkpoint") in chain(lineage_of_checkpoint(ctx, "Elm"))
    assert card_lines(ctx, elm) == []
    (line,) = card_lines(ctx, oak)
    assert line.startswith(f"decision {ALIAS} (decision promote")
    assert "Acme" not in line


def test_a_checkpoint_shows_decisions_without_votes_and_those_that_no_longer_hold(
    ctx: Context, scenario: Scenario
) -> None:
    scenario.checkpoints("Oak", "Elm", "Fir")
    promote(ctx, "Oak", alias=ALIAS, reason="the first", person=LOCAL)
    lineage = lineage_of_checkpoint(ctx, "Oak")
    assert ("checkpoint", "promoted by", "promotion") in chain(lineage)
    assert f"The decision on {ALIAS} names no campaign, so no votes support it." in lineage.gaps
    promote(ctx, "Elm", alias=ALIAS, reason="the next", person=LOCAL)
    reject(ctx, "Fir", alias=ALIAS, reason="slow", person=LOCAL)
    rollback(ctx, ALIAS, person=LOCAL)
    labels = {
        name: [edge.label for edge in lineage_of_checkpoint(ctx, name).edges if edge.source.startswith("promotion")]
        for name in ("Oak", "Elm", "Fir")
    }
    assert labels == {"Oak": ["restored by", "promoted by"], "Elm": ["once promoted by"], "Fir": ["rejected by"]}


def test_after_a_rollback_lineage_and_card_name_the_promotion_that_it_went_back_to(
    ctx: Context, scenario: Scenario
) -> None:
    """The rollback alone was named, and not the decision that the checkpoint rests on."""
    campaign = scenario.campaign(num_prompts=8, dataset_rows=40)
    scenario.votes(campaign, "Elm")
    promoted = promote(ctx, "Elm", alias=ALIAS, campaign_id=campaign.id, reason="all the same", person=LOCAL)
    deploy(ctx, checkpoint_id=promoted.checkpoint_id, name="tales", alias=ALIAS, person=LOCAL)
    promote(ctx, "Oak", alias=ALIAS, reason="the next", person=LOCAL)
    rollback(ctx, ALIAS, reason="a regression", person=LOCAL)
    lineage = lineage_of(ctx, "tales")
    decisions = [dict(node.facts) for node in lineage.nodes if node.kind == "promotion"]
    assert [(facts["Decision"], facts["Reason"]) for facts in decisions] == [
        ("rollback", "a regression"),
        ("promote", "all the same"),
    ]
    assert {("alias", "moved by", "promotion"), ("alias", "promoted by", "promotion")} <= chain(lineage)
    assert not [gap for gap in lineage.gaps if "names no campaign" in gap], "a rollback needs no votes"
    lines = [line for line in card_lines(ctx, promoted.checkpoint_id) if line.startswith("decision ")]
    assert [line.split("decision ")[2].split(",")[0] for line in lines] == ["rollback", "promote"]
    assert "evidence decides nothing" in lines[1]
