"""Score generation benchmarks: greedy answers compared with reference answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from backend.domain.evaluation.metrics.answers import contains, exact_match
from backend.domain.evaluation.metrics.numbers import numeric_match
from backend.errors import InvalidInput
from jobs.evaluation.completions import complete
from jobs.evaluation.engines.base import Sampling
from jobs.evaluation.items import Item, Row, Scored
from jobs.evaluation.multiple_choice import glue, right_choice
from jobs.evaluation.subject import Subject


def answers_of(row: Row) -> list[str]:
    """Return the reference answers of a row; of a multiple-choice row its correct choice."""
    return [str(answer) for answer in row["answers"]] if row.get("answers") else [right_choice(row).strip()]


def check_rows(items: Sequence[Item]) -> None:
    """Raise InvalidInput unless every row has a question and answers."""
    for item in items:
        if not item.row.get("question") or not (item.row.get("answers") or item.row.get("choices")):
            raise InvalidInput(
                f"Row {item.position + 1} has no question with answers.", remedy="Choose another way of scoring.", field="kind"
            )


def ask(subject: Subject, row: Row, *, examples: Sequence[Item], chat: bool) -> list[int]:
    """Return the prompt's ids: few-shot examples, then the question. Without a chat template, blank lines separate them."""
    if chat:
        messages = []
        for example in examples:
            messages += [
                {"role": "user", "content": example.row["question"]},
                {"role": "assistant", "content": answers_of(example.row)[0]},
            ]
        return subject.prompt_ids([*messages, {"role": "user", "content": row["question"]}], chat=True)
    parts = [f"{e.row['question']}{glue(e.row['question'], answer)}{answer}" for e in examples for answer in [answers_of(e.row)[0]]]
    return subject.prompt_ids([{"role": "user", "content": "\n\n".join([*parts, row["question"]])}], chat=False)


def score_answers(
    subject: Subject,
    items: Sequence[Item],
    *,
    examples: Sequence[Item],
    chat: bool,
    max_tokens: int,
    numeric: bool,
    batch_size: int,
    check_stop: Callable[[], None],
) -> Iterator[list[Scored]]:
    """Generate and score an answer to each question, batch by batch.

    Values: `exact_match`, `contains` and, if requested, `numeric`. Without a chat template an answer ends at the first blank line, since a
    network trained on plain text would continue with another question.
    """
    prompts = [ask(subject, item.row, examples=examples, chat=chat) for item in items]
    for batch in complete(subject, prompts, sampling=Sampling(max_tokens=max_tokens), batch_size=batch_size, check_stop=check_stop):
        scored = []
        for index, answer in batch:
            item = items[index]
            text = answer.text if chat else answer.text.lstrip("\n").partition("\n\n")[0]
            right = answers_of(item.row)
            values = {"exact_match": exact_match(text, right), "contains": contains(text, right)}
            if numeric:
                values["numeric"] = numeric_match(text, right)
            shown = {"question": item.row["question"], "answer": right, "completion": text, "finish_reason": answer.finish_reason}
            scored.append(Scored(item.hash, item.position, values, {**shown, "cut": answer.cut} if answer.cut else shown))
        yield scored
