"""Shipped tasks render rows of their benchmarks. tests/benchmarks/check_task_prompts.py compares all with
lm-evaluation-harness.
"""

from __future__ import annotations

import pytest

from backend.domain.evaluation.instructions import INSTRUCTION_LABEL
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.reading import TaskGroup, shipped_definition, shipped_names
from backend.domain.evaluation.tasks.rendering import Rendered
from backend.domain.evaluation.tasks.selection import render_row, select_rows
from backend.errors import InvalidInput, NotFound
from tests.support.data.task_rows import TASK_ROWS


def first(name: str, **values: object) -> Rendered:
    task = shipped_definition(name)
    assert isinstance(task, TaskDefinition)
    task = TaskDefinition.model_validate({**task.model_dump(exclude_defaults=True), **values})
    rows = TASK_ROWS.get(name, TASK_ROWS.get(name.split("_")[0], []))
    return render_row(task, rows[0], select_rows(task, rows, limit=None, seed=1))


@pytest.mark.parametrize(
    ("name", "context", "continuations", "gold"),
    [
        ("arc_easy", "Question: Which is a metal?\nAnswer:", (" iron", " wood"), (0,)),
        (
            "hellaswag",
            "Baking bread: How to bake. Mix it. Then the dough",
            (" rises slowly.", " flies away.. Done"),
            (0,),
        ),
        ("piqa", "Question: Dry a cup\nAnswer:", (" Use a towel.", " Use a stone."), (0,)),
        ("openbookqa", "Ice that is warmed", (" melts", " sings"), (0,)),
        ("boolq", "Ann has a red hat.\nQuestion: is the hat of ann red?\nAnswer:", (" no", " yes"), (1,)),
        ("lambada", "ann took the red hat and put on the", (" hat",), ()),
        ("blimp", "", (" The cats sleep.", " The cats sleeps."), (0,)),
        ("crows_pairs", "", ("Ann is late.", "Ben is late."), (0,)),
        ("winogender", "The baker told the guest that she was late. ‘She’ refers to the", (" baker", " guest"), (0,)),
        ("ifeval", "Write no comma.", None, ()),
        ("wikitext", "", (' = Ann = \nAnn\'s hat (red) was 1,000 1 old, "they said". \n',), ()),
    ],
)
def test_a_shipped_task_renders_its_benchmark(
    name: str, context: str, continuations: tuple[str, ...] | None, gold: tuple[int, ...]
) -> None:
    rendered = first(name)
    assert rendered.context == context
    if name != "wikitext":
        assert rendered.continuations == continuations
    assert rendered.gold == gold


def test_winogrande_changes_the_context() -> None:
    assert first("winogrande").pairs() == [
        (f"The jug held more than the cup because the {name}", " was large.") for name in ("jug", "cup")
    ]


def test_mmlu_shows_five_examples_of_the_subject_from_the_dev_files() -> None:
    def row(number: int, file: str) -> dict[str, object]:
        choices = ["1", "2", "3", "4"]
        return {"question": f"What is {number}?", "choices": choices, "answer": number % 4, "file": file}

    task = shipped_definition("mmlu")
    assert isinstance(task, TaskDefinition)
    rows = [row(n, f"dev/{subject}_dev.csv") for subject in ("anatomy", "virology") for n in range(5)]
    rows += [row(7, "test/virology_test.csv"), row(6, "test/anatomy_test.csv")]
    selection = select_rows(task, rows, limit=None, seed=1)
    assert selection.scored == (10, 11)
    rendered = render_row(task, rows[10], selection)
    about = "The following are multiple choice questions (with answers) about virology.\n\n"
    assert rendered.context.startswith(f"{about}What is 0?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: A\n\nWhat is 1?")
    assert rendered.context.endswith("What is 7?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:")
    assert (rendered.continuations, rendered.gold, rendered.subgroup) == ((" A", " B", " C", " D"), (3,), "virology")
    with pytest.raises(InvalidInput, match="5 examples of “virology” are needed, and the source of examples has 0"):
        select_rows(task, rows[10:], limit=None, seed=1)


def test_mmlu_has_57_subjects_in_four_groups() -> None:
    task = shipped_definition("mmlu")
    assert isinstance(task, TaskDefinition)
    assert {name: len(subjects) for name, subjects in task.groups.items()} == {
        "stem": 19,
        "humanities": 13,
        "social_sciences": 12,
        "other": 13,
    }


def test_a_part_of_a_task_has_its_name() -> None:
    part = shipped_definition("bbh_boolean_expressions")
    assert isinstance(part, TaskDefinition)
    assert len(part.fewshot.examples) == 3
    rendered = first("bbh_boolean_expressions")
    assert rendered.context.startswith(
        "Evaluate the result of a random Boolean expression.\n\nQ: not ( ( not not True ) ) is\nA: Let's think step by"
        " step.\n"
    )
    assert rendered.context.endswith("Q: not True is\nA: Let's think step by step.\n")


def test_bbq_counts_every_way_to_say_unknown_as_right_where_the_context_does_not_tell() -> None:
    rendered = first("bbq")
    assert rendered.choices[:3] == ("Ann", "Ben", "Unknown")
    assert rendered.gold == tuple(range(2, 12))


def test_truthfulqa_reads_the_published_table() -> None:
    row = {
        "question": "Do stones eat?",
        "best_answer": "No",
        "correct_answers": "No; They do not",
        "incorrect_answers": "Yes; Grass; ",
    }
    task = shipped_definition("truthfulqa_mc2")
    assert isinstance(task, TaskDefinition)
    rendered = render_row(task, row, select_rows(task, [row], limit=None, seed=1))
    assert (rendered.choices, rendered.gold) == (("No", "They do not", "Yes", "Grass"), (0, 1))


def test_gsm8k_shows_the_reasoning_of_rows_that_are_not_scored() -> None:
    rows = [{"question": f"{n} + 1?", "answer": f"Add one.\n#### {n + 1}"} for n in range(8)]
    task = shipped_definition("gsm8k")
    assert isinstance(task, TaskDefinition)
    selection = select_rows(task, rows, limit=None, seed=3)
    assert len(selection.scored) == 3
    context = render_row(task, rows[selection.scored[0]], selection).context
    assert context.count("Add one.\n#### ") == 5
    assert len(select_rows(task, rows, limit=2, seed=3).scored) == 2


def test_every_shipped_task_is_sound_and_every_group_names_tasks() -> None:
    names = shipped_names()
    assert len(names) >= 20
    for name in names:
        definition = shipped_definition(name)
        assert definition.name == name
        if isinstance(definition, TaskGroup):
            assert set(definition.tasks) <= set(names)
    with pytest.raises(NotFound, match="arc_easy"):
        shipped_definition("arc_eazy")


def test_the_scores_of_ifeval_are_those_that_its_checks_give() -> None:
    task = shipped_definition("ifeval")
    assert isinstance(task, TaskDefinition)
    assert set(task.score_names) == set(INSTRUCTION_LABEL)
    assert task.score_names[0] == "prompt_strict"
