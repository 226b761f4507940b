"""Judgements on the page: the form, the list, figures with intervals, verdicts as plain text."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.judges import JudgeConfig, JudgeItem
from backend.domain.serving.upstream import Upstream
from backend.services.context import LOCAL, Context
from backend.services.evaluation.judgements import (
    Judge,
    campaign_items,
    evaluation_items,
    launch_judgement,
    list_judgements,
)
from backend.services.serving.deployments import deploy
from backend.services.serving.upstreams import connect_upstream
from tests.support.evaluation_world import claim_of, finish, item
from tests.support.fake_api import serve_api
from tests.support.judge_world import finish_judgement
from tests.support.opening import open_page, words
from tests.support.scenario import Scenario


def test_a_judgement_is_started_listed_and_shown_beside_the_votes(site: Context, scenario: Scenario) -> None:
    app = open_page("evaluate/evaluations.py", judges="1")
    assert not app.exception
    assert "No campaign has votes yet." in words(app)
    campaign = scenario.campaign(num_prompts=4)
    scenario.votes(campaign, "Elm")
    judge = Judge("model", "referee", "http://127.0.0.1:9/v1")
    config = JudgeConfig(mode="pairwise", canaries=0)
    job = launch_judgement(site, judge=judge, items=campaign_items(site, campaign.id), config=config, person=LOCAL)
    finish_judgement(site, job.id, "A")
    assert "4 items, 0 without a verdict" in words(open_page("evaluate/evaluations.py", judges="1"))
    app = open_page("evaluate/evaluations.py", judgement=job.id)
    assert not app.exception
    text = words(app)
    assert "Verdicts of referee" in text
    assert "Votes of people are not changed." in text
    assert len([code for code in app.code if code.value == "Verdict: A"]) == 4
    titles = [one.label.replace("\\", "") for one in app.expander]
    assert len(titles) == 4
    assert all("(people: Elm)" in title for title in titles)


def test_items_that_a_judge_and_the_benchmark_score_differently_can_be_filtered(
    site: Context, scenario: Scenario
) -> None:
    oak, elm = scenario.evaluation("Oak", "facts", [1, 0, 0]), scenario.evaluation("Elm", "facts", [1, 1, 0])
    assert (
        "Disagreed with judge"
        not in open_page("evaluate/evaluations.py", evaluation=elm.id).segmented_control[0].options
    )
    answers = [JudgeItem(id=str(n), prompt=f"Question {n}?", answer="yes" if n < 2 else "no") for n in range(3)]
    _judge(site, answers, JudgeConfig(labels=("bad", "good"), canaries=0), "bad")  # the first label is the best
    pairs = [JudgeItem(id="1", prompt="Question 1?", answer="yes", answer_b="no")]  # Elm's answer, then Oak's
    _judge(site, pairs, JudgeConfig(mode="pairwise", canaries=0), "B")
    app = open_page("evaluate/evaluations.py", evaluation=elm.id)
    app.segmented_control[0].set_value("judge").run()
    text = words(app)
    assert ("Question 2?" in text, "Question 1?" in text) == (True, False)  # wrong, and the judge calls it good
    app = open_page("evaluate/evaluations.py", first=oak.id, second=elm.id)
    assert app.segmented_control[0].options[-1] == "Disagreed with judge (1)"


def test_a_model_is_not_offered_first_to_judge_its_own_answers_and_a_judgement_names_them(site: Context) -> None:
    with serve_api() as api:
        for name in ("ash", "oak"):
            upstream = Upstream.read({"url": api.url, "model": name})
            connect_upstream(site, name=name, upstream=upstream, person=LOCAL)
        own = Scenario(site).evaluation(benchmark="questions", endpoint="ash")
        score = {"metric": "exact_match", "value": 1.0, "stderr": 0.0, "n": 6, "method": "Wilson"}
        facts = {"used_chat_template": True, "unit": "items"}
        answered = [item(n, {"exact_match": 1.0}, completion="yes") for n in range(6)]
        finish(site, claim_of(site, own), answered, scores=[score], facts=facts)
        app = open_page("evaluate/evaluations.py", judges=own.id)
        assert app.selectbox(key="judge_endpoint").value == "oak"
        assert "judge its own answers" not in words(app)
        app.selectbox(key="judge_endpoint").select("ash").run()
        assert "judge its own answers" in words(app)
        assert app.segmented_control(key=f"judge_source_{own.id}").value == "Evaluation"
        assert open_page("evaluate/evaluations.py", judges="1").segmented_control(key="judge_source_").value == (
            "Evaluation"
        ), "no campaign has votes"
    judge = Judge("model", "referee", "http://127.0.0.1:9/v1")
    config = JudgeConfig(labels=("bad", "good"), canaries=0)
    items = evaluation_items(site, own.id)
    job = launch_judgement(site, judge=judge, items=items, config=config, person=LOCAL, evaluations=(own.id,))
    finish_judgement(site, job.id, "good")
    app = open_page("evaluate/evaluations.py", judgement=job.id)
    assert app.button(key=f"judged_evaluation_{own.id}").label.replace("\\", "") == "ash (endpoint) on questions@1"
    assert not any("people:" in one.label for one in app.expander)


def _judge(ctx: Context, items: list[JudgeItem], config: JudgeConfig, verdict: str) -> None:
    judge = Judge("model", "referee", "http://127.0.0.1:9/v1")
    job = launch_judgement(ctx, judge=judge, items=items, config=config, person=LOCAL)
    finish_judgement(ctx, job.id, verdict)


def test_a_judge_at_hand_is_offered_before_a_checkpoint(site: Context, scenario: Scenario) -> None:
    checkpoint = scenario.checkpoint("Oak")

    def offered() -> str:
        return str(open_page("evaluate/evaluations.py", judges="1").segmented_control(key="judge_kind").value)

    assert offered() == "checkpoint"
    deploy(site, checkpoint_id=checkpoint, name="referee", person=LOCAL)
    assert offered() == "endpoint"


@pytest.mark.parametrize(("canary", "warned"), [("B", False), ("A", True)])
def test_the_page_of_ratings_warns_of_a_judge_that_takes_nothing_for_an_answer(
    site: Context, scenario: Scenario, canary: str, warned: bool
) -> None:
    campaign = scenario.campaign(num_prompts=6)
    scenario.votes(campaign, "Elm")
    config = JudgeConfig(mode="pairwise", canaries=6)
    job = launch_judgement(
        site,
        judge=Judge("model", "referee", "http://127.0.0.1:9/v1"),
        items=campaign_items(site, campaign.id),
        config=config,
        person=LOCAL,
    )
    finish_judgement(site, job.id, "A", canary=canary)
    page = open_page("evaluate/battles.py", campaign=campaign.id, tab="Rating", rating="Judge agreement")
    assert not page.exception
    assert any("referee does not tell an empty answer" in error.value for error in page.error) is warned


def test_the_newest_judgement_of_a_judge_rates_unless_another_is_chosen(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=5)  # odd: the judge's verdicts can't cancel out
    scenario.votes(campaign, "Elm")
    items = campaign_items(site, campaign.id)
    judge = Judge("model", "referee", "http://127.0.0.1:9/v1")
    for criteria, side, canary in (("Old criteria", "TIE", "A"), ("New criteria", "A", "B")):
        config = JudgeConfig(mode="pairwise", canaries=5, criteria=criteria)
        job = launch_judgement(site, judge=judge, items=items, config=config, person=LOCAL, campaign_id=campaign.id)
        finish_judgement(site, job.id, side, canary=canary)
    assert job.title == "Verdicts of referee on Stories"

    def ratings() -> list[object]:
        return list(page.table[1].value["Judge referee"])

    page = open_page("evaluate/battles.py", campaign=campaign.id, tab="Rating", rating="Judge agreement")
    assert not page.exception
    agreement = page.table[0].value
    assert list(agreement["Criteria"])[:2] == ["New criteria", "Old criteria"]
    assert list(agreement["Empty answers"])[:2] == ["told apart", "not told apart"]
    (warning,) = [one.value for one in page.error]
    assert "in the judgement of" in warning
    box = page.selectbox(key="judgement_of_referee")
    newest = ratings()
    page = box.select_index(1).run()
    assert ratings() == ["1,000", "1,000"] != newest


def test_a_contestant_as_judge_of_its_own_campaign_is_warned_of(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=2)
    scenario.votes(campaign, "Elm")
    oak = next(one.checkpoint_id for one in campaign.contestants if one.name == "Oak")
    ash = scenario.checkpoint("Ash")
    app = open_page("evaluate/evaluations.py", judges="1")
    box = app.selectbox(key="judge_checkpoint")
    warned = {key: "judge its own answers" in words(box.set_value(key).run()) for key in (oak, ash)}
    assert warned == {oak: True, ash: False}


def test_a_file_of_answers_with_a_line_separator_in_a_text_is_judged(site: Context, scenario: Scenario) -> None:
    scenario.checkpoint("Oak")
    app = open_page("evaluate/evaluations.py", judges="1")
    app.segmented_control(key="judge_source_").set_value("File").run()
    rows = '{"prompt": "one\u2028two", "answer": "yes"}\r\n{"prompt": "three", "answer": "no"}\r\n'
    app.file_uploader(key="judge_file").upload("answers.jsonl", rows.encode(), "application/json").run()
    app.button(key="judge_start").click().run()
    assert not app.error
    (judgement,) = list_judgements(site)
    assert judgement.job.title == "Verdicts of Oak"
