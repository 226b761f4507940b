"""A reward model scores and writes nothing: where a checkpoint has to write, it is refused before anything is
queued.
"""

from __future__ import annotations

import pytest

from backend.domain.serving.canary import CanaryRules
from backend.domain.training.config import RunConfig
from backend.errors import Conflict, InvalidInput
from backend.services.battles.campaigns import usable_checkpoint
from backend.services.checkpoints.checkpoints import get_checkpoint
from backend.services.checkpoints.generation import launch_completions
from backend.services.context import LOCAL, Context
from backend.services.serving.canaries import start_canary
from backend.services.serving.deployments import deploy
from backend.services.serving.endpoints import list_endpoints
from backend.services.serving.shadows import start_shadow
from backend.services.training.runs import launch_run
from tests.support.scenario import Scenario

REFUSED = "is a reward model: it scores answers and writes none"


@pytest.fixture
def scorer(ctx: Context, scenario: Scenario) -> str:
    scenario.dataset("choices", kind="preference")
    scenario.dataset("talks", kind="chat")
    base = scenario.checkpoint(run=scenario.run(), step=1)
    config = RunConfig(objective="reward", dataset="choices", base=base, context=32)  # type: ignore[arg-type]
    return scenario.checkpoint(run=launch_run(ctx, config, person=LOCAL), step=3)


def test_a_reward_model_is_not_evaluated_sampled_or_entered(ctx: Context, scenario: Scenario, scorer: str) -> None:
    assert not get_checkpoint(ctx, scorer).writes
    with pytest.raises(InvalidInput, match=REFUSED):
        scenario.evaluation(scorer, "tales")
    with pytest.raises(InvalidInput, match=REFUSED):
        launch_completions(ctx, checkpoint=scorer, prompts=[[{"role": "user", "content": "Hello"}]], person=LOCAL)
    with ctx.db.read() as session, pytest.raises(InvalidInput, match=REFUSED):
        usable_checkpoint(session, scorer)


def test_a_reward_model_is_deployed_under_a_name_of_its_own(ctx: Context, scenario: Scenario, scorer: str) -> None:
    writer = scenario.checkpoint(run=scenario.run(), step=1)
    deploy(ctx, checkpoint_id=scorer, name="scores", person=LOCAL)
    deploy(ctx, checkpoint_id=writer, name="tales", person=LOCAL)
    for checkpoint, name, words in ((scorer, "tales", "writes text"), (writer, "scores", "scores answers")):
        with pytest.raises(Conflict, match=words):
            deploy(ctx, checkpoint_id=checkpoint, name=name, person=LOCAL)
    with pytest.raises(InvalidInput, match="float32"):
        deploy(ctx, checkpoint_id=scorer, name="scores", config={"precision": "int8"}, person=LOCAL)
    assert {view.name: view.checkpoint_id for view in list_endpoints(ctx)} == {"scores": scorer, "tales": writer}
    assert {view.name: view.writes for view in list_endpoints(ctx)} == {"scores": False, "tales": True}
    with pytest.raises(Conflict, match="scores answers"):
        start_canary(ctx, "scores", checkpoint_id=writer, rules=CanaryRules(), person=LOCAL)
    with pytest.raises(Conflict, match="scores answers"):
        start_shadow(ctx, "scores", checkpoint_id=writer, person=LOCAL)


def test_rewards_that_need_answers_are_refused_for_bare_prompts(ctx: Context, scenario: Scenario, scorer: str) -> None:
    scenario.dataset("asks", kind="prompts")
    base = get_checkpoint(ctx, scorer).parent_id or scenario.checkpoint(run=scenario.run(), step=1)
    values = {"objective": "grpo", "dataset": "asks", "base": base, "context": 32}
    exact = RunConfig.model_validate({**values, "grpo": {"rewards": [{"kind": "exact"}], "max_new_tokens": 8}})
    with pytest.raises(InvalidInput, match="The prompts of “asks” have no answers") as refusal:
        launch_run(ctx, exact, person=LOCAL)
    assert refusal.value.field == "grpo.rewards"
    short = RunConfig.model_validate(
        {**values, "grpo": {"rewards": [{"kind": "length", "target": 4}], "max_new_tokens": 8}}
    )
    assert launch_run(ctx, short, person=LOCAL).objective == "grpo"


def test_a_reward_model_is_the_base_of_a_reward_run_alone(ctx: Context, scorer: str) -> None:
    with pytest.raises(InvalidInput, match=REFUSED) as refusal:
        launch_run(ctx, RunConfig(objective="sft", dataset="talks", base=scorer, context=32), person=LOCAL)  # type: ignore[arg-type]
    assert refusal.value.field == "base"
    again = launch_run(ctx, RunConfig(objective="reward", dataset="choices", base=scorer, context=32), person=LOCAL)  # type: ignore[arg-type]
    assert again.objective == "reward"
