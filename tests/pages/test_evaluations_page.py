"""The page of evaluations: empty, filled, one evaluation, a comparison, and a launch by its form."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from backend.db.tables import Checkpoint, SuiteResult
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.suites import SuiteConfig
from backend.domain.evaluation.tasks.reading import read_task
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.services import job_events as outcomes
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import list_datasets
from backend.services.evaluation.board import read_board
from backend.services.evaluation.evaluations import get_evaluation, list_evaluations
from backend.services.evaluation.suites import create_suite, launch_members, list_suites, read_run_scores
from backend.services.evaluation.tasks import save_task
from backend.services.jobs.claims import end_job
from pages.components.evaluation.charts import ScoreDot, ScoreLine, curve_figure, difference_figure, score_figure
from tests.support.data.task_rows import TASK_ROWS
from tests.support.evaluation_world import CHOICES, claim_of, finish, finish_choices, item
from tests.support.opening import link_tables, open_page, open_panel, plain_words, words
from tests.support.run_world import report
from tests.support.scenario import Scenario

SHELL = Path(__file__).resolve().parents[2] / "pages" / "shell.py"
PAGE = "evaluate/evaluations.py"
EVIL = "![x](http://evil.example/x.png) <script>alert(1)</script>"


def test_empty_page_leads_to_the_first_evaluation(site: Context) -> None:
    assert "No evaluations yet" in plain_words(open_page(PAGE))
    assert "No checkpoints yet" in plain_words(open_page(PAGE, new="1"))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("new", "New evaluation"),
        ("suites", "Suites"),
        ("judges", "Judges"),
        ("tasks", "Tasks"),
        ("gates", "Gates"),
        ("safety", "Safety probes"),
        ("endpoints", "Evaluated endpoints"),
    ],
)
def test_what_stands_inside_evaluations_has_a_title_of_its_own(scenario: Scenario, name: str, title: str) -> None:
    scenario.checkpoints("Oak", "Elm")
    scenario.benchmark("facts")
    app = open_page(PAGE, **{name: "1"})
    assert [heading.value for heading in app.title] == [title]


def test_matrix_shows_scores_with_intervals_and_who_is_tied_for_first(site: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1] * 20)
    scenario.evaluation("Elm", "facts", [1] * 19 + [0])
    scenario.evaluation("Elm", "stories")
    app = open_page(PAGE)
    shown = plain_words(app)
    assert "90.0 to 110.0 %" in shown  # Oak's interval, as reported
    assert "tied · 85.0 to 105.0 %" in shown
    assert "Waiting" in shown
    assert not app.error
    oak = next(checkpoint.id for checkpoint in list_checkpoints(site) if checkpoint.name == "Oak")
    run = [button for button in app.button if button.label == "Run"]
    assert len(run) == 1  # Oak has not read the stories
    assert str(run[0].key).endswith(oak)
    run[0].click().run()
    assert (list_evaluations(site)[0].checkpoint, list_evaluations(site)[0].benchmark) == ("Oak", "stories@1")


def test_the_first_of_two_evaluations_ends_and_the_matrix_shows_it_beside_the_one_that_runs(
    site: Context, scenario: Scenario
) -> None:
    """The column gets another key with its first scores; both cells said Run, with no metric to choose."""
    first, second = scenario.evaluation("Oak", "facts"), scenario.evaluation("Elm", "facts")
    app = open_page(PAGE)
    before = read_board(site).columns[0].key
    assert list(app.session_state["matrix_columns"]) == [before]
    finish_choices(site, first, [1] * 20)
    app.run()
    assert not app.exception
    assert list(app.session_state["matrix_columns"]) == [read_board(site).columns[0].key]
    shown = plain_words(app)
    assert "90.0 to 110.0 %" in shown
    assert "Waiting" in shown
    assert not [button for button in app.button if button.label == "Run"]
    finish_choices(site, second, [1] * 19 + [0])
    app.run()
    assert "85.0 to 105.0 %" in plain_words(app)


def test_leaderboard_orders_a_benchmark_and_marks_what_was_lost(site: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1] * 20, facts={"lost_bytes": 3})
    scenario.evaluation("Elm", "facts", [1] * 4 + [0] * 16)
    shown = plain_words(open_page(PAGE, benchmark=read_board(site).columns[0].key))
    assert "best score" in shown
    assert "p < 0.001" in shown
    assert "3 bytes lost by the tokenizer" in shown
    assert "no scores any more" in plain_words(open_page(PAGE, benchmark="nothing"))


def test_form_launches_every_checkpoint_on_every_benchmark(site: Context, scenario: Scenario) -> None:
    scenario.checkpoints("Oak", "Elm")
    scenario.benchmark("stories")
    scenario.evaluation("Oak", "facts", [1] * 20, facts={"items": 20})
    ids = [checkpoint.id for checkpoint in list_checkpoints(site)]
    app = open_page(PAGE, checkpoint=ids[0])
    assert app.multiselect[0].value == [ids[0]]
    app.multiselect[0].set_value(ids).run()
    app.multiselect[1].set_value([dataset.id for dataset in list_datasets(site)]).run()
    shown = plain_words(app)
    (plans,) = [frame.value for frame in app.table if "Detectable difference" in frame.value]
    assert sorted(plans["Items"]) == ["3 of the validation split", "40"]
    assert sorted(scored.split("\\:")[0] for scored in plans["Scored"]) == ["Multiple choice", "Perplexity of texts"]
    assert "Estimated time: about" in shown
    assert "without 2 evaluations that nothing is known about" in shown  # the stories
    assert "roundhouse eval run --checkpoint Oak --benchmark facts@1" in shown
    next(button for button in app.button if button.key == "eval_launch").click().run()
    assert not app.exception
    queued = [(e.checkpoint, e.benchmark) for e in list_evaluations(site) if e.status is Status.QUEUED]
    assert sorted(queued) == [("Elm", "facts@1"), ("Elm", "stories@1"), ("Oak", "stories@1")]  # Oak's facts are stored


def test_permalink_shows_scores_and_wrong_items_as_plain_text(scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts", [1, 1, 1, 0])
    app = open_page(PAGE, evaluation=launched.id)
    shown = plain_words(app)
    assert "Accuracy: 75.0 %" in shown
    assert "Chance level: 50.0 %, the mean share of the choices that are right" in shown
    assert "Question 3?" in shown
    assert "Question 0?" not in shown  # it was right; wrong ones come first
    assert "to compare item by item" in shown


def test_items_begin_below_the_scores_and_the_tools_have_a_tab_of_their_own(scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts", [1, 1, 1, 0])
    app = open_page(PAGE, evaluation=launched.id)
    assert [tab.label for tab in app.tabs] == ["Items", "Details and checks"]
    assert "Question 3?" in [text.value for text in app.tabs[0].text]
    assert {expander.label for expander in app.tabs[1].expander} >= {"Calibration", "Check against lm-eval", "Settings"}
    assert not app.tabs[0].expander


def test_the_numbers_beside_choices_have_a_name(site: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts")
    values = {"acc": 0.0, "acc_norm": 0.0, "chance": 0.5}
    wrong = item(0, values, choices=["yes", "no"], answer="no", chosen="yes", logprobs=[-1.0, -2.5])
    score = {"metric": "acc", "value": 0.0, "stderr": 0.1, "low": 0.0, "high": 0.8, "n": 1, "method": "Wilson 95 %"}
    finish(site, claim_of(site, launched), [wrong], scores=[score], facts={"unit": "items"})
    app = open_page(PAGE, evaluation=launched.id)
    assert [note.value for note in app.caption if note.value.startswith("log-l")] == [
        "log-likelihood -1.00",
        "log-likelihood -2.50",
    ]


@pytest.mark.parametrize("visited", ["Oak", "Elm"])
def test_the_newer_checkpoint_is_compared_against_the_older_from_either_page(scenario: Scenario, visited: str) -> None:
    scenario.checkpoints("Oak", "Elm")
    ids = {name: scenario.evaluation(name, "facts", [1, 1, 1, 0]).id for name in ("Elm", "Oak")}
    press(open_page(PAGE, evaluation=ids[visited]), "eval_compare")
    app = press(open_page(PAGE, evaluation=ids[visited]), "eval_compare")
    assert [in_address(app, name) for name in ("first", "second")] == [ids["Oak"], ids["Elm"]], "Oak was made first"


def test_the_matrix_has_a_row_of_chance(scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1] * 20)
    notes = [note.value.replace("\\", "") for note in open_page(PAGE).caption]
    assert "50.0 %" in notes[notes.index("Chance") :]


def test_a_finished_evaluation_leads_to_a_chat_with_its_checkpoint(scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts", [1, 0])
    app = open_page(PAGE, evaluation=launched.id)
    assert "Deploy and chat" in [link.proto.label for link in app.get("page_link")]


def test_text_of_datasets_and_networks_is_never_markdown(site: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts")
    hostile = item(
        0,
        {"acc": 0.0, "acc_norm": 0.0, "chance": 0.5},
        choices=[EVIL, "b"],
        answer="b",
        chosen=EVIL,
        logprobs=[-1.0, -2.0],
    )
    hostile["shown"]["question"] = EVIL
    score = {"metric": "acc", "value": 0.0, "stderr": 0.1, "low": 0.0, "high": 0.8, "n": 1, "method": "Wilson 95 %"}
    finish(site, claim_of(site, launched), [hostile], scores=[score], facts={"unit": "items"})
    app = open_page(PAGE, evaluation=launched.id)
    assert sum(EVIL in str(text.value) for text in app.text) == 2
    assert not any("evil.example" in str(part.value) for part in [*app.markdown, *app.caption, *app.subheader])


def in_address(app: AppTest, name: str) -> str:
    """Return a part of the page's address."""
    value = app.query_params.get(name, "")
    return value[0] if isinstance(value, list) else value


def press(app: AppTest, key: str) -> AppTest:
    """Press the button of a key and return the page that follows."""
    next(button for button in app.button if button.key == key).click().run()
    assert not app.exception
    return app


def test_an_item_has_an_address_and_leads_to_its_neighbours_in_the_list(scenario: Scenario) -> None:
    scenario.evaluation("Elm", "facts", [1] * 40)
    launched = scenario.evaluation("Oak", "facts", [0, 1, 0, 1] * 10)
    app = open_page(PAGE, evaluation=launched.id, page="2", filter="item > 4")
    assert in_address(app, "page") == "2"
    assert "18 items of 40" in plain_words(app)
    app = press(app, f"item_{launched.id}_27")
    assert in_address(app, "item") == "27"
    shown = plain_words(app)
    assert "Item 27 of Oak on facts@1" in shown
    assert "12 of 18 (wrong)" in shown
    assert "answered by others" in shown
    assert "Elm" in shown
    app = press(press(app, "item_next"), "item_next")
    assert in_address(app, "item") == "31"
    assert next(button for button in app.button if button.key == "item_previous").proto.shortcut == "left"
    app = press(app, "item_list")
    assert in_address(app, "item") == ""
    assert (in_address(app, "filter"), in_address(app, "page")) == ("item > 4", "2")
    assert "Question 30?" in plain_words(app)
    assert "2 of 40 (all)" in plain_words(open_page(PAGE, evaluation=launched.id, item="2"))  # it is right
    wrong = open_page(PAGE, evaluation=launched.id, item="77")
    assert "has no item “77”" in plain_words(wrong)
    assert "numbers from 1 to 40" in plain_words(wrong)


def test_a_search_in_the_address_and_a_wrong_filter(scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts", [0] * 40)
    app = open_page(PAGE, evaluation=launched.id, search="question 17", items="all")
    assert "1 item of 40" in plain_words(app)
    app = open_page(PAGE, evaluation=launched.id, filter="acc << 1")
    assert "At character" in plain_words(app)
    next(field for field in app.text_input if field.label == "Filter").set_value("acc < 1 and item <= 3").run()
    assert in_address(app, "filter") == "acc < 1 and item <= 3"
    assert "3 items of 40" in plain_words(app)


def test_examples_before_a_question_are_folded_and_every_text_of_an_item_is_plain(site: Context) -> None:
    Scenario(site).benchmark("questions", [{"question": "Q", "answers": ["A"]}] * 3)
    config = EvaluationConfig(shots=2)
    launched = Scenario(site).evaluation("Oak", "questions", config=config)
    hostile = item(0, {"exact_match": 0.0}, completion=EVIL, answer=[EVIL], prompt=f"Example {EVIL}\n\n{EVIL}")
    hostile["shown"] |= {"question": EVIL, "extracted": [EVIL], "filters": [EVIL], "judge": EVIL, "failed": EVIL}
    score = {"metric": "exact_match", "value": 0.0, "n": 1, "method": "Wilson", "stderr": 0.1, "low": 0.0, "high": 1.0}
    finish(site, claim_of(site, launched), [hostile], scores=[score], facts={"unit": "items"})
    app = open_page(PAGE, evaluation=launched.id, item="1")
    assert [panel.label for panel in app.expander][:2] == ["Few-shot examples (2)", "Full prompt"]
    assert f"Example {EVIL}" in [str(text.value) for text in app.expander[0].text]
    drawn = [*app.markdown, *app.caption, *app.subheader]
    assert not [part.value for part in drawn if EVIL in str(part.value) or "http://evil" in str(part.value)]


def test_an_item_of_two_evaluations_has_an_address(scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1] * 20 + [0] * 12)
    elm = scenario.evaluation("Elm", "facts", [1] * 18 + [0] * 2 + [1] * 10 + [0] * 2)
    app = press(open_page(PAGE, first=oak.id, second=elm.id, items="fixed"), "item_pair_21")
    assert "Item 21 of Elm against Oak" in plain_words(app)
    assert "1 of 10 (fixed)" in plain_words(app)
    app = press(app, "item_next")
    assert in_address(app, "item") == "22"
    assert "has no item “99”" in plain_words(open_page(PAGE, first=oak.id, second=elm.id, item="99"))


def test_a_failure_is_shown_with_a_remedy(site: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts", shots=1)
    claim = claim_of(site, launched)
    with site.db.write() as session:
        outcomes.record_bad_end(session, site, claim)
        end_job(
            session, site, claim, Status.FAILED, error=JobFailure(cause="Row 3 is broken.", remedy="Import it again.")
        )
    app = open_page(PAGE, evaluation=launched.id)
    assert "Row 3 is broken." in plain_words(app)
    next(button for button in app.button if button.key == "eval_retry").click().run()
    again = list_evaluations(site)[0]
    assert (again.id != launched.id, again.config.shots, again.status) == (True, 1, Status.QUEUED)
    assert get_evaluation(site, launched.id).status is Status.FAILED


def test_a_comparison_names_the_better_one_and_the_changed_items(scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1] * 20 + [0] * 12)
    elm = scenario.evaluation("Elm", "facts", [1] * 18 + [0] * 2 + [1] * 10 + [0] * 2)
    app = open_page(PAGE, first=oak.id, second=elm.id)
    shown = plain_words(app)
    assert "Elm is significantly better" in shown
    assert "+25.0 points" in shown
    assert "p = 0.039" in shown
    assert "10 · 2 · 20" in shown
    assert "Question 18?" in shown
    (segments,) = app.segmented_control
    assert segments.options == ["Broken (2)", "Fixed (10)", "Both wrong (2)", "Both right (18)"]
    assert "Swap" in [button.label for button in app.button]
    app = open_page(PAGE, first=elm.id, second=oak.id)
    assert app.segmented_control[0].value == "broken"


def test_a_comparison_is_adjusted_for_every_benchmark_of_both(scenario: Scenario) -> None:
    scenario.benchmark("letters", CHOICES)
    sides = {"Oak": [1] * 20 + [0] * 12, "Elm": [1] * 18 + [0] * 2 + [1] * 10 + [0] * 2}
    ids = {name: scenario.evaluation(name, "facts", right).id for name, right in sides.items()}
    alone = plain_words(open_page(PAGE, first=ids["Oak"], second=ids["Elm"]))
    assert "All benchmarks" not in alone
    for name, right in sides.items():
        scenario.evaluation(name, "letters", right[::-1] if name == "Oak" else right)
    shown = plain_words(open_page(PAGE, first=ids["Oak"], second=ids["Elm"]))
    assert "p = 0.039" in shown
    assert "Adjusted for 2 benchmarks (Holm): p = " in shown
    assert "All benchmarks" in shown
    assert "Holm's correction for 2 benchmarks" in shown


def test_a_comparison_says_once_in_what_the_two_differ(scenario: Scenario) -> None:
    """Its heading said “in the same way”, a note below “The two differ in context”."""
    ids = [
        scenario.evaluation(name, "facts", [1, 0], facts={"context": size}).id
        for name, size in (("Oak", 512), ("Elm", 256))
    ]
    shown = plain_words(open_page(PAGE, first=ids[0], second=ids[1]))
    assert "2 items given to both, which differ in context (512 and 256)" in shown
    assert "in the same way" not in shown


def test_a_comparison_opens_on_the_first_group_that_has_items(scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1, 0, 0])
    elm = scenario.evaluation("Elm", "facts", [1, 1, 0])
    app = open_page(PAGE, first=oak.id, second=elm.id)
    assert app.segmented_control[0].value == "fixed"
    assert "Question 1?" in plain_words(app)


def test_comparison_of_texts_and_of_unlike_evaluations(scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "stories", nlls=[20.0, 22.0, 21.0])
    elm = scenario.evaluation("Elm", "stories", nlls=[19.0, 25.0, 21.0])
    shown = plain_words(open_page(PAGE, first=oak.id, second=elm.id))
    assert "Not significant" in shown
    app = open_page(PAGE, first=oak.id, second=elm.id, item="2")
    assert "1 of 2 (changed)" in plain_words(app), "the largest difference first, as in the list"
    assert in_address(press(app, "item_next"), "item") == "1"
    facts = scenario.evaluation("Elm", "facts", [1, 0])
    assert "can't be compared" in plain_words(open_page(PAGE, first=oak.id, second=facts.id))


def test_the_first_page_shows_the_main_score_with_its_interval(scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1] * 20 + [0] * 12)
    app = AppTest.from_file(str(SHELL), default_timeout=200).run()
    assert not app.exception
    shown = plain_words(app)
    assert "**facts@1** · Accuracy" in shown
    (row,) = link_tables(app)["facts@1 · Accuracy"]["rows"]
    assert [cell["text"] for cell in row["cells"]][1:3] == ["62.5 %", "52.5 to 72.5 %"]


def test_an_unknown_permalink_is_an_error_message(site: Context) -> None:
    assert "no such evaluation" in plain_words(open_page(PAGE, evaluation="nothing"))


def test_a_name_in_a_figure_is_no_link() -> None:
    figure = score_figure([ScoreDot('<a href="http://evil.example">Oak</a>', 0.5, 0.4, 0.6)], metric="acc")
    assert "<" not in figure.data[0].y[0]
    assert figure.data[0].y[0] == figure.layout.yaxis.categoryarray[0]


def test_figures_draw_every_interval() -> None:
    figure = score_figure(
        [ScoreDot("Oak", 0.5, 0.4, 0.6), ScoreDot("Elm", 0.25, None, None, False)], metric="acc", chance=0.25
    )
    trace = figure.data[0]
    assert list(trace.x) == [50.0, 25.0]
    assert list(trace.error_x.array) == pytest.approx([10.0, 0.0])
    assert list(trace.error_x.arrayminus) == pytest.approx([10.0, 0.0])
    assert list(trace.marker.symbol) == ["circle", "circle-open"]
    gap = difference_figure(-0.1, -0.3, 0.1, metric="bits_per_byte", better="left is better")
    assert list(gap.data[0].error_x.array) == pytest.approx([0.2])
    low, high = gap.layout.xaxis.range
    assert low < -0.3
    assert high > 0.1


def test_a_suite_is_made_run_and_shown_with_its_averages(site: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1, 1, 1, 0])
    app = open_page(PAGE, suites="1")
    assert "No suites yet" in plain_words(app)
    app.text_input(key="suite_name").set_value("core")
    app.multiselect(key="suite_members").set_value(["facts"]).run()
    app.button(key="suite_create").click().run()
    (suite,) = list_suites(site)
    app = open_page(PAGE, suite=suite.id)
    assert "has not run yet" in plain_words(app)
    oak = next(checkpoint.id for checkpoint in list_checkpoints(site) if checkpoint.name == "Oak")
    app.multiselect(key="suite_checkpoints").set_value([oak]).run()
    app.button(key="suite_run").click().run()
    assert not app.exception
    shown = plain_words(app)
    assert "1 of 1 done" in shown
    assert "Cost" not in shown, "the column of what is done was called so"
    assert shown.count("75.0 %") >= 2  # the benchmark and the average
    assert "No suites yet" not in plain_words(open_page(PAGE, suites="1"))


def test_a_suite_says_what_scores_each_benchmark_in_its_form_and_on_its_page(site: Context, scenario: Scenario) -> None:
    """A suite scored a file of BLiMP by its rows' kind without a word, and hid that it scored 30 items."""
    scenario.benchmark("blimp", TASK_ROWS["blimp"])
    app = open_page(PAGE, suites="1")
    app.text_input(key="suite_name").set_value("core")
    app.multiselect(key="suite_members").set_value(["blimp"]).run()
    assert "1 benchmark: blimp by BLiMP." in plain_words(app)
    app.number_input(key="suite_limit").set_value(30).run()
    app.button(key="suite_create").click().run()
    (suite,) = list_suites(site)
    assert "1 benchmark: blimp by BLiMP, 30 items." in plain_words(open_page(PAGE, suite=suite.id))


def test_the_form_of_a_suite_chooses_the_task_of_each_benchmark(site: Context, scenario: Scenario) -> None:
    """Only YAML could name a task."""
    scenario.benchmark("facts")
    mine = "name: mine\nkind: generation\nprompt: '{{question}}'\ntarget: '{{choices[answer]}}'\n"
    save_task(site, f"{mine}metrics: [exact_match]\n", person=LOCAL)
    app = open_page(PAGE, suites="1")
    app.text_input(key="suite_name").set_value("core")
    app.multiselect(key="suite_members").set_value(["facts"]).run()
    next(box for box in app.selectbox if box.label == "Task of facts").set_value("mine").run()
    app.number_input(key="suite_shots").set_value(2).run()
    assert "1 benchmark: facts by mine, 2-shot." in plain_words(app)
    app.button(key="suite_create").click().run()
    (suite,) = list_suites(site)
    task = suite.config.members[0].config.task
    assert task is not None
    assert (task.name, task.fewshot.count) == ("mine", 2)


def test_a_form_of_fields_and_yaml_says_which_of_them_counts(site: Context, scenario: Scenario) -> None:
    """The YAML silently won over fields that were filled."""
    scenario.benchmark("facts")
    app = open_page(PAGE, suites="1")
    app.text_input(key="suite_name").set_value("typed")
    app.multiselect(key="suite_members").set_value(["facts"]).run()
    app.text_area(key="suite_yaml").set_value("name: written\nmembers:\n  - {benchmark: facts}").run()
    assert "The YAML below is used; the fields are not." in plain_words(app)
    assert app.text_input(key="suite_name").disabled
    assert app.multiselect(key="suite_members").disabled
    app.text_area(key="suite_yaml").set_value(" ").run()
    assert not app.text_input(key="suite_name").disabled
    app.button(key="suite_create").click().run()
    assert [suite.name for suite in list_suites(site)] == ["typed"]


def test_scores_of_a_run_follow_its_steps_beside_the_loss(site: Context, scenario: Scenario) -> None:
    run = scenario.run()
    assert "Scores" not in plain_words(open_page("build/run.py", run=run.id))
    for step, right in ((10, [1, 0, 0, 0]), (20, [1, 1, 1, 0])):
        scenario.checkpoint(run=run, step=step)
        scenario.evaluation(f"{run.name} · step {step}", "facts", right)
    (curve,) = read_run_scores(site, run.id).curves
    assert [(step, score.value) for step, score in curve.points] == [(10, 0.25), (20, 0.75)]
    app = open_page("build/run.py", run=run.id)
    assert not app.exception
    assert "The loss is that of each checkpoint" in plain_words(app)
    assert "Not scored" not in plain_words(app)
    suite = create_suite(site, SuiteConfig.model_validate({"name": "core", "members": ["facts"]}), person=LOCAL)
    with site.db.write() as session:  # the run removed its first checkpoint before a worker launched the evaluation
        first = session.scalars(select(Checkpoint).where(Checkpoint.run_id == run.id, Checkpoint.step == 10)).one()
        first.deleted_at = site.now()
        values = suite.config.model_dump(mode="json")
        session.add(
            SuiteResult(id="gone", suite_id=suite.id, checkpoint_id=first.id, config=values, created_at=site.now())
        )
    launch_members(site, "gone")
    assert "Not scored: the checkpoints of steps 10." in plain_words(open_page("build/run.py", run=run.id))


def test_curves_have_intervals_and_the_loss_its_own_panel() -> None:
    line = ScoreLine("facts@1", "acc", [(10, 0.25, 0.1, 0.5), (20, 0.75, None, None)])
    figure = curve_figure(
        [(10, 2.0), (20, 1.5)], [line, ScoreLine("stories@1", "bits_per_byte", [(10, 2.5, 2.0, 3.0)])]
    )
    assert [trace.yaxis for trace in figure.data] == ["y", "y2", "y3"]
    assert list(figure.data[0].error_y.array) == pytest.approx([25.0, 0.0])


def test_subgroups_are_a_table_with_macro_and_micro_averages(site: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts")
    rows = {
        ("acc", ""): (0.75, 10),
        ("acc:micro", ""): (0.6, 10),
        ("acc", "algebra"): (0.5, 8),
        ("acc", "botany"): (1.0, 2),
    }
    error = {"stderr": 0.1, "low": 0.0, "high": 1.0, "method": ""}
    scores = [
        {"metric": name, "subgroup": part, "value": value, "n": n, **error} for (name, part), (value, n) in rows.items()
    ]
    finish(
        site,
        claim_of(site, launched),
        [item(0, {"acc": 1.0})],
        scores=scores,
        facts={"unit": "items", "truncated_items": 3},
    )
    app = open_page(PAGE, evaluation=launched.id)
    assert not app.exception
    assert "3 items truncated to the context." in plain_words(app)
    assert [metric.label for metric in app.metric] == ["Accuracy (macro over 2 subgroups)"]
    (table,) = [frame.value for frame in app.table if "Subgroup" in frame.value]
    cells = {
        name.replace("\\", ""): score.replace("\\", "")
        for name, score in zip(table["Subgroup"], table["Score"], strict=True)
    }
    assert cells == {
        "Macro average": "75.0\u00a0%",
        "Micro average": "60.0\u00a0%",
        "algebra": "50.0\u00a0%",
        "botany": "100.0\u00a0%",
    }
    assert read_board(site).columns[0].metrics == ("acc", "acc:micro")


def test_a_chosen_checkpoint_that_is_gone_leaves_the_form_with_a_word(site: Context, scenario: Scenario) -> None:
    """It left without one, and fewer evaluations were launched than were chosen."""
    scenario.checkpoints("Oak", "Elm", "Ash")
    scenario.benchmark("facts")
    app = open_page(PAGE, new="1")
    (box,) = [one for one in app.multiselect if one.label == "Checkpoints"]
    ids = {row.name: row.id for row in list_checkpoints(site)}
    box.set_value([ids["Oak"], ids["Ash"]]).run()
    assert "No longer here" not in words(app)
    with site.db.write() as session:
        session.delete(session.get_one(Checkpoint, ids["Ash"]))
    app.run()
    assert not app.exception
    assert "No longer here, and no longer chosen: Ash" in plain_words(app)
    (box,) = [one for one in app.multiselect if one.label == "Checkpoints"]
    assert box.value == [ids["Oak"]]


def test_the_best_of_a_column_is_not_tied_with_itself(scenario: Scenario) -> None:
    """At chance it has no trophy, but it leads."""
    scenario.evaluation("Oak", "facts", [1, 0] * 20)
    scenario.evaluation("Elm", "facts", [0] * 40)
    app = open_page(PAGE)
    assert not any("trophy" in button.label for button in app.button)
    assert "tied · " not in plain_words(app)


def test_no_one_wins_a_column_of_equal_scores(site: Context, scenario: Scenario) -> None:
    """Two networks with 0 % had a trophy for the one listed first."""
    for name in ("Oak", "Elm"):
        scenario.evaluation(name, "facts", [0] * 8)
    app = open_page(PAGE)
    assert not any("trophy" in button.label for button in app.button)
    assert "tied" in words(app)
    ranking = words(open_page(PAGE, benchmark=read_board(site).columns[0].key))
    assert ("equal scores" in ranking, "best score" in ranking) == (True, False)


@pytest.mark.parametrize(("chance", "trophies"), [(0.25, 0), (0.1, 1)])
def test_a_best_score_has_a_trophy_only_above_chance(scenario: Scenario, chance: float, trophies: int) -> None:
    for name, right in (("Oak", 0), ("Elm", 3)):  # 30 %, 20 to 40 %
        scenario.evaluation(name, "facts", [1] * right + [0] * (10 - right), facts={"chance": chance})
    assert sum("trophy" in button.label for button in open_page(PAGE).button) == trophies


def test_a_lone_score_has_no_trophy_and_a_best_one_of_zero_neither(scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [0] * 8)
    app = open_page(PAGE)
    assert not any("trophy" in button.label for button in app.button)
    scenario.evaluation("Elm", "facts", [1] * 8)
    app = open_page(PAGE)
    (first,) = [button.label for button in app.button if "trophy" in button.label]
    assert "100" in first


def test_items_that_were_all_cut_are_a_red_warning_and_win_nothing(site: Context, scenario: Scenario) -> None:
    """A caption in grey said it below a score of 26 %, and the matrix gave it a trophy."""
    scenario.evaluation("Elm", "facts", [0] * 8)
    cut = scenario.evaluation("Oak", "facts", [1] * 8, facts={"items": 8, "truncated_items": 8})
    app = open_page(PAGE, evaluation=cut.id)
    (error,) = app.error
    assert "All 8 items were truncated to the context" in error.value
    assert not any("truncated" in caption.value for caption in app.caption)
    app = open_page(PAGE)
    labels = [button.label for button in app.button]
    assert not any("trophy" in label for label in labels)
    assert any(label.startswith(":red[:material/error:]") for label in labels)
    (column,) = read_board(site).columns
    assert "no prompt was read whole" in plain_words(open_page(PAGE, benchmark=column.key))
    elm = next(one for one in list_evaluations(site) if one.checkpoint == "Elm")
    app = open_page(PAGE, first=elm.id, second=cut.id)
    assert "It can't be compared." in app.error[0].value.replace("\\", "")
    assert not app.success


def test_a_finished_evaluation_without_its_main_score_is_not_called_stopped(site: Context, scenario: Scenario) -> None:
    task = read_task("name: safe\nkind: generation\nprompt: '{{question}}'\nmetrics: [refusal, unclear]\n")
    launched = scenario.evaluation("Oak", "facts", task=task)
    score = {"metric": "unclear", "value": 1.0, "stderr": 0.1, "low": 0.6, "high": 1.0, "n": 4, "method": ""}
    finish(site, claim_of(site, launched), [item(0, {"unclear": 1.0})], scores=[score], facts={"unit": "items"})
    app = open_panel(open_page(PAGE), "eval_newest")
    assert "Stopped" not in words(app)
    assert "No refusals of unsafe prompts" in words(app)


def test_an_evaluation_names_the_scores_that_no_item_has(site: Context, scenario: Scenario) -> None:
    task = read_task(
        "name: safe\nkind: generation\nprompt: '{{question}}'\nmetrics: [refusal, over_refusal, unclear]\n"
    )
    launched = scenario.evaluation("Oak", "facts", task=task)
    score = {"metric": "unclear", "value": 1.0, "stderr": 0.1, "low": 0.6, "high": 1.0, "n": 4, "method": ""}
    finish(site, claim_of(site, launched), [item(0, {"unclear": 1.0})], scores=[score], facts={"unit": "items"})
    assert "No item has a value of: refusals of unsafe prompts, refusals of safe prompts." in plain_words(
        open_page(PAGE, evaluation=launched.id)
    )


def test_a_checkpoint_lists_its_evaluations_with_intervals_and_the_scores_of_its_run(
    site: Context, scenario: Scenario
) -> None:
    run = scenario.run(max_steps=30)
    ids = [scenario.checkpoint(run=run, step=step) for step in (10, 20)]
    checkpoint = "build/checkpoints.py"
    empty = open_page(checkpoint, checkpoint=ids[0])
    assert "No evaluations of this checkpoint yet" in plain_words(empty)
    with site.db.read() as session:
        names = [session.get_one(Checkpoint, one).name for one in ids]
    done = scenario.evaluation(names[0], "facts", [1, 1, 1, 0], facts={"items": 4})
    scenario.evaluation(names[1], "facts", [1, 1, 1, 1])
    scenario.evaluation(names[0], "stories")
    app = open_page(checkpoint, checkpoint=ids[0])
    shown = plain_words(app)
    for text in ("facts@1", "75.0 % accuracy", "65.0 to 85.0 %", "stories@1", "Waiting", "Along the run"):
        assert text in shown, text
    app = press(app, f"score_{done.id}")
    assert "Question 3?" in plain_words(app)


def test_every_metric_that_is_no_share_has_a_panel_of_its_own() -> None:
    lines = [ScoreLine(name, name, [(1, 2.0, 1.0, 3.0)]) for name in ("bleu", "bits_per_byte", "acc")]
    figure = curve_figure([], lines, mark=1)
    titles = [figure.layout[axis].title.text for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert titles == ["score, %", "BLEU", "bits per byte"]


def test_a_running_evaluation_says_count_rate_and_time_left(site: Context, scenario: Scenario) -> None:
    launched = scenario.evaluation("Oak", "facts")
    claim = claim_of(site, launched)
    progress = {"type": "progress", "done": 10, "total": 40, "unit": "items", "rate": 0.5, "time": 1.0}
    report(site, claim, progress)
    app = open_page(PAGE, evaluation=launched.id)
    (bar,) = app.get("progress")
    assert bar.proto.text.replace("\\", "") == "Scoring items: 10 of 40 items, 0.5 a second, about 1 min 0 s left"
    assert "10 of 40, 1 min 0 s left" in plain_words(open_page(PAGE))
