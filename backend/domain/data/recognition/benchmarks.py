"""Recognise questions with choices or with accepted answers."""

from __future__ import annotations

import re

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.recognition.sample import Recognition, SampleRows
from backend.domain.data.rows.values import listed_part

SHORT_ANSWER = 80  # characters; longer answers are completions for training, not gold answers
SHORT_TARGET = 200  # the same where the columns are called `input` and `target`, as in BIG-bench
_DISTRACTOR_COLUMN = re.compile(r"(distractor|incorrect_answer|wrong_answer)_?\d", re.IGNORECASE)  # SciQ, GPQA
CONTEXT_NAMES = ("context", "passage", "support", "article")
_CHOICE_COLUMN = re.compile(r"(choice|option|answer|ans|ending|opa|sol|op)_?([a-h]|\d)", re.IGNORECASE)


def _choice_columns(sample: SampleRows) -> list[str]:
    columns = [column for column in sample.columns if _CHOICE_COLUMN.fullmatch(column)]
    letters = [column for column in sample.columns if re.fullmatch("[A-H]", column)]
    return columns if len(columns) >= 2 else letters if len(letters) >= 2 else []


def detect_multiple_choice(sample: SampleRows) -> Recognition | None:
    """Recognise a question with its choices in one or several columns, and the correct choice."""
    correct, incorrect = sample.find_field("correct"), sample.find_field("incorrect")
    wrong = [incorrect] if incorrect else [column for column in sample.columns if _DISTRACTOR_COLUMN.fullmatch(column)]
    if correct and wrong:
        question = sample.find_field("question", but=(correct, *wrong))
        mapping = {
            **({question: "question"} if question else {}),
            correct: "correct",
            **dict.fromkeys(wrong, "incorrect"),
        }
        named = ", ".join(f"`{column}`" for column in wrong)
        return Recognition(
            DatasetKind.BENCHMARK, mapping, 0.9, f"`{correct}` is the right choice, {named} the wrong ones"
        )
    listed = sample.find_field("choices")
    if listed and not sample.all(
        listed, lambda value: isinstance(value, list | dict) or (isinstance(value, str) and value.startswith("["))
    ):
        listed = None
    columns = [listed] if listed else _choice_columns(sample)
    question, answer = sample.find_field("question", but=columns), sample.find_field("answer", but=columns)
    if not columns or not question or not answer:
        return None
    context = sample.find(CONTEXT_NAMES, but=(question,))
    mapping = {
        **({context: "context"} if context else {}),
        question: "question",
        **dict.fromkeys(columns, "choices"),
        answer: "answer",
    }
    reason = (
        f"`{question}` with choices in {', '.join(f'`{column}`' for column in columns)} and the right one in `{answer}`"
    )
    return Recognition(DatasetKind.BENCHMARK, mapping, 0.9, reason)


def detect_headless_multiple_choice(sample: SampleRows) -> Recognition | None:
    """Recognise the CSV files of MMLU, which have no header: question, choices, letter."""
    columns = sample.columns
    if len(columns) < 4 or columns != [f"column{i + 1}" for i in range(len(columns))]:
        return None
    if not sample.all(columns[-1], lambda value: bool(re.fullmatch(r"\s*[A-H]\s*", str(value)))):
        return None
    mapping = {columns[0]: "question", **dict.fromkeys(columns[1:-1], "choices"), columns[-1]: "answer"}
    return Recognition(DatasetKind.BENCHMARK, mapping, 0.8, "no header; the last column is a letter, as in MMLU")


def detect_code(sample: SampleRows) -> Recognition | None:
    """Recognise HumanEval, MBPP and their like: a function to complete, its solution, and tests."""
    solution = sample.find(("canonical_solution", "code"))
    prompt = sample.find(("prompt", "instruction", "text"), but=(solution or "",))
    if not solution or not prompt or not sample.find(("test", "tests", "test_list", "entry_point")):
        return None
    reason = f"`{prompt}` with the solution in `{solution}`; a task such as HumanEval runs the tests"
    return Recognition(DatasetKind.BENCHMARK, {prompt: "question", solution: "answers"}, 0.8, reason)


def detect_generation(sample: SampleRows) -> Recognition | None:
    """Recognise a question with accepted answers: listed, marked as in GSM8K, or short."""
    question = sample.find(("question", "query", "problem", "input"))
    answer = sample.find_field("answers", but=(question or "",))
    if not question or not answer or not sample.is_text(question):
        return None
    lists = sample.all(answer, lambda value: isinstance(value, list) or listed_part(value) is not None)
    texts = [str(value) for value in sample.values(answer)]
    if not texts:
        return None
    marked = sum("\n#### " in text for text in texts) > 0.6 * len(texts)
    is_task = set(sample.columns) == {"input", "target"}
    short = sorted(map(len, texts))[len(texts) // 2] <= (SHORT_TARGET if is_task else SHORT_ANSWER)
    if not (lists or marked or short):
        return None
    why = "lists of accepted answers" if lists else "a result after ####" if marked else "short answers"
    context = sample.find(CONTEXT_NAMES, but=(question, answer))
    about = {context: "context"} if context and sample.is_text(context) else {}
    mapping = {**about, question: "question", answer: "answers"}
    return Recognition(DatasetKind.BENCHMARK, mapping, 0.8, f"`{question}` with {why} in `{answer}`")
