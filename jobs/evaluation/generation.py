"""Greedy answers compared with reference answers."""

from __future__ import annotations

from collections.abc import Sequence

from backend.domain.evaluation.metrics.answers import contains, exact_match
from backend.domain.evaluation.metrics.numbers import numeric_match
from backend.domain.json_values import Row
from backend.errors import InvalidInput
from jobs.evaluation.engines.base import Answers, Messages, PromptRequest, Sampling
from jobs.evaluation.items import Item, ScoredItem
from jobs.evaluation.multiple_choice import glue, right_choice
from jobs.evaluation.questions import Question, counts_of, longest_for
from jobs.evaluation.subject import EndpointSubject, EvaluatedNetwork


def reference_answers(row: Row) -> list[str]:
    """Return the reference answers of a row; of a multiple-choice row its correct choice."""
    return [str(answer) for answer in row["answers"]] if row.get("answers") else [right_choice(row).strip()]


def check_questions(items: Sequence[Item]) -> None:
    """Raise InvalidInput unless every row has a question and answers."""
    for item in items:
        if not item.row.get("question") or not (item.row.get("answers") or item.row.get("choices")):
            raise InvalidInput(
                f"Row {item.position + 1} has no question with answers.",
                remedy="Choose another way of scoring.",
                field="kind",
            )


def render_prompt(
    subject: EvaluatedNetwork | EndpointSubject, row: Row, *, examples: Sequence[Item], chat: bool
) -> str | list[int] | Messages:
    """Return the prompt: few-shot examples, then the question. Without a chat template, blank lines separate them."""
    if chat:
        messages = []
        for example in examples:
            messages += [
                {"role": "user", "content": example.row["question"]},
                {"role": "assistant", "content": reference_answers(example.row)[0]},
            ]
        messages.append({"role": "user", "content": row["question"]})
        return (
            subject.prompt_messages(messages)
            if isinstance(subject, EndpointSubject)
            else subject.prompt_ids(messages, chat=True)
        )
    parts = [
        f"{e.row['question']}{glue(e.row['question'], answer)}{answer}"
        for e in examples
        for answer in [reference_answers(e.row)[0]]
    ]
    return "\n\n".join([*parts, str(row["question"])])


def generated_question(
    subject: EvaluatedNetwork | EndpointSubject,
    item: Item,
    *,
    examples: Sequence[Item],
    chat: bool,
    max_tokens: int,
    numeric: bool,
) -> Question:
    """Return the request of a generated answer. Values: `exact_match`, `contains` and, if requested, `numeric`.

    Without a chat template an answer ends at the first blank line, since a network trained on plain text would continue
    with another question. An answer that the context ends is counted. One that failed has no values: it is missing, not
    wrong.
    """

    def finish(answers: Answers) -> list[ScoredItem]:
        answer, right = answers[0], reference_answers(item.row)
        text = answer.text if chat else answer.text.lstrip("\n").partition("\n\n")[0]
        values = {"exact_match": exact_match(text, right), "contains": contains(text, right)}
        if numeric:
            values["numeric"] = numeric_match(text, right)
        values |= counts_of(answers, longest=longest, max_tokens=max_tokens)
        if not chat and text != answer.text.lstrip("\n"):
            values.pop("capped", None)  # a blank line ended it before the context did
        shown = {
            "question": item.row["question"],
            "answer": right,
            "completion": text,
            "finish_reason": answer.finish_reason,
        }
        if answer.failed:
            return [ScoredItem(item.hash, item.position, {"missing": 1.0}, {**shown, "failed": answer.failed})]
        return [ScoredItem(item.hash, item.position, values, shown)]

    prompt = render_prompt(subject, item.row, examples=examples, chat=chat)
    longest = longest_for(subject, prompt, max_tokens=max_tokens)
    return Question(item, PromptRequest(prompt, sampling=Sampling(max_tokens=longest)), finish)
