"""Map foreign rows to the canonical row of each dataset kind. Pure; reads no file.

Canonical rows
    text          {"text": str}
    instruction   {"prompt": str, "completion": str}
    chat          {"messages": messages, "tools"?: str}
    preference    {"prompt": messages, "chosen": messages, "rejected": messages, "tools"?: str}
    kto           {"prompt": messages, "completion": messages, "label": bool, "tools"?: str}
    benchmark     {"question": str, "choices": [str], "answer": int}  or  {"question": str, "answers": [str]}
    prompts       {"prompt": str}
    records       {"record": JSON text of the row}; an imported benchmark has `record` too
    (backend.domain.data.rows.records)

`messages` are [{"role": "system|user|assistant|tool", "content": str}, ...]; those of assistants may carry
`tool_calls`. `tools` is the list of tools as JSON text (backend.domain.data.rows.tool_calls).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from backend.domain.data.kinds import ANSWER_FIELDS, FIELDS, OPTIONAL, REQUIRED, DatasetKind
from backend.domain.data.parsing.json_stream import STRING_COLUMN
from backend.domain.data.rows.columns import column_paths, describe_missing, read_column
from backend.domain.data.rows.conversations import answered_messages, conversation, messages_of, preference_messages
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.records import RECORD, record_text
from backend.domain.data.rows.tool_calls import tools_text
from backend.domain.data.rows.trees import TREE, is_message_table, sample_trees, tree_rows
from backend.domain.data.rows.values import (
    AnswerTally,
    answer_column,
    answer_index,
    as_list,
    choice_labels,
    label_text,
    read_text_value,
    read_winner,
    require_goodness,
)
from backend.domain.json_values import Row
from backend.errors import InvalidInput

_FINAL_ANSWER = re.compile(r"^####\s*(.+?)\s*$", re.MULTILINE)  # GSM8K's mark of the result after its reasoning


def build_benchmark(values: Row) -> Row:
    """Return the canonical row of a question from its fields. Raises RowProblem naming the field at fault."""
    question = read_text_value(values.get("question"), name="question", may_be_empty="correct" in values)
    context = read_text_value(values.get("context"), name="context", may_be_empty=True)
    question = f"{context}\n{question}" if context.strip() and question else (question or context)
    if "correct" in values:
        return _insert_correct(
            question, correct=label_text(values["correct"], name="correct"), incorrect=values["incorrect"]
        )
    if "choices" not in values:
        answers = [label_text(answer, name="answers") for answer in values["answers"]]
        final = _FINAL_ANSWER.search(answers[-1]) if answers else None
        return {"question": question, "answers": [final.group(1)] if final else _distinct(answers)}
    choices = read_choices(values)
    way = next(field for field in ANSWER_FIELDS if field in values)
    labels = values.get("labels") or []
    return {
        "question": question,
        "choices": choices,
        "answer": answer_index(values[way], choices=choices, way=way, labels=labels),
    }


def read_choices(values: Row) -> list[str]:
    """Return the choices of a row. Raises RowProblem if there are fewer than two."""
    # a table of questions with different numbers of choices leaves cells empty at the end
    raw = list(values["choices"])
    while raw and raw[-1] in (None, ""):
        raw.pop()
    choices = [label_text(choice, name="choices") for choice in raw]
    if len(choices) < 2:
        raise RowProblem(f"`choices` holds {len(choices)} choice; at least 2 are needed")
    return choices


def _distinct(values: list[str]) -> list[str]:
    distinct = list(dict.fromkeys(values))
    if not distinct:
        raise RowProblem("`answers` is empty")
    return distinct


def _insert_correct(question: str, *, correct: str, incorrect: list[Any]) -> dict[str, object]:
    """Insert the right choice among the wrong ones, at a position that depends only on the text."""
    wrong = [
        choice
        for choice in _distinct([label_text(value, name="incorrect") for value in incorrect])
        if choice != correct
    ]
    if not wrong:
        raise RowProblem("`incorrect` holds nothing that differs from `correct`")
    place = sum(f"{question}{correct}".encode("utf-8", "replace")) % (len(wrong) + 1)
    return {"question": question, "choices": [*wrong[:place], correct, *wrong[place:]], "answer": place}


_MANY = frozenset({"choices", "answers", "incorrect", "winner"})
_ABSENT = object()
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_mapping(kind: DatasetKind, mapping: Mapping[str, str]) -> None:
    """Raise RowProblem unless the mapping (source column -> field) covers the fields that the kind needs."""
    unknown = sorted({field for field in mapping.values() if field not in FIELDS[kind]})
    if unknown:
        raise RowProblem(f"kind {kind} has no field `{unknown[0]}`; its fields are {', '.join(FIELDS[kind])}")
    fields = set(mapping.values())
    if not any(fields.issuperset(needed) for needed in REQUIRED[kind]):
        *others, last = (" + ".join(f"`{field}`" for field in needed) for needed in REQUIRED[kind])
        ways = f"{', '.join(others)} or {last}" if others else last
        mapped = f"mapped so far: {', '.join(sorted(fields))}" if fields else "no column is mapped yet"
        raise RowProblem(f"kind {kind} needs {ways}; {mapped}")
    for field in fields - _MANY:
        columns = [column for column, target in mapping.items() if target == field]
        if len(columns) > 1:
            raise RowProblem(
                f"field `{field}` is mapped from {len(columns)} columns ({', '.join(columns)}); choose one"
            )


def collect_fields(row: Mapping[str, Any], mapping: Mapping[str, str]) -> Row:
    """Return field -> value, with a list for fields that several columns may serve."""
    values: Row = {}
    for column, field in mapping.items():
        value = read_column(row, column, _ABSENT)
        if value is _ABSENT:
            if field in OPTIONAL:
                continue
            if list(row) == [STRING_COLUMN]:
                raise RowProblem("the row is a bare string where an object with named columns is expected")
            others = [path for path in column_paths([row]) if path not in mapping]
            raise RowProblem(describe_missing(column, field, others))
        if field in _MANY:
            several = field == "winner" or list(mapping.values()).count(field) > 1
            values.setdefault(field, []).extend([value] if several else as_list(value, column=column))
            if field == "choices":
                values["labels"] = choice_labels(value)
        else:
            values[field] = value
    return values


def apply_mapping(row: Mapping[str, Any], *, kind: DatasetKind, mapping: Mapping[str, str]) -> dict[str, object]:
    """Turn a foreign row into the canonical row of its kind.

    `mapping` goes from source column to field (see FIELDS). Raises RowProblem, whose reason names the column at fault
    and the value found there.
    """
    if kind is DatasetKind.RECORDS:
        return {RECORD: record_text(row)}
    values = collect_fields(row, mapping)
    if kind is DatasetKind.PREFERENCE and "winner" in values:
        _settle(values, mapping)
    result = _BUILDERS[kind](values)
    _check_characters(result)
    return result


def map_rows(
    row: Mapping[str, Any], *, kind: DatasetKind, mapping: Mapping[str, str]
) -> Iterable[dict[str, object] | RowProblem]:
    """Return the canonical rows of a foreign row: one, or its message tree's. Invalid ones are their RowProblem."""
    return (
        _tree_parts(row, kind=kind, mapping=mapping)
        if TREE in mapping.values()
        else (_mapped(row, kind=kind, mapping=mapping),)
    )


def _tree_parts(
    row: Mapping[str, Any], *, kind: DatasetKind, mapping: Mapping[str, str]
) -> Iterator[dict[str, object] | RowProblem]:
    column = next(column for column, field in mapping.items() if field == TREE)
    try:
        root = read_column(row, column, _ABSENT)
        if root is _ABSENT:
            raise RowProblem(describe_missing(column, TREE, column_paths([row])))
        for part in tree_rows(root, kind=kind):
            yield _mapped(part, kind=kind, mapping={name: name for name in part})
    except RowProblem as problem:
        yield problem


def settle_answers(
    rows: Iterable[Mapping[str, Any]], mapping: Mapping[str, str], *, kind: DatasetKind
) -> dict[str, str]:
    """Return the mapping of a benchmark with the field `answer` settled over these rows. Raises InvalidInput."""
    column = answer_column(mapping)
    if kind is not DatasetKind.BENCHMARK or column is None or "choices" not in mapping.values():
        return dict(mapping)
    tally = AnswerTally()
    for row in rows:
        try:
            values = collect_fields(row, mapping)
            tally.add(values["answer"], choices=read_choices(values), labels=values.get("labels") or [])
        except (RowProblem, KeyError):
            continue  # a bad row is named when it is imported
    return {**mapping, column: tally.settle(column)}


def map_sample(
    rows: Sequence[Mapping[str, Any]], *, kind: DatasetKind, mapping: Mapping[str, str]
) -> Iterator[tuple[Mapping[str, Any], dict[str, object] | RowProblem]]:
    """Yield (foreign row, canonical row or its problem) for the first rows of a source, a tree's messages together."""
    if is_message_table(mapping):
        for tree in sample_trees(rows, mapping=mapping):
            if isinstance(tree, RowProblem):
                yield {}, tree
            else:
                yield from ((tree, part) for part in map_rows({TREE: tree}, kind=kind, mapping={TREE: TREE}))
        return
    with suppress(InvalidInput):  # the whole file may tell what these rows do not
        mapping = settle_answers(rows, mapping, kind=kind)
    for row in rows:
        yield from ((row, part) for part in map_rows(row, kind=kind, mapping=mapping))


def _mapped(row: Mapping[str, Any], *, kind: DatasetKind, mapping: Mapping[str, str]) -> dict[str, object] | RowProblem:
    try:
        return apply_mapping(row, kind=kind, mapping=mapping)
    except RowProblem as problem:
        return problem


def _settle(values: Row, mapping: Mapping[str, str]) -> None:
    """Replace two answers and the verdicts on them by `chosen` and `rejected`."""
    names = {field: column for column, field in mapping.items()}
    winner = read_winner(values.pop("winner"), columns=(names["first"], names["second"]))
    first, second = values.pop("first"), values.pop("second")
    values["chosen"], values["rejected"] = (first, second) if winner == "first" else (second, first)


def _check_characters(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise RowProblem("the text contains a NUL character")
        if _SURROGATE.search(value):
            raise RowProblem("the text contains a lone surrogate, which UTF-8 can't encode")
    elif isinstance(value, dict):
        for part in value.values():
            _check_characters(part)
    elif isinstance(value, list):
        for part in value:
            _check_characters(part)


def _build_text(values: Mapping[str, object]) -> dict[str, object]:
    return {"text": read_text_value(values["text"], name="text")}


def _build_prompt(values: Row) -> Row:
    value = values["prompt"]
    if isinstance(value, list) and value:  # MT-bench turns, or messages
        value = value[0] if isinstance(value[0], str) else messages_of(value, name="prompt")[-1]["content"]
    return {"prompt": _with_input(read_text_value(value, name="prompt"), values)}


def _with_input(prompt: str, values: Row) -> str:
    """Join Alpaca's `instruction` and `input`."""
    extra = read_text_value(values.get("input"), name="input", may_be_empty=True)
    return f"{prompt}\n\n{extra}" if extra.strip() else prompt


def _system(values: Mapping[str, object]) -> str:
    return read_text_value(values.get("system"), name="system", may_be_empty=True)


def _tools(values: Row) -> dict[str, str]:
    """Return the row's tools as a part of it; nothing where it has none."""
    tools = tools_text(values.get("tools"))
    return {"tools": tools} if tools else {}


def _build_instruction(values: Row) -> Row:
    if "instances" in values:  # Self-Instruct: an instruction with examples, of which the first is used
        listed = values["instances"]
        if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
            raise RowProblem("`instances` holds no list of {input, output}")
        values = {**values, "input": listed[0].get("input"), "completion": listed[0].get("output")}
    prompt = _with_input(read_text_value(values["prompt"], name="prompt"), values)
    system = _system(values)
    return {
        "prompt": f"{system}\n\n{prompt}" if system.strip() else prompt,
        "completion": read_text_value(values["completion"], name="completion"),
    }


def _build_chat(values: Row) -> Row:
    turns = values.get("messages")
    if turns is None and isinstance(values.get("prompt"), list):
        row = answered_messages(values["prompt"], completion=values["completion"], system=_system(values))
        return {"messages": [*row["prompt"], *row["completion"]], **_tools(values)}
    if turns is None and "messages" not in values:
        prompt = _with_input(read_text_value(values["prompt"], name="prompt"), values)
        turns = [
            *_history(values.get("history")),
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": read_text_value(values["completion"], name="completion")},
        ]
    return {"messages": conversation(turns, system=_system(values)), **_tools(values)}


def _history(value: Any) -> list[dict[str, str]]:
    """Return earlier rounds, [[question, answer], ...] as LLaMA-Factory writes them, as turns."""
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise RowProblem("`history` holds something else than [question, answer] pairs")
    roles = ("user", "assistant")
    return [
        {"role": role, "content": read_text_value(part, name="history")}
        for pair in value
        for role, part in zip(roles, pair, strict=True)
    ]


def _prompt_value(values: Row) -> Any:
    """Return the prompt of a row, given as text or turns; OpenAI's form holds the tools as well."""
    prompt = values.get("prompt")
    if isinstance(prompt, dict) and prompt.get("tools"):
        values.setdefault("tools", prompt["tools"])
    return _with_input(prompt, values) if isinstance(prompt, str) else prompt


def _build_preference(values: Row) -> Row:
    prompt = _prompt_value(values)
    row = preference_messages(prompt, chosen=values["chosen"], rejected=values["rejected"], system=_system(values))
    return {**row, **_tools(values)}


def _build_kto(values: Row) -> dict[str, object]:
    prompt = _prompt_value(values)
    completion = values["messages"] if "messages" in values else values["completion"]
    row = answered_messages(prompt, completion=completion, system=_system(values))
    return {**row, "label": require_goodness(values["label"]), **_tools(values)}


_BUILDERS = {
    DatasetKind.TEXT: _build_text,
    DatasetKind.INSTRUCTION: _build_instruction,
    DatasetKind.CHAT: _build_chat,
    DatasetKind.PREFERENCE: _build_preference,
    DatasetKind.KTO: _build_kto,
    DatasetKind.BENCHMARK: build_benchmark,
    DatasetKind.PROMPTS: _build_prompt,
}


def canonical_json(row: Mapping[str, Any]) -> str:
    """Write a canonical row as the JSON text that hashes and splits are computed from."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def clean_row(row: Mapping[str, Any]) -> dict[str, object]:
    """Return a row as it was stored: without the empty columns and fields that a table gives to rows that lack them."""
    return {name: _without_empty(value) for name, value in row.items() if value is not None}


def _without_empty(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_empty(part) for part in value]
    if isinstance(value, dict):
        return {key: _without_empty(part) for key, part in value.items() if part is not None}
    return value
