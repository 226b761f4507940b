"""Endpoints: deploying, replacing, stopping, and which replicas may be asked."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from backend.db.tables import Checkpoint, Deployment, Job, Replica, Usage
from backend.domain.jobs.events import GaugeEvent, ReadyEvent
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.gateway.app import create_gateway
from backend.gateway.installed import InstalledDirectory
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.claims import Claim, claim_next, requeue
from backend.services.jobs.recovery import recover_jobs
from backend.services.people.accounts import add_user, change_role, disable_account
from backend.services.serving.deployments import (
    delete_endpoint,
    deploy,
    describe_changes,
    next_options,
    scale_endpoint,
    start_endpoint,
    stop_endpoint,
)
from backend.services.serving.endpoints import (
    deployed_endpoints,
    find_view,
    get_endpoint,
    list_endpoints,
    list_revisions,
    why_not_delete,
    why_not_own,
)
from backend.services.serving.prices import set_price
from backend.services.serving.promotions import promote
from backend.services.serving.replicas import ready_targets, record_end, record_gauge, record_ready
from backend.services.serving.usage import UsageRow, add_usage
from jobs.runner import execute
from tests.support.gateway_fixtures import eventually, served
from tests.support.scenario import add_row
from tests.support.serving.serving_world import ServingWorld


@pytest.fixture
def checkpoint(ctx: Context) -> str:
    return add_row(ctx, Checkpoint(name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=10))


def start_replica(ctx: Context, port: int) -> Claim[Any]:
    claim = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    with ctx.db.write() as session:
        record_ready(session, ctx, claim, ReadyEvent(url=f"http://127.0.0.1:{port}"))
    return claim


def test_a_replica_that_has_just_started_has_its_price_with_its_address(ctx: Context) -> None:
    """The request that woke an endpoint cost nothing: prices were read every ten seconds."""
    set_price(ctx, "", 2.0, person=LOCAL)
    scene = ServingWorld(ctx)
    scene.deploy()
    with closing(InstalledDirectory(ctx)) as directory:
        (first,) = directory.replicas_for("tales")
        assert directory.device_hour_usd(first.id) == 2.0
        scale_endpoint(ctx, "tales", 2, person=LOCAL)
        scene.start_all()
        eventually(lambda: len(directory.replicas_for("tales")) == 2)
        assert [directory.device_hour_usd(one.id) for one in directory.replicas_for("tales")] == [2.0, 2.0]


def test_a_deployed_checkpoint_is_starting_until_a_replica_says_it_is_ready(ctx: Context, checkpoint: str) -> None:
    assert deploy(ctx, checkpoint_id=checkpoint, name="tales", num_replicas=2, person=LOCAL).state == "starting"
    assert ready_targets(ctx) == {"tales": []}
    start_replica(ctx, 9001)
    view = get_endpoint(ctx, "tales")
    assert (view.state, view.num_ready, len(view.replicas)) == ("ready", 1, 2)
    assert [target.url for target in ready_targets(ctx)["tales"]] == ["http://127.0.0.1:9001"]


def test_the_payload_of_a_replica_holds_the_token_that_the_gateway_sends(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    claim = start_replica(ctx, 9001)
    assert claim.payload["internal_token"] == ready_targets(ctx)["tales"][0].internal_token
    assert claim.payload["checkpoint"] == "bases/tiny"


def test_the_old_deployment_answers_until_the_new_one_is_ready(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    old = start_replica(ctx, 9001)
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    assert [target.url for target in ready_targets(ctx)["tales"]] == ["http://127.0.0.1:9001"]
    start_replica(ctx, 9002)
    assert [target.url for target in ready_targets(ctx)["tales"]] == ["http://127.0.0.1:9002"]
    with ctx.db.read() as session:
        assert session.get_one(Job, old.job_id).status == Status.CANCELLING
    history = list_revisions(ctx, "tales")
    assert deployed_endpoints(ctx) == [("tales", history[0].created_at)]
    assert [(row.revision, row.stopped_at is None) for row in history] == [(2, True), (1, False)]


def test_a_replica_with_a_lapsed_lease_gets_no_request(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    claim = start_replica(ctx, 9001)
    with ctx.db.write() as session:
        session.get_one(Job, claim.job_id).lease_until = ctx.now() - timedelta(seconds=1)
    assert ready_targets(ctx)["tales"] == []
    view = get_endpoint(ctx, "tales")
    assert (view.state, view.num_ready) == ("starting", 0)


def test_stopping_cancels_queued_replicas_and_sends_running_ones_a_request(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", num_replicas=2, person=LOCAL)
    start_replica(ctx, 9001)
    assert stop_endpoint(ctx, "tales", person=LOCAL).state == "stopped"
    with ctx.db.read() as session:
        assert sorted(session.scalars(select(Job.status))) == [Status.CANCELLED, Status.CANCELLING]
    assert "tales" not in ready_targets(ctx)
    with pytest.raises(Conflict, match="already stopped"):
        stop_endpoint(ctx, "tales", person=LOCAL)
    assert list_endpoints(ctx, include_stopped=False) == []
    assert deployed_endpoints(ctx) == []


def test_v1_says_that_an_endpoint_is_stopped_and_what_starts_it(ctx: Context, checkpoint: str) -> None:
    promote(ctx, checkpoint, alias="teller@production", reason="the first", person=LOCAL)
    deploy(ctx, checkpoint_id=checkpoint, name="tales", alias="teller@production", person=LOCAL)
    stop_endpoint(ctx, "tales", person=LOCAL)
    with closing(InstalledDirectory(ctx)) as directory, served(create_gateway(directory)) as url:
        answers = [
            httpx2.post(f"{url}/v1/completions", json={"model": name, "prompt": "Once"})
            for name in ("tales", "teller@production", "tale")
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    stopped, by_alias, unknown = (answer.json()["error"] for answer in answers)
    assert (stopped["code"], stopped["type"]) == (unknown["code"], unknown["type"])
    assert stopped["message"] == (
        "The model 'tales' is stopped. Start it on its page under Endpoints, or with `roundhouse endpoint start tales`."
    )
    assert by_alias["message"] == stopped["message"].replace("'tales'", "'teller@production'")
    assert unknown["message"] == "The model 'tale' does not exist here. GET /v1/models lists those that do."


def test_a_replica_whose_worker_is_lost_while_it_is_stopped_is_dead(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    start_replica(ctx, 9001)
    stop_endpoint(ctx, "tales", person=LOCAL)
    later = ctx.now() + timedelta(hours=1)
    recover_jobs(replace(ctx, now=lambda: later))
    with ctx.db.read() as session:
        assert session.execute(select(Replica.status, Replica.url)).all() == [("dead", None)]


def test_a_replica_whose_worker_leaves_keeps_no_address(ctx: Context, checkpoint: str) -> None:
    """The next attempt was sent requests at the old address until it was ready."""
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    claim, stopping = start_replica(ctx, 9001), threading.Event()
    stopping.set()
    assert execute(ctx, claim, stopping=stopping) is None
    assert claim_next(ctx, "serve", owner="lab/serve#2", host="lab") is not None
    assert ready_targets(ctx) == {"tales": []}


def test_a_replica_that_ends_by_itself_is_starting_again_and_keeps_no_address(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    claim = start_replica(ctx, 9001)
    with ctx.db.write() as session:
        record_gauge(session, ctx, claim, GaugeEvent(running=3, waiting=1, tokens_per_second=12.5))
    assert get_endpoint(ctx, "tales").replicas[0].gauges.running == 3
    with ctx.db.write() as session:
        record_end(session, ctx, claim)
    with ctx.db.read() as session:
        replica = session.scalars(select(Replica)).one()
        assert (replica.status, replica.url) == ("starting", None)


def test_a_replica_that_restarts_says_why_until_it_is_ready(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    claim = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    with ctx.db.write() as session:
        requeue(
            session,
            ctx,
            claim,
            error=JobFailure(cause="The file is cut off.", remedy="Add the base again."),
            lasted_s=1,
        )
    for later in (replace(ctx, now=lambda: ctx.now() + timedelta(minutes=5)), ctx):
        view = get_endpoint(ctx, "tales")
        assert (view.state, view.replicas[0].problem, view.replicas[0].remedy) == (
            "failing",
            "The file is cut off.",
            "Add the base again.",
        )
        claim = claim_next(later, "serve", owner="lab/serve#1", host="lab") or claim
    with ctx.db.write() as session:
        record_ready(session, ctx, claim, ReadyEvent(url="http://127.0.0.1:9001"))
    assert (get_endpoint(ctx, "tales").state, get_endpoint(ctx, "tales").replicas[0].problem) == ("ready", "")


def test_a_restarted_replica_leaves_a_trace_that_is_one_line_of_the_history(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    claim = start_replica(ctx, 9001)
    assert get_endpoint(ctx, "tales").replicas[0].restarts == ""
    assert list_revisions(ctx, "tales")[0].events == ()
    later = ctx
    for restarts in ("restarted once", "restarted 2 times"):
        with ctx.db.write() as session:
            requeue(session, ctx, claim, error=JobFailure(cause="It was killed."), lasted_s=60)
        later = replace(ctx, now=lambda before=later.now: before() + timedelta(minutes=5))
        claim = start_replica(later, 9001)
        assert get_endpoint(later, "tales").replicas[0].restarts == restarts
        (event,) = list_revisions(later, "tales")[0].events
        assert event.text == f"replica 1 {restarts}"


def test_options_and_replicas_of_the_earlier_revision_stay_unless_others_are_given(
    ctx: Context, checkpoint: str
) -> None:
    first = {"context": 200, "surge": 2, "max_running": 3}
    deploy(ctx, checkpoint_id=checkpoint, name="tales", num_replicas=2, config=first, person=LOCAL)
    previous = find_view(ctx, "tales")
    assert previous is not None
    assert next_options(None, {"context": 64}).changed() == {"context": 64}
    again = next_options(previous, {"context": 256})
    deployed = deploy(ctx, checkpoint_id=checkpoint, name="tales", config=again.changed(), person=LOCAL)
    assert (deployed.config.changed(), deployed.target) == ({"context": 256, "surge": 2, "max_running": 3}, 2)
    assert describe_changes(previous, deployed.config, 3, {}) == ("context 200 tokens -> 256 tokens, replicas 2 -> 3")
    assert describe_changes(previous, previous.config, 2, {}) == ""
    assert [revision.options for revision in list_revisions(ctx, "tales")] == [
        "surge 2, context 256 tokens, max running 3",
        "surge 2, context 200 tokens, max running 3",
    ]


@pytest.mark.parametrize("name", ["", " tales", "a b", "-x", "x" * 81, "<script>"])
def test_an_invalid_endpoint_name_is_refused(ctx: Context, checkpoint: str, name: str) -> None:
    with pytest.raises(InvalidInput):
        deploy(ctx, checkpoint_id=checkpoint, name=name, person=LOCAL)
    with ctx.db.read() as session:
        assert session.scalars(select(Deployment)).all() == []


def test_a_rater_can_not_deploy_and_an_unknown_checkpoint_is_not_found(ctx: Context, checkpoint: str) -> None:
    with pytest.raises(NotAllowed):
        deploy(ctx, checkpoint_id=checkpoint, name="tales", person=Person("x", "r", "rater"))
    with pytest.raises(NotFound):
        deploy(ctx, checkpoint_id="missing", name="tales", person=LOCAL)
    with pytest.raises(NotFound, match="none yet"):
        get_endpoint(ctx, "tales")


def test_a_stopped_endpoint_starts_again_with_its_last_checkpoint_and_as_many_replicas(
    ctx: Context, checkpoint: str
) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", num_replicas=2, config={"threads": 3}, person=LOCAL)
    with pytest.raises(Conflict, match="not stopped"):
        start_endpoint(ctx, "tales", person=LOCAL)
    stop_endpoint(ctx, "tales", person=LOCAL)
    view = start_endpoint(ctx, "tales", person=LOCAL)
    assert (view.state, view.checkpoint_name, len(view.replicas)) == ("starting", "tiny", 2)
    assert start_replica(ctx, 9003).payload["threads"] == 3
    assert get_endpoint(ctx, "tales").state == "ready"
    assert len(list_revisions(ctx, "tales")) == 2


def test_an_endpoint_whose_checkpoint_is_gone_can_not_start_and_can_be_deleted(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    stop_endpoint(ctx, "tales", person=LOCAL)
    with ctx.db.write() as session:
        session.get_one(Checkpoint, checkpoint).deleted_at = ctx.now()
    with pytest.raises(NotFound, match="files of “tiny” are gone"):
        start_endpoint(ctx, "tales", person=LOCAL)
    assert get_endpoint(ctx, "tales").state == "stopped"
    delete_endpoint(ctx, "tales", person=LOCAL)
    assert list_endpoints(ctx) == []


def test_deleting_an_endpoint_keeps_its_usage_and_survives_a_replica_that_still_drains(
    ctx: Context, checkpoint: str
) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    claim = start_replica(ctx, 9001)
    row = UsageRow("r1", "tales", None, None, 3, 4, 1.0, 2.0, "finished", ctx.now())
    add_usage(ctx, [row])
    with pytest.raises(Conflict, match="not stopped"):
        delete_endpoint(ctx, "tales", person=LOCAL)
    stop_endpoint(ctx, "tales", person=LOCAL)
    delete_endpoint(ctx, "tales", person=LOCAL)
    with ctx.db.write() as session:
        record_gauge(session, ctx, claim, GaugeEvent(running=0, waiting=0, tokens_per_second=0))
        record_end(session, ctx, claim)
    with ctx.db.read() as session:
        assert session.scalars(select(Usage.endpoint_id)).all() == [None]
        assert session.scalars(select(Replica)).all() == []
    with pytest.raises(NotFound):
        get_endpoint(ctx, "tales")
    assert deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL).state == "starting"


def test_a_rater_can_neither_start_nor_delete(ctx: Context, checkpoint: str) -> None:
    deploy(ctx, checkpoint_id=checkpoint, name="tales", person=LOCAL)
    stop_endpoint(ctx, "tales", person=LOCAL)
    for act in (start_endpoint, delete_endpoint):
        with pytest.raises(NotAllowed):
            act(ctx, "tales", person=Person("x", "r", "rater"))


def test_builders_run_each_others_endpoints_and_only_who_deployed_one_and_admins_delete_it(
    ctx: Context, checkpoint: str
) -> None:
    ada = add_user(ctx, "Ada", "a long password", role="engineer", person=LOCAL)
    ben = add_user(ctx, "Ben", "a long password", role="lead", person=LOCAL)
    for name, person in (("hers", ada), ("bare", LOCAL)):
        deploy(ctx, checkpoint_id=checkpoint, name=name, person=person)
        assert scale_endpoint(ctx, name, 2, person=ben).target == 2
        assert deploy(ctx, checkpoint_id=checkpoint, name=name, person=ben).revision > 1
        assert stop_endpoint(ctx, name, person=ben).state == "stopped"
    assert start_endpoint(ctx, "hers", person=ben).state == "starting"
    stop_endpoint(ctx, "hers", person=ben)
    for name, cause in (("hers", "by Ada"), ("bare", "without an account")):
        assert (
            why_not_delete(ctx, name, person=ben) == f"'{name}' was deployed {cause}. Its owner and admins delete it."
        )
        with pytest.raises(NotAllowed, match=cause):
            delete_endpoint(ctx, name, person=ben)
    assert why_not_delete(ctx, "hers", person=ada) == why_not_delete(ctx, "hers", person=LOCAL) == ""
    delete_endpoint(ctx, "hers", person=ada)
    assert [endpoint.name for endpoint in list_endpoints(ctx)] == ["bare"]


@pytest.mark.parametrize("leave", ["disabled", "rater"])
def test_any_builder_deletes_an_endpoint_of_an_account_that_left_but_does_not_read_its_log(
    ctx: Context, checkpoint: str, leave: str
) -> None:
    ada = add_user(ctx, "Ada", "a long password", role="engineer", person=LOCAL)
    ben = add_user(ctx, "Ben", "a long password", role="lead", person=LOCAL)
    deploy(ctx, checkpoint_id=checkpoint, name="hers", person=ada)
    stop_endpoint(ctx, "hers", person=ada)
    if leave == "disabled":
        disable_account(ctx, str(ada.id), person=LOCAL)
    else:
        change_role(ctx, str(ada.id), "rater", person=LOCAL)
    assert why_not_own(ctx, "hers", person=ben)
    delete_endpoint(ctx, "hers", person=ben)
    assert list_endpoints(ctx) == []
