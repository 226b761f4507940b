"""Render a row of a benchmark to what a network is asked: context, continuations, right answers.

The text equals what lm-evaluation-harness 0.4.13 builds from the same templates: instruction, then examples (prompt,
joiner, answer, separator), then the prompt; a choice follows it after the joiner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.evaluation.tasks.definition import LETTERS, MAX_CHOICES, RequestForm, TaskDefinition
from backend.domain.evaluation.tasks.templates import TemplateFault, evaluate, render_text
from backend.domain.json_values import RowMapping
from backend.domain.wording import shorten

MAX_PART = 400
"""Characters of the name of a subgroup; see the table of scores."""
UNNAMED = "unnamed"
"""The subgroup of rows whose own name is empty."""


@dataclass(frozen=True)
class Turn:
    """A message of the prompt, for a chat template."""

    role: str
    content: str


@dataclass(frozen=True)
class Rendered:
    """One item as a network is asked. Of `contexts` there is one per choice where choices change the prompt, else None.

    `continuations` are scored after the context, joiner included; None where an answer is generated. `choices` are
    their texts without joiner. `gold` are the indices of the right ones. `turns` are the same prompt as messages; the
    answer begins with `answer_prefix`. `counted` is the text whose bytes and words a perplexity is counted in.
    `question` is the item's own part of the context (of the first one): what follows the examples, or all without any.
    """

    form: RequestForm
    context: str
    contexts: tuple[str, ...] | None
    continuations: tuple[str, ...] | None
    choices: tuple[str, ...]
    gold: tuple[int, ...]
    references: tuple[str, ...]
    stop: tuple[str, ...]
    turns: tuple[Turn, ...]
    answer_prefix: str
    subgroup: str | None
    cluster: str | None
    counted: str = ""
    question: str = ""

    def pairs(self) -> list[tuple[str, str]]:
        """Return the (context, continuation) pairs that are scored, one per choice."""
        continuations = self.continuations or ()
        return list(zip(self.contexts or [self.context] * len(continuations), continuations, strict=True))

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of everything that the network is shown or asked to score."""
        shown = [self.form.value, self.context, self.contexts, self.continuations, self.answer_prefix]
        return hashlib.sha256(json.dumps(shown, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class _Solved:
    """A row with its derived columns, its choices and its right ones."""

    columns: RowMapping
    choices: tuple[str, ...]
    contexts: tuple[str, ...] | None
    gold: tuple[int, ...]


def render(task: TaskDefinition, row: RowMapping, examples: Sequence[RowMapping] = ()) -> Rendered:
    """Render an item behind its examples. Raises TemplateFault naming field, template, column or value at fault."""
    item = _solve(task, row)
    solved = [_solve(task, example) for example in examples]
    instruction = render_text(task.instruction, item.columns, path="instruction") if task.instruction else ""
    prefix = render_text(task.answer_prefix, item.columns, path="answer_prefix") if task.answer_prefix else ""
    before = instruction + "".join(_solved_text(task, example) for example in solved)
    prompt = "" if item.contexts else _prompt(task, item)
    start = (_gap(prompt, prefix, task.joiner) + prefix) if prefix else ""
    context = before + prompt + start
    contexts = (
        tuple(before + text + (_gap(text, prefix, "") + prefix if prefix else "") for text in item.contexts)
        if item.contexts
        else None
    )
    shown = contexts[0] if contexts else context
    turns = [Turn("system", instruction)] if instruction else []
    for example in solved:
        turns += [Turn("user", _question(task, example)), Turn("assistant", _answer_text(task, example))]
    turns.append(Turn("user", prompt))
    return Rendered(
        form=task.form,
        context=context,
        contexts=contexts,
        continuations=_continuations(task, item),
        choices=item.choices,
        gold=item.gold,
        references=_references(task, item),
        stop=task.stop,
        turns=tuple(turns),
        answer_prefix=prefix,
        subgroup=subgroup_of(task, item.columns, derived=True),
        counted=_counted(task, item),
        question=shown.removeprefix(before) if solved else shown,
        cluster=str(evaluate(task.cluster, item.columns, path="cluster")) if task.cluster else None,
    )


def derive_columns(task: TaskDefinition, row: RowMapping) -> dict[str, object]:
    """Return a row's columns with those that `let` derives. Raises TemplateFault."""
    columns = dict(row)
    for name, source in task.let.items():
        columns[name] = evaluate(source, columns, path=f"let.{name}")
    return columns


def subgroup_of(task: TaskDefinition, row: RowMapping, *, derived: bool = False) -> str | None:
    """Return the part of the benchmark that a row belongs to, None where the task names none. Raises TemplateFault."""
    if not task.subgroup:
        return None
    name = part_name(
        evaluate(task.subgroup, row if derived else derive_columns(task, row), path="subgroup"), path="subgroup"
    )
    if name in task.groups:
        raise TemplateFault(
            f"The subgroup {_shown(name)} has the name of a group, so their scores would have one name.",
            path="groups",
            remedy="Rename the group.",
        )
    return name


def part_name(value: Any, *, path: str) -> str:
    """Return the name under which the scores of a part of a benchmark are stored, whole. Raises TemplateFault for one
    that is too long.
    """
    name = str(value).replace("\x00", "") or UNNAMED
    if len(name) > MAX_PART:
        raise TemplateFault(
            f"`{path}` gives a name of {len(name):,} characters: {_shown(name)}.",
            path=path,
            remedy=f"Name a part of the benchmark in at most {MAX_PART} characters.",
        )
    return name


def is_chosen(task: TaskDefinition, row: RowMapping, *, where: str, path: str) -> bool:
    """Return whether a condition holds for a row; an empty one does. Raises TemplateFault."""
    return not where or bool(evaluate(where, derive_columns(task, row), path=path))


def balanced_value(task: TaskDefinition, row: RowMapping) -> str:
    """Return what a row is of the kinds that a limit draws equally from; equal for all rows of a task without. Raises
    TemplateFault.
    """
    return str(evaluate(task.data.balance, derive_columns(task, row), path="data.balance")) if task.data.balance else ""


def _solve(task: TaskDefinition, row: RowMapping) -> _Solved:
    columns = derive_columns(task, row)
    if task.kind != "multiple_choice":
        return _Solved(columns, (), None, ())
    contexts = _texts(task.contexts, columns, path="contexts") if task.contexts else None
    choices = _choices(task, columns) if task.choices is not None else (contexts or ())
    if len(choices) > MAX_CHOICES:
        raise TemplateFault(
            f"`choices` gives {len(choices):,} choices.", path="choices", remedy=f"At most {MAX_CHOICES} are scored."
        )
    if contexts is not None and len(contexts) != len(choices):
        raise TemplateFault(f"`contexts` gives {len(contexts)} prompts for {len(choices)} choices.", path="contexts")
    if task.style == "letters":
        columns |= {"options": _options(task, columns, choices), "letters": list(LETTERS[: len(choices)])}
    return _Solved(columns, choices, contexts, _gold(task, columns, choices))


def _choices(task: TaskDefinition, columns: Mapping[str, object]) -> tuple[str, ...]:
    if isinstance(task.choices, tuple):
        return tuple(render_text(source, columns, path=f"choices.{at}") for at, source in enumerate(task.choices))
    return _texts(task.choices or "", columns, path="choices")


def _texts(source: str, columns: Mapping[str, object], *, path: str) -> tuple[str, ...]:
    value = evaluate(source, columns, path=path)
    if not isinstance(value, list):
        raise TemplateFault(
            f"`{path}` gives {_shown(value)}, not a list.",
            path=path,
            remedy="Give a list: choices.text, or [first, second].",
        )
    if not value:
        raise TemplateFault(
            f"`{path}` gives an empty list.", path=path, remedy="Every item needs something to choose from."
        )
    odd = next((part for part in value if not isinstance(part, str | int | float)), None)
    if odd is not None or any(isinstance(part, bool) for part in value):
        raise TemplateFault(
            f"`{path}` holds {_shown(odd)}, not text.", path=path, remedy="Every choice is a text or a number."
        )
    return tuple(part if isinstance(part, str) else str(part) for part in value)


def _options(task: TaskDefinition, columns: Mapping[str, object], choices: Sequence[str]) -> str:
    if len(choices) > len(LETTERS):
        raise TemplateFault(
            f"{len(choices)} choices have no letters.",
            path="style",
            remedy=f"Letters serve up to {len(LETTERS)} choices.",
        )
    lines = [
        render_text(task.option, {**columns, "letter": letter, "choice": choice}, path="option")
        for letter, choice in zip(LETTERS, choices, strict=False)
    ]
    return "".join(lines)


def _gold(task: TaskDefinition, columns: Mapping[str, object], choices: Sequence[str]) -> tuple[int, ...]:
    value = evaluate(task.answer, columns, path="answer") if isinstance(task.answer, str) else task.answer
    several = value if isinstance(value, list) else [value]
    if not several:
        raise TemplateFault("`answer` gives an empty list.", path="answer", remedy="At least one choice is right.")
    return tuple(dict.fromkeys(_index(part, choices) for part in several))


def _index(value: Any, choices: Sequence[str]) -> int:
    """Return the index that an index, a choice's text or a letter names, in that order."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(choices):
            return value
        raise TemplateFault(
            f"`answer` is {value}, and the {len(choices)} choices are counted from 0 to {len(choices) - 1}.",
            path="answer",
            remedy="Subtract 1 where answers are counted from 1: answer - 1.",
        )
    if isinstance(value, str):
        text = value.strip()
        if value in choices:
            return choices.index(value)
        if text.isdecimal() and text.isascii() and int(text) < len(choices):
            return int(text)
        if len(text) == 1 and 0 <= LETTERS.find(text.upper()) < len(choices):
            return LETTERS.find(text.upper())
    raise TemplateFault(
        f"`answer` is {_shown(value)}, which is none of the {len(choices)} choices.",
        path="answer",
        remedy="Give the index counted from 0, the letter, or the text of a choice.",
    )


def _prompt(task: TaskDefinition, item: _Solved) -> str:
    return render_text(task.prompt, item.columns, path="prompt") if task.prompt else ""


def _question(task: TaskDefinition, example: _Solved) -> str:
    return example.contexts[example.gold[0]] if example.contexts else _prompt(task, example)


def _answer_text(task: TaskDefinition, example: _Solved) -> str:
    """Return the answer of a few-shot example, behind the prefix."""
    answer = _target(task, example)
    if not task.answer_prefix:
        return answer
    prefix = render_text(task.answer_prefix, example.columns, path="answer_prefix")
    return prefix + (" " if prefix and answer and not (prefix[-1].isspace() or answer[0].isspace()) else "") + answer


def _solved_text(task: TaskDefinition, example: _Solved) -> str:
    question, answer = _question(task, example), _answer_text(task, example)
    joiner = _gap(question, answer, task.joiner) if task.answer_prefix else task.joiner
    return f"{question}{joiner}{answer}{task.fewshot.separator}" if answer else f"{question}{task.fewshot.separator}"


def _target(task: TaskDefinition, item: _Solved) -> str:
    if task.kind == "multiple_choice" and item.contexts is None:
        return LETTERS[item.gold[0]] if task.style == "letters" else item.choices[item.gold[0]]
    if task.target:
        return render_text(task.target, item.columns, path="target")
    references = _references(task, item)
    return references[0] if references else ""


def _continuations(task: TaskDefinition, item: _Solved) -> tuple[str, ...] | None:
    match task.form:
        case RequestForm.GENERATE:
            return None
        case RequestForm.ROLLING:
            return (_target(task, item),)
        case RequestForm.CONTINUATION:
            return (f"{task.joiner}{_target(task, item)}",)
    if item.contexts is not None:
        return (f"{task.joiner}{_target(task, item)}",) * len(item.contexts)
    answers = LETTERS[: len(item.choices)] if task.style == "letters" else item.choices
    return tuple(f"{task.joiner}{answer}" for answer in answers)


def _references(task: TaskDefinition, item: _Solved) -> tuple[str, ...]:
    if task.kind != "generation":
        return tuple(item.choices[at] for at in item.gold)
    if not task.references:
        return (render_text(task.target, item.columns, path="target"),) if task.target else ()
    value = evaluate(task.references, item.columns, path="references")
    parts = value if isinstance(value, list) else [value]
    odd = next((part for part in parts if not isinstance(part, str | int | float) or isinstance(part, bool)), None)
    if odd is not None:
        raise TemplateFault(
            f"`references` holds {_shown(odd)}, not text.", path="references", remedy="Give a text or a list of texts."
        )
    return tuple(map(str, parts))


def _counted(task: TaskDefinition, item: _Solved) -> str:
    if task.kind != "perplexity":
        return ""
    return render_text(task.counted, item.columns, path="counted") if task.counted else _target(task, item)


def _gap(before: str, after: str, joiner: str) -> str:
    """Return the joiner, unless there is nothing before it or white space at the border."""
    return joiner if before and after and not (before[-1].isspace() or after[0].isspace()) else ""


def _shown(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False, default=str), 60)
