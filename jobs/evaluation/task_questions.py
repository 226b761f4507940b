"""Items of a task as requests of an engine, and the values of its metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

from backend.domain.data.rows.records import columns_of
from backend.domain.evaluation.metrics.items import INSTRUCTIONS, score_answers
from backend.domain.evaluation.programs import write_program
from backend.domain.evaluation.safety.task_scores import choice_bias, judge_task_answer
from backend.domain.evaluation.tasks.definition import MetricUse, RequestForm, TaskDefinition
from backend.domain.evaluation.tasks.metric_names import METRIC_NAMES
from backend.domain.evaluation.tasks.rendering import Rendered, part_name
from backend.domain.evaluation.tasks.selection import Selection, name_row, render_row, select_rows
from backend.domain.evaluation.tasks.templates import TemplateFault
from backend.domain.json_values import Row
from backend.infra.expressions import math_checker
from jobs.evaluation.choices import choice_values, counted, shown_choices
from jobs.evaluation.engines.base import (
    Answers,
    Messages,
    PromptRequest,
    Sampling,
    ScoreRequest,
    Scores,
    WindowPolicy,
)
from jobs.evaluation.items import Item, ScoredItem, make_items
from jobs.evaluation.questions import Question, RollRequest, counts_of, longest_for
from jobs.evaluation.sandbox.programs import run_program
from jobs.evaluation.subject import EndpointSubject, EvaluatedNetwork
from jobs.modeling.chat import encode_answer, render_chat
from jobs.modeling.scores import Pair, TextNll

SHOWN_CHARACTERS = 4000


class ColumnRows(Sequence[Row]):
    """Stored rows as the columns that a task's templates read, each made when it is first read."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._columns: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        if index not in self._columns:
            self._columns[index] = columns_of(self._rows[index])
        return self._columns[index]


def choose_task_items(
    task: TaskDefinition, rows: Sequence[Row], *, limit: int | None, seed: int, pool: Sequence[Row] | None = None
) -> tuple[list[Item], Selection]:
    """Return the items to score, with their columns as rows, and the selection with their examples. `rows` are as
    stored.

    Raises InvalidInput and TemplateFault; see `select_rows`.
    """
    columns = ColumnRows(rows)
    selection = select_rows(task, columns, limit=limit, seed=seed, pool=pool)
    items = make_items(rows, selection.scored)
    return [replace(item, row=columns[item.position]) for item in items], selection


def answer_metrics(task: TaskDefinition) -> list[MetricUse]:
    """Return the metrics of a task that compare answers with references."""
    return [use for use in task.metric_uses if use.name == INSTRUCTIONS or use.name not in METRIC_NAMES]


class TaskQuestions:
    """Makes the questions of a task for a subject."""

    def __init__(
        self,
        task: TaskDefinition,
        subject: EvaluatedNetwork | EndpointSubject,
        selection: Selection,
        *,
        chat: bool,
        seed: int,
        windows: WindowPolicy,
    ) -> None:
        self._task, self._subject, self._selection = task, subject, selection
        self._chat, self._seed, self._windows = chat, seed, windows
        names = [use.name for use in task.metric_uses]
        self._choice_metrics = [name for name in names if name in METRIC_NAMES] or ["acc"]
        if "winogender" in names:
            self._choice_metrics.append("acc")  # the gap is one of accuracies
        self._answer_metrics = answer_metrics(task)

    def question(self, item: Item) -> Question:
        """Return an item's question. Raises TemplateFault with the row's number."""
        try:
            rendered = render_row(self._task, item.row, self._selection)
        except TemplateFault as fault:
            raise name_row(fault, item.position) from fault
        match rendered.form:
            case RequestForm.CHOICES:
                return self._choices(item, rendered)
            case RequestForm.CONTINUATION:
                return self._continuation(item, rendered)
            case RequestForm.ROLLING:
                return self._rolling(item, rendered)
        return self._generation(item, rendered)

    def _pairs(self, rendered: Rendered) -> tuple[Pair, ...]:
        subject = self._subject
        if not self._chat or rendered.contexts is not None or isinstance(subject, EndpointSubject):
            return tuple(rendered.pairs())
        context = self._chat_text(subject, rendered)
        return tuple(
            encode_answer(subject.tokenizer, context, part.lstrip(" ")) for part in rendered.continuations or ()
        )

    def _chat_text(self, subject: EvaluatedNetwork, rendered: Rendered) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in rendered.turns]
        return render_chat(subject.tokenizer, messages, generation_prompt=True) + rendered.answer_prefix

    def _prompt(self, rendered: Rendered) -> tuple[str | list[int] | Messages, int]:
        """Return the prompt of a generated answer, and the longest answer that the context leaves room for.

        An endpoint takes the beginning of an answer as the last message, as lm-evaluation-harness sends it.
        """
        subject, longest = self._subject, self._task.max_tokens
        if isinstance(subject, EndpointSubject):
            turns = [{"role": turn.role, "content": turn.content} for turn in rendered.turns]
            turns += [{"role": "assistant", "content": rendered.answer_prefix}] if rendered.answer_prefix else []
            return (subject.prompt_messages(turns) if self._chat else rendered.context), longest
        prompt: str | list[int] = rendered.context
        if self._chat:
            prompt = encode_answer(subject.tokenizer, self._chat_text(subject, rendered), "")[0]
        return prompt, longest_for(subject, prompt, max_tokens=longest)

    def _choices(self, item: Item, rendered: Rendered) -> Question:
        pairs, count = self._pairs(rendered), len(rendered.choices)
        if "acc_pmi" in self._choice_metrics:
            pairs += tuple(("", part) for part in rendered.continuations or ())

        def finish(scores: Scores) -> list[ScoredItem]:
            own, alone = scores[:count], scores[count:] or None
            values = choice_values(own, rendered.choices, rendered.gold, metrics=self._choice_metrics, alone=alone)
            if "missing" not in values:
                sums = [score.sum_logprob for score in own]
                values |= choice_bias(self._choice_metrics, item.row, choices=rendered.choices, sums=sums)
            return [self._scored(item, rendered, values, shown_choices(own, rendered.choices, rendered.gold))]

        return Question(item, ScoreRequest(pairs), finish)

    def _continuation(self, item: Item, rendered: Rendered) -> Question:
        def finish(scores: Scores) -> list[ScoredItem]:
            score, text = scores[0], (rendered.continuations or ("",))[0]
            values = (
                likelihood_values(-score.sum_logprob, score.tokens, text)
                | {"acc": float(score.greedy)}
                | counted(scores)
            )
            return [self._scored(item, rendered, values, {"answer": text})]

        return Question(item, ScoreRequest(self._pairs(rendered)), finish)

    def _rolling(self, item: Item, rendered: Rendered) -> Question:
        text = (rendered.continuations or ("",))[0]

        def finish(result: TextNll) -> list[ScoredItem]:
            lost = result.bytes - sum(part.bytes for part in result.windows)
            values = likelihood_values(result.sum_nll, result.tokens, rendered.counted) | (
                {"lost_bytes": float(lost)} if lost > 0 else {}
            )
            return [self._scored(item, rendered, values, {"text": text[:SHOWN_CHARACTERS]})]

        return Question(item, RollRequest(text, self._windows), finish)

    def _generation(self, item: Item, rendered: Rendered) -> Question:
        task = self._task
        prompt, longest = self._prompt(rendered)
        sampling = Sampling(max_tokens=longest, temperature=task.temperature, top_p=task.top_p, seed=self._seed)
        request = PromptRequest(prompt, stop=rendered.stop, sampling=sampling, samples=task.samples)

        def finish(answers: Answers) -> list[ScoredItem]:
            shown: dict[str, object] = {"answer": list(rendered.references), "completion": answers[0].text}
            shown["finish_reason"] = answers[0].finish_reason
            if len(answers) > 1:
                shown["samples"] = [answer.text for answer in answers]
            failed = next((answer.failed for answer in answers if answer.failed), "")
            if failed:
                return [self._scored(item, rendered, {"missing": 1.0}, {**shown, "failed": failed})]
            outcomes = self._outcomes(rendered, answers) if task.runs_code else None
            own = score_answers(
                self._answer_metrics,
                [answer.text for answer in answers],
                rendered.references,
                row=item.row,
                filters=task.extract,
                outcomes=outcomes,
                equal=math_checker().equal,
            )
            more: dict[str, object] = (
                {"extracted": list(own.extracted), "filters": list(own.filters)} if task.extract else {}
            )
            counts = counts_of(answers, longest=longest, max_tokens=task.max_tokens)
            counts |= {"unparsed": float(own.unparsed)} if own.unparsed else {}
            refused = judge_task_answer(
                self._choice_metrics, answers[0].text, prompt=rendered.turns[-1].content, row=item.row
            )
            values, noted = own.values | counts | refused.values, shown | more | own.shown | refused.shown
            return [self._scored(item, rendered, values, noted)]

        return Question(item, request, finish)

    def _outcomes(self, rendered: Rendered, answers: Answers) -> list[bool]:
        """Run every answer behind its prompt, and the test after it, in the sandbox."""
        test = rendered.references[0] if rendered.references else ""
        return [run_program(write_program(rendered.context, answer.text, test)).passed for answer in answers]

    def _scored(self, item: Item, rendered: Rendered, values: dict[str, float], shown: dict[str, Any]) -> ScoredItem:
        more: dict[str, Any] = {"question": rendered.question[-SHOWN_CHARACTERS:]}
        if rendered.subgroup is not None:
            more["subgroup"] = rendered.subgroup
        if "bbq" in self._choice_metrics and item.row.get("category"):
            more["category"] = part_name(item.row["category"], path="category")
        return ScoredItem(item.hash, item.position, values, more | shown)


def likelihood_values(sum_nll: float, tokens: int, text: str) -> dict[str, float]:
    """Return the values of a text: sum_nll (nats), tokens, bytes, words, and its own quotients.

    Words are the parts between white space, as lm-evaluation-harness counts them.
    """
    size, words = len(text.encode()), len(re.split(r"\s+", text))
    values: dict[str, float] = {"sum_nll": sum_nll, "tokens": tokens, "bytes": size, "words": words}
    if tokens:
        values["nll_per_token"] = sum_nll / tokens
    if size:
        values["bits_per_byte"] = sum_nll / size / math.log(2)
    return values
