"""Evaluations are launched once, recorded item by item, and compared only where that is honest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from backend.bootstrap import get_context
from backend.cli import eval as eval_commands
from backend.cli import generate as generate_commands
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.jobs.events import event_of
from backend.domain.jobs.states import Status
from backend.domain.statistics.paired import mcnemar
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services import job_events as outcomes
from backend.services.context import LOCAL, Context, Person
from backend.services.evaluation.comparisons import compare, rank_evaluations
from backend.services.evaluation.evaluations import get_evaluation, launch_evaluation, list_evaluations
from backend.services.evaluation.pairs import list_changed
from backend.services.jobs.jobs import stop_job
from tests.support.evaluation_world import (
    claim_of,
    finish,
    item,
    list_items,
)
from tests.support.jobs import list_jobs
from tests.support.scenario import Scenario
from tests.support.settings import database_of


@pytest.mark.parametrize(
    ("benchmark", "kind", "split"),
    [("facts", "multiple_choice", "all"), ("questions", "generation", "all"), ("stories@1", "perplexity", "val")],
)
def test_way_of_scoring_and_split_follow_from_the_dataset(ctx: Context, benchmark: str, kind: str, split: str) -> None:
    launched = Scenario(ctx).evaluation("Oak", benchmark)
    assert (launched.kind, launched.settings["split"], launched.status) == (EvaluationKind(kind), split, Status.QUEUED)
    assert claim_of(ctx, launched).payload.checkpoint == "checkpoints/Oak"


def test_double_click_and_equal_settings_give_one_evaluation(ctx: Context, scenario: Scenario) -> None:
    first = scenario.evaluation("Oak", "facts", idempotency_key="k")
    clicked = scenario.evaluation("Elm", "facts", idempotency_key="k")
    equal = scenario.evaluation("Oak", "facts@1", batch_size=3)
    again = scenario.evaluation("Oak", "facts", again=True)
    other = scenario.evaluation("Oak", "facts", shots=2)
    assert first.id == clicked.id == equal.id
    assert (first.reused, equal.reused) == (False, True)
    assert len({first.id, again.id, other.id}) == 3
    assert len(list_jobs(ctx)) == 3


def test_failed_evaluation_is_not_reused(ctx: Context, scenario: Scenario) -> None:
    first = scenario.evaluation("Oak", "facts")
    stop_job(ctx, first.job_id or "", person=LOCAL)
    second = scenario.evaluation("Oak", "facts")
    assert get_evaluation(ctx, first.id).status is Status.CANCELLED
    assert second.id != first.id


CHOICES = EvaluationConfig(kind="multiple_choice")


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"checkpoint": "Ash"}, NotFound, "no checkpoint “Ash”"),
        ({"benchmark": "fact"}, NotFound, "Did you mean “facts”"),
        (
            {"benchmark": "stories", "config": CHOICES},
            InvalidInput,
            "perplexity alone",
        ),
        (
            {"benchmark": "questions", "config": CHOICES},
            InvalidInput,
            "has no choices",
        ),
        ({"benchmark": "facts", "config": EvaluationConfig(kind="perplexity")}, InvalidInput, "benchmark of questions"),
        ({"benchmark": "prompts"}, InvalidInput, "nothing to score"),
        ({"config": EvaluationConfig(split="val")}, InvalidInput, "no rows in its val split"),
        ({"person": Person(id=None, name="Ada", role="rater")}, NotAllowed, "Ada may not"),
    ],
)
def test_an_impossible_evaluation_is_refused(
    ctx: Context, values: dict[str, Any], error: type[Exception], words: str
) -> None:
    Scenario(ctx).checkpoint("Oak")
    for name in ("facts", "questions", "stories"):
        Scenario(ctx).benchmark(name)
    Scenario(ctx).benchmark("prompts", [{"prompt": "Hello"}], kind="prompts")
    with pytest.raises(error, match=words):
        launch_evaluation(ctx, **{"checkpoint": "Oak", "benchmark": "facts", "person": LOCAL, **values})


def test_items_and_scores_are_recorded_once_whatever_is_repeated(ctx: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts")
    claim = claim_of(ctx, launched)
    items = [item(n, {"acc": float(n < 3)}, chosen="a\x00b") for n in range(5)]
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [event_of(item) for item in items[:2]])
    score = {"metric": "acc", "value": 0.6, "stderr": 0.2, "low": 0.2, "high": 0.9, "n": 5, "method": "Wilson 95 %"}
    finish(ctx, claim, items, scores=[score], facts={"chance": 0.5})
    done = get_evaluation(ctx, launched.id)
    everything, total = list_items(ctx, launched.id)
    wrong, num_wrong = list_items(ctx, launched.id, which="wrong")
    assert (done.status, done.facts.chance, done.scores[0].low) == (Status.FINISHED, 0.5, 0.2)
    assert (total, num_wrong, [i.position for i in wrong]) == (5, 2, [3, 4])
    assert everything[0].shown["chosen"] == "ab"
    assert list_items(ctx, launched.id, which="right", offset=2, limit=5)[0][0].position == 2


def test_a_value_that_is_no_number_is_left_out_and_the_items_stay_readable(ctx: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts")
    claim = claim_of(ctx, launched)
    lost = item(0, {"acc": 1.0})
    lost["values"] = {"acc": 1.0, "sum_nll": None}  # how the worker hands over a NaN
    finish(
        ctx,
        claim,
        [lost],
        scores=[{"metric": "acc", "value": None, "stderr": None, "low": None, "high": None, "n": 1, "method": ""}],
        facts={},
    )
    assert get_evaluation(ctx, launched.id).scores == ()
    assert [i.values for i in list_items(ctx, launched.id, which="right")[0]] == [{"acc": 1.0}]


def test_paired_comparison_is_mcnemars_on_the_items_that_changed(ctx: Context, scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1] * 20 + [0] * 12)
    elm = scenario.evaluation("Elm", "facts", [1] * 18 + [0] * 2 + [1] * 10 + [0] * 2)
    comparison = compare(ctx, oak.id, elm.id)
    assert (comparison.n, comparison.wins, comparison.losses, comparison.ties) == (32, 10, 2, 20)
    assert comparison.p_value == pytest.approx(mcnemar(10, 2)) == pytest.approx(0.03857, abs=1e-5)
    assert comparison.difference.value == pytest.approx(8 / 32)
    assert comparison.better == "second"
    assert len(list_changed(ctx, comparison)) == 12
    assert compare(ctx, elm.id, oak.id).better == "first"


def test_paired_bits_per_byte_is_the_difference_of_the_corpus_and_lower_is_better(ctx: Context) -> None:
    oak = Scenario(ctx).evaluation("Oak", "stories", nlls=[20.0, 22.0, 21.0, 25.0, 19.0, 20.0])
    elm = Scenario(ctx).evaluation("Elm", "stories", nlls=[18.0, 21.0, 19.5, 23.0, 18.5, 18.5])
    comparison = compare(ctx, oak.id, elm.id)
    assert comparison.difference.value == pytest.approx(-8.5 / 60 / math.log(2))
    assert comparison.better == "second"
    assert (comparison.wins, comparison.losses) == (6, 0)
    assert compare(ctx, oak.id, elm.id, metric="nll_per_token").difference.value == pytest.approx(-8.5 / 30)
    assert compare(ctx, oak.id, oak.id).better is None


def test_unlike_evaluations_are_not_compared_and_the_reasons_are_named(ctx: Context, scenario: Scenario) -> None:
    plain = scenario.evaluation("Oak", "facts", [1, 0, 1])
    shown = scenario.evaluation("Elm", "facts", [1, 0, 1], shots=3)
    chat = scenario.evaluation("Elm", "facts", [1, 0, 1], facts={"used_chat_template": True}, chat="on")
    waiting = scenario.evaluation("Elm", "facts")
    with pytest.raises(Conflict, match=r"number of examples shown \(0 and 3\)"):
        compare(ctx, plain.id, shown.id)
    with pytest.raises(Conflict, match=r"chat template \(no and yes\).*template on"):
        compare(ctx, plain.id, chat.id)
    with pytest.raises(Conflict, match="“Elm” is queued"):
        compare(ctx, plain.id, waiting.id)


def test_ranking_shares_first_place_among_those_not_behind_in_the_joint_test(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1] * 20)
    scenario.evaluation("Elm", "facts", [1] * 18 + [0] * 2)
    scenario.evaluation("Ash", "facts", [1] * 4 + [0] * 16)
    ranks = rank_evaluations(ctx, list_evaluations(ctx))
    assert [(rank.evaluation.checkpoint, rank.shares_first_place) for rank in ranks] == [
        ("Oak", True),
        ("Elm", True),
        ("Ash", False),
    ]
    assert ranks[0].p_adjusted is None
    assert [(rank.p_adjusted or 0.0) < 0.05 for rank in ranks[1:]] == [False, True]
    assert [(rank.rank_low, rank.rank_high) for rank in ranks] == [(1, 2), (1, 2), (3, 3)]


def test_two_checkpoints_rank_as_their_comparison_says(ctx: Context, scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1] * 20 + [0] * 12)
    elm = scenario.evaluation("Elm", "facts", [1] * 18 + [0] * 2 + [1] * 10 + [0] * 2)
    ranks = rank_evaluations(ctx, list_evaluations(ctx))
    assert ranks[1].p_adjusted == pytest.approx(compare(ctx, oak.id, elm.id).p_value)
    assert (ranks[1].shares_first_place, ranks[1].rank_low) == (False, 2)


def test_sixteen_equal_checkpoints_share_first_place(ctx: Context, scenario: Scenario) -> None:
    """Each against the observed best, with Holm's correction, called one of these sixteen worse."""
    rng = np.random.default_rng(57)
    hardness = rng.normal(size=40)
    for number in range(16):
        scenario.checkpoint(f"Tree {number}")
        scenario.evaluation(f"Tree {number}", "facts", (hardness + rng.normal(size=40) < 0.3).astype(int).tolist())
    ranks = rank_evaluations(ctx, list_evaluations(ctx))
    assert [rank.shares_first_place for rank in ranks] == [True] * 16


def test_items_of_one_passage_count_together_in_a_comparison_and_a_ranking(ctx: Context, scenario: Scenario) -> None:
    """Four passages of eight questions: one passage went the other way, which eight separate items made significant."""
    right = {"Oak": [0] * 8 + [1] * 24, "Elm": [1] * 32}
    both = []
    for name, answers in right.items():
        launched = scenario.evaluation(name, "facts")
        items = [item(n, {"acc": float(value), "cluster": float(n // 8)}) for n, value in enumerate(answers)]
        score = {
            "metric": "acc",
            "value": sum(answers) / 32,
            "stderr": 0.1,
            "low": 0.0,
            "high": 1.0,
            "n": 32,
            "method": "",
        }
        finish(ctx, claim_of(ctx, launched), items, scores=[score], facts={"unit": "items", "device": name})
        both.append(launched.id)
    result = compare(ctx, *both)
    assert (result.clusters, result.better, result.method) == (4, None, "paired t test, clustered")
    assert (result.p_value or 0.0) > 0.05 > mcnemar(8, 0)
    assert result.differs == ("device (Oak and Elm)",)
    assert [rank.shares_first_place for rank in rank_evaluations(ctx, list_evaluations(ctx))] == [True, True]


def test_evaluations_are_listed_newest_first_and_by_checkpoint(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1, 0])
    last = scenario.evaluation("Elm", "facts")
    assert [e.checkpoint for e in list_evaluations(ctx)] == ["Elm", "Oak"]
    assert [e.id for e in list_evaluations(ctx, checkpoint_id=last.checkpoint_id)] == [last.id]


def test_unknown_evaluation_is_not_found(ctx: Context) -> None:
    with pytest.raises(NotFound):
        get_evaluation(ctx, "nothing")


@pytest.fixture
def command(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs a command of this installation and returns its JSON; its work is done in a child process, as no worker
    runs.
    """
    for name, value in {
        "ROUNDHOUSE_HOME": str(home),
        "DATABASE_URL": database_of(home),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    get_context.cache_clear()

    def run(app: typer.Typer, *arguments: str) -> dict[str, Any]:
        capfd.readouterr()
        status = app([*arguments, "--json"], standalone_mode=False)
        output = capfd.readouterr()
        data: dict[str, Any] = json.loads(output.out)
        return data | {"exit": status or 0}

    yield run
    get_context.cache_clear()


def test_compare_command_states_its_procedure(scenario: Scenario, command: Callable[..., dict[str, Any]]) -> None:
    oak = scenario.evaluation("Oak", "facts", [1] * 20 + [0] * 12)
    elm = scenario.evaluation("Elm", "facts", [1] * 18 + [0] * 2 + [1] * 10 + [0] * 2, facts={"context": 512})
    scenario.benchmark("questions")
    data = command(eval_commands.app, "compare", oak.id, elm.id)
    assert (data["n"], data["left_out"], data["wins"], data["losses"]) == (32, 0, 10, 2)
    assert data["p_value"] == pytest.approx(0.03857, abs=1e-5)
    assert data["interval"][0] > 0
    assert (data["procedure"], data["clusters"], data["differs"]) == ("exact McNemar", None, ["context (none and 512)"])
    assert command(eval_commands.app, "compare", "Oak", "Elm")["second"]["evaluation"] == elm.id
    assert (
        "no benchmark in common"
        in command(eval_commands.app, "compare", "Oak", "Elm", "--benchmark", "questions")["error"]
    )


def test_several_are_compared_with_a_baseline_by_holm(
    scenario: Scenario, command: Callable[..., dict[str, Any]]
) -> None:
    scenario.evaluation("Oak", "facts", [1] * 20 + [0] * 12)
    scenario.evaluation("Elm", "facts", [1] * 18 + [0] * 2 + [1] * 10 + [0] * 2)
    scenario.evaluation("Ash", "facts", [0] * 3 + [1] * 17 + [0] * 12)
    data = command(eval_commands.app, "compare", "Oak", "Elm", "Ash")["comparisons"]
    assert [one["p_holm"] for one in data] == pytest.approx([2 * mcnemar(10, 2), mcnemar(0, 3)])
    assert [one["q_value"] for one in data] == pytest.approx([2 * mcnemar(10, 2), mcnemar(0, 3)])


def test_commands_score_a_real_checkpoint_in_child_processes(
    ctx: Context, command: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    from tests.support.networks.oracles import chain_bigram, save_bigram  # imports torch

    Scenario(ctx).checkpoint("Oak")
    Scenario(ctx).benchmark("facts")
    folder = save_bigram(ctx.artifacts.root / "checkpoints" / "Oak", chain_bigram("hat"))
    scored = command(eval_commands.app, "run", "--checkpoint", "Oak", "--benchmark", "facts", "--wait")
    acc = next(score for score in scored["scores"] if score["metric"] == "acc")
    assert (scored["exit"], acc["n"], list_items(ctx, scored["evaluation"])[1]) == (0, 40, 40)
    assert acc["interval"][0] < acc["value"] < acc["interval"][1]

    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"context": "oh h", "continuation": "at"}\n{"context": "oh h", "continuation": "ta"}\n')
    items = command(eval_commands.app, "loglikelihood", "--checkpoint", str(folder), "--file", str(pairs))["items"]
    assert [(i["tokens"], i["greedy"]) for i in items] == [(2, True), (2, False)]
    assert items[0]["sum_logprob"] > -0.2 > items[1]["sum_logprob"]

    arguments = ("--prompt", "oh h", "--max-tokens", "9", "--temperature", "0", "--raw")
    answer = command(generate_commands.app, "--checkpoint", "Oak", *arguments)
    assert (answer["text"], answer["tokens"], answer["finish_reason"]) == ("at", 3, "stop")
    refused = command(generate_commands.app, "--checkpoint", "Oka", *arguments)
    assert refused["exit"] == 2
    assert "Oak" in refused["error"]
