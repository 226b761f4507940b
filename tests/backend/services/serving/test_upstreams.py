"""Models on other servers: connected after a token, checked, revised and rolled back like checkpoints, and hidden among
them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.load import LoadConfig
from backend.domain.serving.upstream import Upstream
from backend.errors import Conflict, InvalidInput, NotAllowed, Unavailable
from backend.services.checkpoints.checkpoints import list_checkpoints, resolve_checkpoint
from backend.services.context import LOCAL, Context, Person
from backend.services.evaluation.endpoints import resolve_evaluated
from backend.services.serving.canaries import start_canary
from backend.services.serving.chat.contexts import endpoint_facts
from backend.services.serving.deployments import (
    rollback_endpoint,
    scale_endpoint,
    start_endpoint,
    stop_endpoint,
)
from backend.services.serving.endpoints import EndpointView, get_endpoint, list_revisions
from backend.services.serving.load_tests import start_load_test
from backend.services.serving.replicas import ready_targets
from backend.services.serving.upstreams import check_upstreams, connect_upstream, resolve_deployable
from tests.support.fake_api import FakeApi, serve_api
from tests.support.serving.serving_world import ServingWorld


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serve_api() as api:
        yield api


def connect(ctx: Context, api: FakeApi, *, model: str = "qwen", **fields: Any) -> EndpointView:
    return connect_upstream(
        ctx, name="tales", upstream=Upstream.read({"url": api.url, "model": model, **fields}), person=LOCAL
    )


def targets(ctx: Context) -> list[str]:
    return [
        target.upstream.model if target.upstream else target.url
        for target in ready_targets(ctx, canaries=True)["tales"]
    ]


def test_a_model_that_answers_a_token_is_ready_at_once(ctx: Context, api: FakeApi) -> None:
    view = connect(ctx, api, context=4096)
    assert (view.state, view.chats, view.target) == ("ready", True, 1)
    assert view.config.upstream is not None
    assert view.config.upstream.capabilities.completions
    assert targets(ctx) == ["qwen"]
    assert endpoint_facts(ctx, ["tales"])["tales"].context == 4096


def test_a_load_test_of_another_server_goes_through_the_gateway_alone(ctx: Context, api: FakeApi) -> None:
    connect(ctx, api)
    with pytest.raises(Conflict, match="only the gateway"):
        start_load_test(ctx, "tales", LoadConfig(), person=LOCAL)
    assert start_load_test(ctx, "tales", LoadConfig(targets=("gateway",)), person=LOCAL).is_active


def test_a_server_that_does_not_answer_is_not_connected(ctx: Context, api: FakeApi) -> None:
    api.failures = [401]
    with pytest.raises(Unavailable, match="401"):
        connect(ctx, api)
    with pytest.raises(Unavailable):
        connect_upstream(ctx, name="tales", upstream=Upstream(url="http://127.0.0.1:9/v1", model="m"), person=LOCAL)
    assert ready_targets(ctx) == {}


def test_only_the_operator_connects_and_never_to_the_own_gateway(ctx: Context, api: FakeApi) -> None:
    upstream = Upstream(url=api.url, model="m")
    with pytest.raises(NotAllowed):
        connect_upstream(ctx, name="tales", upstream=upstream, person=Person(id="a", name="Ada"))
    port = urlsplit(ctx.gateway_url).port
    for host in ("127.0.0.1", "LOCALHOST", "127.1.2.3", "[::ffff:127.0.0.1]", socket.gethostname()):
        own = Upstream(url=f"http://{host}:{port}/v1", model="m")
        with pytest.raises(InvalidInput, match="own gateway"):
            connect_upstream(ctx, name="tales", upstream=own, person=LOCAL)


def test_two_failed_checks_take_its_requests_away_until_a_token_arrives(ctx: Context, api: FakeApi) -> None:
    connect(ctx, api, check_every_s=60)
    asked = len(api.received)
    check_upstreams(ctx)
    assert len(api.received) == asked, "its last check is too recent"
    api.failures = [500, 500]
    for minutes, state in ((2, "ready"), (4, "failing")):
        check_upstreams(replace(ctx, now=lambda minutes=minutes: ctx.now() + timedelta(minutes=minutes)))
        assert get_endpoint(ctx, "tales").state == state
    assert "status 500" in get_endpoint(ctx, "tales").replicas[0].problem
    assert targets(ctx) == []
    check_upstreams(replace(ctx, now=lambda: ctx.now() + timedelta(minutes=5)))
    assert targets(ctx) == ["qwen"]


def test_servers_are_checked_at_the_same_time(ctx: Context, api: FakeApi) -> None:
    for number in range(3):
        connect_upstream(ctx, name=f"tales-{number}", upstream=Upstream(url=api.url, model=f"m{number}"), person=LOCAL)
    together = threading.Barrier(3, timeout=60)
    api.answer = lambda _: str(together.wait())
    check_upstreams(replace(ctx, now=lambda: ctx.now() + timedelta(minutes=9)))
    assert not together.broken
    assert [get_endpoint(ctx, f"tales-{number}").replicas[0].problem for number in range(3)] == ["", "", ""]


def test_it_replaces_a_checkpoint_and_is_rolled_back(ctx: Context, api: FakeApi) -> None:
    scene = ServingWorld(ctx)
    scene.deploy(num_replicas=2)
    connect(ctx, api)
    assert (targets(ctx), scene.num_stopping()) == (["qwen"], 2)
    assert [row.checkpoint_name for row in list_revisions(ctx, "tales")] == [f"qwen on {api.url[7:-3]}", "oak"]
    rollback_endpoint(ctx, "tales", person=LOCAL)
    scene.start_all()
    view = get_endpoint(ctx, "tales")
    assert (view.checkpoint_name, view.config.upstream, view.num_ready) == ("oak", None, 1)


def test_it_gets_a_canarys_share(ctx: Context, api: FakeApi) -> None:
    scene = ServingWorld(ctx)
    connect(ctx, api)
    model = resolve_deployable(ctx, f"qwen on {api.url[7:-3]}")
    stop_endpoint(ctx, "tales", person=LOCAL)
    scene.deploy()
    start_canary(ctx, "tales", checkpoint_id=model, rules=CanaryRules(percent=20), num_replicas=3, person=LOCAL)
    check_upstreams(ctx)
    canary = get_endpoint(ctx, "tales").canary
    assert canary is not None
    assert (canary.num_ready, canary.percent) == (1, 20)
    assert sorted(targets(ctx))[-1] == "qwen"


def test_a_stopped_one_starts_again_and_has_one_place(ctx: Context, api: FakeApi) -> None:
    connect(ctx, api)
    with pytest.raises(Conflict, match="another server"):
        scale_endpoint(ctx, "tales", 3, person=LOCAL)
    stop_endpoint(ctx, "tales", person=LOCAL)
    assert ready_targets(ctx) == {}
    start_endpoint(ctx, "tales", person=LOCAL)
    check_upstreams(ctx)
    assert targets(ctx) == ["qwen"]


def test_the_same_model_is_one_row_that_no_list_of_checkpoints_shows(ctx: Context, api: FakeApi) -> None:
    first = connect(ctx, api)
    assert connect(ctx, api, output_price=2.0, input_price=1.0).checkpoint_id == first.checkpoint_id
    assert list_checkpoints(ctx) == []
    with pytest.raises(Conflict, match="another server"):
        resolve_checkpoint(ctx, first.checkpoint_name)


def test_evaluations_name_it_and_know_what_its_server_offers(ctx: Context, api: FakeApi) -> None:
    connect(ctx, api, max_requests=16)
    subject = resolve_evaluated(ctx, "tales")
    assert (subject.is_own, subject.config.concurrency) == (True, 4)
    assert (subject.capabilities.chat, subject.capabilities.echo) == (True, False)
    api.echo = True
    connect(ctx, api)
    assert resolve_evaluated(ctx, "tales").capabilities.echo
