"""Task files of lm-evaluation-harness become tasks with the same prompts, and back; what can't be converted is
named.
"""

from __future__ import annotations

import pytest
import yaml

from backend.domain.evaluation.tasks.lm_eval_yaml import from_lm_eval, to_lm_eval
from backend.domain.evaluation.tasks.reading import read_task, shipped_definition, shipped_text
from backend.domain.evaluation.tasks.rendering import render
from backend.errors import InvalidInput
from tests.support.data.task_rows import ARC

THEIRS = """
task: science
dataset_path: json
output_type: multiple_choice
test_split: test
num_fewshot: 1
fewshot_config:
  sampler: first_n
  samples: [{question: "Which one flies?", choices: {text: [stone, bird], label: [A, B]}, answerKey: B}]
description: "Science.\\n\\n"
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_a_task_file_becomes_a_task_with_the_same_prompt() -> None:
    converted = from_lm_eval(THEIRS)
    rendered = render(converted.task, ARC, converted.task.fewshot.examples)
    assert converted.left_out == ()
    assert (
        rendered.context
        == "Science.\n\nQuestion: Which one flies?\nAnswer: bird\n\nQuestion: Which is a metal?\nAnswer:"
    )
    assert (rendered.continuations, rendered.gold) == ((" iron", " wood"), (0,))


def test_a_converted_task_written_back_and_read_again_is_the_same() -> None:
    task = from_lm_eval(THEIRS).task
    assert from_lm_eval(to_lm_eval(task).text).task.hash == task.hash


def test_digits_that_a_template_writes_are_an_index_as_there() -> None:
    text = THEIRS.replace("{{choices.label.index(answerKey)}}", "{{answer}}")
    row = {**ARC, "choices": {"text": ["1", "0"], "label": ["A", "B"]}, "answer": "1"}
    assert render(from_lm_eval(text).task, row).gold == (1,)


def test_an_included_file_gives_the_fields_that_the_task_lacks() -> None:
    base, rest = THEIRS.split("description:")
    task = from_lm_eval(
        "include: base\n" + base, included=lambda name: "description:" + rest if name == "base" else ""
    ).task
    assert task.hash == from_lm_eval(THEIRS).task.hash


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'doc_to_choice: "{{choices.text}}"',
            "doc_to_choice: !function utils.choices",
            "doc_to_choice: utils.choices",
        ),
        ("task: science", "include: base.yaml\ntask: science", "includes 'base.yaml'"),
        ("task: science", "task: [one, two]", "group of tasks"),
        ("output_type: multiple_choice", "output_type: vision", "output_type 'vision'"),
        ("metric: acc,", "metric: bleu,", "There is no metric 'bleu'"),
    ],
)
def test_a_part_that_can_not_be_converted_is_named(old: str, new: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        from_lm_eval(THEIRS.replace(old, new))


def test_a_part_that_changes_no_prompt_is_left_out_by_name() -> None:
    text = THEIRS.replace("num_fewshot: 1", "num_fewshot: 1\nprocess_result: x").replace(
        "{metric: acc,", "{metric: !function utils.own}, {metric: acc,"
    )
    assert [sentence.split(":")[0] for sentence in from_lm_eval(text).left_out] == [
        "process_result",
        "metric utils.own",
    ]


@pytest.mark.parametrize(
    "name", ["arc_easy", "gsm8k_cot", "lambada", "mmlu", "truthfulqa_mc1", "wikitext", "blimp", "boolq", "bbh"]
)
def test_shipped_tasks_are_written_as_task_files(name: str) -> None:
    task = shipped_definition(name)
    written = yaml.safe_load(to_lm_eval(read_task(shipped_text(name))).text)
    assert written["task"] == task.name
    assert {"output_type", "doc_to_text", "metric_list", "num_fewshot"} <= set(written)


def test_contexts_have_no_form_there() -> None:
    with pytest.raises(InvalidInput, match="need a Python function"):
        to_lm_eval(read_task(shipped_text("winogrande")))
