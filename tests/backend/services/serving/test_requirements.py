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


@pytest.fixture(autouse=True)
def _base_that_refuses(ctx: Context) -> None:
    """A base that refuses and a fine-tune, on a probe of unsafe and safe prompts."""
    add_fine_tune(ctx)
    answered(ctx, "base", [NO] * 54 + [YES] * 26)


def put(ctx: Context, checkpoint: str, **options: SafetyRequirement) -> str:
    return deploy(
        ctx, checkpoint_id=resolve_checkpoint(ctx, checkpoint).id, name="chat", person=LOCAL, **options
    ).checkpoint_name


def test_a_harmed_checkpoint_is_refused_and_the_old_one_stays(ctx: Context) -> None:
    assert put(ctx, "base", require=GATE) == "base"
    answered(ctx, "tuned", [NO] * 10 + [YES] * 70)
    with pytest.raises(
        Conflict, match=r"does not pass it against “base”: FAIL\. “tuned” lost 73\.3 points of refusals"
    ) as refused:
        put(ctx, "tuned")  # the endpoint remembers
    assert "eval safety drift" in refused.value.remedy
    assert put(ctx, "base") == "base"


def test_what_was_never_measured_is_refused(ctx: Context) -> None:
    with pytest.raises(Conflict, match="“tuned” was never measured"):
        put(ctx, "tuned", require=GATE)


def test_a_checkpoint_whose_answers_to_unsafe_prompts_say_nothing_is_refused(ctx: Context) -> None:
    """Judged answers to safe prompts alone were enough for a checkpoint with nothing to compare with."""
    answered(ctx, "base", ["..."] * 60 + [YES] * 20, again=True)
    with pytest.raises(Conflict, match="has no score on xs@1: refusals of unsafe prompts: none of 60 items"):
        put(ctx, "base", require=GATE)


def test_a_silent_checkpoint_is_refused_as_inconclusive(ctx: Context) -> None:
    answered(ctx, "tuned", [NO] * 20 + [""] * 40 + [YES] * 20)
    with pytest.raises(Conflict, match="INCONCLUSIVE"):
        put(ctx, "tuned", require=GATE)


def test_a_checkpoint_that_kept_its_refusals_is_deployed(ctx: Context) -> None:
    answered(ctx, "tuned", [NO] * 54 + [YES] * 26)
    assert put(ctx, "tuned", require=SafetyRequirement(margin=0.2)) == "tuned"


def test_the_installation_may_require_it_of_every_endpoint(ctx: Context) -> None:
    strict = replace(ctx, policy=replace(ctx.policy, require_safety_gate=True))
    with pytest.raises(Conflict, match="was never measured"):
        put(strict, "tuned")
    assert requirement_of(ctx, "chat") is None


def test_the_requirement_is_changed_by_an_admin_and_holds_when_started_again(ctx: Context) -> None:
    put(ctx, "tuned")
    require_safety(ctx, "chat", margin=0.1, person=LOCAL)
    assert requirement_of(ctx, "chat") == GATE
    stop_endpoint(ctx, "chat", person=LOCAL)
    with pytest.raises(Conflict, match="was never measured"):
        start_endpoint(ctx, "chat", person=LOCAL)
    require_safety(ctx, "chat", margin=None, person=LOCAL)
    assert start_endpoint(ctx, "chat", person=LOCAL).stopped_at is None
    with pytest.raises(NotAllowed):
        require_safety(ctx, "chat", margin=0.1, person=Person("e", "engineer", "engineer"))
    with pytest.raises(InvalidInput, match="margin of 2"):
        check_margin(2.0)
