"""Multiple choice by the likelihood of each choice as a continuation of the question."""

from __future__ import annotations

from collections.abc import Sequence

from backend.domain.json_values import Row
from backend.errors import InvalidInput
from jobs.evaluation.choices import choice_values, shown_choices
from jobs.evaluation.engines.base import ScoreRequest, Scores
from jobs.evaluation.items import Item, ScoredItem
from jobs.evaluation.questions import Question
from jobs.evaluation.subject import EndpointSubject, EvaluatedNetwork
from jobs.modeling.chat.render import encode_answer, render_chat, text_alone
from jobs.modeling.scores import Pair


def glue(question: str, choice: str) -> str:
    """Return the space that joins a choice to its question, unless one of them has it or there is no question."""
    return " " if question and not question[-1].isspace() and not choice[:1].isspace() else ""


def render_choices(
    subject: EvaluatedNetwork | EndpointSubject, row: Row, *, examples: Sequence[Item], chat: bool
) -> tuple[str, list[str]]:
    """Return (context, continuations) of a question. Few-shot examples precede it, separated by blank lines or as chat
    turns.

    Special tokens spelled in questions or choices stay text: a choice `<|end|>` ends nothing.
    """

    def free(text: str) -> str:
        return text if isinstance(subject, EndpointSubject) else text_alone(subject.tokenizer, text)

    if chat and not isinstance(subject, EndpointSubject):
        messages = [turn for example in examples for turn in _turns(example.row)]
        context = render_chat(
            subject.tokenizer, [*messages, {"role": "user", "content": row["question"]}], generation_prompt=True
        )
        return context, [free(choice.strip() or choice) for choice in row["choices"]]
    solved = [(example.row["question"], right_choice(example.row)) for example in examples]
    context = free(
        "\n\n".join([*(f"{question}{glue(question, right)}{right}" for question, right in solved), row["question"]])
    )
    return context, [free(f"{glue(row['question'], choice)}{choice}") for choice in row["choices"]]


def right_choice(row: Row) -> str:
    """Return the text of the correct choice."""
    choice: str = row["choices"][int(row["answer"])]
    return choice


def _turns(row: Row) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": right_choice(row).strip()}]


def check_choices(items: Sequence[Item]) -> None:
    """Raise InvalidInput unless every row has a question, choices and the index of the correct one."""
    for item in items:
        row = item.row
        if (
            "question" not in row
            or len(row.get("choices") or []) < 2
            or not 0 <= int(row.get("answer", -1)) < len(row["choices"])
        ):
            raise InvalidInput(
                f"Row {item.position + 1} is no multiple-choice question.",
                remedy="Choose another way of scoring.",
                field="kind",
            )


def choice_question(
    subject: EvaluatedNetwork | EndpointSubject, item: Item, *, examples: Sequence[Item], chat: bool
) -> Question:
    """Return the request of a multiple-choice item. Values: accuracy by each of the usual rules (see
    `choice_values`).
    """
    context, choices = render_choices(subject, item.row, examples=examples, chat=chat)
    pairs: tuple[Pair, ...] = tuple((context, choice) for choice in choices)
    if chat and not isinstance(subject, EndpointSubject):
        pairs = tuple(encode_answer(subject.tokenizer, context, choice) for choice in choices)
    right, listed = (int(item.row["answer"]),), [str(choice) for choice in item.row["choices"]]

    def finish(scores: Scores) -> list[ScoredItem]:
        shown = {"question": item.row["question"], **shown_choices(scores, listed, right)}
        return [ScoredItem(item.hash, item.position, choice_values(scores, listed, right), shown)]

    return Question(item, ScoreRequest(pairs), finish)
