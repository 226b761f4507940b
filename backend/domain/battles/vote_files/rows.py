"""Read files of votes: CSV, JSON lines or a JSON list, in our own columns, in MT-bench's or with a left and a right
side.

    prompt       rater    a        b        winner    A, B, TIE or BOTH_BAD, or the name of the contestant
    question_id  judge    model_a  model_b  winner    model_a, model_b, tie, tie (inconsistent) or tie (bothbad)
    prompt       worker   left     right    winner    left, right or tie

Other columns are named by a mapping (`field` -> column). Optional: `category` of the prompt; `identical` (yes), of a
tie that no one cast since both answers were equal, as an exported campaign has it; `probability` (or
`sampling_probability`) with which the battle was drawn; the texts `prompt_text`, `answer_a` and `answer_b`; the form of
the answers, for control of length and style: `length_a`, `length_b` and the same of `headers`, `lists` and `bold`.
`layouts` reads what other projects publish into these columns, `tables` reads large files.

MT-bench's `turn` tells two votes of a rater apart; both turns of a question are votes on one prompt, so intervals
clustered by prompt take their dependence into account: by turn they are a tenth too narrow on MT-bench's own votes.

The layouts in which other projects publish votes are read into these columns:

- Chatbot Arena and MT-bench keep `conversation_a` and `conversation_b`, lists of messages: they become texts, up to the
  vote's `turn`.
- LMSYS's competition has a column for each outcome: `winner_model_a`, `winner_model_b`, `winner_tie`.
- PandaLM has a row for each pair of answers, with `cmp_key` naming the two models and a column for each annotator: 1,
  2, or 0 for a tie.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.domain.battles.votes import FEATURES, LABEL_REMEDY, AnswerFeatures, Label, VoteRecord
from backend.domain.data.parsing.text_formats import find_delimiter
from backend.domain.json_values import RowMapping
from backend.errors import InvalidInput

COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question_id"),
    "rater": ("rater", "judge", "worker", "annotator"),
    "a": ("a", "model_a", "left"),
    "b": ("b", "model_b", "right"),
    "winner": ("winner",),
}
WORDS = ("category", "turn", "identical")
"""Optional columns of words; the others are numbers."""
OPTIONAL: dict[str, tuple[str, ...]] = {
    "turn": ("turn",),
    "category": ("category",),
    "identical": ("identical",),
    "probability": ("probability", "sampling_probability"),
    **{f"{feature}_{side}": (f"{feature}_{side}",) for feature in FEATURES for side in "ab"},
}
TEXTS: dict[str, tuple[str, ...]] = {
    "prompt_text": ("prompt_text",),
    "answer_a": ("answer_a", "response_a"),
    "answer_b": ("answer_b", "response_b"),
}
FIELDS = (*COLUMNS, *OPTIONAL, *TEXTS)
FALLBACKS = ("prompt", "rater")
"""Fields that a mapping may leave without a column: then each vote has its own prompt, and one rater casts all."""
UNKNOWN_RATER = "unknown rater"
COLUMNS_REMEDY = f"Name the columns {','.join(COLUMNS)}, or MT-bench's question_id,judge,model_a,model_b,winner."
_WORDS = {
    "LEFT": Label.A,
    "RIGHT": Label.B,
    "TIE_(INCONSISTENT)": Label.TIE,
    "TIE_INCONSISTENT": Label.TIE,
    "TIE_(BOTHBAD)": Label.BOTH_BAD,
    "TIE_BOTHBAD": Label.BOTH_BAD,
    "BOTHBAD": Label.BOTH_BAD,
}
_SIDES = frozenset(column.upper() for field in "ab" for column in COLUMNS[field])
"""Words that name a side in some layout, so never a contestant."""
MAX_CELL_BYTES = 2**26  # MT-bench keeps whole conversations beside each vote
MAX_PROBLEMS = 10
"""Rows at fault that an error names."""
MAX_WORDS = 10
"""More words for the winner that are unknown are another column's."""
HEAD = 2**16
"""Characters from which a table's delimiter is found."""


@dataclass(frozen=True, slots=True)
class FileVote:
    """A vote with the texts that its row has, by the fields of `TEXTS`."""

    vote: VoteRecord
    texts: Mapping[str, str] = field(default_factory=dict)


class UnknownWinner(InvalidInput):
    """A row's winner is a word without a known meaning."""

    def __init__(self, message: str, *, word: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy, field="winner")
        self.word = word


def parse_votes(
    text: str, *, mapping: Mapping[str, str] | None = None, labels: Mapping[str, Label] | None = None
) -> list[VoteRecord]:
    """Read votes from the text of a file; `{` or `[` at its beginning mean JSON.

    `winner` names a side, in any case, or the contestant; `labels` says what other words mean. Other columns are
    ignored. `mapping` names the column of each field; fields that it lacks are found by name, and `prompt` and `rater`
    may map to "" (see `FALLBACKS`). Raises InvalidInput naming the line at fault, and the columns that are missing.
    """
    return [row.vote for row in read_vote_rows(text, mapping=mapping, labels=labels)]


def read_vote_rows(
    text: str,
    *,
    mapping: Mapping[str, str] | None = None,
    labels: Mapping[str, Label] | None = None,
    left_out: list[str] | None = None,
    words: dict[str, None] | None = None,
) -> Iterator[FileVote]:
    """Read votes with the texts of their rows. Where `left_out` is given, it collects where votes stand that compare a
    contestant with itself, which are left out then. `words` collects words for the winner without a known meaning, by
    first appearance. Raises what `parse_votes` raises, after the last row for all that can't be read; where there are
    such words, and no more than MAX_WORDS, nothing, since their meaning comes first.
    """
    problems: list[InvalidInput] = []
    num_problems = 0
    columns_written = functools.cache(lambda: file_columns(text))  # reads the file again, so only for an error

    def spell(column: str) -> str:
        return columns_written().get(column, column)

    for number, (where, row, columns) in enumerate(_mapped_rows(text, mapping), start=1):
        try:
            vote = _record(row, columns, where=where, number=number, labels=labels or {}, spell=spell)
            if vote.a == vote.b and left_out is None:
                raise InvalidInput(
                    f"{where} compares {vote.a!r} with itself.",
                    remedy="A battle needs two different contestants.",
                    field="b",
                )
        except InvalidInput as error:
            if isinstance(error, UnknownWinner) and words is not None:
                words[error.word] = None
            num_problems += 1
            if num_problems <= MAX_PROBLEMS:
                problems.append(error)
            continue
        if vote.a != vote.b:
            yield FileVote(vote, _texts(row, columns))
        elif left_out is not None:
            left_out.append(where)
    if problems and not 0 < len(words or ()) <= MAX_WORDS:
        raise _together(problems, num_problems)


def _together(first: Sequence[InvalidInput], num_problems: int) -> InvalidInput:
    """Return one error that names the first rows at fault with their reasons, and how many more there are."""
    if num_problems == 1:
        return first[0]
    more = num_problems - len(first)
    listed = " ".join(problem.message for problem in first) + (f" And {more:,} more." if more else "")
    return InvalidInput(
        f"{num_problems:,} votes can't be read. {listed}",
        remedy=" ".join(dict.fromkeys(problem.remedy for problem in first)),
        field=first[0].field,
    )


def file_columns(text: str) -> dict[str, str]:
    """Return the names of a file's columns, in small letters and as the file writes them, as its first row has them in
    the layout that is read.
    """
    written = {name.lower(): name for _, row in itertools.islice(_rows(text, spell=str), 1) for name in row}
    return {name: written.get(name, name) for _, row in itertools.islice(standard_rows(_rows(text)), 1) for name in row}


def guess_columns(names: Collection[str]) -> dict[str, str]:
    """Return field -> column for the fields that are found by name."""
    return {
        field: column
        for field, known in (COLUMNS | OPTIONAL | TEXTS).items()
        if (column := next((name for name in known if name in names), ""))
    }


def _mapped_rows(
    text: str, mapping: Mapping[str, str] | None
) -> Iterator[tuple[str, Mapping[str, Any], dict[str, str]]]:
    """Return each row with where it stands and the column of each field."""
    known: dict[tuple[str, ...], dict[str, str]] = {}
    for where, row in standard_rows(_rows(text)):
        names = tuple(row)
        columns = known.get(names)
        if columns is None:
            columns = known[names] = _columns(names, where, mapping or {})
        yield where, row, columns


def _rows(text: str, *, spell: Callable[[str], str] = str.lower) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return each row, with where it stands; `spell` is how the names of columns are returned."""
    text = text.removeprefix("\ufeff")
    begin = text.lstrip()[:1]
    read = _json_lines if begin == "{" else _json_list if begin == "[" else _csv_rows
    return read(text, spell)


def _csv_rows(text: str, spell: Callable[[str], str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(MAX_CELL_BYTES)
    delimiter = find_delimiter(text[:HEAD].encode(errors="replace"))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next(reader, None)
        if header is None:
            raise InvalidInput("The file of votes is empty.", remedy=COLUMNS_REMEDY)
        names = [spell(cell.strip()) for cell in header]
        rows = (row for row in reader if any(cell.strip() for cell in row))
        first = next(rows, None)
        if first is None:
            _columns([name.lower() for name in names], "the first line", {})
            return
        for row in itertools.chain([first], rows):
            yield f"Line {reader.line_num}", dict(itertools.zip_longest(names, row[: len(names)], fillvalue=""))
    except csv.Error as error:
        raise InvalidInput(
            f"Line {reader.line_num} is not CSV: {error}.", remedy="Check its quotes and commas."
        ) from error


def _json_lines(text: str, spell: Callable[[str], str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"Line {number}", _object(_parsed(line, where=f"Line {number}"), spell, where=f"Line {number}")


def _json_list(text: str, spell: Callable[[str], str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    values: Iterable[Any] = _parsed(text, where="The file")
    for number, value in enumerate(values, start=1):
        yield f"Vote {number}", _object(value, spell, where=f"Vote {number}")


def _parsed(text: str, *, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{where} is not JSON: {str(error)[:100]}.", remedy="Write one object a line, or a list of them."
        ) from error


def _object(value: Any, spell: Callable[[str], str], *, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} is not an object with the columns of a vote.", remedy=COLUMNS_REMEDY)
    return {spell(str(name).strip()): cell for name, cell in value.items()}


def _columns(names: Sequence[str], where: str, mapping: Mapping[str, str]) -> dict[str, str]:
    """Return field -> column, optional fields if they have one. Raises InvalidInput naming the fields without."""
    columns = guess_columns(names) | {field: column.strip().lower() for field, column in mapping.items()}
    absent = [column for field, column in columns.items() if column and column not in names and field in mapping]
    missing = [field for field in COLUMNS if not columns.get(field) and not (field in FALLBACKS and field in mapping)]
    available = ", ".join(names)[:300] or "nothing"
    if missing:
        none = f", or `--column {missing[0]}=` if the file has none" if missing[0] in FALLBACKS else ""
        raise InvalidInput(
            f"The votes lack the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; {where} has"
            f" {available}.",
            remedy=f"{COLUMNS_REMEDY} A command takes another name: `--column {missing[0]}=COLUMN`{none}.",
            field=missing[0],
        )
    if absent:
        raise InvalidInput(
            f"{where} has no column {absent[0]!r}; it has {available}.",
            remedy="Choose one of its columns.",
            field="votes",
        )
    return {field: column for field, column in columns.items() if column}


def _record(
    row: Mapping[str, Any],
    columns: Mapping[str, str],
    *,
    where: str,
    number: int,
    labels: Mapping[str, Label],
    spell: Callable[[str], str],
) -> VoteRecord:
    """Return the vote of a row; `spell` returns a column's name as the file writes it, for errors."""
    cells = {field: _cell(row.get(column)) for field, column in columns.items() if field not in TEXTS}
    cells |= {
        field: cell for field, cell in (("prompt", f"vote {number}"), ("rater", UNKNOWN_RATER)) if field not in columns
    }
    empty = [field for field in COLUMNS if not cells[field]]
    if empty:
        raise InvalidInput(
            f"{where} has no {spell(columns[empty[0]])}.", remedy="Fill it in or remove the vote.", field=empty[0]
        )
    label = _label(cells, columns) or labels.get(cells["winner"])
    if label is None:
        sides = "" if columns["a"] == "a" else f" Here the sides are {spell(columns['a'])} and {spell(columns['b'])}."
        raise UnknownWinner(
            f"{where} has the unknown winner {cells['winner'][:60]!r}.",
            word=cells["winner"],
            remedy=f"{LABEL_REMEDY}{sides} A command takes other words: `--winner WORD=A`.",
        )
    numbers = {
        field: _number(cells[field], field, where=where)
        for field in OPTIONAL
        if field not in WORDS and cells.get(field)
    }
    return VoteRecord(
        prompt=cells["prompt"],
        rater=cells["rater"],
        a=cells["a"],
        b=cells["b"],
        winner=label,
        turn=cells.get("turn", ""),
        identical=label == Label.TIE and is_yes(cells.get("identical", "")),
        category=cells.get("category", ""),
        probability=numbers.get("probability"),
        form_a=_form(numbers, "a"),
        form_b=_form(numbers, "b"),
    )


def _label(cells: Mapping[str, str], columns: Mapping[str, str]) -> Label | None:
    """Return the label of a row: its winner names a side, or the contestant."""
    label = verdict_label(cells["winner"], columns)
    if label is None and _word(cells["winner"]) not in _SIDES:
        label = {cells["a"]: Label.A, cells["b"]: Label.B}.get(cells["winner"])
    return label


def is_yes(cell: str) -> bool:
    """Return whether a cell says yes."""
    return cell.lower() in {"yes", "true", "1"}


def _number(cell: str, field: str, *, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    is_probability = field == "probability"
    if not math.isfinite(value) or value < 0 or (is_probability and not 0 < value <= 1):
        remedy = (
            "Write the chance with which the battle was drawn, above 0 and at most 1"
            if is_probability
            else "Write a count of 0 or more"
        )
        raise InvalidInput(
            f"{where} has the {field} {cell[:60]!r}.", remedy=f"{remedy}, or leave it empty.", field=field
        )
    return value


def _form(numbers: Mapping[str, float], side: str) -> AnswerFeatures | None:
    values = [numbers.get(f"{feature}_{side}", math.nan) for feature in FEATURES]
    return None if all(map(math.isnan, values)) else AnswerFeatures(*values)


def _cell(value: Any) -> str:
    """Return a cell as text: MT-bench's judges are lists such as ["gpt-4", "pair-v2"], its questions numbers."""
    if isinstance(value, list):
        return " ".join(map(_cell, value)).strip()
    return "" if value is None else str(value).strip()


def _texts(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, str]:
    """Return a row's texts. Of two answers one may be empty; two empty ones are not there."""
    texts = {field: _text(row.get(columns[field])) for field in TEXTS if field in columns}
    if not (texts.get("answer_a") or texts.get("answer_b")):
        return {"prompt_text": texts["prompt_text"]} if texts.get("prompt_text") else {}
    return {"answer_a": "", "answer_b": "", **texts}


def _text(value: Any) -> str:
    """Return a text as it is written; a list is its parts, one below the other."""
    if isinstance(value, list):
        return "\n\n".join(filter(None, map(_text, value)))
    return "" if value is None else str(value)


def verdict_label(winner: str, columns: Mapping[str, str]) -> Label | None:
    """Return the label of a verdict, None if it is none; the name of a side's column means that side."""
    word = _word(winner)
    for side in (Label.A, Label.B):
        if columns[side.lower()] != side.lower() and word == columns[side.lower()].upper():
            return side
    return Label.__members__.get(word) or _WORDS.get(word)


def _word(winner: str) -> str:
    return winner.upper().replace(" ", "_").replace("-", "_")


_ANNOTATOR = re.compile(r"annotator_?\d+")
_ONE_HOT = {"winner_model_a": "A", "winner_model_b": "B", "winner_tie": "TIE"}
_PANDALM = {"cmp_key", "response1", "response2"}
_VERDICTS = {"0": "TIE", "1": "A", "2": "B"}


def standard_rows(rows: Iterable[tuple[str, RowMapping]]) -> Iterator[tuple[str, RowMapping]]:
    """Return each row (with where it stands) as rows of one vote each. Raises InvalidInput for an unknown verdict."""
    for where, row in rows:
        if row.keys() >= _PANDALM:
            yield from _pandalm(where, row)
        else:
            yield where, _with_conversation(_with_winner(row))


def _with_winner(row: RowMapping) -> RowMapping:
    if "winner" in row or not row.keys() >= {"winner_model_a", "winner_model_b"}:
        return row
    winners = [
        label for column, label in _ONE_HOT.items() if str(row.get(column, "")).strip().lower() in ("1", "1.0", "true")
    ]
    return {**row, "winner": winners[0] if len(winners) == 1 else ""}


def _with_conversation(row: RowMapping) -> RowMapping:
    if "prompt_text" in row or not row.keys() >= {"conversation_a", "conversation_b"}:
        return row
    turn = str(row.get("turn", ""))
    turns = int(turn) if turn.isdecimal() else None
    sides = {side: _messages(row[f"conversation_{side}"]) for side in "ab"}
    texts = {f"answer_{side}": _spoken(messages, "assistant", turns) for side, messages in sides.items()}
    return {**row, "prompt_text": _spoken(sides["a"], "user", turns), **texts}


def _messages(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return [message for message in value if isinstance(message, dict)] if isinstance(value, list) else []


def _spoken(messages: Iterable[Mapping[str, Any]], role: str, turns: int | None) -> str:
    """Return what a role said in the first `turns` turns."""
    said = [str(message.get("content", "")) for message in messages if message.get("role") == role]
    return "\n\n".join(said[:turns])


def _pandalm(where: str, row: RowMapping) -> Iterator[tuple[str, RowMapping]]:
    names = str(row["cmp_key"]).split("_")
    if len(names) != 2:
        raise InvalidInput(
            f"{where} has the cmp_key {str(row['cmp_key'])[:60]!r}.", remedy="Write the two models as FIRST_SECOND."
        )
    prompt = "\n\n".join(part for part in (str(row.get("instruction", "")), str(row.get("input", ""))) if part.strip())
    texts = {"prompt_text": prompt, "answer_a": row["response1"], "answer_b": row["response2"]}
    for annotator in row:
        if not _ANNOTATOR.fullmatch(annotator) or row[annotator] in (None, ""):
            continue
        verdict = _VERDICTS.get(str(row[annotator]).strip())
        if verdict is None:
            raise InvalidInput(
                f"{where} has the verdict {str(row[annotator])[:60]!r} of {annotator}.",
                remedy="Write 1, 2, or 0 for a tie.",
            )
        yield where, {"prompt": prompt, "rater": annotator, "a": names[0], "b": names[1], "winner": verdict, **texts}
