"""TaskDefinition: how the rows of a benchmark become prompts, and how the answers are scored. The schema behind form,
YAML and stored row.

A *template* is Jinja with text around it: `Question: {{question}}`. An *expression* is one Jinja expression, in braces
or bare, whose value keeps its type: `choices.text`. Both read the row's columns and what `let` derives from them.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Any, Literal, Self

import regex
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from backend.domain.evaluation.judges import JUDGE, JudgeMetric, read_judge
from backend.domain.evaluation.tasks.metric_names import check_metric, number_names
from backend.domain.evaluation.tasks.templates import check_template, names_in
from backend.domain.fields import setting, unless, when
from backend.domain.json_values import JsonObject
from backend.domain.validation import is_stored

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_CHOICES = 512
DEFAULT_METRIC: dict[str, str] = {"multiple_choice": "acc", "generation": "exact_match", "perplexity": "bits_per_byte"}
KIND_LABELS: dict[str, str] = {
    "multiple_choice": "Multiple choice",
    "generation": "Generation",
    "perplexity": "Perplexity",
}


class RequestForm(StrEnum):
    """The request that one item makes."""

    CHOICES = "choices"
    """Log-likelihoods of several continuations."""
    CONTINUATION = "continuation"
    """Log-likelihood of one continuation, and whether greedy decoding gives it."""
    ROLLING = "rolling"
    """Log-likelihood of a whole text."""
    GENERATE = "generate"
    """An answer, up to a stop string."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskHubSource(_Part):
    """Dataset of the Hub that a task was written for."""

    id: str = Field(min_length=1, description="owner/name.")
    config: str | None = Field(default=None, description="Config of the dataset.")
    split: str = Field(default="test", description="Split that is scored.")


class TaskData(_Part):
    """Rows that a task scores."""

    names: tuple[str, ...] = Field(default=(), description="Names by which a dataset of the installation is found.")
    columns: tuple[str, ...] = Field(
        default=(), description="Columns that a dataset must have to be suggested for this task."
    )
    sign: str = Field(
        default="", description="Expression that holds for a row of this benchmark, where columns alone don't tell."
    )
    hub: TaskHubSource | None = Field(default=None, description="Where the dataset is published.")
    split: Literal["auto", "all", "train", "val"] = Field(
        default="auto", description="Split of the installation's dataset."
    )
    where: str = Field(default="", description="Expression; only rows for which it is true are scored.")
    balance: str = Field(
        default="", description="Expression; an item limit draws equally from the rows of each of its values."
    )


class FewShot(_Part):
    """Few-shot examples before each prompt."""

    count: int = setting(0, "Few-shot examples", "Examples before each prompt.", ge=0, le=64)
    choose: Literal["first", "seeded", "per_item"] = setting(
        "first",
        "Examples are",
        "The first of the source, drawn with the seed for all items, or drawn for each item.",
        choices={"first": "the first rows", "seeded": "drawn once with the seed", "per_item": "drawn for each item"},
    )
    dataset: str = Field(default="", description="Dataset the examples come from; empty: the one that is scored.")
    split: Literal["", "train", "val"] = Field(
        default="", description="Split the examples come from; empty: the one that is scored."
    )
    where: str = Field(default="", description="Expression; only rows for which it is true serve as examples.")
    same_subgroup: bool = Field(default=False, description="Take examples of the item's own subgroup.")
    examples: tuple[dict[str, JsonValue], ...] = Field(
        default=(), description="Fixed examples: rows as the templates read them."
    )
    separator: str = Field(
        default="\n\n", description="Text between examples, and between the last one and the prompt."
    )


class Extraction(_Part):
    """A named filter that takes the answer out of a completion. Without a match the answer is `fallback`."""

    name: str = Field(
        min_length=1, max_length=40, pattern=r"^[\w.-]+$", description="Name of the filter, shown with its scores."
    )
    pattern: str = Field(min_length=1, max_length=2000, description="Regular expression.")
    take: int = Field(default=0, ge=-100, le=100, description="Which match: 0 is the first, -1 the last.")
    group: int | None = Field(
        default=None, ge=0, le=50, description="Group of the match; empty: the first that holds something."
    )
    fallback: str = Field(default="[invalid]", description="The answer where nothing matches.")

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return pattern


class MetricUse(_Part):
    """A metric of a task with its options."""

    name: str = Field(min_length=1, max_length=40, description="Name of the metric.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Options of the metric, such as ignore_case."
    )


class TaskDefinition(_Part):
    """A task: rows, prompt, choices or references, examples, extraction, metrics."""

    name: str = setting(..., "Name", "Letters, digits, _, - and .", min_length=1, max_length=80, pattern=r"^[\w.-]+$")
    title: str = Field(default="", max_length=120, description="Name on pages; the task's name if left empty.")
    description: str = Field(
        default="", max_length=2000, description="What is measured, and where the task comes from."
    )
    kind: Literal["multiple_choice", "generation", "perplexity"] = setting(
        ..., "Scoring", "How an item is scored.", choices=KIND_LABELS
    )
    data: TaskData = Field(default=TaskData(), description="Rows that are scored.")
    let: dict[str, str] = Field(
        default_factory=dict, description="Columns derived from others: name to expression, in order."
    )
    subgroup: str = Field(
        default="", description="Expression; the part of the benchmark an item belongs to, such as a subject."
    )
    groups: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Named sets of subgroups with an average each."
    )
    average: Literal["micro", "macro"] = Field(
        default="micro", description="Mean of items, or mean of the subgroups' means."
    )
    cluster: str = Field(
        default="", description="Expression; items of one cluster, such as a passage, are not independent."
    )
    instruction: str = setting(
        "", "Instruction", "Template; text before everything else.", group="Examples and instruction", lines=3
    )
    prompt: str = setting("", "Prompt", "Template; what is asked: {{question}} is the column question.", lines=4)
    style: Literal["cloze", "letters"] = setting(
        "cloze",
        "What is scored",
        "Score the text of a choice, or its letter.",
        used=(when("kind", "multiple_choice"), when("contexts", None)),
        choices={"cloze": "Text of the choice", "letters": "Letter"},
    )
    choices: str | tuple[str, ...] | None = Field(
        default=None, description="Expression that gives a list, or a list of templates."
    )
    contexts: str | None = Field(
        default=None, description="Expression; one prompt per choice, where choices change the prompt."
    )
    option: str = Field(
        default="{{letter}}. {{choice}}\n", description="Template of one line of {{options}}, in the style letters."
    )
    answer: str | int | None = Field(
        default=None, description="Expression; index, letter or text of the right choice, or a list of them."
    )
    target: str = setting(
        "",
        "Target",
        "Template; the answer of a few-shot example, or the continuation that is scored.",
        used=(unless("kind", "multiple_choice"),),
        lines=3,
    )
    references: str = setting(
        "", "References", "Expression; list of right answers. Empty: the target.", used=(when("kind", "generation"),)
    )
    joiner: str = Field(default=" ", description="Text between prompt and answer.")
    counted: str = Field(
        default="", description="Template; perplexity: text whose bytes and words count. Empty: the one scored."
    )
    answer_prefix: str = Field(default="", description="Template; text that every answer begins with.")
    fewshot: FewShot = Field(default=FewShot(), description="Few-shot examples before each prompt.")
    stop: tuple[str, ...] = Field(default=(), description="Generation: strings that end an answer.")
    max_tokens: int = setting(
        256,
        "Max new tokens",
        "Generation: longest answer, in tokens.",
        ge=1,
        le=32768,
        used=(when("kind", "generation"),),
    )
    temperature: float = setting(
        0.0, "Temperature", "Generation: 0 is greedy.", ge=0.0, le=10.0, used=(when("kind", "generation"),)
    )
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, description="Generation: nucleus of the sampling.")
    samples: int = setting(
        1, "Samples per item", "Generation: answers per item.", ge=1, le=256, used=(when("kind", "generation"),)
    )
    extract: tuple[Extraction, ...] = Field(default=(), description="Filters that take the answer out of a completion.")
    runs_code: bool = Field(
        default=False, description="Generation: prompt and answer are a program; a reference is the test run after it."
    )
    metrics: tuple[MetricUse, ...] = Field(default=(), description="Metrics; the first is the main one.")
    chat: Literal["auto", "on", "off"] = Field(default="auto", description="Use of the checkpoint's chat template.")

    @field_validator("extract", mode="before")
    @classmethod
    def _list_filters(cls, filters: object) -> object:
        if not isinstance(filters, list | tuple):
            raise ValueError(
                "must be a list of filters, each with a name and a pattern, such as"
                " [{name: number, pattern: '-?[0-9.,]+', take: -1}]"
            )
        return filters

    @field_validator("metrics", mode="before")
    @classmethod
    def _read_metrics(cls, metrics: Any) -> Any:
        """Accept bare names, and options beside the name."""
        if not isinstance(metrics, list | tuple):
            return metrics
        return [
            {"name": use} if isinstance(use, str) else _with_options(use) if isinstance(use, dict) else use
            for use in metrics
        ]

    @model_validator(mode="after")
    def _check_parts(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        self._check_templates()
        self._check_kind()
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"{self.samples} samples need a temperature above 0: greedy answers are all the same")
        if self.fewshot.same_subgroup and not self.subgroup:
            raise ValueError("fewshot.same_subgroup needs `subgroup`")
        if self.fewshot.examples and self.fewshot.count > len(self.fewshot.examples):
            raise ValueError(
                f"fewshot.count is {self.fewshot.count}, and {len(self.fewshot.examples)} examples are given"
            )
        if sum(use.name == JUDGE for use in self.metrics) > 1:
            raise ValueError("a task has one judge: name its judge once")
        for use in self.metric_uses:
            check_metric(use.name, kind=self.kind, options=use.options)
        return self

    def _check_templates(self) -> None:
        for path, source, expression in self.sources():
            check_template(source, path=path, expression=expression)

    def _check_kind(self) -> None:
        if self.kind == "multiple_choice":
            if self.choices is None and self.contexts is None:
                raise ValueError("a multiple-choice task needs `choices`")
            if self.contexts is not None and not self.target:
                raise ValueError("`contexts` needs `target`, the text that follows each of them")
            if self.contexts is not None and self.style == "letters":
                raise ValueError("`contexts` are scored as text: style must be cloze")
            if self.answer is None:
                raise ValueError("a multiple-choice task needs `answer`")
            if self.style == "letters" and "options" not in names_in(self.prompt):
                raise ValueError("with the style letters the prompt must show the choices: add {{options}} to `prompt`")
        elif self.choices is not None or self.contexts is not None:
            raise ValueError(f"`choices` are for multiple choice, and kind is {self.kind}")
        if self.kind == "generation" and not self.prompt:
            raise ValueError("a generation task needs `prompt`")
        if self.kind == "perplexity" and not self.target:
            raise ValueError("a perplexity task needs `target`, the text that is scored")
        if self.kind != "generation" and (self.stop or self.extract or self.samples > 1):
            raise ValueError("`stop`, `extract` and `samples` are for generation")

    def sources(self) -> list[tuple[str, str, bool]]:
        """Return (field, source, whether it is an expression) of every template that is not empty."""
        texts = [
            (name, getattr(self, name), False)
            for name in ("instruction", "prompt", "option", "target", "counted", "answer_prefix")
        ]
        values = [
            *((f"let.{name}", source) for name, source in self.let.items()),
            ("data.where", self.data.where),
            ("data.sign", self.data.sign),
            ("data.balance", self.data.balance),
            ("fewshot.where", self.fewshot.where),
            *((name, getattr(self, name)) for name in ("subgroup", "cluster", "contexts", "references")),
            ("answer", self.answer if isinstance(self.answer, str) else ""),
            ("choices", self.choices if isinstance(self.choices, str) else ""),
        ]
        texts += [
            (f"choices.{at}", source, False)
            for at, source in enumerate(self.choices or ())
            if not isinstance(self.choices, str)
        ]
        return [part for part in [*texts, *((path, source, True) for path, source in values)] if part[1]]

    def adjusted(self, *, shots: int | None = None, max_tokens: int | None = None) -> TaskDefinition:
        """Return the task with another number of examples, or another longest answer, where one is given.

        Raises ValidationError for one that the task can't have.
        """
        values = self.model_dump(exclude_defaults=True)
        if shots is not None:
            values["fewshot"] = {**values.get("fewshot", {}), "count": shots}
        if max_tokens is not None:
            values["max_tokens"] = max_tokens
        return TaskDefinition.model_validate(values)

    @property
    def form(self) -> RequestForm:
        """The request that one item makes."""
        if self.kind == "multiple_choice":
            return RequestForm.CHOICES
        if self.kind == "generation":
            return RequestForm.GENERATE
        return RequestForm.CONTINUATION if self.prompt else RequestForm.ROLLING

    @property
    def shown_title(self) -> str:
        """The name on pages."""
        return self.title or self.name

    @property
    def metric_uses(self) -> tuple[MetricUse, ...]:
        """The metrics, the main one first; the kind's usual one where none is given."""
        return self.metrics or (MetricUse(name=DEFAULT_METRIC[self.kind]),)

    @property
    def judge(self) -> JudgeMetric | None:
        """The judge that grades the answers, if the task names one."""
        return next((read_judge(use.options) for use in self.metrics if use.name == JUDGE), None)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores, the main one first: a metric by its first matching filter, then `metric,filter`."""
        filters = ["", *(f",{extraction.name}" for extraction in self.extract)]
        return tuple(
            f"{name}{filter_}" for use in self.metric_uses for filter_ in filters for name in number_names(use.name)
        )

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical form of what decides a score: not of names, titles and descriptions."""
        decides = self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "title", "description", "data"})
        decides["rows"] = [self.data.split, self.data.where, *([self.data.balance] if self.data.balance else [])]
        decides["metrics"] = [use.model_dump(mode="json", exclude_defaults=True) for use in self.metric_uses]
        return hashlib.sha256(json.dumps(decides, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _with_options(use: JsonObject) -> JsonObject:
    if "options" in use:
        return use
    if len(use) == 1 and isinstance(options := next(iter(use.values())), dict):  # `- judge: {endpoint: chat}`
        return {"name": next(iter(use)), "options": options}
    return {"name": use.get("name"), "options": {key: value for key, value in use.items() if key != "name"}}
