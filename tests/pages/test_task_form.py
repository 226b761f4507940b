"""Tasks on the page of evaluations: the list, the form with its first prompts, and the choice at launch."""

from __future__ import annotations

import pytest

from backend.domain.data.rows.records import record_text
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import list_datasets
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.evaluation.suites import list_suites
from backend.services.evaluation.tasks import find_single_task, get_task, save_task, suggest_tasks
from tests.support.data.task_rows import TASK_ROWS
from tests.support.opening import open_page, words
from tests.support.scenario import Scenario

PAGE = "evaluate/evaluations.py"


@pytest.fixture(autouse=True)
def _datasets_of_tasks(scenario: Scenario) -> None:
    """A checkpoint, and rows of BBQ and IFEval as their files have them."""
    scenario.checkpoint("Oak")
    for name in ("bbq", "ifeval"):
        scenario.benchmark(name, [{"record": record_text(row)} for row in TASK_ROWS[name]], kind="records")


def test_the_list_opens_every_task(site: Context) -> None:
    assert "accuracy and bias by context" in words(open_page(PAGE, tasks="1"))


def test_the_form_shows_the_first_prompts_and_saves_a_copy_for_the_team(site: Context) -> None:
    app = open_page(PAGE, task="bbq")
    shown = words(app)
    assert "2 of 2 rows are scored" in shown
    assert "Ann and Ben met." in shown
    app.text_input(key="task_text_bbq_name").set_value("bbq_short").run()
    app.text_area(key="task_text_bbq_prompt").set_value("{{question}}").run()
    assert "Ann and Ben met." not in "".join(code.value for code in app.code if "Who was late?" in code.value)
    app.button(key="task_save").click().run()
    saved = get_task(site, "bbq_short").definition
    assert (saved.name, getattr(saved, "prompt", "")) == ("bbq_short", "{{question}}")


MINE = (
    "name: mine\nkind: generation\nprompt: '{{question}}'\nanswer: answer\ntarget: '{{answer}}'\nmetrics:"
    " [exact_match]\n"
)


@pytest.mark.parametrize("name", ["not a name!", "", "mine/yours"])
def test_a_wrong_field_saves_nothing_and_keeps_what_was_typed(site: Context, name: str) -> None:
    """With an invalid name the button stayed on, and the last valid text went over the task of that name."""
    save_task(site, MINE, person=LOCAL)
    app = open_page(PAGE, task="new")
    app.text_input(key="task_text_new_name").set_value("mine").run()
    app.text_area(key="task_text_new_prompt").set_value("Another {{question}}").run()
    app.text_input(key="task_text_new_name").set_value(name).run()
    assert not app.exception
    assert ("letters, digits, _, - and . are allowed" in words(app).replace("\\", "")) == bool(name)
    assert "These are the prompts of the last correct version." in words(app)
    assert app.button(key="task_save").disabled
    assert app.button(key="task_save").label == "Correct the field first"
    assert app.text_area(key="task_text_new_prompt").value == "Another {{question}}"
    assert get_task(site, "mine").text == MINE
    app.text_input(key="task_text_new_name").set_value("yours").run()
    assert "last correct version" not in words(app)
    assert not app.button(key="task_save").disabled
    app.button(key="task_save").click().run()
    assert getattr(get_task(site, "yours").definition, "prompt", "") == "Another {{question}}"


def test_what_a_way_of_scoring_needs_is_a_sentence(site: Context) -> None:
    app = open_page(PAGE, task="new")
    (scoring,) = [box for box in app.selectbox if box.label == "Scoring"]
    scoring.select("perplexity").run()
    assert not app.exception
    assert [error.value.startswith("A perplexity task needs `target`") for error in app.error] == [True]


def test_a_task_is_suggested_for_the_dataset_that_it_was_saved_with(site: Context, scenario: Scenario) -> None:
    scenario.benchmark("club")
    club = next(dataset for dataset in list_datasets(site) if dataset.name == "club")
    assert club.newest is not None
    app = open_page(PAGE, task="new")
    app.text_input(key="task_text_new_name").set_value("ours").run()
    app.selectbox(key="task_dataset_new").set_value(club.id).run()
    app.button(key="task_save").click().run()
    assert [view.name for view in suggest_tasks(site, club.newest)] == ["ours"]
    text = get_task(site, "ours").text
    assert text.endswith('data:\n  names: ["club"]\n')
    app = open_page(PAGE, task="ours")
    app.text_area(key="task_text_ours_prompt").set_value("{{question}}").run()
    app.button(key="task_save").click().run()
    definition = find_single_task(site, "ours")
    assert (definition.prompt, definition.data.names) == ("{{question}}", ("club",))


def test_a_generation_task_starts_with_the_answers_of_the_dataset(site: Context, scenario: Scenario) -> None:
    """It started with the metric of IFEval, which failed in the queue on any other dataset."""
    scenario.benchmark("questions")
    questions = next(dataset for dataset in list_datasets(site) if dataset.name == "questions")
    app = open_page(PAGE, task="new", dataset=questions.id)
    (scoring,) = [box for box in app.selectbox if box.label == "Scoring"]
    scoring.select("generation").run()
    assert not app.error
    assert "6 of 6 rows are scored" in words(app)
    app.button(key="task_save").click().run()
    assert app.query_params["dataset"] in (questions.id, [questions.id]), "the preview stays on the chosen dataset"
    saved = find_single_task(site, "my_task")
    assert (saved.target, saved.references) == ("{{answers[0]}}", "answers")
    assert [use.name for use in saved.metric_uses] == ["exact_match"]


def test_a_number_out_of_bounds_is_named_and_saves_nothing(site: Context) -> None:
    save_task(site, MINE, person=LOCAL)
    app = open_page(PAGE, task="mine")
    app.number_input(key="task_text_mine_max_tokens").set_value(0).run()
    assert "0 is less than 1." in words(app).replace("\\", "")
    assert app.button(key="task_save").disabled
    app.number_input(key="task_text_mine_max_tokens").set_value(2.5).run()
    assert "2.5 is not a whole number." in words(app).replace("\\", "")
    app.number_input(key="task_text_mine_max_tokens").set_value(7).run()
    app.button(key="task_save").click().run()
    assert getattr(get_task(site, "mine").definition, "max_tokens", 0) == 7, (
        "saving over the task that was opened does not ask"
    )


def test_replacing_another_task_asks(site: Context) -> None:
    save_task(site, MINE, person=LOCAL)
    app = open_page(PAGE, task="new")
    app.text_input(key="task_text_new_name").set_value("mine").run()
    app.button(key="task_save").click().run()
    assert get_task(site, "mine").text == MINE
    assert "another task “mine”" in app.error[0].value.replace("\\", "")
    app.button(key="task_replace").click().run()
    assert get_task(site, "mine").text != MINE


def test_a_task_that_a_colleague_saved_meanwhile_is_not_lost(site: Context) -> None:
    save_task(site, MINE, person=LOCAL)
    app = open_page(PAGE, task="mine")
    save_task(site, MINE + "description: of a colleague\n", person=LOCAL)
    app.text_area(key="task_text_mine_prompt").set_value("{{question}}?").run()
    app.button(key="task_save").click().run()
    assert "of a colleague" in get_task(site, "mine").text
    assert app.text_area(key="task_text_mine_prompt").value == "{{question}}?"


def test_a_template_that_does_not_fit_names_line_column_and_remedy(site: Context) -> None:
    app = open_page(PAGE, task="bbq")
    app.text_area(key="task_text_bbq_prompt").set_value("{{contxt}}").run()
    assert "reads the column `contxt`" in words(app).replace("\\", "")
    assert "Use `context`?" in words(app).replace("\\", "")


def test_rows_as_they_are_are_evaluated_by_the_suggested_task(site: Context) -> None:
    dataset = next(d for d in list_datasets(site) if d.name == "ifeval")
    app = open_page(PAGE, dataset=dataset.id)
    assert app.selectbox(key="eval_task_ifeval@1").value == "ifeval"
    app.button(key="eval_launch").click().run()
    (launched,) = list_evaluations(site)
    assert launched.config.task is not None
    assert (launched.config.task.name, launched.benchmark) == ("ifeval", "ifeval@1")


def test_the_page_of_a_group_offers_a_suite(site: Context) -> None:
    save_task(site, "name: both\ntasks: [bbq, ifeval]\n", person=LOCAL)
    app = open_page(PAGE, task="both")
    assert "roundhouse eval run --task both --checkpoint NAME" in [code.value for code in app.code]
    app.button(key="group_suite").click().run()
    (suite,) = list_suites(site)
    assert [(one.benchmark, one.config.task.name) for one in suite.config.members if one.config.task] == [
        ("bbq", "bbq"),
        ("ifeval", "ifeval"),
    ]


def test_a_built_in_task_opens_on_a_dataset_that_it_fits_or_on_none(site: Context, scenario: Scenario) -> None:
    """MMLU opened on BLiMP, the first of the list, and showed a fault of its template."""
    scenario.benchmark("blimp", TASK_ROWS["blimp"])
    app = open_page(PAGE, task="mmlu")
    assert app.selectbox(key="task_dataset_mmlu").value is None
    assert not app.error
    scenario.benchmark("exam", TASK_ROWS["mmlu"])
    exam = next(dataset for dataset in list_datasets(site) if dataset.name == "exam")
    assert open_page(PAGE, task="mmlu").selectbox(key="task_dataset_mmlu").value == exam.id
    blimp = next(dataset for dataset in list_datasets(site) if dataset.name == "blimp")
    assert open_page(PAGE, task="blimp").selectbox(key="task_dataset_blimp").value == blimp.id


def test_a_launch_may_show_another_number_of_examples_than_its_task(site: Context) -> None:
    dataset = next(d for d in list_datasets(site) if d.name == "bbq")
    app = open_page(PAGE, dataset=dataset.id)
    assert app.number_input(key="eval_shots_bbq@1_bbq").value == 0
    app.number_input(key="eval_shots_bbq@1_bbq").set_value(65).run()
    assert app.button(key="eval_launch").disabled
    app.number_input(key="eval_shots_bbq@1_bbq").set_value(1).run()
    assert any("--task bbq --shots 1" in code.value for code in app.code)
    app.button(key="eval_launch").click().run()
    (launched,) = list_evaluations(site)
    assert launched.config.task is not None
    assert (launched.config.task.name, launched.config.task.fewshot.count) == ("bbq", 1)
