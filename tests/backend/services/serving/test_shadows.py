"""Shadows beside an endpoint: their own replicas or another endpoint's, outside of its traffic, with a report of their
comparisons.
"""

from __future__ import annotations

import json

import pytest

from backend.domain.serving.shadow import AnsweredTwice, report_shadow
from backend.domain.statistics.estimates import wilson_interval
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services.context import LOCAL, Context, Person
from backend.services.serving.canaries import start_canary
from backend.services.serving.chat.contexts import endpoint_facts
from backend.services.serving.deployments import delete_endpoint, deploy, stop_endpoint
from backend.services.serving.endpoints import deployed_endpoints, get_endpoint, list_revisions
from backend.services.serving.monitoring.gauges import read_live
from backend.services.serving.replicas import ready_targets
from backend.services.serving.shadows import (
    ComparedRequest,
    read_shadow,
    record_comparisons,
    shadow_targets,
    start_shadow,
    stop_shadow,
)
from tests.support.serving.serving_world import ServingWorld


@pytest.fixture
def scene(any_ctx: Context) -> ServingWorld:
    scene = ServingWorld(any_ctx)
    scene.deploy()
    return scene


def test_the_context_that_a_chat_may_fill_is_that_of_what_answers_it(scene: ServingWorld) -> None:
    """The playground left out turns for the shorter context of a shadow, which answers no one."""
    from backend.domain.serving.canary import CanaryRules

    ctx = scene.ctx
    checkpoints = {}
    for name, context in (("elm", 512), ("fir", 64), ("yew", 128)):
        checkpoints[name] = scene.checkpoint(name)
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": context, "vocab_size": 500}
        config = ctx.artifacts.folder("bases", name) / "config.json"
        config.write_text(json.dumps({"model_type": "gpt2", **sizes}))
    deploy(ctx, checkpoint_id=checkpoints["elm"], name="chat", person=LOCAL)
    deployed = dict(deployed_endpoints(ctx))
    start_shadow(ctx, "chat", checkpoint_id=checkpoints["fir"], person=LOCAL)
    facts = endpoint_facts(ctx, ["chat"])["chat"]
    assert (facts.checkpoint, facts.context) == ("elm", 512)
    assert dict(deployed_endpoints(ctx)) == deployed
    start_canary(ctx, "chat", checkpoint_id=checkpoints["yew"], rules=CanaryRules(), person=LOCAL)
    facts = endpoint_facts(ctx, ["chat"])["chat"]
    assert (facts.checkpoint, facts.context) == ("elm", 128), "a canary answers some"


def test_a_shadow_has_replicas_of_its_own_that_get_no_traffic_and_its_report_outlives_it(scene: ServingWorld) -> None:
    from backend.domain.serving.canary import CanaryRules

    ctx = scene.ctx
    view = start_shadow(ctx, "tales", checkpoint_id=scene.checkpoint("elm"), percent=25.0, person=LOCAL)
    assert view.shadow is not None
    assert (view.shadow.checkpoint_name, view.shadow.percent, view.shadow.num_ready, view.revision) == (
        "elm",
        25.0,
        0,
        1,
    )
    scene.start_all()
    assert {(replica.revision, replica.role) for replica in read_live(ctx).replicas} == {(1, "stable"), (2, "shadow")}
    shadow = shadow_targets(ctx)["tales"]
    assert ([target.url for target in shadow.targets], shadow.percent) == (["http://127.0.0.1:9002"], 25.0)
    assert [target.url for target in ready_targets(ctx, canaries=True)["tales"]] == ["http://127.0.0.1:9001"]
    start_canary(ctx, "tales", checkpoint_id=scene.checkpoint("fir"), rules=CanaryRules(), person=LOCAL)
    start_shadow(ctx, "tales", checkpoint_id=scene.checkpoint("yew"), person=LOCAL)
    view = get_endpoint(ctx, "tales")
    assert view.canary is not None
    assert view.shadow is not None
    assert view.shadow.checkpoint_name == "yew"
    assert not scene.num_stopping() > 1, "the first shadow alone ended"
    shadow_id = shadow_targets(ctx)["tales"].id
    rows = [
        AnsweredTwice(True, 5, 6, 10.0, 20.0, 30.0, 40.0),
        AnsweredTwice(None, 5, 0, 10.0, None, 30.0, 40.0, "broken"),
    ]
    record_comparisons(ctx, [ComparedRequest(f"c{n}", shadow_id, ctx.now(), row) for n, row in enumerate(rows)])
    assert stop_shadow(ctx, "tales", person=LOCAL).shadow is None
    report = read_shadow(ctx, "tales")
    assert (report.requests, report.errors, report.greedy, report.equal, report.shadow_tokens) == (2, 1, 1, 1, 6.0)
    assert list_revisions(ctx, "tales")[0].note == "shadow, stopped"
    stop_endpoint(ctx, "tales", person=LOCAL)
    delete_endpoint(ctx, "tales", person=LOCAL)


def test_another_endpoint_can_be_the_shadow_and_mistakes_are_named(scene: ServingWorld) -> None:
    ctx = scene.ctx
    scene.deploy("elm", "other", start=False)
    view = start_shadow(ctx, "tales", endpoint="other", person=LOCAL)
    assert view.shadow is not None
    assert (view.shadow.endpoint, view.shadow.num_replicas) == ("other", 0)
    assert (shadow_targets(ctx)["tales"].endpoint, shadow_targets(ctx)["tales"].targets) == ("other", ())
    for mistake in (
        {},
        {"endpoint": "tales"},
        {"endpoint": "other", "percent": 0.0},
        {"endpoint": "other", "checkpoint_id": "x"},
    ):
        with pytest.raises(InvalidInput):
            start_shadow(ctx, "tales", **mistake, person=LOCAL)  # type: ignore[arg-type]
    with pytest.raises(NotAllowed):
        stop_shadow(ctx, "tales", person=Person("r", "rob", "rater"))
    with pytest.raises(Conflict):
        read_shadow(ctx, "other")


def test_a_report_counts_greedy_answers_with_wilsons_interval_and_times_of_answered_copies() -> None:
    rows = [AnsweredTwice(n % 4 > 0, 10, 12, 5.0, 7.0, 50.0, 70.0) for n in range(40)]
    rows += [AnsweredTwice(None, 10, 20, 5.0, 9.0, 50.0, 70.0) for _ in range(9)] + [
        AnsweredTwice(None, 10, 0, 5.0, None, 50.0, 9e9, "timeout")
    ]
    report = report_shadow(rows)
    assert (report.requests, report.errors, report.greedy, report.equal) == (50, 1, 40, 30)
    assert (report.low, report.high) == pytest.approx(wilson_interval(0.75, 40, critical=1.959964))
    assert (report.shadow_ttft_ms, report.shadow_total_ms) == (7.0, 70.0)
    assert report.shadow_tokens == pytest.approx((40 * 12 + 9 * 20) / 49)
    assert "30 of 40 greedy answers equal (75 %" in report.describe()
    assert report_shadow([]).describe() == "no request copied yet"
