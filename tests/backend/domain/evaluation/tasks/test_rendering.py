"""Prompts of tasks: text, choices, right answers, examples, and errors that name what is at fault."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.tasks.definition import RequestForm, TaskDefinition
from backend.domain.evaluation.tasks.reading import read_task, task_yaml
from backend.domain.evaluation.tasks.rendering import render
from backend.domain.evaluation.tasks.templates import TemplateFault
from backend.errors import InvalidInput

CLOZE = """
name: capitals
kind: multiple_choice
prompt: "Question: {{question}}\\nAnswer:"
choices: "{{choices.text}}"
answer: "{{choices.label.index(answerKey)}}"
metrics: [acc, acc_norm]
"""
ROW = {"question": "Capital of France?", "choices": {"text": ["Rome", "Paris"], "label": ["A", "B"]}, "answerKey": "B"}
OTHER = {"question": "Capital of Italy?", "choices": {"text": ["Rome", "Paris"], "label": ["1", "2"]}, "answerKey": "1"}


def change(task: TaskDefinition, **values: object) -> TaskDefinition:
    return TaskDefinition.model_validate({**task.model_dump(exclude_defaults=True), **values})


def test_choices_follow_the_prompt_after_the_joiner() -> None:
    rendered = render(read_task(CLOZE), ROW)
    assert rendered.form is RequestForm.CHOICES
    assert rendered.pairs() == [
        ("Question: Capital of France?\nAnswer:", " Rome"),
        ("Question: Capital of France?\nAnswer:", " Paris"),
    ]
    assert (rendered.gold, rendered.choices) == ((1,), ("Rome", "Paris"))


def test_examples_stand_between_instruction_and_prompt_as_lm_eval_writes_them() -> None:
    task = change(read_task(CLOZE), instruction="Answer.\n\n")
    rendered = render(task, ROW, [OTHER])
    assert (
        rendered.context
        == "Answer.\n\nQuestion: Capital of Italy?\nAnswer: Rome\n\nQuestion: Capital of France?\nAnswer:"
    )
    assert [(turn.role, turn.content) for turn in rendered.turns] == [
        ("system", "Answer.\n\n"),
        ("user", "Question: Capital of Italy?\nAnswer:"),
        ("assistant", "Rome"),
        ("user", "Question: Capital of France?\nAnswer:"),
    ]
    assert rendered.question == "Question: Capital of France?\nAnswer:"
    assert render(task, ROW).question == "Answer.\n\nQuestion: Capital of France?\nAnswer:"


def test_letters_are_scored_where_the_prompt_shows_the_choices() -> None:
    task = change(read_task(CLOZE), style="letters", prompt="{{question}}\n{{options}}Answer:")
    rendered = render(task, ROW, [OTHER])
    assert rendered.context.endswith("Capital of France?\nA. Rome\nB. Paris\nAnswer:")
    assert rendered.context.startswith("Capital of Italy?\nA. Rome\nB. Paris\nAnswer: A\n\n")
    assert rendered.continuations == (" A", " B")
    with pytest.raises(InvalidInput, match="to `prompt`"):
        read_task(CLOZE + "style: letters\n")


def test_choices_that_change_the_prompt_have_a_context_each() -> None:
    task = read_task("""
name: blanks
kind: multiple_choice
let:
  at: sentence.index("_")
contexts: "[sentence[:at] + option1, sentence[:at] + option2]"
target: "{{sentence[at + 1:].strip()}}"
answer: "(answer | int) - 1"
""")
    row = {"sentence": "Ann paid Sue because _ owed money.", "option1": "Ann", "option2": "Sue", "answer": "1"}
    rendered = render(task, row, [row])
    shown = "Ann paid Sue because Ann owed money.\n\n"
    assert rendered.pairs() == [(shown + f"Ann paid Sue because {name}", " owed money.") for name in ("Ann", "Sue")]
    assert rendered.gold == (0,)
    assert rendered.question == "Ann paid Sue because Ann"


def test_a_text_is_scored_whole_and_a_continuation_behind_its_prompt() -> None:
    rolling = read_task("{name: t, kind: perplexity, target: '{{text}}'}")
    assert (render(rolling, {"text": "a b"}).form, render(rolling, {"text": "a b"}).pairs()) == (
        RequestForm.ROLLING,
        [("", "a b")],
    )
    last = read_task("""
name: last_word
kind: perplexity
prompt: "{{text.split(' ')[:-1]|join(' ')}}"
target: "{{' '+text.split(' ')[-1]}}"
joiner: ""
metrics: [perplexity, acc]
""")
    assert render(last, {"text": "once upon a time"}).pairs() == [("once upon a", " time")]


def test_a_generation_task_gives_references_and_stop_strings() -> None:
    task = read_task("""
name: sums
kind: generation
prompt: "Q: {{question}}\\nA:"
target: "{{answer}}"
references: "[answer.split('####')[-1].strip()]"
stop: ["Q:"]
extract: [{name: strict, pattern: '#### (-?[0-9.,]+)'}, {name: flexible, pattern: '-?[0-9]+', take: -1}]
metrics: [{name: exact_match_verbatim, ignore_case: true}]
""")
    row = {"question": "1 + 1?", "answer": "It is two.\n#### 2"}
    rendered = render(task, row, [row])
    assert rendered.context == "Q: 1 + 1?\nA: It is two.\n#### 2\n\nQ: 1 + 1?\nA:"
    assert (rendered.references, rendered.stop, rendered.continuations) == (("2",), ("Q:",), None)
    assert task.metrics[0].options == {"ignore_case": True}


@pytest.mark.parametrize(
    ("values", "row", "words"),
    [
        ({"prompt": "{{passage}}"}, ROW, "reads the column `passage`.*The row has: question, choices, answerKey"),
        ({"prompt": "{{questoin}}"}, ROW, "Use `question`?"),
        ({"answer": 2}, ROW, "`answer` is 2, and the 2 choices are counted from 0 to 1.*answer - 1"),
        (
            {"answer": "answerKey"},
            {**ROW, "answerKey": "Berlin"},
            '`answer` is "Berlin", which is none of the 2 choices',
        ),
        ({"choices": "question"}, ROW, '`choices` gives "Capital of France\\?", not a list'),
        ({"choices": "[]"}, ROW, "gives an empty list"),
        ({"choices": "[choices]"}, ROW, "holds .* not text"),
        ({"prompt": "{{ 'x' * 100000000 }}"}, ROW, "builds more than"),
        ({"prompt": "{% for i in range(9999999) %}{% endfor %}"}, ROW, "prompt"),
        ({"prompt": "{{question | regex_replace('(a+)+$', '')}}"}, {**ROW, "question": "a" * 40 + "b"}, "(?s).*"),
        ({"prompt": "{{question.__class__}}"}, ROW, "prompt"),
    ],
)
def test_an_error_names_field_value_and_remedy(values: dict[str, object], row: dict[str, object], words: str) -> None:
    task = change(read_task(CLOZE), **values)
    if words == "(?s).*":  # bounded either way: quick, or stopped by the clock
        render(task, row)
        return
    with pytest.raises(TemplateFault, match=words):
        render(task, row)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{{question}}", "{{question", "Line 4: `prompt`.* is not a template"),
        ("{{question}}\\nAnswer:", "{{question", r"is not a template: unexpected end[^.]+\. Templates"),
        ("[acc, acc_norm]", "[accuracy]", "Line 7: There is no metric 'accuracy'"),
        ("[acc, acc_norm]", "[bleu]", "Line 7: There is no metric 'bleu'.*There are: acc,"),
        ("kind: multiple_choice", "kind: multi", "Line 3: kind: .*'multiple_choice'"),
        (
            "[acc, acc_norm]",
            "[acc]\nextract: {last: '(\\d+)'}",
            "extract: must be a list of filters, each with a name and a pattern, such as .*name: number, pattern",
        ),
        ("prompt:", "promt:", "Line 4: promt is not a field; did you mean prompt"),
        ("answer:", "# answer:", "needs `answer`"),
    ],
)
def test_a_definition_that_is_wrong_names_the_line(old: str, new: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_task(CLOZE.replace(old, new))


def test_an_error_inside_a_block_names_the_line_of_the_file() -> None:
    text = CLOZE.replace(
        'prompt: "Question: {{question}}\\nAnswer:"', "prompt: |\n  Question\n  {{question}\n  Answer:"
    )
    with pytest.raises(InvalidInput, match="Line 6: `prompt`, line 2"):
        read_task(text)


def test_yaml_and_back_gives_the_same_task() -> None:
    task = change(read_task(CLOZE), instruction="One\n\ntwo", fewshot={"count": 1, "examples": [ROW]})
    again = read_task(task_yaml(task))
    assert again == task
    assert again.hash == task.hash


def test_the_hash_changes_with_what_decides_a_score_and_not_with_names() -> None:
    task = read_task(CLOZE)
    assert change(task, name="other", title="Other", data={"names": ["a"]}).hash == task.hash
    assert change(task, joiner="").hash != task.hash
    assert change(task, metrics=[{"name": "acc"}]).hash != task.hash
