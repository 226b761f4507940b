"""Recognise what kind of dataset some rows are, and which column is what. Pure; a guess with a reason, for a person to check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.conversations import is_message, is_transcript
from backend.domain.row_problem import RowProblem
from backend.domain.rows import DatasetKind, apply_mapping
from backend.errors import InvalidInput

TEXT_NAMES = ("text", "content", "story", "document", "passage", "body", "article", "sentence", "raw_content", "code")
MESSAGES_NAMES = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")
SYSTEM_NAMES = ("system", "system_prompt")
INPUT_NAMES = ("input",)
PROMPT_NAMES = ("instruction", "prompt", "question", "query", "inputs", "user", "input", "text")
COMPLETION_NAMES = (
    "output", "completion", "response", "answer", "targets", "target", "assistant", "canonical_solution", "chosen", "reply",
    "gpt3_response",
)  # fmt: skip
CHOSEN_NAMES = ("chosen", "preferred", "chosen_response", "response_chosen", "winner_response", "better")
REJECTED_NAMES = ("rejected", "dispreferred", "rejected_response", "response_rejected", "loser_response", "worse")
QUESTION_NAMES = ("question", "query", "ctx", "prompt", "input", "goal", "sentence", "stem", "problem")
CHOICES_NAMES = ("choices", "options", "endings", "answers", "mc_choices")
ANSWER_NAMES = ("answer", "answerkey", "gold", "label", "correct_answer", "answer_index", "answer_idx", "target", "gold_index")
CORRECT_NAMES = ("best_answer", "correct", "sentence_good", "correct_answer")
INCORRECT_NAMES = ("incorrect_answers", "incorrect", "sentence_bad", "distractors")
ANSWERS_NAMES = ("answers", "answer", "target", "targets")
TURNS_NAMES = ("turns",)
_CHOICE_COLUMN = re.compile(r"(choice|option|ans|ending|opa|sol|op)_?([a-h]|\d)", re.IGNORECASE)
SHORT_ANSWER = 80  # characters; longer answers are completions to learn from, not gold answers to compare with


@dataclass(frozen=True)
class Recognition:
    """What rows seem to be. `mapping` goes from source column to field; `confidence` from 0 to 1; `reason` is a sentence."""

    kind: DatasetKind
    mapping: dict[str, str]
    confidence: float
    reason: str


class _Sample:
    """Rows with a look-up of columns by lower-case name."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        self.columns = list(dict.fromkeys(str(column) for row in rows for column in row))
        self._by_name = {re.sub(r"[\s-]+", "_", column.strip().lower()): column for column in reversed(self.columns)}

    def find(self, names: Sequence[str], *, but: Sequence[str] = ()) -> str | None:
        """Return the first column with one of the names."""
        return next((self._by_name[name] for name in names if name in self._by_name and self._by_name[name] not in but), None)

    def values(self, column: str) -> list[Any]:
        return [row[column] for row in self.rows if row.get(column) is not None]

    def all(self, column: str, test: Callable[[Any], bool]) -> bool:
        """Whether most values pass a test (a few broken rows must not hide what the rest is)."""
        values = self.values(column)
        return bool(values) and sum(map(test, values)) >= 0.6 * len(values)

    def is_text(self, column: str) -> bool:
        return self.all(column, lambda value: isinstance(value, str))


def _is_turns(value: Any) -> bool:
    if isinstance(value, str) and value.lstrip().startswith("[{"):  # a list written into a cell of a table
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def _preference(sample: _Sample) -> Recognition | None:
    chosen, rejected = sample.find(CHOSEN_NAMES), sample.find(REJECTED_NAMES)
    if not chosen or not rejected:
        return None
    mapping = {chosen: "chosen", rejected: "rejected"}
    whole = sample.all(chosen, lambda value: is_transcript(value) or (isinstance(value, list) and len(value) > 1))
    prompt = sample.find((*MESSAGES_NAMES, *PROMPT_NAMES), but=(chosen, rejected))
    if prompt and not (whole and sample.all(chosen, is_transcript)):
        mapping = {prompt: "prompt", **mapping}
        extra = sample.find(INPUT_NAMES, but=(prompt,))
        if extra:
            mapping[extra] = "input"
    system = sample.find(SYSTEM_NAMES)
    if system:
        mapping[system] = "system"
    how = "whole conversations that begin alike" if whole else f"answers to `{prompt}`"
    return Recognition(DatasetKind.PREFERENCE, mapping, 0.95 if prompt or whole else 0.5, f"`{chosen}` and `{rejected}` are {how}")


def _choice_columns(sample: _Sample) -> list[str]:
    columns = [column for column in sample.columns if _CHOICE_COLUMN.fullmatch(column)]
    letters = [column for column in sample.columns if re.fullmatch("[A-H]", column)]
    return columns if len(columns) >= 2 else letters if len(letters) >= 2 else []


def _answer_field(sample: _Sample, *, answer: str, num_choices: int) -> str:
    """Tell answers counted from 1 from answers counted from 0, by what occurs."""
    seen = {str(value).strip() for value in sample.values(answer)}
    counted = all(value.isdecimal() for value in seen) and bool(seen)
    return "answer_from_1" if counted and "0" not in seen and str(num_choices) in seen else "answer"


def _multiple_choice(sample: _Sample) -> Recognition | None:
    correct, incorrect = sample.find(CORRECT_NAMES), sample.find(INCORRECT_NAMES)
    if correct and incorrect:
        question = sample.find(QUESTION_NAMES, but=(correct, incorrect))
        mapping = {**({question: "question"} if question else {}), correct: "correct", incorrect: "incorrect"}
        return Recognition(DatasetKind.BENCHMARK, mapping, 0.9, f"`{correct}` is the right choice, `{incorrect}` the wrong ones")
    listed = sample.find(CHOICES_NAMES)
    if listed and not sample.all(
        listed, lambda value: isinstance(value, list | dict) or (isinstance(value, str) and value.startswith("["))
    ):
        listed = None
    columns = [listed] if listed else _choice_columns(sample)
    question, answer = sample.find(QUESTION_NAMES, but=columns), sample.find(ANSWER_NAMES, but=columns)
    if not columns or not question or not answer:
        return None
    context = sample.find(("context", "passage", "support", "article"), but=(question,))
    sizes = [len(value) for value in sample.values(columns[0]) if isinstance(value, list)] if listed else [len(columns)]
    field = _answer_field(sample, answer=answer, num_choices=max(sizes, default=0))
    mapping = {**({context: "context"} if context else {}), question: "question", **dict.fromkeys(columns, "choices"), answer: field}
    reason = f"`{question}` with choices in {', '.join(f'`{column}`' for column in columns)} and the right one in `{answer}`"
    return Recognition(DatasetKind.BENCHMARK, mapping, 0.9, reason)


def _headless_multiple_choice(sample: _Sample) -> Recognition | None:
    """The CSV files of MMLU have no header: question, choices, letter."""
    columns = sample.columns
    if len(columns) < 4 or columns != [f"column{i + 1}" for i in range(len(columns))]:
        return None
    if not sample.all(columns[-1], lambda value: bool(re.fullmatch(r"\s*[A-H]\s*", str(value)))):
        return None
    mapping = {columns[0]: "question", **dict.fromkeys(columns[1:-1], "choices"), columns[-1]: "answer"}
    return Recognition(DatasetKind.BENCHMARK, mapping, 0.8, "no header; the last column is a letter, as in MMLU")


def _chat(sample: _Sample) -> Recognition | None:
    column = sample.find(MESSAGES_NAMES)
    if not column or not sample.all(column, _is_turns):
        column = next((name for name in sample.columns if sample.all(name, _is_turns)), None)
    if not column:
        transcript = next((name for name in sample.columns if sample.all(name, is_transcript)), None)
        if not transcript:
            return None
        return Recognition(DatasetKind.CHAT, {transcript: "messages"}, 0.8, f"`{transcript}` is a dialogue of Human and Assistant")
    system = sample.find(SYSTEM_NAMES)
    sharegpt = sample.all(column, lambda turns: isinstance(turns, list) and isinstance(turns[0], dict) and "from" in turns[0])
    spelling = "ShareGPT's from/value" if sharegpt else "role/content"
    return Recognition(
        DatasetKind.CHAT, {column: "messages", **({system: "system"} if system else {})}, 0.95, f"`{column}` holds turns ({spelling})"
    )


def _generation(sample: _Sample) -> Recognition | None:
    question = sample.find(("question", "query", "problem", "input"))
    answer = sample.find(ANSWERS_NAMES, but=(question or "",))
    if not question or not answer or not sample.is_text(question):
        return None
    lists = sample.all(answer, lambda value: isinstance(value, list))
    texts = [str(value) for value in sample.values(answer)]
    if not texts:
        return None
    marked = sum("\n#### " in text for text in texts) > 0.6 * len(texts)
    short = sorted(map(len, texts))[len(texts) // 2] <= SHORT_ANSWER
    if not (lists or marked or short):
        return None
    why = "lists of accepted answers" if lists else "a result after ####" if marked else "short answers"
    return Recognition(DatasetKind.BENCHMARK, {question: "question", answer: "answers"}, 0.8, f"`{question}` with {why} in `{answer}`")


def _instruction(sample: _Sample) -> Recognition | None:
    prompt = sample.find(PROMPT_NAMES)
    completion = sample.find(COMPLETION_NAMES, but=(prompt or "",))
    if not prompt or not completion or not (sample.is_text(prompt) and sample.is_text(completion)):
        return None
    mapping = {prompt: "prompt"}
    extra = sample.find(INPUT_NAMES, but=(prompt,))
    if extra:
        mapping[extra] = "input"
    mapping[completion] = "completion"
    system = sample.find(SYSTEM_NAMES)
    if system:
        mapping[system] = "system"
    confidence = 0.95 if prompt in ("instruction", "prompt") else 0.7
    return Recognition(DatasetKind.INSTRUCTION, mapping, confidence, f"`{prompt}` asks and `{completion}` answers")


def _prompts(sample: _Sample) -> Recognition | None:
    turns = sample.find(TURNS_NAMES)
    if turns and sample.all(turns, lambda value: isinstance(value, list) and bool(value) and isinstance(value[0], str)):
        return Recognition(DatasetKind.PROMPTS, {turns: "prompt"}, 0.8, f"`{turns}` lists turns of the user; the first is the prompt")
    prompt = sample.find(("prompt", "instruction", "question", "query"))
    if not prompt or not sample.is_text(prompt):
        return None
    extra = sample.find(INPUT_NAMES, but=(prompt,))
    return Recognition(
        DatasetKind.PROMPTS, {prompt: "prompt", **({extra: "input"} if extra else {})}, 0.7, f"`{prompt}` asks and nothing answers"
    )


def _text(sample: _Sample) -> Recognition | None:
    column = sample.find(TEXT_NAMES)
    if column and sample.is_text(column):
        return Recognition(DatasetKind.TEXT, {column: "text"}, 0.95 if len(sample.columns) == 1 else 0.8, f"`{column}` is text")
    texts = [name for name in sample.columns if sample.is_text(name)]
    if not texts:
        return None
    longest = max(texts, key=lambda name: sum(len(str(value)) for value in sample.values(name)))
    return Recognition(DatasetKind.TEXT, {longest: "text"}, 0.3, f"no column has a known name; `{longest}` holds the most text")


_DETECTORS = (_preference, _multiple_choice, _headless_multiple_choice, _chat, _generation, _instruction, _prompts, _text)


def recognise(rows: Sequence[Mapping[str, Any]], *, kind: DatasetKind | None = None) -> Recognition:
    """Say what kind of dataset a sample of rows is and which column is what; with `kind`, only map the columns for that kind.

    Raises InvalidInput if there are no rows or no column can serve.
    """
    if not rows:
        raise InvalidInput("There is no row to recognise.", remedy="Check that the file is not empty and that its first lines are sound.")
    sample = _Sample(rows)
    found = [recognition for detector in _DETECTORS if (recognition := detector(sample))]
    if kind is not None:
        found = [recognition for recognition in (*found, *_as_kind(sample, kind)) if recognition.kind is kind]
    columns = ", ".join(f"`{column}`" for column in sample.columns) or "none"
    if not found:
        wanted = f" as kind {kind}" if kind else ""
        raise InvalidInput(f"No column can be used{wanted} (found: {columns}).", remedy="Map the columns by hand.", field="mapping")
    return max(found, key=lambda recognition: _share_that_works(sample, recognition))


def _as_kind(sample: _Sample, kind: DatasetKind) -> list[Recognition]:
    """Readings that are never guessed but possible once a person has chosen the kind."""
    pair = _instruction(sample)
    if kind is DatasetKind.CHAT and pair:
        return [Recognition(kind, pair.mapping, 0.7, f"{pair.reason}; each row becomes a conversation of two turns")]
    if kind is DatasetKind.PROMPTS:
        column = sample.find((*PROMPT_NAMES, *MESSAGES_NAMES))
        return [Recognition(kind, {column: "prompt"}, 0.6, f"`{column}` asks")] if column else []
    if kind is DatasetKind.BENCHMARK:
        question, answer = sample.find(PROMPT_NAMES), sample.find((*ANSWERS_NAMES, *COMPLETION_NAMES))
        if question and answer and question != answer:
            return [
                Recognition(kind, {question: "question", answer: "answers"}, 0.5, f"`{question}` with the expected answer in `{answer}`")
            ]
    return []


def _share_that_works(sample: _Sample, recognition: Recognition) -> float:
    """Prefer readings under which rows can be used; among those, the earlier detectors (max keeps the first of equals)."""
    good = 0
    for row in sample.rows:
        try:
            apply_mapping(row, kind=recognition.kind, mapping=recognition.mapping)
            good += 1
        except RowProblem:
            continue
    return 1.0 if good >= 0.5 * len(sample.rows) else good / len(sample.rows)
