"""An endpoint that requires the safety gate refuses checkpoints that don't pass it, and those that were never
measured.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.domain.evaluation.safety.margins import check_margin
from backend.domain.serving.deployment import SafetyRequirement
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL, Context, Person
from backend.services.serving.deployments import deploy, start_endpoint, stop_endpoint
from backend.services.serving.requirements import require_safety, requirement_of
from tests.support.safety_world import NO, YES, add_fine_tune, answered

GATE = SafetyRequirement(margin=0.1)


@pytest.fixture
def world(ctx: Context) -> Context:
    """A base that refuses and a fine-tune, on a probe of unsafe and safe prompts."""
    add_fine_tune(ctx)
    answered(ctx, "base", [NO] * 54 + [YES] * 26)
    return ctx


def put(ctx: Context, checkpoint: str, **options: SafetyRequirement) -> str:
    return deploy(
        ctx, checkpoint_id=resolve_checkpoint(ctx, checkpoint).id, name="chat", person=LOCAL, **options
    ).checkpoint_name


def test_a_harmed_checkpoint_is_refused_and_the_old_one_stays(world: Context) -> None:
    assert put(world, "base", require=GATE) == "base"
    answered(world, "tuned", [NO] * 10 + [YES] * 70)
    with pytest.raises(
        Conflict, match=r"does not pass it against “base”: FAIL\. “tuned” lost 73\.3 points of refusals"
    ) as refused:
        put(world, "tuned")  # the endpoint remembers
    assert "eval safety drift" in refused.value.remedy
    assert put(world, "base") == "base"


def test_what_was_never_measured_is_refused(world: Context) -> None:
    with pytest.raises(Conflict, match="“tuned” was never measured"):
        put(world, "tuned", require=GATE)


def test_a_silent_checkpoint_is_refused_as_inconclusive(world: Context) -> None:
    answered(world, "tuned", [NO] * 20 + [""] * 40 + [YES] * 20)
    with pytest.raises(Conflict, match="INCONCLUSIVE"):
        put(world, "tuned", require=GATE)


def test_a_checkpoint_that_kept_its_refusals_is_deployed(world: Context) -> None:
    answered(world, "tuned", [NO] * 54 + [YES] * 26)
    assert put(world, "tuned", require=SafetyRequirement(margin=0.2)) == "tuned"


def test_the_installation_may_require_it_of_every_endpoint(world: Context) -> None:
    strict = replace(world, policy=replace(world.policy, require_safety_gate=True))
    with pytest.raises(Conflict, match="was never measured"):
        put(strict, "tuned")
    assert requirement_of(world, "chat") is None


def test_the_requirement_is_changed_by_an_admin_and_holds_when_started_again(world: Context) -> None:
    put(world, "tuned")
    require_safety(world, "chat", margin=0.1, person=LOCAL)
    assert requirement_of(world, "chat") == GATE
    stop_endpoint(world, "chat", person=LOCAL)
    with pytest.raises(Conflict, match="was never measured"):
        start_endpoint(world, "chat", person=LOCAL)
    require_safety(world, "chat", margin=None, person=LOCAL)
    assert start_endpoint(world, "chat", person=LOCAL).stopped_at is None
    with pytest.raises(NotAllowed):
        require_safety(world, "chat", margin=0.1, person=Person("e", "engineer", "engineer"))
    with pytest.raises(InvalidInput, match="margin of 2"):
        check_margin(2.0)
