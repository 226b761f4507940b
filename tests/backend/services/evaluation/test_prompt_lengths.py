"""The form says before the launch which prompts a checkpoint's context would cut, by a sample."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.tasks.reading import read_task
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.evaluations import plan_evaluation
from backend.services.evaluation.forecasts import describe_cuts
from tests.support.scenario import Scenario

CONTEXT = 128
"""Of a checkpoint of the scenario, in tokens; here a token is a word."""


@pytest.fixture
def oak(ctx: Context, scenario: Scenario) -> str:
    """Return a checkpoint whose tokenizer counts words."""
    checkpoint = scenario.checkpoint("Oak")
    folder = ctx.artifacts.path(resolve_checkpoint(ctx, checkpoint).folder or "")
    folder.mkdir(parents=True, exist_ok=True)
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    return checkpoint


def said(ctx: Context, checkpoint: str, benchmark: str, config: EvaluationConfig) -> str:
    plan = plan_evaluation(ctx, benchmark=benchmark, config=config)
    return describe_cuts(ctx, resolve_checkpoint(ctx, checkpoint), resolve_version(ctx, benchmark), plan, config)


def long_questions(*num_words: int) -> list[dict[str, object]]:
    return [{"question": "word " * num, "choices": ["yes", "no it is not"], "answer": 0} for num in num_words]


def test_a_benchmark_whose_prompts_are_all_longer_than_the_context_is_named(
    ctx: Context, scenario: Scenario, oak: str
) -> None:
    """GSM8K with one example, of a checkpoint with a context of 512: the finished evaluation was no score."""
    benchmark = scenario.benchmark("long", long_questions(*[200] * 5))
    words = said(ctx, oak, benchmark, EvaluationConfig())
    assert words.startswith(
        "The prompts of long@1 do not fit the context of 128 tokens of “Oak”: each of a sample of 5"
    )
    assert said(ctx, scenario.checkpoint("Elm"), benchmark, EvaluationConfig()) == "", "no tokenizer to count with"


def test_some_that_do_not_fit_are_counted_and_examples_count_with_them(
    ctx: Context, scenario: Scenario, oak: str
) -> None:
    benchmark = scenario.benchmark("mixed", long_questions(10, 70, 80, 124, 125))
    words = said(ctx, oak, benchmark, EvaluationConfig())
    assert words.endswith("1 of a sample of 5 lose their beginning."), "the longest choice has four words"
    task = read_task(
        "name: shown\nkind: multiple_choice\nprompt: '{{question}}'\nchoices: choices\nanswer: answer\n"
        "fewshot: {count: 1, choose: first}\n"
    )
    assert said(ctx, oak, benchmark, EvaluationConfig(task=task)).endswith("2 of a sample of 4 lose their beginning.")
    assert said(ctx, oak, benchmark, EvaluationConfig(shots=2)).startswith("The prompts of mixed@1 do not fit")


def test_a_generated_answer_takes_up_to_half_of_the_context_from_its_prompt(
    ctx: Context, scenario: Scenario, oak: str
) -> None:
    rows = [{"question": "word " * num, "answers": ["1"]} for num in (20, 60, 70, 100)]
    benchmark = scenario.benchmark("sums", rows)
    assert said(ctx, oak, benchmark, EvaluationConfig(max_tokens=8)) == ""
    assert "2 of a sample of 4" in said(ctx, oak, benchmark, EvaluationConfig(max_tokens=512))
