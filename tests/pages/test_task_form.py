"""Tasks on the page of evaluations: the list, the form with its first prompts, and the choice at launch."""

from __future__ import annotations

import pytest

from backend.domain.data.rows.records import record_text
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import list_datasets
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.evaluation.suites import list_suites
from backend.services.evaluation.tasks import get_task, save_task
from tests.support.battle_world import add_checkpoint
from tests.support.data.task_rows import TASK_ROWS
from tests.support.evaluation_world import add_benchmark
from tests.support.opening import open_page, words

PAGE = "evaluate/evaluations.py"


@pytest.fixture
def world(site: Context) -> Context:
    """A checkpoint, and rows of BBQ and IFEval as their files have them."""
    add_checkpoint(site, "Oak")
    for name in ("bbq", "ifeval"):
        add_benchmark(site, name, [{"record": record_text(row)} for row in TASK_ROWS[name]], kind="records")
    return site


def test_the_list_opens_every_task(world: Context) -> None:
    assert "BBQ accuracy and bias" in words(open_page(PAGE, tasks="1"))


def test_the_form_shows_the_first_prompts_and_saves_a_copy_for_the_team(world: Context) -> None:
    app = open_page(PAGE, task="bbq")
    shown = words(app)
    assert "2 of 2 rows are scored" in shown
    assert "Ann and Ben met." in shown
    app.text_input(key="task_text_bbq_name").set_value("bbq_short").run()
    app.text_area(key="task_text_bbq_prompt").set_value("{{question}}").run()
    assert "Ann and Ben met." not in "".join(code.value for code in app.code if "Who was late?" in code.value)
    app.button(key="task_save").click().run()
    saved = get_task(world, "bbq_short").definition
    assert (saved.name, getattr(saved, "prompt", "")) == ("bbq_short", "{{question}}")


def test_a_template_that_does_not_fit_names_line_column_and_remedy(world: Context) -> None:
    app = open_page(PAGE, task="bbq")
    app.text_area(key="task_text_bbq_prompt").set_value("{{contxt}}").run()
    assert "reads the column `contxt`" in words(app).replace("\\", "")
    assert "Use `context`?" in words(app).replace("\\", "")


def test_rows_as_they_are_are_evaluated_by_the_suggested_task(world: Context) -> None:
    dataset = next(d for d in list_datasets(world) if d.name == "ifeval")
    app = open_page(PAGE, dataset=dataset.id)
    assert app.selectbox(key="eval_task_ifeval@1").value == "ifeval"
    app.button(key="eval_launch").click().run()
    (launched,) = list_evaluations(world)
    assert launched.config.task is not None
    assert (launched.config.task.name, launched.benchmark) == ("ifeval", "ifeval@1")


def test_the_page_of_a_group_offers_a_suite(world: Context) -> None:
    save_task(world, "name: both\ntasks: [bbq, ifeval]\n", person=LOCAL)
    app = open_page(PAGE, task="both")
    assert "roundhouse eval run --task both --checkpoint NAME" in [code.value for code in app.code]
    app.button(key="group_suite").click().run()
    (suite,) = list_suites(world)
    assert [(one.benchmark, one.config.task.name) for one in suite.config.members if one.config.task] == [
        ("bbq", "bbq"),
        ("ifeval", "ifeval"),
    ]


def test_a_built_in_task_opens_on_a_dataset_that_it_fits_or_on_none(world: Context) -> None:
    """MMLU opened on BLiMP, the first of the list, and showed a fault of its template."""
    add_benchmark(world, "blimp", TASK_ROWS["blimp"])
    app = open_page(PAGE, task="mmlu")
    assert app.selectbox(key="task_dataset_mmlu").value is None
    assert not app.error
    add_benchmark(world, "exam", TASK_ROWS["mmlu"])
    exam = next(dataset for dataset in list_datasets(world) if dataset.name == "exam")
    assert open_page(PAGE, task="mmlu").selectbox(key="task_dataset_mmlu").value == exam.id
    blimp = next(dataset for dataset in list_datasets(world) if dataset.name == "blimp")
    assert open_page(PAGE, task="blimp").selectbox(key="task_dataset_blimp").value == blimp.id
