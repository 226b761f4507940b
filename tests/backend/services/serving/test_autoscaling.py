"""Endpoints that scale by their queue, sleep while idle and wake at a request; the worker is played by the test, with
its own clock.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from backend.domain.jobs.events import GaugeEvent
from backend.domain.serving.deployment import DeploymentOptions
from backend.errors import Conflict, InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.serving.autoscaling import autoscale_endpoints, change_scaling, wake_endpoint
from backend.services.serving.deployments import (
    deploy,
    rollback_endpoint,
    scale_endpoint,
    start_endpoint,
    stop_endpoint,
)
from backend.services.serving.endpoints import get_endpoint, list_revisions
from backend.services.serving.replicas import ready_targets, record_gauge
from backend.services.serving.usage import UsageRow, UsageStatus, add_usage
from tests.support.serving.serving_world import ServingWorld


class Scene(ServingWorld):
    """An endpoint and a clock."""

    def __init__(self, ctx: Context) -> None:
        self.at: datetime = ctx.now()
        super().__init__(replace(ctx, now=lambda: self.at, policy=replace(ctx.policy, lease_s=1e6)))

    def deploy(self, num_replicas: int = 1, *, checkpoint: str = "oak", **config: Any) -> None:
        deploy(
            self.ctx,
            checkpoint_id=self.checkpoint(checkpoint),
            name="tales",
            num_replicas=num_replicas,
            config=config,
            person=LOCAL,
        )
        self.start_all()

    def gauge(self, *, running: int, waiting: int = 0, queue_s: float = 0.0) -> None:
        for claim in self.claims:
            with self.ctx.db.write() as session:
                event = GaugeEvent(running=running, waiting=waiting, tokens_per_second=1, queue_s=queue_s)
                record_gauge(session, self.ctx, claim, event)

    def wait(self, seconds: float) -> int:
        """Let the worker sweep every ten seconds for a while; return the number of replicas asked for."""
        for _ in range(int(seconds // 10)):
            self.at += timedelta(seconds=10)
            autoscale_endpoints(self.ctx)
            self.start_all()
        return get_endpoint(self.ctx, "tales").target

    def use(self, status: UsageStatus = "finished") -> None:
        tokens: dict[str, Any] = {
            "key_id": None,
            "replica_id": None,
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "ttft_ms": 1.0,
        }
        row = UsageRow(
            id=f"cmpl-{self.at:%H%M%S}",
            endpoint="tales",
            status=status,
            created_at=self.at,
            total_ms=1000.0,
            **tokens,
        )
        add_usage(self.ctx, [row])

    def events(self) -> list[str]:
        return [event.text for event in list_revisions(self.ctx, "tales")[0].events]


@pytest.fixture
def scene(ctx: Context) -> Scene:
    return Scene(ctx)


def test_replicas_follow_the_queue_between_their_limits_and_the_history_says_why(scene: Scene) -> None:
    scene.deploy(max_replicas=3, target_queue_s=2.0, cool_down_s=120.0)
    scene.gauge(running=16, waiting=5, queue_s=3.2)
    assert scene.wait(40) == 2
    assert scene.events() == ["scaled 1 -> 2: queue 3.2 s for 20 s"]
    scene.gauge(running=16, waiting=9, queue_s=30.0)
    assert scene.wait(200) == 3
    scene.gauge(running=1)
    assert scene.wait(100) == 3
    assert scene.wait(400) == 1
    assert scene.events()[-1] == "scaled 2 -> 1: no queue for 2 min"
    assert scene.served() == ["oak"]


def test_an_idle_endpoint_sleeps_a_request_wakes_it_and_its_use_keeps_it_awake(scene: Scene) -> None:
    scene.deploy(2, sleep_after_minutes=5.0)
    scene.gauge(running=0)
    assert scene.wait(200) == 2
    scene.use()
    assert scene.wait(290) == 2
    scene.gauge(running=1)
    assert scene.wait(400) == 2, "a long answer is open"
    scene.gauge(running=0)
    scene.use("refused")  # by the gateway: no replica saw it
    assert scene.wait(60) == 0
    view = get_endpoint(scene.ctx, "tales")
    assert (view.state, ready_targets(scene.ctx)) == ("asleep", {"tales": []})
    waking = wake_endpoint(scene.ctx, "tales")
    assert waking is not None
    assert (waking.whole_s, waking.stream_s) == (60.0, 600.0)
    assert get_endpoint(scene.ctx, "tales").state == "starting"
    assert wake_endpoint(scene.ctx, "tales") == waking, "a second request waits for the same replicas"
    scene.start_all()
    assert scene.served() == ["oak", "oak"]
    assert scene.wait(200) == 2, "it has just woken"
    assert [text.split(":")[0] for text in scene.events()] == ["scaled 2 -> 0", "scaled 0 -> 2"]


def test_a_sleeping_endpoint_keeps_its_number_when_it_is_rolled_back_stopped_or_started(scene: Scene) -> None:
    scene.deploy(2)
    scene.deploy(2, checkpoint="elm", sleep_after_minutes=1.0)
    scene.gauge(running=0)
    assert scene.wait(80) == 0
    stop_endpoint(scene.ctx, "tales", person=LOCAL)
    assert start_endpoint(scene.ctx, "tales", person=LOCAL).target == 2
    scene.start_all()
    assert scene.wait(80) == 0
    assert rollback_endpoint(scene.ctx, "tales", person=LOCAL).target == 2


def test_limits_change_in_place_and_a_number_outside_of_them_is_refused(scene: Scene) -> None:
    scene.deploy()
    assert wake_endpoint(scene.ctx, "tales") is None, "it never sleeps"
    assert wake_endpoint(scene.ctx, "other") is None
    view = change_scaling(scene.ctx, "tales", person=LOCAL, min_replicas=2, max_replicas=4)
    assert (view.target, view.revision) == (2, 1)
    assert view.config.scaling.describe() == "2 to 4 replicas, one more above 2 s of queue"
    with pytest.raises(Conflict, match="between 2 and 4"):
        scale_endpoint(scene.ctx, "tales", 5, person=LOCAL)
    assert scale_endpoint(scene.ctx, "tales", 4, person=LOCAL).target == 4
    with pytest.raises(InvalidInput, match="below min_replicas"):
        change_scaling(scene.ctx, "tales", person=LOCAL, max_replicas=1)
    assert change_scaling(scene.ctx, "tales", person=LOCAL, min_replicas=0).config.scaling.sleep_after_s == 900
    assert DeploymentOptions.read({}).scaling.is_active is False
