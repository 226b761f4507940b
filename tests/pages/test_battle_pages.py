"""Battles and ballot: rendered empty and filled, and driven once, through the gate."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from backend.bootstrap import get_context
from backend.db.tables import AnswerRating, Completion, Contestant, Gate, GateResult, Rater, Run, User
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.votes import VoteRecord
from backend.domain.evaluation.gate_config import GateConfig
from backend.domain.jobs.states import Status
from backend.errors import NotAllowed
from backend.services.battles.campaigns import close_campaign
from backend.services.battles.frozen_boards import list_frozen_boards
from backend.services.battles.grades import grade_board
from backend.services.battles.quality import exclude_rater
from backend.services.battles.raters import (
    create_rater_link,
    find_link,
    list_raters,
    rater_for,
    rater_from_link,
    voter_of_token,
)
from backend.services.battles.standings import standings
from backend.services.battles.views import list_campaigns
from backend.services.checkpoints.checkpoints import get_checkpoint, resolve_checkpoint
from backend.services.context import LOCAL, Context, Person
from backend.services.evaluation.gates import create_gate, require_gate
from backend.services.people.accounts import add_user
from backend.services.people.sessions import sign_in
from backend.services.serving.aliases import get_alias
from backend.services.serving.deployments import deploy
from backend.services.serving.promotions import promote
from pages.components import visitor
from pages.components.battles.charts import interval_chart, rating_marks, win_chart
from pages.components.battles.standings import format_seconds
from pages.components.browser.ballot.component import maths_url
from tests.support import run_world
from tests.support.battle_world import (
    cast_vote,
    claim_generation,
    link_rater,
    next_battle,
    prefer,
    vote_in_turn,
    write_all,
    write_completions,
)
from tests.support.opening import assert_sound, figures, open_page, plain_words, words
from tests.support.scenario import Scenario, add_row

SHELL = Path(__file__).resolve().parents[2] / "pages" / "shell.py"
EVIL = "![x](http://evil.example/x.png) <script>alert(1)</script>  two  spaces"


def test_battles_of_an_empty_installation_lead_to_the_next_step(site: Context) -> None:
    app = open_page("evaluate/battles.py")
    assert_sound(app)
    assert "needs two contestants: checkpoints, such as two steps of one run, endpoints, or files" in words(app)


def test_the_form_creates_a_campaign_and_refuses_a_revealing_name(site: Context, scenario: Scenario) -> None:
    ids = scenario.checkpoints("Oak", "Elm")
    scenario.prompts(12)
    app = open_page("evaluate/battles.py")
    assert "Prompts of your own: paste them or upload a file" in words(app)
    app.text_input(key="campaign_name").set_value("Oak or not")
    app.multiselect(key="campaign_contestants").set_value(ids)
    app.number_input(key="campaign_num_prompts").set_value(5)
    app.run()
    app.button(key="campaign_create").click().run()
    assert "tells raters" in words(app)
    app.text_input(key="campaign_name").set_value("Autumn")
    app.number_input(key="campaign_max_tokens").set_value(4000)
    app.run()
    app.button(key="campaign_create").click().run()
    assert [one.value.replace("\\", "").startswith("Max new tokens: The context of") for one in app.error] == [True]
    assert "leaves no room" in words(app)
    assert [one.proto.expanded for one in app.expander if "Sampling" in one.label] == [True], "where its field stands"
    app.number_input(key="campaign_max_tokens").set_value(16)
    app.run()
    app.button(key="campaign_create").click().run()
    (campaign,) = list_campaigns(site)
    assert (campaign.name, campaign.num_prompts, len(campaign.contestants)) == ("Autumn", 5, 2)


def test_an_endpoint_says_what_it_serves_and_a_model_that_is_entered_twice_is_told(site: Context) -> None:
    ids = Scenario(site).checkpoints("Oak", "Elm")
    Scenario(site).prompts(12)
    deploy(site, checkpoint_id=ids[0], name="tales", person=LOCAL)
    app = open_page("evaluate/battles.py")
    contestants = app.multiselect(key="campaign_contestants")
    assert "tales (endpoint, serves Oak)" in contestants.options
    contestants.set_value([ids[1], "endpoint:tales"]).run()
    assert not app.warning
    app.multiselect(key="campaign_contestants").set_value([ids[0], "endpoint:tales"]).run()
    assert "the two are one model" in app.warning[0].value
    deploy(site, checkpoint_id=ids[0], name="poems", person=LOCAL)
    app.multiselect(key="campaign_contestants").set_value(["endpoint:poems", "endpoint:tales"]).run()
    assert "poems and tales serve the same checkpoint, Oak" in app.warning[0].value


def test_the_form_sets_pairing_ballot_and_stopping_rule_and_shows_the_yaml(site: Context, scenario: Scenario) -> None:
    ids = scenario.checkpoints("Oak", "Elm")
    scenario.prompts(12)
    app = open_page("evaluate/battles.py")
    app.text_input(key="campaign_name").set_value("Autumn")
    app.multiselect(key="campaign_contestants").set_value(ids)
    app.number_input(key="campaign_num_prompts").set_value(5)
    app.number_input(key="campaign_stop_votes").set_value(40)
    app.text_input(key="campaign_reasons").set_value("wrong fact, too long")
    app.text_input(key="campaign_dimensions").set_value("accuracy, plain style")
    app.run()
    assert "stop_votes: 40" in words(app)
    app.button(key="campaign_create").click().run()
    (campaign,) = list_campaigns(site)
    assert (campaign.config.stop_votes, campaign.config.reasons) == (40, ("wrong fact", "too long"))
    assert [dimension.name for dimension in campaign.config.dimensions] == ["accuracy", "plain_style"]


def test_a_gold_pair_without_one_of_its_answers_is_not_left_out(site: Context, scenario: Scenario) -> None:
    """Browsers kept rows that lacked a required cell, and the campaign began without them."""
    ids = scenario.checkpoints("Oak", "Elm")
    scenario.prompts(12)
    app = open_page("evaluate/battles.py")
    (table,) = [part.proto for part in app.dataframe if "campaign_gold" in part.proto.id]
    assert not re.search('"required": ?true', table.columns)
    app.text_input(key="campaign_name").set_value("Autumn")
    app.multiselect(key="campaign_contestants").set_value(ids)
    app.number_input(key="campaign_num_prompts").set_value(5)
    pairs = [{"prompt": "2 + 2", "better": "4", "worse": "5"}, {"prompt": "3 + 3", "better": "6"}]
    states = app._tree.get_widget_states()
    states.widgets.add(id=table.id, string_value=json.dumps({"added_rows": pairs}))
    app._run(states)
    button = app.button(key="campaign_create")
    assert (button.label, button.disabled) == ("Complete gold pair 2", True)
    states.widgets[-1].string_value = json.dumps({"added_rows": pairs[:1]})
    app._run(states)
    assert not app.button(key="campaign_create").disabled
    assert "worse: '5'" in words(app)


def test_files_of_completions_are_contestants_where_there_is_no_checkpoint(site: Context, scenario: Scenario) -> None:
    """The form was not drawn."""
    scenario.prompts(2)
    app = open_page("evaluate/battles.py")
    assert_sound(app)
    app.text_input(key="campaign_name").set_value("Autumn")
    for model in ("north", "south"):
        rows = [{"prompt": f"Tell a story about the number {n}.", "completion": f"{model} {n}"} for n in range(2)]
        app.file_uploader(key="campaign_files").upload(f"{model}.jsonl", "\n".join(map(json.dumps, rows)).encode())
    app.number_input(key="campaign_num_prompts").set_value(2).run()
    app.button(key="campaign_create").click().run()
    (campaign,) = list_campaigns(site)
    assert sorted(one.name for one in campaign.contestants) == ["north", "south"]


def test_a_campaign_of_files_uses_their_own_prompts(site: Context, scenario: Scenario) -> None:
    """The refusal said that they are used without a dataset, and the box had nothing but datasets."""
    scenario.prompts(2)
    app = open_page("evaluate/battles.py")
    app.text_input(key="campaign_name").set_value("Autumn")
    app.selectbox(key="campaign_dataset").select("").run()
    assert app.button(key="campaign_create").disabled
    for model in ("north", "south"):
        rows = [{"prompt": f"What is {n} and {n}?", "completion": f"{model} {n}"} for n in range(3)]
        app.file_uploader(key="campaign_files").upload(f"{model}.jsonl", "\n".join(map(json.dumps, rows)).encode())
    app.run()
    assert "dataset:" not in "".join(code.value for code in app.code)
    app.button(key="campaign_create").click().run()
    assert not app.error
    (campaign,) = list_campaigns(site)
    assert (campaign.dataset, campaign.num_prompts, campaign.completions) == (None, 3, 6)


def test_columns_of_a_file_of_completions_are_contestants(site: Context) -> None:
    """The form said nothing about the file but “Choose 2 contestants”."""
    app = open_page("evaluate/battles.py")
    app.text_input(key="campaign_name").set_value("Autumn")
    rows = [{"prompt": f"What is {n} and {n}?", "good": f"It is {2 * n}.", "bad": "No idea.", "n": n} for n in range(3)]
    app.file_uploader(key="campaign_files").upload("pairs.jsonl", "\n".join(map(json.dumps, rows)).encode()).run()
    (columns,) = [box for box in app.multiselect if box.label == "Columns of pairs.jsonl with completions"]
    assert (columns.options, columns.value) == (["good", "bad"], [])
    assert app.button(key="campaign_create").disabled
    columns.set_value(["good", "bad"]).run()
    assert "column: good" in "".join(code.value for code in app.code)
    app.button(key="campaign_create").click().run()
    assert not app.error
    (campaign,) = list_campaigns(site)
    assert sorted(one.name for one in campaign.contestants) == ["bad", "good"]
    assert campaign.completions == 6


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Tell a story.", "odd.jsonl: Line 1 is not JSON."),
        ('{"text": "A story."}', "odd.jsonl: Line 1 has no prompt."),
        ('{"prompt": "Tell.", "n": 3}', "odd.jsonl: No column beside the prompt holds text; it has prompt, n."),
    ],
    ids=["not JSON", "no prompt", "no completion"],
)
def test_a_file_that_holds_no_completions_says_what_is_missing(site: Context, line: str, reason: str) -> None:
    app = open_page("evaluate/battles.py")
    app.file_uploader(key="campaign_files").upload("odd.jsonl", f"{line}\n".encode()).run()
    assert reason in plain_words(app)


def test_a_campaign_of_files_needs_no_dataset_at_all(site: Context) -> None:
    app = open_page("evaluate/battles.py")
    assert_sound(app)
    assert app.selectbox(key="campaign_dataset").value == ""


def test_completions_that_wait_in_the_queue_say_so_and_for_what(site: Context, scenario: Scenario) -> None:
    """“0 of 24 completions generated” stood still behind 18 evaluations."""
    scenario.campaign(name="First", write=False)
    second = scenario.campaign(name="Second", dataset="prompts", write=False)
    shown = plain_words(open_page("evaluate/battles.py", campaign=second.id))
    assert "Waiting: 2 jobs ahead in the queue." in shown or "No worker serves the queue" in shown


def test_a_campaign_without_votes_offers_the_ballot_and_a_link(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    app = open_page("evaluate/battles.py", campaign=campaign.id)
    assert_sound(app)
    assert "No votes yet" in words(app)
    app.text_area(key="rater_names_0").set_value("guest")
    next(button for button in app.button if button.label == "Create links").click()
    app.run()
    assert "/ballot?link=" in app.code[0].value
    assert "Opens on this machine alone. For others set `ROUNDHOUSE_HOST`" in words(app).replace("\\", "")
    assert [row.rater.name for row in list_raters(site, campaign.id)] == ["guest"]


def test_a_campaign_whose_contestant_failed_says_so_and_offers_no_ballot(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(write=False)
    oak, elm = campaign.contestants
    write_completions(site, claim_generation(site, oak.id), lambda prompt: "An answer.")
    run_world.end(site, claim_generation(site, elm.id), Status.FAILED, cause="No memory.")
    app = open_page("evaluate/battles.py", campaign=campaign.id)
    assert "Elm: 0 of 4 prompts answered. No memory." in app.error[0].value.replace("\\", "")
    shown = words(app)
    assert "nothing to vote on" in shown
    assert "No votes yet" not in shown
    assert not [button for button in app.button if button.label == "Vote"]


def test_a_new_link_stays_until_it_is_dismissed_and_a_lost_one_is_reissued(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Raters")
    app.text_area(key="rater_names_0").set_value("guest\n\n owl\nGuest")
    next(button for button in app.button if button.label == "Create links").click().run()
    assert "“guest” stands twice among the names." in app.error[0].value.replace("\\", "")
    assert not app.code, "all or none"
    app.text_area(key="rater_names_0").set_value("guest\n\n owl\n")
    next(button for button in app.button if button.label == "Create links").click().run()
    assert app.text_area(key="rater_names_1").value == ""
    links = [code.value for code in app.code]
    first, newest = links  # in the order of the names
    app.run()
    assert [code.value for code in app.code] == links
    guest, owl = (find_link(site, campaign.id, name).rater.id for name in ("guest", "owl"))
    assert rater_from_link(site, newest.split("link=")[1]).id == owl
    app.button(key=f"dismiss_{guest}").click().run()
    assert [code.value for code in app.code] == [newest]
    app.selectbox(key="link_whose").set_value(guest)
    app.run()
    app.button(key="reissue_link").click().run()
    assert_sound(app)
    (reissued,) = {code.value for code in app.code} - set(links)
    assert rater_from_link(site, reissued.split("link=")[1]).id == guest
    with pytest.raises(NotAllowed):
        rater_from_link(site, first.split("link=")[1])
    app.selectbox(key="link_whose").set_value(owl)
    app.run()
    app.button(key="ask_end_link").click().run()
    app.button(key="keep_end_link").click().run()
    assert "ends now" not in words(app)
    app.button(key="ask_end_link").click().run()
    assert "ends now. Votes are kept." in words(app)
    app.button(key="end_link").click().run()
    assert [code.value for code in app.code] == [reissued]


def test_a_campaign_with_votes_shows_standings_and_trains_on_them_once(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=8, dataset_rows=40)
    scenario.votes(campaign, "Elm")
    app = open_page("evaluate/battles.py", campaign=campaign.id)
    assert_sound(app)
    assert "The one rater who voted prefers Elm" in words(app)
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    assert "Preference pairs" in words(app)
    assert "8 pairs, fewer than 100" in words(app)
    app.button(key="plan_go").click().run()
    assert not app.exception
    open_page("evaluate/battles.py", campaign=campaign.id, tab="Train").button(key="plan_go").click().run()
    with site.db.read() as session:
        assert len(session.scalars(select(Run)).all()) == 1
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    app.button(key="back_to_campaigns").click().run()
    assert_sound(app)
    assert dict(app.query_params) == {}
    rematch = next(c for c in list_campaigns(site) if c.parent_id == campaign.id)
    app = open_page("evaluate/battles.py", campaign=rematch.id)
    assert_sound(app)
    assert "held out" in words(app)
    assert "starts when its run has finished" in words(app)


def test_the_board_leads_to_the_promotion_of_a_leader_that_is_better(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=30, dataset_rows=40, overlap_share=0)
    vote_in_turn(site, campaign.id, prefer("Elm"), raters=10, each=3)
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Board")
    shown = words(app)
    assert ("Promote Elm" in shown, "Promote Oak" in shown) == (True, False)
    app.button(key="board_promote").click().run()
    elm = resolve_checkpoint(site, "Elm").id
    assert app.query_params["promote"] in (elm, [elm])


def test_the_position_bias_of_a_few_votes_is_an_interval(site: Context, scenario: Scenario) -> None:
    """“+63 points” stood in large figures after six votes."""
    campaign = scenario.campaign(num_prompts=6, dataset_rows=40, overlap_share=0)
    vote_in_turn(site, campaign.id, prefer("Elm"), raters=1, each=6)
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Board")
    (shown,) = [one for one in app.metric if "bias" in one.label]
    low, high = map(float, re.fullmatch(r"([+-]\d+) to ([+-]\d+)", shown.value).groups())  # type: ignore[union-attr]
    assert low < 0 < high
    assert "It may be none." in shown.help


def test_answers_are_shown_as_text_with_their_votes(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=3, write=False)
    write_all(site, campaign.id, text=lambda name, prompt: f"{name}: {EVIL}")
    scenario.votes(campaign, "Elm")
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Answers")
    assert_sound(app)
    assert f"Elm: {EVIL}" in [text.value for text in app.text]
    assert "Votes between Elm and Oak" in figures(app)


def test_a_rater_is_excluded_with_a_reason_and_the_board_says_so(scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=4)
    scenario.votes(campaign, "Elm")
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Raters")
    app.text_input(key="exclude_reason").set_value("Did not read the answers")
    app.run()
    assert (app.button(key="exclude_go").label, app.button(key="exclude_go").disabled) == ("Choose a rater", True)
    app.selectbox(key="exclude_who").set_value(app.selectbox(key="exclude_who").options[0]).run()
    app.button(key="exclude_go").click().run()
    assert_sound(app)
    assert "you excluded" in words(app)
    assert "4 votes by 1 rater, 4 of them left out with 1 excluded rater" in plain_words(app)
    assert "No votes match these options" in words(open_page("evaluate/battles.py", campaign=campaign.id, tab="Board"))


def test_the_raters_list_counts_sides_as_its_flags_do(site: Context, scenario: Scenario) -> None:
    """“Chose side A 100 %” was of 11 votes on the board, the flag below it of 15 with repeats and gold pairs."""
    gold = [{"prompt": f"gold {n}", "better": f"right {n}", "worse": f"wrong {n}"} for n in range(3)]
    campaign = scenario.campaign(num_prompts=12, gold=gold, gold_share=0.5, repeat_share=0.0)
    scenario.votes(campaign, lambda a, b: "A")
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Raters")
    table = next(one.value for one in app.table if "Chose side A" in one.value)
    (share,) = table["Chose side A"]
    assert list(table["In the CSV"]) == ["rater 1"]
    assert share.replace("\u00a0", " ") == "100 % of 15"
    shown = plain_words(app)
    assert "Chose side A in 15 of 15 decisive votes." in shown
    assert "Votes are those on the board. Pace, sides and quality flags count repeats and gold pairs too." in shown


def test_the_raters_list_fits_a_page(site: Context, scenario: Scenario) -> None:
    """Fifteen columns were wider than a window of 1280 pixels, which cut off the last, “Link”."""
    campaign = scenario.campaign()
    rater = create_rater_link(site, campaign.id, name="Owl", person=LOCAL).rater
    scenario.votes(campaign, "Elm", rater=rater)
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Raters")
    (table,) = [part.value for part in app.table if "Access" in part.value]
    assert re.fullmatch(r"link, until \d+ \w+ \d{4}", table["Access"].iloc[0])
    assert not {"Link", "Gold passed"} & set(table)


def test_the_training_plan_says_that_raters_are_flagged(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=30, dataset_rows=60)
    scenario.votes(campaign, "Elm", rater=link_rater(site, campaign.id, "careful"), limit=9)
    assert "Quality flags" not in words(open_page("evaluate/battles.py", campaign=campaign.id, tab="Train"))
    scenario.votes(campaign, lambda a, b: "A", rater=link_rater(site, campaign.id, "lazy"), seed=2)
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    assert "Held-out voted prompts" in words(app), "a rematch has held-out prompts of its own"
    assert app.button(key="plan_flags").label == "Quality flags on 1 of 2 raters"
    assert "Their votes are trained on, unless you exclude them." in words(app)


def test_an_excluded_rater_is_not_advised_to_be_excluded(site: Context, scenario: Scenario) -> None:
    """A flagged rater who was excluded still stood under "Quality flags on 2 of 3 raters" beside that advice."""
    campaign = scenario.campaign(num_prompts=30, dataset_rows=60)
    for number, name in enumerate(("lazy", "idle")):
        rater = link_rater(site, campaign.id, name)
        scenario.votes(campaign, lambda a, b: "A", rater=rater, seed=number)
    scenario.votes(campaign, "Elm", rater=link_rater(site, campaign.id, "careful"), limit=9)
    exclude_rater(site, campaign.id, rater.id, reason="side A alone", person=LOCAL)
    elm = resolve_checkpoint(site, "Elm").id
    app = open_page("build/checkpoints.py", promote=elm, campaign=campaign.id)
    assert "Quality flags on 1 of 2 raters (1 excluded)" in plain_words(app)
    assert "lazy: " in plain_words(app)
    assert "idle: " not in plain_words(app)
    train = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    assert "Quality flags on 1 of 2 raters (1 excluded)" in train.button(key="plan_flags").label.replace("\\", "")
    (lazy,) = (row.rater.id for row in list_raters(site, campaign.id) if row.rater.name == "lazy")
    exclude_rater(site, campaign.id, lazy, reason="side A alone", person=LOCAL)
    app = open_page("build/checkpoints.py", promote=elm, campaign=campaign.id)
    assert "Quality flags on" not in plain_words(app)
    assert "2 raters excluded." in plain_words(app)
    train = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    assert "plan_flags" not in [button.key for button in train.button]


def test_a_board_is_frozen_and_verified_on_its_page(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=6)
    scenario.votes(campaign, "Elm")
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Rating", rating="Snapshots")
    app.text_input(key="freeze_name").set_value("Before release 2")
    app.run()
    app.button(key="freeze_go").click().run()
    (board,) = list_frozen_boards(site, campaign.id)
    app = open_page("evaluate/battles.py", board=board.id)
    assert_sound(app)
    assert board.digest in words(app)
    ratings = next(table for table in app.table if "Interval" in table.value.columns).value["Rating"]
    assert all(rating.isdigit() for rating in ratings), "1,079 stood beside “859 to 1300”"
    app.button(key="board_verify").click().run()
    assert "Verified" in words(app)


def test_the_page_of_ratings_has_each_question_of_a_lead_by_its_name_and_address(scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=6)
    scenario.votes(campaign, "Elm")
    texts = {
        "Votes needed": "To settle Elm against Oak",
        "Sensitivity": "How few votes or raters hold the first place",
        "Judge agreement": "judge",
        "Snapshots": "keeps votes, options and ratings of a moment",
    }
    for name, text in texts.items():
        app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Rating", rating=name)
        assert_sound(app)
        shown = words(app)
        assert text in shown, name
        others = [other for part, other in texts.items() if part != name and part != "Judge agreement"]
        assert not any(other in shown for other in others)
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Board")
    app.selectbox(key="rating_clusters").select("rater").run()
    for part in ("Votes needed", "Snapshots"):  # the options are not drawn in between
        app.query_params["tab"], app.query_params["rating"] = "Rating", part
        app.run()
    assert app.selectbox(key="rating_clusters").value == "rater"
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Board")
    board = words(app)
    assert not any(f"Promote {name}" in board for name in ("Oak", "Elm")), "one rater's votes decide nothing"
    assert ("undecided" in board, "likely" in board) == (True, False), "the page of the promotion says Undecided"
    app.button(key="board_promote").click().run()
    assert app.query_params["campaign"] in (campaign.id, [campaign.id])
    assert not any(text in board for text in texts.values() if text != "judge")


def test_the_page_of_a_promotion_says_once_who_answers_for_an_alias_that_no_endpoint_follows(site: Context) -> None:
    """It said that nothing follows it, and then that requests to it are answered."""
    Scenario(site).campaign(num_prompts=2)
    elm, oak = (resolve_checkpoint(site, name).id for name in ("Elm", "Oak"))
    deploy(site, checkpoint_id=oak, name="village", person=LOCAL)
    promote(site, "Oak", alias="tales@production", reason="the first", person=LOCAL)
    shown = words(open_page("build/checkpoints.py", promote=elm, alias="tales@production")).replace("\\", "")
    assert "No endpoint follows it: requests to it go to village, which serves this checkpoint" in shown
    assert "deploys nothing" not in shown


def test_a_checkpoint_is_promoted_on_a_page_with_all_that_speaks_for_and_against_it(site: Context) -> None:
    campaign = Scenario(site).campaign(num_prompts=6)
    Scenario(site).votes(campaign, "Elm")
    elm, oak = (resolve_checkpoint(site, name).id for name in ("Elm", "Oak"))
    promote(site, "Oak", alias="tales@production", reason="the first", person=LOCAL)
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    app.button(key=f"promote_{elm}").click().run()
    assert_sound(app)
    shown = words(app).replace("\\", "")
    for text in (
        "Promote Elm",
        "6 votes on 6 prompts by 1 rater",
        "No gate has judged this checkpoint",
        "Not measured",
        "Holds this alias now",
        "No endpoint follows it",
    ):
        assert text in shown, text
    assert "Serves this alias" not in shown, "Oak holds it, and no endpoint serves it"
    app = open_page("build/checkpoints.py", promote=elm, campaign=campaign.id, alias="tales@production")
    button = app.button(key="promote_go")
    assert (button.label, button.disabled) == ("Enter a reason", True)
    app.text_input(key=f"promotion_reason_{elm}_tales@production").set_value("the only rater").run()
    assert app.button(key="promote_go").label == "Promote although Elm against Oak is undecided"
    assert "The verdict above, Elm against Oak, does not decide a promotion." in words(app).replace("\\", "")
    app.button(key="promote_go").click().run()
    assert not app.exception
    assert get_alias(site, "tales@production").checkpoint_id == elm
    app = open_page("build/checkpoints.py", promote=elm, alias="tales@production")
    shown = words(app).replace("\\", "").replace("\u2060", "")
    assert "Elm holds tales@production." in shown
    assert "does not decide a promotion" not in shown
    assert not [one for one in app.button if one.key == "promote_go"], "it is decided"
    captions = [one.value for one in app.caption]
    doubts = {text.split(": ", 2)[-1] for text in captions if "Without evidence that decides: " in text}
    assert not doubts & set(captions), "a decision says its verdict once"
    app.button(key="promotion_deploy").click().run()
    assert_sound(app)
    assert app.selectbox(key="deploy_checkpoint").value == "tales@production"
    assert app.text_input(key="deploy_name").value == "tales", "named after the alias, whatever it holds"
    app = open_page("build/checkpoints.py", promote=elm, alias="tales@production")
    assert "tales@production goes from Elm back to Oak, which held it before." in plain_words(app)
    back = app.button(key=f"rollback_{get_alias(site, 'tales@production').id}_{oak}")
    assert back.label == "Roll back to Oak"
    assert "It was promoted" in plain_words(app)
    alias_id = get_alias(site, "tales@production").id
    app.text_input(key=f"rollback_reason_{alias_id}_{oak}").set_value("a regression").run()
    back.click().run()
    assert_sound(app)
    assert get_alias(site, "tales@production").history[0].reason == "a regression"
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    assert "promoted, rolled back" in plain_words(app), "a promotion that no longer holds looked as one that does"
    assert get_alias(site, "tales@production").checkpoint_id == oak, (
        "a promotion could be taken back on Endpoints alone"
    )
    promote(site, "Elm", alias="tales@production", reason="once more", person=LOCAL)
    app = open_page("build/checkpoints.py", promote=oak, alias="tales@production")
    app.button(key="reject_go_0").click()
    clicked = app._tree.get_widget_states()
    for _ in range(2):  # a double click
        app._run(clicked)
    decisions = [row.decision for row in get_alias(site, "tales@production").history]
    assert decisions == ["reject", "promote", "rollback", "promote", "promote"]


def test_a_contestant_of_an_open_campaign_says_who_uses_it_where_it_would_be_deleted(
    site: Context, scenario: Scenario
) -> None:
    """*Delete* was offered and refused."""
    campaign, elm = scenario.campaign(), resolve_checkpoint(site, "Elm").id
    app = open_page("build/checkpoints.py", checkpoint=elm)
    assert "In use, so it can't be deleted. Stop these first, or archive the checkpoint instead:" in plain_words(app)
    assert "- open campaign “Stories”" in plain_words(app)
    assert not [one for one in app.button if one.key == f"delete_yes_{elm}"]
    close_campaign(site, campaign.id, person=LOCAL)
    app = open_page("build/checkpoints.py", checkpoint=elm)
    app.button(key=f"delete_yes_{elm}").click().run()
    assert not app.exception
    assert get_checkpoint(site, elm).deleted_at is not None


def test_a_promotion_says_which_raters_are_flagged_who_follows_and_what_is_judged_first(
    site: Context, scenario: Scenario
) -> None:
    campaign = scenario.campaign(num_prompts=30, dataset_rows=40)
    raters = [create_rater_link(site, campaign.id, name=name, person=LOCAL).rater for name in ("Ada", "Ben", "Cy")]
    for rater in raters[:2]:
        scenario.votes(campaign, "Elm", rater=rater)
    for _ in range(20):  # faster than anyone reads
        ballot = next_battle(site, campaign.id, raters[2])
        assert ballot is not None
        cast_vote(site, ballot.battle_id, label="A", rater=raters[2], duration_ms=40)
    elm, oak = (resolve_checkpoint(site, name).id for name in ("Elm", "Oak"))
    promote(site, "Oak", alias="tales@production", reason="the first", person=LOCAL)
    deploy(site, checkpoint_id=oak, name="tales", alias="tales@production", person=LOCAL)
    scenario.benchmark("facts")
    config = GateConfig.model_validate({"champion": "Oak", "benchmarks": [{"benchmark": "facts"}]})
    create_gate(site, name="release", config=config, person=LOCAL)
    require_gate(site, "release", endpoint="tales", person=LOCAL)
    app = open_page("build/checkpoints.py", promote=elm, alias="tales@production", campaign=campaign.id)
    assert_sound(app)
    shown = words(app).replace("\\", "")
    refused = "tales follows tales@production and requires gate release, so Elm can't be promoted"
    assert refused in shown
    assert "Elm on facts@1 is not evaluated" in shown
    assert {"Gate release", "Evaluate Elm"} <= {button.label for button in app.button}
    assert "tales follows it and serves Oak. A promotion deploys it again with Elm, replica by replica." in shown
    assert re.search(r"Quality flags on \d of 3 raters", shown)
    assert "Cy: " in shown
    board = open_page("evaluate/battles.py", campaign=campaign.id, tab="Board")
    assert re.search(r"Quality flags on \d of 3 raters", words(board))
    board.button(key="board_flags").click().run()
    assert_sound(board)
    assert board.query_params["tab"] == "Raters"
    app.text_input(key=f"promotion_reason_{elm}_tales@production").set_value("try").run()
    assert not [button for button in app.button if button.key == "promote_go"], "it would be refused"
    app.button(key="reject_go_0").click().run()
    assert get_alias(site, "tales@production").history[0].decision == "reject"


def test_an_endpoint_that_is_a_contestant_leads_to_the_promotion_of_what_it_serves(
    site: Context, scenario: Scenario
) -> None:
    """Nothing was offered for it, and no word said why."""
    campaign = scenario.campaign("Elm", "Ash")
    scenario.votes(campaign, prefer("Elm"))
    (oak,) = scenario.checkpoints("Oak")
    deploy(site, checkpoint_id=oak, name="tales", person=LOCAL)
    add_row(site, Contestant(campaign_id=campaign.id, kind="endpoint", label="tales", source={"endpoint": "tales"}))
    page = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    assert_sound(page)
    assert "tales is an endpoint: votes on it support no promotion" in plain_words(page)
    assert {"Promote Elm", "Promote Oak"} <= {button.label for button in page.button}


def test_a_contestant_is_an_endpoint_by_what_it_is_and_not_by_its_name(site: Context, scenario: Scenario) -> None:
    """A model of another API named like an endpoint was said to be it, and an endpoint with a name of its own was not
    found.
    """
    campaign = scenario.campaign("Elm", "Ash")
    scenario.votes(campaign, "Elm")
    for name, checkpoint in (("tales", "Oak"), ("fables", "Fir")):
        deploy(site, checkpoint_id=scenario.checkpoint(checkpoint), name=name, person=LOCAL)
    elsewhere = {"url": "https://api.example/v1", "model": "big"}
    for label, source in (("tales", elsewhere), ("Mine", {"endpoint": "fables"})):
        add_row(site, Contestant(campaign_id=campaign.id, kind="endpoint", label=label, source=source))
    page = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    assert_sound(page)
    shown = plain_words(page)
    assert ("tales is an endpoint" in shown, "fables is an endpoint" in shown) == (False, True)


def test_a_promotion_begins_with_the_campaign_that_has_most_votes_on_the_checkpoint(
    site: Context, scenario: Scenario
) -> None:
    """A rematch without votes was newer, so the page said that no raters had voted."""
    prompts = scenario.prompts(8)
    voted = scenario.campaign(name="Voted", dataset=prompts, num_prompts=6)
    elsewhere = scenario.campaign(name="Elsewhere", dataset=prompts, num_prompts=8)
    scenario.campaign(name="Newest", dataset=prompts)
    scenario.votes(voted, "Elm")
    for name in ("careless", "idle"):
        rater = link_rater(site, elsewhere.id, name)
        scenario.votes(elsewhere, "Elm", rater=rater)
        exclude_rater(site, elsewhere.id, rater.id, reason="did not read", person=LOCAL)
    elm = resolve_checkpoint(site, "Elm").id
    app = open_page("build/checkpoints.py", promote=elm)
    assert app.selectbox(key=f"promotion_campaign_{elm}").value == voted.id
    given = open_page("build/checkpoints.py", promote=elm, campaign=elsewhere.id)
    assert given.selectbox(key=f"promotion_campaign_{elm}").value == elsewhere.id


def test_battles_that_raters_flagged_are_counted_for_the_lead_and_lead_to_their_answers(
    site: Context, scenario: Scenario
) -> None:
    campaign = scenario.campaign(num_prompts=30, dataset_rows=40)
    owl, fox = (create_rater_link(site, campaign.id, name=name, person=LOCAL).rater for name in ("Owl", "Fox"))
    first = next_battle(site, campaign.id, owl)
    assert first is not None
    cast_vote(site, first.battle_id, label="A", rater=owl, duration_ms=5000, flag="Unsafe or offensive")
    scenario.votes(campaign, "Elm", rater=fox, limit=20)
    app = open_page("build/checkpoints.py", promote=resolve_checkpoint(site, "Elm").id, campaign=campaign.id)
    assert_sound(app)
    assert app.button(key="promotion_to_flagged").label == "1 battle flagged by raters"
    assert ":green-badge[:material/check_circle: No" not in words(app), "no all-clear beside a flagged battle"
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Raters")
    (table,) = [part.value for part in app.table if "Battles flagged" in part.value]
    assert dict(zip(table["Rater"], table["Battles flagged"], strict=True)) == {"Owl": "1", "Fox": "0"}
    app.button(key="raters_flagged").click().run()
    assert "flagged: Unsafe or offensive" in plain_words(app)
    assert len(figures(app)) == 1, "the flagged pair alone"
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Answers", remarks="Flagged")
    assert len(figures(app)) == 1, "as the page of a promotion leads to it"


def test_the_name_of_an_alias_is_refused_where_it_is_typed(scenario: Scenario) -> None:
    elm = scenario.checkpoint("Elm")
    app = open_page("build/checkpoints.py", promote=elm)
    app.text_input(key=f"promotion_name_{elm}").set_value("no stage").run()
    assert not app.error, "far from its field"
    assert "no stage" in words(app).replace("\\", "")
    assert app.button(key="promote_go").label == "Correct the alias and enter a reason"
    assert "no checkpoint" in words(open_page("build/checkpoints.py", promote="nothere"))


def test_the_rules_and_the_recipe_of_a_training_plan_can_be_edited(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=8, dataset_rows=40)
    scenario.votes(campaign, "Elm")
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Train")
    app.number_input(key="plan_locked_share").set_value(0.5)
    app.run()
    assert_sound(app)
    assert "the prompt is locked for the rematch (4)" in plain_words(app)
    app.toggle(key="plan_rules_as_yaml").set_value(True)
    app.run()
    app.text_area(key="plan_rules_yaml").set_value("min_raters: 2")
    app.run()
    assert "too few raters (8)" in plain_words(app)
    app.text_area(key="plan_rules_yaml").set_value("min_ratters: 2")
    app.run()
    assert "did you mean" in app.error[0].value
    app.text_area(key="plan_rules_yaml").set_value("")
    app.run()
    steps = next(field for field in app.number_input if field.label == "Steps")
    steps.set_value(17)
    app.run()
    app.button(key="plan_go").click().run()
    assert not app.exception
    with site.db.read() as session:
        assert [run.config.max_steps for run in session.scalars(select(Run))] == [17]


def test_an_unknown_campaign_is_reported(site: Context) -> None:
    assert "no such campaign" in words(open_page("evaluate/battles.py", campaign="nothere"))


def ballots(app: AppTest) -> list[dict[str, str | None]]:
    """Return the data of the ballots on the page."""
    return [
        json.loads(part.proto.json)
        for part in app.get("bidi_component")
        if part.proto.component_name == "roundhouse_ballot"
    ]


def test_votes_in_the_words_of_another_language_are_given_a_meaning_and_a_corrected_file_keeps_the_columns(
    site: Context,
) -> None:
    app = open_page("evaluate/battles.py", **{"import": "votes"})
    rows = "Aufgabe;System links;System rechts;Sieger\n1;Oak;Elm;links\n2;Elm;Oak;rechts\n"
    assert ".tsv" in app.file_uploader(key="votes_file").proto.type
    app.file_uploader(key="votes_file").upload("club.csv", f"{rows}3;Oak;Elm;\n".encode(), "text/csv").run()
    boxes = {"First contestant": "system links", "Second contestant": "system rechts", "Winner": "sieger"}
    for label, column in boxes.items():
        next(box for box in app.selectbox if box.label == label).set_value(column)
    app.run()
    meanings = {box.label: box for box in app.selectbox if box.label.endswith("means")}
    assert list(meanings) == ["“links” means", "“rechts” means"]
    meanings["“links” means"].set_value("A")
    meanings["“rechts” means"].set_value("B")
    app.run()
    assert "Line 4 has no Sieger" in words(app), "the name that the file writes"
    app.file_uploader(key="votes_file").set_value([("club.csv", f"{rows}3;Oak;Oak;links\n".encode(), "text/csv")])
    app.run()
    assert "2 votes by 1 rater on 2 prompts, 2 contestants:** first is better 1, second is better 1." in words(app)
    assert "Left out, since a contestant would meet itself: 1 vote (Line 4)." in plain_words(app)
    app.button(key="votes_import").click().run()
    (campaign,) = list_campaigns(site)
    assert campaign.num_votes == 2


def test_the_ballot_admits_its_visitor_to_one_campaign_and_names_no_contestant(site: Context) -> None:
    campaign = Scenario(site).campaign(num_prompts=1)
    app = open_page("evaluate/ballot.py", campaign=campaign.id)
    assert_sound(app)
    (ballot,) = ballots(app)
    voter = voter_of_token(site, str(ballot["token"]))
    assert (voter.campaign_id, voter.rater.id) == (campaign.id, rater_for(site, LOCAL).id)
    assert ballot["leave"] == f"/battles?campaign={campaign.id}"
    assert not any(name in json.dumps(ballot) for name in ("Oak", "Elm"))


def test_the_ballot_of_several_campaigns_offers_a_choice(site: Context, scenario: Scenario) -> None:
    scenario.campaign()
    app = open_page("evaluate/ballot.py")
    assert len(ballots(app)) == 1
    more = scenario.prompts(2, name="more")
    scenario.campaign("Ash", "Fir", name="Second", dataset=more, num_prompts=2, write=False)
    app = open_page("evaluate/ballot.py")
    assert_sound(app)
    assert ballots(app) == []
    assert sorted(button.label for button in app.button) == ["Second", "Stories"]
    assert [caption.value for caption in app.caption] == ["2 battles to judge", "4 battles to judge"]


def test_a_rater_leaves_the_only_ballot_for_a_page_of_their_own(site: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one campaign the way out led back into it, and no page had a way to sign out."""
    Scenario(site).campaign()
    rater = Person("rita", "Rita", "rater")
    add_row(site, User(id=rater.id, name=rater.name, role=rater.role, password_hash="x"))
    monkeypatch.setattr(visitor, "require_person", lambda: rater)
    app = open_page("evaluate/ballot.py")
    assert [ballot["leave"] for ballot in ballots(app)] == ["/ballot?all=1"]
    home = open_page("evaluate/ballot.py", all="1")
    assert_sound(home)
    assert ballots(home) == []
    assert [button.label for button in home.button] == ["Stories"]
    assert not any("/auth/logout" in part.proto.body for part in home.get("html"))
    monkeypatch.setattr(visitor, "current_person", lambda: LOCAL)
    monkeypatch.setattr(visitor, "context", lambda: replace(site, sign_in=True))
    home = open_page("evaluate/ballot.py", all="1")
    (leaving, *_) = [part.proto.body for part in home.get("html") if "/auth/logout" in part.proto.body]
    assert "target" not in leaving, "another tab would leave this one signed in"


def test_a_rater_changes_the_password_that_an_admin_gave(site: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    rater = add_user(site, "Rita", "given by an admin", role="rater", person=LOCAL)
    monkeypatch.setattr(visitor, "require_person", lambda: rater)
    monkeypatch.setattr(visitor, "current_person", lambda: rater)
    monkeypatch.setattr(visitor, "context", lambda: replace(site, sign_in=True))
    home = open_page("evaluate/ballot.py", all="1")
    home.text_input(key="own_old").input("given by an admin")
    home.text_input(key="own_new").input("known to Rita alone")
    next(button for button in home.button if button.label == "Change password").click().run()
    assert_sound(home)
    assert sign_in(site, "Rita", "known to Rita alone", address="a")


def test_formulas_are_drawn_by_the_library_that_streamlit_ships() -> None:
    assert re.fullmatch(r"/static/js/katex\.[\w-]+\.js", maths_url() or "")


def test_a_link_shows_the_ballot_alone(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    link = create_rater_link(site, campaign.id, name="guest", person=LOCAL)
    app = AppTest.from_file(str(SHELL), default_timeout=200)
    app.query_params["link"] = link.url.split("link=")[1]
    app.run()
    assert_sound(app)
    (ballot,) = ballots(app)
    assert ballot["leave"] is None
    assert voter_of_token(site, str(ballot["token"])).rater == link.rater
    assert "Stories" not in words(app)


def test_a_forged_link_shows_nothing_but_the_reason(scenario: Scenario) -> None:
    scenario.campaign()
    app = AppTest.from_file(str(SHELL), default_timeout=200)
    app.query_params["link"] = "forged"
    app.run()
    assert "not valid any more" in words(app)
    assert not app.button
    assert ballots(app) == []


def test_charts_keep_the_order_of_the_table_and_names_stay_names() -> None:
    votes = [VoteRecord(str(n), "r", "<b>x</b>", "y", "A" if n % 3 else "B") for n in range(9)]
    table = fit_ratings(votes)
    dots = interval_chart(rating_marks(table.ratings), title="Rating")
    assert list(dots.layout.yaxis.ticktext) == ["&lt;b&gt;x&lt;/b&gt;", "y"]
    assert dots.data[0].x[0] > dots.data[0].x[1]
    assert dots.layout.yaxis.range == (1.5, -0.5)
    matrix = win_chart(table.wins)
    assert matrix.data[0].text[0][1] == "67 % of 9"
    assert matrix.data[0].text[0][0] == ""


def test_graded_answers_have_a_board(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=4, rating="stars")
    assert "No ratings yet" in words(open_page("evaluate/battles.py", campaign=campaign.id))
    with site.db.write() as session:
        for number, name in enumerate(("Ann", "Ben")):
            rater = Rater(name=name, campaign_id=campaign.id)
            session.add(rater)
            session.flush()
            for row in session.scalars(select(Completion)).all():
                value = (4 if row.text.startswith("Elm") else 2) + number * (len(row.text) % 2)
                session.add(
                    AnswerRating(
                        campaign_id=campaign.id, completion_id=row.id, rater_id=rater.id, revision=1, value=value
                    )
                )
    app = open_page("evaluate/battles.py", campaign=campaign.id)
    assert_sound(app)
    assert "clustered by prompt and rater" in words(app)
    assert len(app.get("plotly_chart")) == 1
    board = grade_board(site, campaign.id)
    assert [(row.contestant, row.ratings) for row in board.contestants] == [("Elm", 8), ("Oak", 8)]
    assert_sound(open_page("evaluate/battles.py", campaign=campaign.id, tab="Train"))


def test_votes_are_imported_on_the_page(site: Context) -> None:
    app = open_page("evaluate/battles.py")
    votes = "prompt,rater,left,right,winner\np1,ann,Oak,Elm,left\np2,ben,Elm,Oak,right\n"
    app.file_uploader(key="votes_file").upload("votes.csv", votes.encode(), "text/csv").run()
    app.text_input(key="votes_name").set_value("Last year").run()
    app.button(key="votes_import").click().run()
    (imported,) = list_campaigns(site)
    assert (imported.name, imported.num_votes, imported.is_imported) == ("Last year", 2, True)
    assert_sound(open_page("evaluate/battles.py", campaign=imported.id))


def test_votes_that_were_chosen_on_datasets_are_not_asked_for_again(
    site: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "club.csv").write_text("prompt,rater,left,right,winner\np1,ann,Oak,Elm,left\n")
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    get_context.cache_clear()
    app = open_page("build/datasets.py", **{"import": "1"})
    app.segmented_control(key="import_way").set_value("From the data folder").run()
    app.selectbox(key="import_entry__").select("club.csv").run()
    assert_sound(app)
    battles = app.button(key="import_as_votes").click().run()
    assert_sound(battles)
    assert "1 vote by 1 rater on 1 prompt, 2 contestants" in words(battles)
    assert battles.text_input(key="votes_name").value == "club"
    battles.switch_page("evaluate/battles.py")
    battles.query_params["import"] = "votes"
    (tmp_path / "club.csv").write_text("prompt,rater,left,right,winner\np1,ann,Oak,Elm,left\np2,ben,Oak,Elm,right\n")
    assert "2 votes by 2 raters on 2 prompts" in words(battles.run()), "another file of the name was previewed as it"
    (tmp_path / "club.csv").unlink()
    assert "There is no file" in words(battles.run())
    battles.button(key="votes_other").click().run()
    assert_sound(battles)
    assert battles.file_uploader(key="votes_file").label == "File of votes"


def test_votes_from_elsewhere_are_mapped_and_previewed_before_they_are_imported(site: Context) -> None:
    app = open_page("evaluate/battles.py", **{"import": "votes"})
    app.file_uploader(key="votes_file").upload(
        "club.csv", b"Game,left,right,winner\n1,Oak,Elm,left\n2,Elm,Oak,tie\n", "text/csv"
    )
    app.run()
    assert_sound(app)
    assert "2 votes by 1 rater on 2 prompts, 2 contestants" in words(app)
    assert "contestants: first is better 1, tie 1." in words(app).replace("*", "")
    assert "No column names the rater" in words(app)
    assert list_campaigns(site) == []
    prompt = next(box for box in app.selectbox if box.label == "Prompt")
    assert prompt.options[1] == "Game"
    prompt.set_value("game")
    next(box for box in app.selectbox if box.label == "Second contestant").set_value("left")
    app.run()
    assert "compares 'Oak' with itself" in words(app)
    assert not [button for button in app.button if button.key == "votes_import"]
    next(box for box in app.selectbox if box.label == "Second contestant").set_value("right")
    app.run()
    assert app.text_input(key="votes_name").value == "club"
    app.button(key="votes_import").click().run()
    (campaign,) = list_campaigns(site)
    assert (campaign.name, campaign.num_votes, campaign.num_prompts) == ("club", 2, 2)
    app = open_page("evaluate/battles.py", campaign=campaign.id, tab="Answers")
    assert "The imported file has the votes without the answers" in words(app)
    assert "counts as a tie" not in words(app)


def test_a_promotion_against_a_failed_gate_asks_and_says_what_failed(site: Context, scenario: Scenario) -> None:
    """It was the same plain button as any other."""
    elm, oak = scenario.checkpoints("Elm", "Oak")
    with site.db.write() as session:
        gate = Gate(name="facts", config={"champion": "Oak", "benchmarks": [{"benchmark": "facts"}]})
        session.add(gate)
        session.flush()
        result = GateResult(gate_id=gate.id, checkpoint_id=elm, champion_id=oak, verdict="FAIL", created_at=site.now())
        session.add(result)
    promote(site, "Oak", alias="tales@production", reason="the first", person=LOCAL)
    app = open_page("build/checkpoints.py", promote=elm, alias="tales@production")
    app.text_input(key=f"promotion_reason_{elm}_tales@production").set_value("faster").run()
    assert app.button(key="promote_go").label == "Promote although the gate “facts” fails it"
    said = "Elm is promoted to tales@production all the same, on record: the gate “facts” fails it."
    assert said in plain_words(app)
    app.button(key="promote_go").click().run()
    assert get_alias(site, "tales@production").checkpoint_id == elm


def test_votes_needed_says_the_seconds_that_it_assumes_and_what_the_median_leaves_out(
    site: Context, scenario: Scenario
) -> None:
    """The board said "–" beside the times of two raters."""
    campaign = scenario.campaign(num_prompts=30, dataset_rows=40)
    scenario.votes(campaign, "Elm")
    median = standings(site, campaign.id).median_s
    board = words(open_page("evaluate/battles.py", campaign=campaign.id, tab="Rating"))
    pace = "37 s per vote, as planned" if median is None else f"{median:.2g} s per vote, the median so far"
    assert f"Rating time: {pace}" in board
    assert (format_seconds(None), format_seconds(1.23)) == ("none counted", "1.2 s")


def test_the_mean_agreement_says_how_many_pairs_it_rests_on(site: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=4)
    scenario.votes(campaign, "Elm")
    sentence = "Mean agreement is over"
    assert sentence not in words(open_page("evaluate/battles.py", campaign=campaign.id, tab="Train"))
    scenario.votes(campaign, "Elm", rater=link_rater(site, campaign.id, "careful"))
    text = words(open_page("evaluate/battles.py", campaign=campaign.id, tab="Train"))
    assert "Mean agreement: 100 %" in text
    assert f"{sentence} 2 of 2 pairs with votes of several raters." in text
