"""Gates are judged from like evaluations, recorded, and kept by endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.bootstrap import get_context
from backend.cli.eval import app as eval_app
from backend.cli.evaluation.gate import app as gate_app
from backend.cli.evaluation.gate import read_benchmark
from backend.db.tables import Gate
from backend.domain.evaluation.gate_config import GateBenchmark, GateConfig, GateVerdict
from backend.domain.evaluation.tasks.reading import read_task
from backend.domain.wording import about
from backend.errors import Conflict, NotAllowed, NotFound
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL, Context, Person
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.gates import (
    GateOutcome,
    create_gate,
    delete_gate,
    get_gate,
    judge,
    judge_config,
    plan_gates,
    release_endpoint,
    report_of,
    require_gate,
    why_not_release,
)
from backend.services.evaluation.tasks import suggest_task
from backend.services.people.accounts import add_user
from backend.services.serving.deployments import deploy, start_endpoint, stop_endpoint
from tests.support.evaluation_world import CHOICES, claim_of, finish, item
from tests.support.scenario import Scenario
from tests.support.settings import name_installation

N = 300
CHAMPION = np.arange(N) % 3 > 0
BETTER = CHAMPION | (np.arange(N) % 7 == 0)
WORSE = CHAMPION & (np.arange(N) % 5 > 0)


@pytest.fixture
def ctx(ctx: Context) -> Context:
    """A champion, a better one and a worse one on 300 items; Ash was never evaluated."""
    scenario = Scenario(ctx)
    scenario.benchmark("facts", [{**CHOICES[0], "question": f"Question {n}?"} for n in range(N)])
    for name, right in {"Oak": CHAMPION, "Elm": BETTER, "Yew": WORSE}.items():
        scenario.evaluation(name, "facts", right.astype(int).tolist())
    scenario.checkpoint("Ash")
    return ctx


def config(**settings: Any) -> GateConfig:
    return GateConfig.model_validate(
        {"champion": "Oak", "benchmarks": [{"benchmark": "facts"}], "margin": 0.03, **settings}
    )


@pytest.mark.parametrize(
    ("candidate", "verdict"), [("Elm", GateVerdict.PASS), ("Yew", GateVerdict.FAIL), ("Oak", GateVerdict.PASS)]
)
def test_a_gate_judges_a_checkpoint_against_the_champion(ctx: Context, candidate: str, verdict: GateVerdict) -> None:
    outcome = judge_config(ctx, candidate=candidate, config=config())
    assert (outcome.verdict, outcome.champion) == (verdict, "Oak")
    if candidate != "Oak":
        (result,) = outcome.decision.benchmarks
        assert (result.n, outcome.available) == (N, (N,))
        assert (result.difference > 0) == (candidate == "Elm")


def test_what_was_not_evaluated_leaves_it_inconclusive_and_is_named(ctx: Context) -> None:
    outcome = judge_config(ctx, candidate="Ash", config=config())
    assert (outcome.verdict, outcome.missing) == (GateVerdict.INCONCLUSIVE, ("Ash on facts@1",))
    assert outcome.reason == "Ash on facts@1 is not evaluated"


def test_too_few_items_are_inconclusive_with_the_number_that_settles_it(ctx: Context, scenario: Scenario) -> None:
    few = [int(right) for right in CHAMPION[:20]]
    scenario.evaluation("Oak", "facts", few, limit=20)
    scenario.evaluation("Ash", "facts", [1 - few[0], *few[1:]], limit=20)
    outcome = judge_config(ctx, candidate="Ash", config=config(margin=0.1))
    (result,) = outcome.decision.benchmarks
    assert (outcome.verdict, result.n) == (GateVerdict.INCONCLUSIVE, 20)
    assert result.items_to_settle is not None
    assert result.items_to_settle > 20
    assert f"at this difference about {about(result.items_to_settle)} items would settle it" in outcome.reason


def test_unlike_settings_are_refused_with_what_differs(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Ash", "facts", [1] * 20, shots=3)
    with pytest.raises(Conflict, match=r"number of few-shot examples \(0 and 3\)|number of examples shown \(0 and 3\)"):
        judge_config(ctx, candidate="Ash", config=config())


def test_lower_bits_per_byte_is_better(ctx: Context, scenario: Scenario) -> None:
    scenario.benchmark("stories", [{"text": f"Text {n}."} for n in range(12)], val=0)
    scenario.evaluation("Oak", "stories", nlls=[20.0 + n for n in range(12)])
    scenario.evaluation("Elm", "stories", nlls=[18.0 + n + n % 2 for n in range(12)])
    outcome = judge_config(
        ctx, candidate="Elm", config=config(benchmarks=[{"benchmark": "stories"}], test="superiority", margin=0.0)
    )
    assert outcome.verdict is GateVerdict.PASS
    assert outcome.decision.benchmarks[0].difference > 0


def test_a_saved_gate_records_its_verdicts_and_follows_its_endpoint(ctx: Context, scenario: Scenario) -> None:
    deploy(ctx, checkpoint_id=scenario.checkpoint("Fir"), name="tales", person=LOCAL)
    create_gate(ctx, name="release", config=config(), person=LOCAL)
    judge(ctx, candidate="Yew", gate="release", person=LOCAL)
    judge(ctx, candidate="Elm", gate="release", person=LOCAL)
    view = get_gate(ctx, "release")
    assert [(result.checkpoint, result.verdict) for result in view.results] == [
        ("Elm", GateVerdict.PASS),
        ("Yew", GateVerdict.FAIL),
    ]
    assert view.results[0].report.benchmarks[0].n == N
    followed = judge_config(ctx, candidate="Elm", config=config(champion="endpoint:tales"))
    assert (followed.champion, followed.missing) == ("Fir", ("Fir on facts@1",))
    with pytest.raises(Conflict, match="a gate “release” already"):
        create_gate(ctx, name="release", config=config(), person=LOCAL)
    with pytest.raises(NotFound, match="no checkpoint “Oka”"):
        create_gate(ctx, name="other", config=config(champion="Oka"), person=LOCAL)
    with pytest.raises(NotAllowed):
        create_gate(ctx, name="other", config=config(), person=Person(id=None, name="Ada", role="rater"))


def test_an_endpoint_refuses_a_checkpoint_whose_required_gate_it_has_not_passed(ctx: Context) -> None:
    create_gate(ctx, name="release", config=config(), person=LOCAL)
    require_gate(ctx, "release", endpoint="tales", person=LOCAL)
    refusal = r"Yew can't be deployed to 'tales': its gate “release” fails it\. Fail on facts.*worse by 13\.3 points"
    with pytest.raises(Conflict, match=refusal):
        deploy(ctx, checkpoint_id=checkpoint_id(ctx, "Yew"), name="tales", person=LOCAL)
    with pytest.raises(Conflict, match=r"is inconclusive[.] Ash on facts@1 is not evaluated"):
        deploy(ctx, checkpoint_id=checkpoint_id(ctx, "Ash"), name="tales", person=LOCAL)
    deploy(ctx, checkpoint_id=checkpoint_id(ctx, "Yew"), name="other", person=LOCAL)
    assert deploy(ctx, checkpoint_id=checkpoint_id(ctx, "Elm"), name="tales", person=LOCAL).checkpoint_name == "Elm"
    with pytest.raises(Conflict, match="requires the gate"):
        delete_gate(ctx, "release", person=LOCAL)
    release_endpoint(ctx, "release", endpoint="tales", person=LOCAL)
    delete_gate(ctx, "release", person=LOCAL)
    assert deploy(ctx, checkpoint_id=checkpoint_id(ctx, "Yew"), name="tales", person=LOCAL).checkpoint_name == "Yew"


def test_an_endpoint_is_released_by_who_required_the_gate_and_by_admins(ctx: Context) -> None:
    ada = add_user(ctx, "Ada", "a long password", role="engineer", person=LOCAL)
    ben = add_user(ctx, "Ben", "a long password", role="lead", person=LOCAL)
    create_gate(ctx, name="release", config=config(), person=ben)
    gate = require_gate(ctx, "release", endpoint="tales", person=ada)
    assert why_not_release(ctx, gate.id, endpoint="tales", person=ben).startswith("The gate was required by Ada.")
    with pytest.raises(NotAllowed, match="required by Ada"):
        release_endpoint(ctx, "release", endpoint="tales", person=ben)
    assert why_not_release(ctx, gate.id, endpoint="tales", person=ada) == ""
    assert release_endpoint(ctx, "release", endpoint="tales", person=ada).endpoints == ()


def test_a_stopped_endpoint_starts_again_only_with_a_checkpoint_that_passes(ctx: Context) -> None:
    deploy(ctx, checkpoint_id=checkpoint_id(ctx, "Yew"), name="tales", person=LOCAL)
    stop_endpoint(ctx, "tales", person=LOCAL)
    create_gate(ctx, name="release", config=config(), person=LOCAL)
    require_gate(ctx, "release", endpoint="tales", person=LOCAL)
    with pytest.raises(Conflict, match="fails it"):
        start_endpoint(ctx, "tales", person=LOCAL)


def checkpoint_id(ctx: Context, name: str) -> str:
    return resolve_checkpoint(ctx, name).id


@pytest.fixture
def installation(ctx: Context, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    name_installation(monkeypatch, home)
    yield
    get_context.cache_clear()


def call(app: Any, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capfd.readouterr()
    status = app([*arguments, "--json"], standalone_mode=False)
    return status or 0, json.loads(capfd.readouterr().out)


@pytest.mark.usefixtures("installation")
def test_commands_judge_by_their_exit_status(capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--champion", "Oak", "--benchmark", "facts:acc=0.03")
    results = {name: call(eval_app, capfd, "gate", "--checkpoint", name, *options) for name in ("Elm", "Yew", "Ash")}
    assert {name: (status, data["verdict"]) for name, (status, data) in results.items()} == {
        "Elm": (0, "PASS"),
        "Yew": (1, "FAIL"),
        "Ash": (3, "INCONCLUSIVE"),
    }
    report = results["Elm"][1]
    assert report["benchmarks"][0]["threshold"] == -0.03
    assert 0 < report["power"] < 1
    assert "95 % over all judgements" in report["procedure"]
    assert call(eval_app, capfd, "gate", "--checkpoint", "Elm", "--champion", "Oak")[0] == 2
    assert call(gate_app, capfd, "create", "release", *options)[1]["gate"] == "release"
    assert call(gate_app, capfd, "require", "release", "--endpoint", "tales")[1]["endpoints"] == ["tales"]
    assert call(eval_app, capfd, "gate", "release", "--checkpoint", "Yew")[0] == 1
    assert call(gate_app, capfd, "list")[1]["gates"][0]["results"][0]["verdict"] == "FAIL"


def test_a_benchmark_takes_its_own_metric_and_margin() -> None:
    assert read_benchmark("facts@2:acc_norm=0.05") == GateBenchmark(benchmark="facts@2", metric="acc_norm", margin=0.05)


def looks(outcome: GateOutcome) -> list[tuple[int, float]]:
    return [(result.look, result.share) for result in outcome.decision.benchmarks]


def test_looks_at_more_items_share_the_error_of_the_gate(ctx: Context, scenario: Scenario) -> None:
    gates = [
        create_gate(ctx, name=name, config=config(margin=0.1), person=LOCAL).name for name in ("release", "second")
    ]
    right = CHAMPION.astype(int).tolist()
    for number, limit in enumerate((20, 40, 80)):
        scenario.evaluation("Oak", "facts", right[:limit], limit=limit)
        scenario.evaluation("Ash", "facts", right[:limit], limit=limit)
        outcome = judge(ctx, candidate="Ash", gate="release", person=LOCAL)
        assert looks(outcome) == [(number + 1, 0.5 ** (number + 1))]
        assert outcome.decision.benchmarks[0].level == pytest.approx(1 - 0.05 * 0.5 ** (number + 1))
    # the same items: the same look
    assert looks(judge(ctx, candidate="Ash", gate="release", person=LOCAL)) == [(3, 0.125)]
    # another gate spends the same error
    assert looks(judge(ctx, candidate="Ash", gate=gates[1], person=LOCAL)) == [(3, 0.125)]
    # another candidate, on all items
    assert looks(judge(ctx, candidate="Elm", gate="release", person=LOCAL)) == [(1, 0.9)]
    scenario.evaluation("Ash", "facts", right)
    whole = judge(ctx, candidate="Ash", gate="release", person=LOCAL)
    assert looks(whole) == [(4, pytest.approx(0.125 * 0.9))]
    assert "Pass on facts by Multiple choice, look 4:" in whole.reason
    (part,) = report_of(whole).benchmarks
    assert (part.look, part.error) == (4, pytest.approx(0.025 * 0.125 * 0.9))


def test_a_gate_that_records_nothing_counts_every_earlier_evaluation(ctx: Context, scenario: Scenario) -> None:
    right = CHAMPION.astype(int).tolist()
    for limit in (20, 40):
        scenario.evaluation("Oak", "facts", right[:limit], limit=limit)
        scenario.evaluation("Ash", "facts", right[:limit], limit=limit)
    assert looks(judge_config(ctx, candidate="Ash", config=config())) == [(2, 0.25)]
    assert looks(judge_config(ctx, candidate="Elm", config=config())) == [(1, 0.9)]


def test_the_reason_names_truncated_items_and_unequal_contexts(ctx: Context, scenario: Scenario) -> None:
    """A verdict said nothing of it where one network read every prompt cut and the other none."""
    for name, right, facts in (
        ("Oak", CHAMPION, {"items": N, "context": 8192}),
        ("Yew", WORSE, {"items": N, "context": 512, "truncated_items": 120, "capped_items": 7}),
    ):
        scenario.evaluation(name, "facts", right.astype(int).tolist(), facts=facts, seed=2, limit=N)
    outcome = judge(
        ctx, candidate="Yew", gate=create_gate(ctx, name="cuts", config=config(), person=LOCAL).name, person=LOCAL
    )
    assert outcome.cuts == (
        (
            "prompts were cut by the context: 0 of 300 for the champion, 120 of 300 for the candidate",
            "answers were cut by the context: 0 of 300 for the champion, 7 of 300 for the candidate",
            "contexts are unequal: 8,192 tokens of the champion, 512 of the candidate",
        ),
    )
    assert all(f"on facts {phrase}" in outcome.reason for phrase in outcome.cuts[0])
    (recorded,) = get_gate(ctx, "cuts").results
    assert recorded.report.benchmarks[0].cuts == outcome.cuts[0]
    assert judge_config(ctx, candidate="Elm", config=config()).cuts == ((),)


def test_a_gate_is_planned_on_the_champions_items_with_the_measured_discordance(
    ctx: Context, scenario: Scenario
) -> None:
    scenario.benchmark("more facts", CHOICES)
    scenario.benchmark("stories", [{"text": f"Story {n}."} for n in range(9)], val=3)
    scenario.evaluation("Oak", "stories", nlls=[20.0, 22.0, 21.0])
    parts = [{"benchmark": name} for name in ("facts", "more facts", "stories")]
    facts, more, stories = plan_gates(ctx, config(benchmarks=parts))
    assert facts.power is not None
    assert (facts.benchmark, facts.power.n, facts.measured_pairs) == ("facts@1", N, 3)
    differing = [np.mean(a != b) for a, b in ((CHAMPION, BETTER), (CHAMPION, WORSE), (BETTER, WORSE))]
    assert facts.discordance == pytest.approx(np.median(differing))
    assert (more.power, more.unknown) == (None, "“Oak” is not evaluated on it yet")
    assert (stories.power, stories.unknown.partition(",")[0]) == (None, "bits per byte is not a share")


def test_a_newer_evaluation_of_few_items_does_not_take_the_place_of_all(ctx: Context, scenario: Scenario) -> None:
    """A suite with an item limit made a gate that could be decided INCONCLUSIVE."""
    create_gate(ctx, name="release", config=config(), person=LOCAL)
    whole = judge(ctx, candidate="Yew", gate="release", person=LOCAL)
    for name, right in {"Oak": CHAMPION, "Yew": WORSE, "Ash": WORSE}.items():
        scenario.evaluation(name, "facts", right[:40].astype(int).tolist(), limit=40)
    again = judge(ctx, candidate="Yew", gate="release", person=LOCAL)
    assert (again.evaluations, again.decision) == (whole.evaluations, whole.decision)
    assert judge_config(ctx, candidate="Yew", config=config()).evaluations == whole.evaluations
    assert "on 300 common items" in again.reason
    few = judge(ctx, candidate="Ash", gate="release", person=LOCAL)
    assert "on 40 common items" in few.reason
    newer = [
        scenario.evaluation(name, "facts", right.astype(int).tolist(), again=True).id
        for name, right in {"Oak": CHAMPION, "Yew": WORSE}.items()
    ]
    assert judge(ctx, candidate="Yew", gate="release", person=LOCAL).evaluations == (tuple(newer),)
    assert get_gate(ctx, "release").results[-1].report == report_of(whole), "what was recorded stays"


def test_a_gate_is_planned_by_the_pair_that_will_judge_the_candidate(ctx: Context, scenario: Scenario) -> None:
    for name, right in {"Oak": CHAMPION, "Ash": WORSE}.items():
        scenario.evaluation(name, "facts", right[:40].astype(int).tolist(), limit=40)
    for candidate, n, right in (("Yew", N, WORSE), ("Elm", N, BETTER), ("Ash", 40, WORSE)):
        (plan,) = plan_gates(ctx, config(), candidate=candidate)
        assert plan.power is not None
        assert (plan.power.n, plan.measured_pairs) == (n, 1)
        assert plan.discordance == pytest.approx(np.mean(CHAMPION[:n] != right[:n]))
        judged = judge_config(ctx, candidate=candidate, config=config())
        assert tuple(one.id for one in plan.evaluations) == judged.evaluations[0]
    (alone,) = plan_gates(ctx, config())
    assert alone.power is not None
    assert (alone.power.n, alone.measured_pairs, len(alone.evaluations)) == (N, 3, 1)


BY_NAME = read_task(
    "name: law\ntitle: Law\nkind: multiple_choice\nprompt: '{{question}}'\nchoices: choices\nanswer: answer\n"
)


def score_by_task(scenario: Scenario) -> None:
    for name, right in {"Oak": CHAMPION, "Elm": WORSE}.items():
        scenario.evaluation(name, "facts", right.astype(int).tolist(), task=BY_NAME)


def test_a_gate_compares_one_task_whatever_was_scored_since(ctx: Context, scenario: Scenario) -> None:
    """A gate judged whichever scoring was newest: its verdict changed, and the second look spent the first's error."""
    create_gate(ctx, name="release", config=config(), person=LOCAL)
    first = judge(ctx, candidate="Elm", gate="release", person=LOCAL)
    score_by_task(scenario)
    second = judge(ctx, candidate="Elm", gate="release", person=LOCAL)
    assert second.evaluations == first.evaluations
    assert second.decision == first.decision
    assert second.tasks == ("Multiple choice",)
    assert get_gate(ctx, "release").results[0].report.benchmarks[0].task == "Multiple choice"


def test_a_gate_that_was_saved_without_a_task_stays_with_that_of_its_verdicts(ctx: Context, scenario: Scenario) -> None:
    champion = checkpoint_id(ctx, "Oak")
    with ctx.db.write() as session:
        session.add(Gate(name="old", config=config(champion=champion), created_at=ctx.now()))
    score_by_task(scenario)
    judge(ctx, candidate="Elm", gate="old", person=LOCAL)
    scenario.evaluation("Oak", "facts", CHAMPION.astype(int).tolist(), task=BY_NAME, again=True)
    assert judge(ctx, candidate="Elm", gate="old", person=LOCAL).tasks == ("Multiple choice",)


def test_a_gate_may_name_tasks_and_their_looks_are_their_own(ctx: Context, scenario: Scenario) -> None:
    score_by_task(scenario)
    parts = [{"benchmark": "facts", "task": "law"}, {"benchmark": "facts", "task": "multiple_choice"}]
    create_gate(ctx, name="both", config=config(benchmarks=parts), person=LOCAL)
    for _ in range(2):
        outcome = judge(ctx, candidate="Elm", gate="both", person=LOCAL)
        assert outcome.tasks == ("Law", "Multiple choice")
        assert [one.verdict for one in outcome.decision.benchmarks] == [GateVerdict.FAIL, GateVerdict.PASS]
        assert [one.look for one in outcome.decision.benchmarks] == [1, 1]
    missing = judge(ctx, candidate="Yew", gate="both", person=LOCAL).missing
    assert missing == ("Yew on facts@1 by law",)


def test_the_suggested_task_is_compared_where_a_gate_names_none(ctx: Context, scenario: Scenario) -> None:
    """Both sides have results by the rows' kind and by the task that a new evaluation chooses."""
    pairs = {"sentence_good": "Cats sleep.", "sentence_bad": "Cats sleeps.", "UID": "verbs"}
    scenario.benchmark("pairs", [{**CHOICES[0], **pairs, "question": f"Question {n}?"} for n in range(20)])
    task = suggest_task(ctx, resolve_version(ctx, "pairs"))
    assert task is not None
    for name in ("Oak", "Elm"):
        scenario.evaluation(name, "pairs", [1, 0] * 10, task=task)
        scenario.evaluation(name, "pairs", [1, 0] * 10)
    chosen = config(benchmarks=[{"benchmark": "pairs", "metric": "acc"}])
    assert judge_config(ctx, candidate="Elm", config=chosen).tasks == ("BLiMP",)
    assert create_gate(ctx, name="pairs", config=chosen, person=LOCAL).config.benchmarks[0].task == task.name


def test_a_judge_decides_a_gate_as_the_metric_of_a_task(ctx: Context, scenario: Scenario) -> None:
    task = read_task(
        "name: polite\nkind: generation\nprompt: '{{question}}'\ntarget: '{{choices[answer]}}'\n"
        "metrics: [{judge: {checkpoint: Ash, criteria: politeness}}]\n"
    )
    for name, share in (("Oak", 0.25), ("Elm", 0.75)):
        graded = [item(n, {"judge": share + (n % 2) / 4}, completion="Yes.") for n in range(N)]
        score = {"metric": "judge", "value": share, "stderr": 0.01, "low": 0.0, "high": 1.0, "n": N, "method": "mean"}
        launched = scenario.evaluation(name, "facts", task=task)
        facts = {"used_chat_template": False, "unit": "items", "number_format": "float32"}
        finish(ctx, claim_of(ctx, launched), graded, scores=[score], facts=facts)
    parts = [{"benchmark": "facts", "task": "polite"}]
    outcomes = [
        judge_config(ctx, candidate=candidate, config=config(champion=champion, benchmarks=parts))
        for champion, candidate in (("Oak", "Elm"), ("Elm", "Oak"))
    ]
    assert [outcome.verdict for outcome in outcomes] == [GateVerdict.PASS, GateVerdict.FAIL]
    assert [outcome.decision.benchmarks[0].metric for outcome in outcomes] == ["judge", "judge"]
