"""Judgements of files and campaigns, queued by a service and shown with people's votes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.bootstrap import get_context
from backend.cli.main import app
from backend.domain.battles.vote_files.previews import read_storable_votes
from backend.domain.evaluation.endpoints import EndpointConfig
from backend.domain.evaluation.judges import JudgeConfig, JudgeItem
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.states import JobKind
from backend.domain.openai_servers import JUDGE_KEY, Capabilities
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.battles.standings import standings
from backend.services.battles.vote_imports import import_votes
from backend.services.context import LOCAL, Context, Person
from backend.services.evaluation.endpoints import EvaluatedEndpointView
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.evaluation.judgements import (
    Author,
    Judge,
    campaign_authors,
    campaign_items,
    evaluation_authors,
    evaluation_items,
    get_judgement,
    judges_itself,
    launch_judgement,
    list_answered,
    list_judgements,
    read_judge_items,
    read_verdicts,
)
from backend.services.evaluation.judges.campaigns import judges_of
from jobs.environment import child_environment
from tests.support.evaluation_world import claim_of, finish, item
from tests.support.jobs import take_job
from tests.support.judge_world import finish_judgement
from tests.support.scenario import Scenario
from tests.support.settings import name_installation

PAIRWISE = JudgeConfig(mode="pairwise", canaries=0)
REMOTE = Judge("model", "referee", "http://127.0.0.1:9/v1")


def test_a_campaign_is_judged_beside_its_votes_and_keeps_them_apart(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=6)
    scenario.votes(campaign, "Elm")
    before = standings(ctx, campaign.id)
    items = campaign_items(ctx, campaign.id)
    assert len(items) == 6
    assert all(len(item.human) == 1 for item in items)
    assert {(item.group if item.human[0] == "A" else item.group_b) for item in items} == {"Elm"}
    job = launch_judgement(ctx, judge=REMOTE, items=items, config=PAIRWISE, person=LOCAL)
    assert get_judgement(ctx, job.id).summary is None
    finish_judgement(ctx, job.id, "A")
    (judgement,) = list_judgements(ctx)
    assert (judgement.judge, judgement.mode, judgement.summary.items, judgement.summary.human_votes) == (
        "referee",
        "pairwise",
        6,
        6,
    )
    assert [verdict["verdict"] for verdict in read_verdicts(ctx, job.id)] == ["A"] * 6
    assert standings(ctx, campaign.id) == before


def test_the_command_takes_a_campaign_by_its_name(
    ctx: Context, scenario: Scenario, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`campaign show` took the name, this one the id alone: "There is no such campaign"."""
    campaign = scenario.campaign(num_prompts=6)
    scenario.votes(campaign, "Elm")
    name_installation(monkeypatch, home)
    options = ["--model", "referee", "--url", "http://127.0.0.1:9/v1", "--no-wait"]
    called = CliRunner().invoke(app, ["eval", "judge", "--campaign", campaign.name, *options])
    assert called.exit_code == 0, called.output
    assert len(list_judgements(ctx)) == 1
    get_context.cache_clear()


def test_a_judge_stands_beside_the_board_with_its_agreement_under_the_raters_ceiling(ctx: Context) -> None:
    campaign = Scenario(ctx).campaign(num_prompts=6)
    Scenario(ctx).votes(campaign, "Elm")
    assert judges_of(ctx, campaign.id) is None
    items = campaign_items(ctx, campaign.id)
    for_elm = sum(item.group == "Elm" for item in items)
    job = launch_judgement(ctx, judge=REMOTE, items=items, config=PAIRWISE, person=LOCAL)
    finish_judgement(ctx, job.id, "A")
    judges = judges_of(ctx, campaign.id)
    assert judges is not None
    (column,) = judges.columns
    assert (column.judge, column.agreement.num_pairs, set(column.ratings)) == ("referee", 6, {"Elm", "Oak"})
    assert column.agreement.percent_agreement is not None
    assert column.agreement.percent_agreement.value == pytest.approx(for_elm / 6)
    assert judges.ceiling.num_items == 0
    assert standings(ctx, campaign.id).num_votes == 6


def test_judges_are_compared_once_for_the_same_votes_and_judgements(ctx: Context, scenario: Scenario) -> None:
    """Every draw of the board resampled each judgement: half a second of each at 10,000 votes."""
    campaign = scenario.campaign(num_prompts=6)
    scenario.votes(campaign, "Elm", limit=4)

    def judge(side: str) -> None:
        items = campaign_items(ctx, campaign.id)
        finish_judgement(ctx, launch_judgement(ctx, judge=REMOTE, items=items, config=PAIRWISE, person=LOCAL).id, side)

    judge("A")
    first = judges_of(ctx, campaign.id)
    assert first is not None
    assert judges_of(ctx, campaign.id) is first
    scenario.votes(campaign, "Elm", limit=2)
    second = judges_of(ctx, campaign.id)
    assert second is not None
    assert second.columns == first.columns, "the judge has no verdict on the new pairs"
    judge("TIE")
    third = judges_of(ctx, campaign.id)
    assert third is not None
    assert [column.agreement.num_pairs for column in third.columns] == [6, 4]
    assert third.columns[1] == first.columns[0], "the same numbers to the last digit"


def test_a_campaign_without_votes_has_nothing_to_compare(ctx: Context, scenario: Scenario) -> None:
    with pytest.raises(InvalidInput, match="no votes"):
        campaign_items(ctx, scenario.campaign().id)


def test_one_judgement_has_one_kappa_on_both_pages_and_no_interval_without_width(ctx: Context) -> None:
    campaign = Scenario(ctx).campaign(num_prompts=8)
    Scenario(ctx).votes(campaign, "Elm")
    items = campaign_items(ctx, campaign.id)
    job = launch_judgement(ctx, judge=REMOTE, items=items, config=PAIRWISE, person=LOCAL)
    finish_judgement(ctx, job.id, "A")
    judges, summary = judges_of(ctx, campaign.id), get_judgement(ctx, job.id).summary
    assert judges is not None
    assert summary is not None
    live, stored = judges.columns[0].agreement.kappa, summary.kappa
    assert live is not None
    assert stored is not None
    assert (stored.value, stored.n) == (pytest.approx(live.value), live.n)
    assert (live.high or 0.0) - (live.low or 0.0) < 1e-9
    assert stored.interval is None, "one who always votes alike agrees by chance in every resample"


def test_a_judge_that_is_a_contestant_is_known(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    oak, ash = scenario.checkpoint("Oak"), scenario.checkpoint("Ash")
    scenario.endpoint("teller", "Oak")
    scenario.endpoint("other", "Ash")
    authors = campaign_authors(campaign)
    assert judges_itself(ctx, Judge("checkpoint", oak), authors)
    assert judges_itself(ctx, Judge("endpoint", "teller"), authors)
    assert not judges_itself(ctx, Judge("checkpoint", ash), authors)
    assert not judges_itself(ctx, Judge("endpoint", "other"), authors)


def test_a_judge_that_an_evaluated_endpoint_serves_judges_itself_and_one_named_like_another_api_does_not(
    ctx: Context, scenario: Scenario
) -> None:
    """The rule of evaluations passed over checkpoints behind endpoints, and went by the name of an API elsewhere."""
    scenario.endpoint("teller", "Oak")
    scenario.endpoint("far", "Ash")
    judged = scenario.evaluation("Oak")

    def authors(name: str, config: EndpointConfig) -> list[Author]:
        endpoint = EvaluatedEndpointView("", name, config, Capabilities())
        return evaluation_authors([replace(judged, checkpoint_id=None, checkpoint=name, endpoint=endpoint)])

    own = authors("teller", EndpointConfig(model="teller"))
    assert judges_itself(ctx, Judge("checkpoint", scenario.checkpoint("Oak")), own)
    assert judges_itself(ctx, Judge("endpoint", "teller"), own)
    assert not judges_itself(ctx, Judge("checkpoint", scenario.checkpoint("Ash")), own)
    elsewhere = authors("far", EndpointConfig(url="https://api.example/v1", model="big"))
    assert not judges_itself(ctx, Judge("endpoint", "far"), elsewhere)


def test_a_campaign_of_votes_without_answers_is_refused_before_the_queue(ctx: Context) -> None:
    votes = "prompt,rater,model_a,model_b,winner\nq1,ann,Oak,Elm,A\nq2,ann,Oak,Elm,B\n"
    campaign = import_votes(ctx, name="Elsewhere", read=read_storable_votes(votes), person=LOCAL)
    with pytest.raises(InvalidInput, match="no answers to judge"):
        campaign_items(ctx, campaign.id)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Line 2 can't be read"),
        ("[]", "Line 2 can't be read"),
        ('{"prompt": "p"}', "Line 2: answer: is missing"),
        ('{"prompt": "p", "answer": 3}', "Line 2: answer"),
        ('{"prompt": "p", "answer": "a", "colour": 1}', "Line 2: colour"),
    ],
)
def test_a_row_that_can_not_be_judged_is_named_by_its_line(line: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_judge_items(['{"prompt": "p", "response": "a"}', line])


def test_what_the_mode_can_not_judge_is_refused_before_the_queue(ctx: Context) -> None:
    one = JudgeItem(id="1", prompt="p", answer="a")
    for items, config, message in [
        ([], PAIRWISE, "0 items"),
        ([one], PAIRWISE, "one answer"),
        ([one, one], JudgeConfig(), "Two items"),
        ([one.model_copy(update={"human": ("good",)})], JudgeConfig(), "not a number"),
        ([one.model_copy(update={"answer_b": "b", "human": ("C",)})], PAIRWISE, "the vote 'C'"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            launch_judgement(ctx, judge=REMOTE, items=items, config=config, person=LOCAL)
    assert list_judgements(ctx) == []


def test_an_address_is_named_by_the_operator_or_on_this_machine_alone(ctx: Context) -> None:
    items, account = [JudgeItem(id="1", prompt="p", answer="a")], Person(id="u1", name="ann", role="engineer")

    def launch(judge: Judge, person: Person) -> JudgePayload:
        payload = take_job(
            ctx, launch_judgement(ctx, judge=judge, items=items, config=JudgeConfig(), person=person).id
        ).payload
        assert isinstance(payload, JudgePayload)
        return payload

    with pytest.raises(NotAllowed, match="can't name an address"):
        launch(REMOTE, account)
    with pytest.raises(InvalidInput, match="No API"):
        launch(Judge("model", "m"), LOCAL)
    with pytest.raises(InvalidInput, match="not an API address"):
        launch(Judge("model", "m", "file:///etc"), LOCAL)
    with pytest.raises(NotFound):
        launch(Judge("endpoint", "absent"), LOCAL)
    assert launch(REMOTE, LOCAL).url == REMOTE.url


def test_the_key_reaches_judges_behind_an_api_alone() -> None:
    given: dict[str, Any] = {JUDGE_KEY: "sesame", "PATH": "/bin"}
    assert JUDGE_KEY not in child_environment(JobKind.JUDGE, environment=given)
    assert child_environment(JobKind.JUDGE, api_keys={JUDGE_KEY}, environment=given)[JUDGE_KEY] == "sesame"


def test_answers_of_evaluations_are_judged_alone_or_as_pairs_and_the_verdicts_outlive_the_jobs_folder(
    ctx: Context, scenario: Scenario
) -> None:
    scenario.checkpoints("Oak", "Elm", "Ash")
    first, second = (answered(ctx, name, 6) for name in ("Oak", "Elm"))
    items = evaluation_items(ctx, first.id)
    assert [(item.prompt, item.answer, item.reference, item.group) for item in items[:1]] == [
        ("Question 0?", "Oak says 0", "0", "Oak")
    ]
    pairs = evaluation_items(ctx, first.id, against=second.id)
    assert [(pair.answer, pair.answer_b, pair.group_b) for pair in pairs[:1]] == [("Oak says 0", "Elm says 0", "Elm")]
    assert [one.id for one in list_answered(ctx, like=first)] == [second.id]
    job = launch_judgement(
        ctx,
        judge=Judge("checkpoint", "Ash"),
        items=pairs,
        config=JudgeConfig(mode="pairwise", canaries=0),
        person=LOCAL,
        evaluations=[first.id, second.id],
    )
    finish_judgement(ctx, job.id, "A")
    shutil.rmtree(ctx.artifacts.job_folder(job.id))
    verdicts = read_verdicts(ctx, job.id)
    assert [(verdict["verdict"], verdict["groups"]) for verdict in verdicts] == [("A", ["Oak", "Elm"])] * 6
    other = scenario.evaluation("Oak", "facts", [1, 0])
    with pytest.raises(InvalidInput, match="two benchmarks"):
        evaluation_items(ctx, first.id, against=other.id)
    with pytest.raises(InvalidInput, match="no generated answers"):
        evaluation_items(ctx, other.id)
    waiting = scenario.evaluation("Ash", "questions")
    with pytest.raises(Conflict, match="Wait until"):
        evaluation_items(ctx, waiting.id)


def answered(ctx: Context, checkpoint: str, count: int) -> EvaluationView:
    """An evaluation of generated answers, one item of which failed."""
    launched = Scenario(ctx).evaluation(checkpoint, "questions")
    items = [item(n, {"exact_match": 0.0}, completion=f"{checkpoint} says {n}", answer=[str(n)]) for n in range(count)]
    items.append(item(count, {"missing": 1.0}, completion="", answer=["x"], failed="500"))
    score = {"metric": "exact_match", "value": 0.0, "n": count}
    finish(ctx, claim_of(ctx, launched), items, scores=[score], facts={"unit": "items"})
    return get_evaluation(ctx, launched.id)
