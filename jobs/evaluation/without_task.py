"""Benchmarks that are scored without a task: perplexity and bits per byte of texts or of answers in conversations,
multiple choice by the likelihood of each choice, greedy answers compared with references; and their scores.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from backend.domain.attributes import view_of
from backend.domain.data.rows.conversations import TemplateInput, as_conversation
from backend.domain.data.rows.display import message_text, row_text
from backend.domain.evaluation.clusters import CLUSTER
from backend.domain.evaluation.config import EvaluationKind
from backend.domain.evaluation.metrics.answers import contains, exact_match
from backend.domain.evaluation.metrics.numbers import numeric_match
from backend.domain.jobs.results import ScoreRow
from backend.domain.json_values import Row
from backend.domain.statistics.estimates import (
    Estimate,
    bits_per_byte_estimate,
    perplexity_estimate,
    ratio_estimate,
    share_estimate,
)
from backend.domain.wording import shorten
from backend.errors import InvalidInput
from jobs.evaluation.choices import choice_values, counted, shown_choices
from jobs.evaluation.engines.base import Answers, Messages, PromptRequest, Sampling, ScoreRequest, Scores, WindowPolicy
from jobs.evaluation.items import Item, ScoredItem
from jobs.evaluation.questions import Question, RollRequest, counts_of, longest_for
from jobs.evaluation.subject import EndpointSubject, EvaluatedNetwork
from jobs.modeling.chat import ConversationRefused, assistant_turns, encode_answer, render_chat, text_alone
from jobs.modeling.scores import Pair, TextNll

FEW_DOCUMENTS = 8
"""With fewer documents an interval over documents is unreliable, so windows are the items."""
SHOWN_CHARACTERS = 600


def counts_windows(items: Sequence[Item]) -> bool:
    """Return True if windows, not documents, are the items."""
    return len(items) < FEW_DOCUMENTS


def text_question(item: Item, *, windows: WindowPolicy, by_window: bool) -> Question:
    """Return the request of a whole text. Values: sum_nll (nats), tokens, bytes, and their two quotients."""
    text = row_text(item.row)

    def finish(result: TextNll) -> list[ScoredItem]:
        return _window_items(item, text, result) if by_window else [_document_item(item, text, result)]

    return Question(item, RollRequest(text, windows), finish)


def _document_item(item: Item, text: str, result: TextNll) -> ScoredItem:
    return ScoredItem(
        item.hash, item.position, _values(result) | _lost(result), {"text": shorten(text, SHOWN_CHARACTERS)}
    )


def _window_items(item: Item, text: str, result: TextNll) -> list[ScoredItem]:
    """Make an item of each window; its hash covers its byte range, so equal tokenizers give equal items."""
    data, start, scored = text.encode(), 0, []
    # a space that some tokenizers put before the first word
    extra = sum(part.bytes for part in result.windows) - result.bytes
    for number, part in enumerate(result.windows):
        part = replace(part, bytes=part.bytes - extra) if number == 0 else part
        digest = hashlib.sha256(f"{item.hash} {start} {part.bytes}".encode()).hexdigest()
        shown = {"text": shorten(data[start : start + part.bytes].decode(errors="ignore"), SHOWN_CHARACTERS)}
        lost = _lost(result) if number == 0 else {}
        scored.append(ScoredItem(digest, item.position * 1_000_000 + number, _values(part) | lost, shown))
        start += part.bytes
    return scored


def conversation_question(subject: EvaluatedNetwork, item: Item) -> Question:
    """Return the request of the assistants' answers, end token included, each given what came before it through the
    chat template.

    The bytes are those of the answers' text. Raises InvalidInput for a row without an answer.
    """
    conversation = as_conversation(item.row) or TemplateInput([])
    try:
        turns = assistant_turns(subject.tokenizer, conversation.messages, tools=conversation.tools)
    except ConversationRefused as error:
        raise InvalidInput(f"Row {item.position + 1} can't be scored. {error.message}", field="benchmark") from error
    if not turns:
        raise InvalidInput(
            f"Row {item.position + 1} has no answer to score.", remedy="Remove such rows and import again."
        )
    pairs = tuple(encode_answer(subject.tokenizer, before, answer) for _, before, answer in turns)
    size = sum(len(message_text(conversation.messages[place]).encode()) for place, _, _ in turns)

    def finish(scores: Scores) -> list[ScoredItem]:
        total = TextNll(-sum(score.sum_logprob for score in scores), sum(score.tokens for score in scores), size)
        return [
            ScoredItem(
                item.hash,
                item.position,
                _values(total) | counted(scores),
                {"text": shorten(row_text(item.row), SHOWN_CHARACTERS)},
            )
        ]

    return Question(item, ScoreRequest(pairs), finish)


def _values(result: TextNll) -> dict[str, float]:
    values: dict[str, float] = {"sum_nll": result.sum_nll, "tokens": result.tokens, "bytes": result.bytes}
    if result.tokens:
        values["nll_per_token"] = result.sum_nll / result.tokens
    if result.bytes:
        values["bits_per_byte"] = result.sum_nll / result.bytes / math.log(2)
    return values


def _lost(result: TextNll) -> dict[str, float]:
    """Count the bytes that no token represents: text that the tokenizer can't encode and the network never predicts."""
    lost = result.bytes - sum(part.bytes for part in result.windows)
    return {"lost_bytes": float(lost)} if lost > 0 else {}


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
                f"Row {item.position + 1} is not a multiple-choice question.",
                remedy="Choose another way of scoring.",
                field="kind",
            )


def choice_question(
    subject: EvaluatedNetwork | EndpointSubject, item: Item, *, examples: Sequence[Item], chat: bool
) -> Question:
    """Return the request of a multiple-choice item. Values: accuracy by each usual rule (see `choice_values`)."""
    context, choices = render_choices(subject, item.row, examples=examples, chat=chat)
    pairs: tuple[Pair, ...] = tuple((context, choice) for choice in choices)
    if chat and not isinstance(subject, EndpointSubject):
        pairs = tuple(encode_answer(subject.tokenizer, context, choice) for choice in choices)
    right, listed = (int(item.row["answer"]),), [str(choice) for choice in item.row["choices"]]

    def finish(scores: Scores) -> list[ScoredItem]:
        shown = {"question": item.row["question"], **shown_choices(scores, listed, right)}
        return [ScoredItem(item.hash, item.position, choice_values(scores, listed, right), shown)]

    return Question(item, ScoreRequest(pairs), finish)


Values = dict[str, float]
METRICS = ("acc", "acc_norm", "acc_bytes", "acc_token", "exact_match", "contains", "numeric")


def estimate_scores(kind: EvaluationKind, items: Sequence[Values], *, unit: str) -> list[ScoreRow]:
    """Return the scores of a kind.

    Raises InvalidInput if there is nothing to average, such as texts without a scored token.
    """
    if not items:
        raise InvalidInput("No item was scored.", remedy="Check that the benchmark has rows.")
    if kind is EvaluationKind.PERPLEXITY:
        return _perplexity_scores(items, unit=unit)
    rows = []
    for name in METRICS:
        own = [item for item in items if name in item]  # an item without a value is missing, not wrong
        if own:
            rows.append(_row(name, share_estimate([item[name] for item in own], clusters=_clusters(own))))
    return rows


def _perplexity_scores(items: Sequence[Values], *, unit: str) -> list[ScoreRow]:
    nlls, clusters = [item["sum_nll"] for item in items], _clusters(items)
    tokens, sizes = [item["tokens"] for item in items], [item["bytes"] for item in items]
    if not sum(tokens) or not sum(sizes):
        raise InvalidInput("The text has nothing to score.", remedy="Choose a split with text in it.")
    return [
        _row("nll_per_token", ratio_estimate(nlls, tokens, clusters=clusters), unit=unit),
        _row("token_perplexity", perplexity_estimate(nlls, tokens, clusters=clusters), unit=unit),
        _row("bits_per_byte", bits_per_byte_estimate(nlls, sizes, clusters=clusters), unit=unit),
    ]


def _clusters(items: Sequence[Values]) -> list[float] | None:
    """Return the items' clusters where every item states one."""
    return [item[CLUSTER] for item in items] if all(CLUSTER in item for item in items) else None


def _row(metric: str, estimate: Estimate, *, unit: str = "") -> ScoreRow:
    method = f"{estimate.method}, over {unit}" if unit else estimate.method
    return view_of(ScoreRow, estimate, metric=metric, method=method)
