"""Rollouts, changes of the number of replicas, and rollbacks, with workers played by the test."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from backend.db.tables import Job, Replica
from backend.domain.jobs.events import GaugeEvent
from backend.domain.jobs.states import JobKind
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.serving.chat.contexts import endpoint_facts
from backend.services.serving.deployments import deploy, rollback_endpoint, scale_endpoint, stop_endpoint
from backend.services.serving.endpoints import get_endpoint, list_revisions
from backend.services.serving.replicas import advance_endpoints, ready_targets, record_end, record_gauge
from tests.support.serving.serving_world import ServingWorld


@pytest.fixture
def scene(ctx: Context) -> ServingWorld:
    scene = ServingWorld(ctx)
    scene.deploy(num_replicas=3)
    assert scene.served() == ["oak"] * 3
    return scene


def test_replicas_are_replaced_one_by_one_and_old_ones_drain(scene: ServingWorld) -> None:
    assert (
        deploy(scene.ctx, checkpoint_id=scene.checkpoint("elm"), name="tales", num_replicas=3, person=LOCAL).state
        == "updating"
    )
    shares = [scene.served()]
    while scene.start_next():
        shares.append(scene.served())
        view = get_endpoint(scene.ctx, "tales")
    assert shares == [["oak"] * 3, ["elm", "oak", "oak"], ["elm", "elm", "oak"], ["elm"] * 3]
    assert (scene.num_stopping(), view.state, view.rollout) == (3, "ready", None)
    assert [(row.revision, row.stopped_at is None) for row in list_revisions(scene.ctx, "tales")] == [
        (2, True),
        (1, False),
    ]


def test_a_revision_that_never_starts_leaves_the_old_one_alone(scene: ServingWorld) -> None:
    scene.deploy("elm", start=False, num_replicas=3)
    for _ in range(3):
        advance_endpoints(scene.ctx)
    view = get_endpoint(scene.ctx, "tales")
    assert (scene.served(), len(view.replicas), view.num_ready) == (["oak"] * 3, 4, 3)
    assert view.rollout is not None
    assert (view.rollout.previous, view.rollout.new_ready, view.rollout.old_ready) == (1, 0, 3)
    assert rollback_endpoint(scene.ctx, "tales", person=LOCAL).state == "ready"
    assert (scene.served(), scene.num_stopping()) == (["oak"] * 3, 0)
    assert not scene.start_next(), "the replica of the new revision was cancelled"
    assert get_endpoint(scene.ctx, "tales").revision == 1
    assert [row.note for row in list_revisions(scene.ctx, "tales")] == ["called off", ""]


def test_a_second_deployment_in_the_middle_of_a_rollout_replaces_both(scene: ServingWorld) -> None:
    scene.deploy("elm", start=False, num_replicas=3)
    scene.start_next()
    scene.deploy("fir", num_replicas=2)
    assert scene.served() == ["fir", "fir"]
    assert [row.stopped_at is None for row in list_revisions(scene.ctx, "tales")] == [True, False, False]


def test_the_number_of_replicas_changes_in_place_and_the_least_busy_go(scene: ServingWorld) -> None:
    for claim, running in zip(scene.claims, (5, 0, 2), strict=True):
        with scene.ctx.db.write() as session:
            record_gauge(session, scene.ctx, claim, GaugeEvent(running=running, waiting=0, tokens_per_second=1))
    scale_endpoint(scene.ctx, "tales", 1, person=LOCAL)
    assert [target.url for target in ready_targets(scene.ctx)["tales"]] == ["http://127.0.0.1:9001"]
    assert get_endpoint(scene.ctx, "tales").revision == 1
    scale_endpoint(scene.ctx, "tales", 4, person=LOCAL)
    scene.start_all()
    assert scene.served() == ["oak"] * 4
    with pytest.raises(InvalidInput, match="out of range"):
        scale_endpoint(scene.ctx, "tales", 0, person=LOCAL)


def test_a_replica_that_ends_while_it_drains_does_not_come_back(scene: ServingWorld) -> None:
    scale_endpoint(scene.ctx, "tales", 2, person=LOCAL)
    for claim in scene.claims:
        with scene.ctx.db.write() as session:
            record_end(session, scene.ctx, claim)
    advance_endpoints(scene.ctx)
    with scene.ctx.db.read() as session:
        assert sorted(session.scalars(select(Replica.status))) == ["dead", "starting", "starting"]


def test_rollbacks_walk_back_through_the_revisions(scene: ServingWorld) -> None:
    for name in ("elm", "fir"):
        scene.deploy(name, num_replicas=3)
    for expected in ("elm", "oak"):
        rollback_endpoint(scene.ctx, "tales", person=LOCAL)
        scene.start_all()
        assert scene.served() == [expected] * 3
    with pytest.raises(Conflict, match="no revision before 1"):
        rollback_endpoint(scene.ctx, "tales", person=LOCAL)
    rollback_endpoint(scene.ctx, "tales", revision=3, person=LOCAL)
    scene.start_all()
    assert scene.served() == ["fir"] * 3
    notes = [row.note for row in list_revisions(scene.ctx, "tales")]
    assert notes == ["rollback to revision 3", "rollback to revision 1", "rollback to revision 2", "", "", ""]
    with pytest.raises(NotFound, match="no revision 9"):
        rollback_endpoint(scene.ctx, "tales", revision=9, person=LOCAL)


def test_a_stopped_endpoint_is_neither_scaled_nor_rolled_back_and_a_rater_may_do_neither(scene: ServingWorld) -> None:
    rater = Person("x", "r", "rater")
    with pytest.raises(NotAllowed):
        scale_endpoint(scene.ctx, "tales", 2, person=rater)
    with pytest.raises(NotAllowed):
        rollback_endpoint(scene.ctx, "tales", person=rater)
    stop_endpoint(scene.ctx, "tales", person=LOCAL)
    with pytest.raises(Conflict, match="is stopped"):
        scale_endpoint(scene.ctx, "tales", 2, person=LOCAL)


def test_an_option_out_of_range_is_named(ctx: Context) -> None:
    checkpoint = ServingWorld(ctx).checkpoint("oak")
    with pytest.raises(InvalidInput, match="answer_limit_s: must be more than 0"):
        deploy(ctx, checkpoint_id=checkpoint, name="tales", config={"answer_limit_s": -1}, person=LOCAL)


def test_a_context_beyond_the_networks_is_refused_with_both_numbers(ctx: Context) -> None:
    checkpoint = ServingWorld(ctx).checkpoint("oak")
    folder = ctx.artifacts.folder("bases", "oak")
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128, "vocab_size": 500}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    with pytest.raises(InvalidInput, match=r"^4,096 tokens are more than the model's own context holds, 128"):
        deploy(ctx, checkpoint_id=checkpoint, name="tales", config={"context": 4096}, person=LOCAL)
    deploy(ctx, checkpoint_id=checkpoint, name="tales", config={"context": 64}, person=LOCAL)
    assert endpoint_facts(ctx, ["tales"])["tales"].context == 64
    with ctx.db.read() as session:
        (job,) = session.scalars(select(Job).where(Job.kind == JobKind.REPLICA))
        assert job.payload["context"] == 64
