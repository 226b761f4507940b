"""Judgements on the page: the form, the list, figures with intervals, verdicts as plain text."""

from __future__ import annotations

from backend.domain.evaluation.judges.config import JudgeConfig
from backend.services.battles.raters import rater_for
from backend.services.context import LOCAL, Context
from backend.services.evaluation.judgements import Judge, campaign_items, launch_judgement
from tests.support.battle_world import make_campaign, prefer, vote_all
from tests.support.judge_world import finish_judgement
from tests.support.opening import open_page, words


def test_a_judgement_is_started_listed_and_shown_beside_the_votes(site: Context) -> None:
    app = open_page("evaluate/evaluations.py", judges="1")
    assert not app.exception
    assert "No campaign has votes yet." in words(app)
    campaign = make_campaign(site, num_prompts=4)
    vote_all(site, campaign.id, rater_for(site, LOCAL), prefer("Elm"))
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
