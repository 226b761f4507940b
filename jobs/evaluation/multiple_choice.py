"""Score multiple choice by the likelihood of each choice as a continuation of the question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from backend.errors import InvalidInput
from jobs.evaluation.items import Item, Row, Scored
from jobs.evaluation.subject import Subject
from jobs.modeling.chat.render import encode_answer, render_chat, text_alone
from jobs.modeling.loglikelihood import Pair, score_continuations

TIE = 1e-6
"""Log-likelihoods closer than this (nats) count as equal; fp32 sums differ by about as much between batch shapes."""
BATCH_TOKENS = 4096


def glue(question: str, choice: str) -> str:
    """Return the space that joins a choice to its question, unless one of them has it or there is no question."""
    return " " if question and not question[-1].isspace() and not choice[:1].isspace() else ""


def ask(subject: Subject, row: Row, *, examples: Sequence[Item], chat: bool) -> tuple[str, list[str]]:
    """Return (context, continuations) of a question. Few-shot examples precede it, separated by blank lines or as chat turns.

    Special tokens spelled in questions or choices stay text: a choice `<|end|>` ends nothing.
    """

    def free(text: str) -> str:
        return text_alone(subject.tokenizer, text)

    if chat:
        messages = [turn for example in examples for turn in _turns(example.row)]
        context = render_chat(subject.tokenizer, [*messages, {"role": "user", "content": row["question"]}], generation_prompt=True)
        return context, [free(choice.strip() or choice) for choice in row["choices"]]
    solved = [(example.row["question"], right_choice(example.row)) for example in examples]
    context = free("\n\n".join([*(f"{question}{glue(question, right)}{right}" for question, right in solved), row["question"]]))
    return context, [free(f"{glue(row['question'], choice)}{choice}") for choice in row["choices"]]


def right_choice(row: Row) -> str:
    """Return the text of the correct choice."""
    choice: str = row["choices"][int(row["answer"])]
    return choice


def _turns(row: Row) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": right_choice(row).strip()}]


def credit(scores: Sequence[float], right: int) -> float:
    """Return 1 if the correct choice alone has the highest score, 1/k if it ties with k - 1 others, else 0."""
    best = max(scores)
    top = [index for index, score in enumerate(scores) if best - score <= TIE]
    return 1.0 / len(top) if right in top else 0.0


def check_rows(items: Sequence[Item]) -> None:
    """Raise InvalidInput unless every row has a question, choices and the index of the correct one."""
    for item in items:
        row = item.row
        if "question" not in row or len(row.get("choices") or []) < 2 or not 0 <= int(row.get("answer", -1)) < len(row["choices"]):
            raise InvalidInput(
                f"Row {item.position + 1} is no multiple-choice question.", remedy="Choose another way of scoring.", field="kind"
            )


def score_choices(
    subject: Subject, items: Sequence[Item], *, examples: Sequence[Item], chat: bool, batch_size: int, check_stop: Callable[[], None]
) -> Iterator[list[Scored]]:
    """Score each question, batch by batch.

    Values: `acc` by the sum of log-probabilities of a choice, `acc_norm` by that sum per byte of its text; ties share credit.
    """
    for at in range(0, len(items), batch_size):
        check_stop()
        batch = items[at : at + batch_size]
        prompts = [ask(subject, item.row, examples=examples, chat=chat) for item in batch]
        texts = [(context, choice) for context, choices in prompts for choice in choices]
        pairs: list[Pair] = [encode_answer(subject.tokenizer, *text) if chat else text for text in texts]
        results = iter(score_continuations(subject.network, subject.tokenizer, pairs, batch_tokens=BATCH_TOKENS))
        scored = []
        for item in batch:
            sums = [next(results).sum_logprob for _ in item.row["choices"]]
            scored.append(_scored(item, sums))
        yield scored


def _scored(item: Item, sums: Sequence[float]) -> Scored:
    right, choices = int(item.row["answer"]), item.row["choices"]
    per_byte = [total / max(1, len(choice.strip().encode())) for total, choice in zip(sums, choices, strict=True)]
    chosen = max(range(len(sums)), key=sums.__getitem__)
    return Scored(
        item.hash,
        item.position,
        {"acc": credit(sums, right), "acc_norm": credit(per_byte, right), "chance": 1.0 / len(choices)},
        {
            "question": item.row["question"],
            "choices": list(item.row["choices"]),
            "answer": item.row["choices"][right],
            "chosen": item.row["choices"][chosen],
            "logprobs": [round(total, 5) for total in sums],
            "tied": sum(1 for total in sums if sums[chosen] - total <= TIE),
        },
    )
