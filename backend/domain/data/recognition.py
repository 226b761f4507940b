"""Recognise the kind of dataset of sample rows, and map their columns. The result is a guess with a reason."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from backend.domain.data.kinds import MESSAGE_FIELDS, REQUIRED, DatasetKind
from backend.domain.data.parsing.json_stream import STRING_COLUMN
from backend.domain.data.rows.columns import (
    FIELD_NAMES,
    SIDE_NAMES,
    SampleRows,
    nearest_column,
    plain_name,
    read_column,
)
from backend.domain.data.rows.conversations import ROLE_KEYS, ROLES, is_message, is_transcript
from backend.domain.data.rows.mapping import map_sample, settle_answers
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.trees import TREE, is_root
from backend.domain.data.rows.values import listed_part, read_goodness, side_of
from backend.errors import InvalidInput


@dataclass(frozen=True)
class Recognition:
    """A recognised kind. `mapping` goes from source column to field; `confidence` from 0 to 1; `reason` is a sentence.

    `is_fallback`: the rows are read as text only because no other kind fits and no column has a usual name of texts.
    """

    kind: DatasetKind
    mapping: dict[str, str]
    confidence: float
    reason: str
    is_fallback: bool = False


def detect_tree(sample: SampleRows) -> Recognition | None:
    """Recognise trees as conversations, one for each path from the root to a leaf."""
    mapping = _nested(sample) or _table(sample)
    if mapping is None:
        return None
    ranks = "; choose kind preference to compare answers by their rank instead" if _has_ranks(sample, mapping) else ""
    return Recognition(
        DatasetKind.CHAT,
        mapping,
        0.95,
        f"{_shape(mapping)}; each path from its root to a leaf is a conversation{ranks}",
    )


def detect_ranked_tree(sample: SampleRows) -> Recognition | None:
    """Recognise trees as preferences: of two answers to the same message the better-ranked one is chosen."""
    mapping = _nested(sample) or _table(sample)
    if mapping is None or not _has_ranks(sample, mapping):
        return None
    reason = f"{_shape(mapping)}; of two answers to one message, the better-ranked is chosen"
    return Recognition(DatasetKind.PREFERENCE, mapping, 0.9, reason)


def _nested(sample: SampleRows) -> dict[str, str] | None:
    column = next((name for name in sample.columns if sample.all(name, is_root)), None)
    return {column: TREE} if column else None


def _table(sample: SampleRows) -> dict[str, str] | None:
    columns = {field: sample.find_field(field) for field in MESSAGE_FIELDS}
    mapping = {column: field for field, column in columns.items() if column}
    role = columns["role"]
    if set(mapping.values()) < {"message_id", "parent_id", "role", "content"} or role is None:
        return None
    return mapping if sample.all(role, lambda value: str(value).lower() in ROLES) else None


def _shape(mapping: dict[str, str]) -> str:
    names = {field: column for column, field in mapping.items()}
    if TREE in names:
        return f"`{names[TREE]}` is the root of a message tree"
    return f"each row is a message of a tree (`{names['parent_id']}` names the message that it answers)"


def _has_ranks(sample: SampleRows, mapping: dict[str, str]) -> bool:
    names = {field: column for column, field in mapping.items()}
    if TREE in names:
        return any(_ranked(root) for root in sample.values(names[TREE]))
    return "rank" in names and any(value not in (None, "") for value in sample.values(names["rank"]))


def _ranked(root: Any) -> bool:
    waiting = [root]
    while waiting:
        message = waiting.pop()
        if isinstance(message, dict):
            if message.get("rank") is not None:
                return True
            replies = message.get("replies")
            waiting += replies if isinstance(replies, list) else []
    return False


MAX_PROMPT = 2000  # characters
_REQUEST = re.compile(
    r"(who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|will|would|should|may|might|"
    r"have|has|am|write|explain|describe|list|give|tell|summari[sz]e|translate|compare|create|generate|make|suggest|"
    r"name|find|solve|calculate|compute|show|help|provide|convert|classify|identify|rewrite|edit|correct|design|"
    r"develop|draft|outline|propose|plan|imagine|pretend|act|answer|define|discuss|analy[sz]e|evaluate|recommend|"
    r"implement|simplify|compose|complete|continue|please|prove|derive|count|extract|teach|instruct|devise|produce|"
    r"prepare|invent|brainstorm|construct|argue|choose|read|say|think|let's|i want|i need|you are)\b",
    re.IGNORECASE,
)


def detect_strings(sample: SampleRows) -> Recognition | None:
    """Recognise a list of strings, as prompts or text; the user may choose the other kind."""
    if sample.columns != [STRING_COLUMN]:
        return None
    texts = [value for value in sample.values(STRING_COLUMN) if isinstance(value, str) and value.strip()]
    if not texts:
        return None
    requests = sum(map(reads_as_request, texts))
    if requests >= 0.6 * len(texts):
        reason = f"a list of strings, of which {requests} of the first {len(texts)} read as questions or instructions"
        return Recognition(
            DatasetKind.PROMPTS, {STRING_COLUMN: "prompt"}, 0.7, f"{reason}; choose kind text to train on them"
        )
    reason = f"a list of strings, of which {requests} of the first {len(texts)} read as questions or instructions"
    return Recognition(
        DatasetKind.TEXT, {STRING_COLUMN: "text"}, 0.7, f"{reason}; choose kind prompts to have them answered"
    )


def reads_as_request(text: str) -> bool:
    """Return whether a text looks like a prompt: it ends in a question mark, or begins as a question or an instruction
    does.

    >>> reads_as_request("Explain how a heat pump works."), reads_as_request("The heat pump hummed.")
    (True, False)
    """
    stripped = text.strip()
    if len(stripped) > MAX_PROMPT:
        return False
    return stripped.endswith("?") or _REQUEST.match(stripped) is not None


SHORT_ANSWER = 80  # characters; longer answers are completions for training, not gold answers
MIN_SENTENCE = 4  # words
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


def _is_sentence(text: str) -> bool:
    """Return whether a text is a sentence, of four words at least, or several: nothing that another model must match.

    >>> _is_sentence("Mira lives in the tower."), _is_sentence("The Old Mill")
    (True, False)
    """
    return len(text.split()) >= MIN_SENTENCE and (";" in text or text.rstrip("\"'”’) ").endswith((".", "!", "?")))


def detect_generation(sample: SampleRows) -> Recognition | None:
    """Recognise a question with accepted answers: listed, marked as in GSM8K, or short and no sentences."""
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
    prose = not is_task and sum(map(_is_sentence, texts)) >= 0.5 * len(texts)
    if not (lists or marked or (short and not prose)):
        return None
    why = "lists of accepted answers" if lists else "a result after ####" if marked else "short answers"
    context = sample.find(CONTEXT_NAMES, but=(question, answer))
    about = {context: "context"} if context and sample.is_text(context) else {}
    mapping = {**about, question: "question", answer: "answers"}
    return Recognition(DatasetKind.BENCHMARK, mapping, 0.8, f"`{question}` with {why} in `{answer}`")


SIGNATURES: dict[str, tuple[str, ...]] = {
    "IFEval": ("prompt", "instruction_id_list", "kwargs"),
    "XSTest": ("prompt", "type", "label", "focus"),
    "Winogender": ("sentid", "sentence"),
    "CrowS-Pairs": ("sent_more", "sent_less"),
    "StrongREJECT": ("forbidden_prompt", "category"),
    "HarmBench": ("behavior", "semanticcategory"),
    "AdvBench": ("goal", "target"),
}
"""Benchmarks by the columns that only they have, plainly spelled."""


def detect_records(sample: SampleRows) -> Recognition | None:
    """Recognise a benchmark by its columns."""
    for name, columns in SIGNATURES.items():
        if all(sample.find((column,)) for column in columns) and (name != "AdvBench" or len(sample.columns) <= 3):
            return Recognition(DatasetKind.RECORDS, {}, 0.95, f"the columns are those of {name}; every column is kept")
    return None


def has_passage_lines(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a text file is one of LAMBADA's, by its name: each line is a passage."""
    return "lambada" in name.lower() and bool(rows) and all(list(row) == ["text"] for row in rows)


def split_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Return a row for each line of the texts, as an import by line reads them."""
    return [{"prompt": line} for row in rows for line in str(row["text"]).splitlines() if line.strip()]


_VERDICT_COLUMN = re.compile(r"(annotator|annotation|rater|judge|vote)_?\d+")
VOTE_NAMES = (("left", "right", "winner"), ("model_a", "model_b", "winner"), ("a", "b", "winner"))
SHORT_NAMES = 40  # characters: a table of shorter texts holds names and facts, not training text


def is_turns(value: Any, *, is_turn: Callable[[Any], bool] = is_message) -> bool:
    """Return whether a value is a list of turns, or one written into a cell as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def _extras(sample: SampleRows, mapping: Mapping[str, str], *, tools: bool = True) -> dict[str, str]:
    """Return unmapped columns that may accompany a conversation: the system message and the tools."""
    used = tuple(mapping)
    system, listed = sample.find_field("system", but=used), sample.find_field("tools", but=used) if tools else None
    return {**({system: "system"} if system else {}), **({listed: "tools"} if listed else {})}


def _input(sample: SampleRows, prompt: str) -> dict[str, str]:
    """Return Alpaca's `input` column, if there is one with text."""
    extra = sample.find_field("input", but=(prompt,))
    return {extra: "input"} if extra and (sample.is_text(extra) or not sample.values(extra)) else {}


def detect_preference(sample: SampleRows) -> Recognition | None:
    """Recognise a chosen and a rejected answer: as text, as turns, or as whole conversations that begin alike."""
    chosen, rejected = sample.find_field("chosen"), sample.find_field("rejected")
    if not chosen or not rejected:
        return None
    mapping = {chosen: "chosen", rejected: "rejected"}
    is_whole = sample.all(chosen, lambda value: is_transcript(value) or (isinstance(value, list) and len(value) > 1))
    prompt = sample.find_field("messages", "prompt", but=(chosen, rejected))
    if prompt and not (is_whole and sample.all(chosen, is_transcript)):
        mapping = {prompt: "prompt", **mapping, **_input(sample, prompt)}
    how = "whole conversations that begin alike" if is_whole else f"answers to `{prompt}`"
    reason = f"`{chosen}` and `{rejected}` are {how}"
    return Recognition(
        DatasetKind.PREFERENCE, {**mapping, **_extras(sample, mapping)}, 0.95 if prompt or is_whole else 0.5, reason
    )


def detect_compared(sample: SampleRows) -> Recognition | None:
    """Recognise two answers and a verdict on which is better, of one judge or of several."""
    names = {plain_name(column): column for column in sample.columns}
    sides = next(((names[a], names[b]) for a, b in SIDE_NAMES if a in names and b in names), None)
    if sides is None:
        return None
    votes = [column for column in sample.columns if _VERDICT_COLUMN.fullmatch(plain_name(column))]
    winner = sample.find_field("winner", but=sides)
    judged = [winner] if winner else votes
    settled = [any(side_of(read_column(row, column), columns=sides) for column in judged) for row in sample.rows]
    prompt = sample.find_field("messages", "prompt", but=sides)
    if not judged or sum(settled) < 0.3 * len(settled):  # arenas have many ties
        return None
    mapping = {sides[0]: "first", sides[1]: "second", **dict.fromkeys(judged, "winner")}
    if prompt:
        mapping = {prompt: "prompt", **mapping, **_input(sample, prompt)}
    listed = ", ".join(f"`{column}`" for column in judged)
    return Recognition(
        DatasetKind.PREFERENCE,
        {**mapping, **_extras(sample, mapping)},
        0.85,
        f"{listed} says which of `{sides[0]}` and `{sides[1]}` is better",
    )


def detect_kto(sample: SampleRows) -> Recognition | None:
    """Recognise single answers that are labelled good or bad."""
    label = next(
        (
            column
            for name in FIELD_NAMES["label"]
            if (column := sample.find((name,))) and sample.all(column, lambda v: read_goodness(v) is not None)
        ),
        None,
    )
    if label is None:
        return None
    answer = detect_answered_turns(sample) or detect_chat(sample) or detect_instruction(sample)
    if answer is None or label in answer.mapping:
        return None
    mapping = {column: field for column, field in answer.mapping.items() if field not in ("history", "instances")}
    return Recognition(
        DatasetKind.KTO, {**mapping, label: "label"}, 0.9, f"{answer.reason}, and `{label}` rates it good or bad"
    )


def detect_answered_turns(sample: SampleRows) -> Recognition | None:
    """Recognise `prompt` and `completion` that are lists of turns, as TRL writes them."""
    prompt, completion = sample.find(("prompt",)), sample.find(("completion", "response", "output"))
    if not prompt or not completion or not sample.all(completion, is_turns):
        return None
    mapping = {prompt: "prompt", completion: "completion"}
    mapping |= _extras(sample, mapping)
    return Recognition(
        DatasetKind.CHAT, mapping, 0.9, f"`{prompt}` holds the prompts and `{completion}` the answers, both as turns"
    )


def detect_chat(sample: SampleRows) -> Recognition | None:
    """Recognise conversations: lists of turns in OpenAI's or ShareGPT's spelling, or transcripts."""
    column = sample.find_field("messages")
    if not column or not sample.all(column, is_turns):
        column = next((name for name in sample.columns if sample.all(name, is_turns)), None)
    if not column:
        transcript = next((name for name in sample.columns if sample.all(name, is_transcript)), None)
        if not transcript:
            return None
        return Recognition(
            DatasetKind.CHAT, {transcript: "messages"}, 0.8, f"`{transcript}` is a dialogue of Human and Assistant"
        )
    sharegpt = sample.all(
        column,
        lambda turns: isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "from" in turns[0],
    )
    spelling = "ShareGPT's from/value" if sharegpt else "role/content"
    extras = _extras(sample, {column: "messages"})
    offered = ", with tools" if "tools" in extras.values() else ""
    return Recognition(
        DatasetKind.CHAT, {column: "messages", **extras}, 0.95, f"`{column}` holds turns ({spelling}){offered}"
    )


def detect_unread_turns(sample: SampleRows) -> Recognition | None:
    """Recognise turns with roles in a spelling that can't be read: rejected with the reason, not taken for text."""

    def has_role(turn: Any) -> bool:
        return isinstance(turn, dict) and not set(ROLE_KEYS).isdisjoint(turn)

    has_roles = partial(is_turns, is_turn=has_role)
    column = next((name for name in sample.columns if sample.all(name, has_roles)), None)
    if column is None:
        return None
    reason = f"`{column}` holds turns with roles"
    return Recognition(DatasetKind.CHAT, {column: "messages", **_extras(sample, {column: "messages"})}, 0.5, reason)


def detect_instruction(sample: SampleRows) -> Recognition | None:
    """Recognise a prompt with its completion: Alpaca, prompt and response, Self-Instruct; with earlier rounds it is a
    chat.
    """
    prompt = sample.find_field("prompt")
    completion = sample.find_field("completion", but=(prompt or "",))
    instances = sample.find(("instances",))
    if prompt and not completion and instances and sample.all(instances, _is_instances):
        reason = f"`{prompt}` holds the prompts and the first of `{instances}` the answers"
        return Recognition(DatasetKind.INSTRUCTION, {prompt: "prompt", instances: "instances"}, 0.9, reason)
    if not prompt or not completion or not (sample.is_text(prompt) and sample.is_text(completion)):
        return None
    history = sample.find_field("history")
    rounds = {history: "history"} if history and any(sample.values(history)) else {}
    mapping = {prompt: "prompt", **_input(sample, prompt), completion: "completion", **rounds}
    mapping |= _extras(sample, mapping, tools=bool(rounds))
    confidence = 0.95 if prompt in ("instruction", "prompt") else 0.7
    reason = f"`{prompt}` holds the prompts and `{completion}` the answers"
    if rounds:
        return Recognition(DatasetKind.CHAT, mapping, confidence, f"{reason}, after the rounds in `{history}`")
    return Recognition(DatasetKind.INSTRUCTION, mapping, confidence, reason)


def _is_instances(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "output" in value[0]


def detect_prompts(sample: SampleRows) -> Recognition | None:
    """Recognise prompts without answers, and name a column that might hold the answers."""
    turns = sample.find(("turns",))
    if turns and sample.all(turns, lambda value: isinstance(value, list) and bool(value) and isinstance(value[0], str)):
        return Recognition(
            DatasetKind.PROMPTS, {turns: "prompt"}, 0.8, f"`{turns}` lists turns of the user; the first is the prompt"
        )
    prompt = sample.find(("prompt", "instruction", "question", "query", "goal", "behavior", "prompt_template"))
    if prompt and not (sample.is_text(prompt) and sample.all(prompt, lambda value: not str(value).strip().isdecimal())):
        prompt = None  # the number of a prompt, as votes have it
    sides = [column for pair in SIDE_NAMES for column in sample.columns if plain_name(column) in pair]
    if not prompt and sides:  # answers without a verdict: only the prompt is used
        prompt = sample.find(("text",))
    if not prompt or not sample.is_text(prompt):
        return None
    mapping = {prompt: "prompt", **_input(sample, prompt)}
    near = nearest_column(
        "completion", [column for column in sample.columns if column not in mapping and sample.is_text(column)]
    )
    hint = f"; if `{near}` holds answers, choose kind instruction and map it to `completion`" if near else ""
    if sides:
        hint = f"; no verdict on which of {' and '.join(f'`{column}`' for column in sides[:2])} is better"
    return Recognition(DatasetKind.PROMPTS, mapping, 0.7, f"`{prompt}` holds prompts without answers{hint}")


def detect_text(sample: SampleRows) -> Recognition | None:
    """Recognise plain text; where no column has a known name, fall back on the one that holds the most text."""
    column = sample.find_field("text")
    if column and sample.is_text(column):
        others = [f"`{name}`" for name in sample.columns if name != column]
        unused = f"; not used: {', '.join(others[:6])}{', ...' if len(others) > 6 else ''}" if others else ""
        return Recognition(
            DatasetKind.TEXT, {column: "text"}, 0.8 if others else 0.95, f"plain text in `{column}`{unused}"
        )
    texts = [name for name in sample.columns if sample.is_text(name)]
    if not texts:
        return None
    longest = max(texts, key=lambda name: sum(len(str(value)) for value in sample.values(name)))
    sizes = sorted(len(str(value)) for value in sample.values(longest))
    reason = f"no column has a known name; `{longest}` holds the most text"
    if sizes[len(sizes) // 2] <= SHORT_NAMES and len(sample.columns) > 1:
        names = {plain_name(name) for name in sample.columns}
        votes = next((columns for columns in VOTE_NAMES if set(columns) <= names), None)
        reason += (
            f"; {', '.join(f'`{name}`' for name in votes)} look like votes: `roundhouse rating fit` rates contestants"
            " by them"
            if votes
            else "; its values are short, as in a table of facts: probably not training text"
        )
    return Recognition(DatasetKind.TEXT, {longest: "text"}, 0.3, reason, is_fallback=True)


_DETECTORS = (
    detect_strings,
    detect_records,
    detect_tree,
    detect_ranked_tree,
    detect_preference,
    detect_compared,
    detect_multiple_choice,
    detect_headless_multiple_choice,
    detect_code,
    detect_kto,
    detect_answered_turns,
    detect_chat,
    detect_generation,
    detect_instruction,
    detect_prompts,
    detect_text,
)


LOOKED_FOR = (
    "turns (messages, conversations, dialogue)",
    "a chosen and a rejected answer (chosen, rejected)",
    "two answers and the better one (response_a, response_b, winner)",
    "an answer and its label (completion, label)",
    "a question with choices or short answers (question, choices, answer)",
    "a prompt with its answer (instruction, prompt or question; output, completion or response)",
    "a prompt (prompt, instruction, question)",
    "a message tree (replies; message_id, parent_id)",
    "text (text, content, document, story)",
)
"""The columns, with their usual names, that are searched for before a file is read as text."""


MAX_SAMPLED = 500  # a few trees hold very many conversations


def recognise(rows: Sequence[Mapping[str, Any]], *, kind: DatasetKind | None = None) -> Recognition:
    """Return the kind of some sample rows with the mapping of their columns; with `kind`, map the columns for that
    kind. Columns of nested objects are searched only where those of the rows themselves say nothing.

    Raises InvalidInput if there are no rows or no column fits, naming the nearest column.
    """
    if not rows:
        raise InvalidInput(
            "There is no row to recognise.",
            remedy="Check that the file is not empty and that its first lines are valid.",
        )
    sample = SampleRows(rows)
    candidates = _candidates(sample, kind)
    deeper = SampleRows(rows, nested=True)
    if any("." in column for column in deeper.columns) and not any(_is_named(sample, one) for one in candidates):
        nested = _candidates(deeper, kind)
        candidates = [one for one in nested if _is_named(deeper, one)] or candidates or nested
        sample = deeper
    if not candidates:
        columns = ", ".join(f"`{column}`" for column in sample.columns[:20]) or "none"
        as_kind = f" as kind {kind}" if kind else ""
        raise InvalidInput(
            f"No column can be used{as_kind} (found: {columns}).{_nearest(sample, kind)}",
            remedy="Map the columns by hand.",
            field="mapping",
        )
    return _counted_from(rows, max(candidates, key=lambda recognition: _share_that_works(sample, recognition)))


def _candidates(sample: SampleRows, kind: DatasetKind | None) -> list[Recognition]:
    candidates = [recognition for detector in _DETECTORS if (recognition := detector(sample))]
    if kind is None and (pairs := detect_preference(sample)) is not None and _never_differ(sample, pairs):
        reason = f"{pairs.reason}, and the same in every row: there is nothing to prefer"
        return [replace(pairs, reason=reason)]
    if kind is None and (turns := detect_unread_turns(sample)) is not None:
        return [one for one in candidates if one.kind is not DatasetKind.TEXT] or [turns]
    if kind is not None:
        return [recognition for recognition in (*candidates, *_as_kind(sample, kind)) if recognition.kind is kind]
    return candidates


def _never_differ(sample: SampleRows, pairs: Recognition) -> bool:
    """Return whether the chosen answer is the rejected one in every row: such rows are pairs, of no use."""
    columns = {field: column for column, field in pairs.mapping.items()}
    answers = [(read_column(row, columns["chosen"]), read_column(row, columns["rejected"])) for row in sample.rows]
    return all(chosen is not None and chosen == rejected for chosen, rejected in answers)


def _is_named(sample: SampleRows, recognition: Recognition) -> bool:
    """Return whether the names of columns led to it, and some row fits."""
    return not recognition.is_fallback and _share_that_works(sample, recognition) > 0


def _counted_from(rows: Sequence[Mapping[str, Any]], recognition: Recognition) -> Recognition:
    """Return the recognition, with answers counted from 1 where these rows prove it; else the import decides."""
    with suppress(InvalidInput):
        mapping = settle_answers(rows, recognition.mapping, kind=recognition.kind)
        if "answer_from_1" in mapping.values():
            return replace(recognition, mapping=mapping)
    return recognition


def _as_kind(sample: SampleRows, kind: DatasetKind) -> list[Recognition]:
    """Return mappings that are never guessed, but possible for a chosen kind."""
    if kind is DatasetKind.RECORDS:
        return [Recognition(kind, {}, 1.0, "every column is kept")]
    pair = detect_instruction(sample)
    if kind is DatasetKind.CHAT and pair:
        return [Recognition(kind, pair.mapping, 0.7, f"{pair.reason}; each row becomes a conversation of two turns")]
    if kind is DatasetKind.PROMPTS:
        column = sample.find_field("prompt", "messages") or sample.find((STRING_COLUMN,))
        return [Recognition(kind, {column: "prompt"}, 0.6, f"`{column}` asks")] if column else []
    if kind is DatasetKind.BENCHMARK:
        question, answer = sample.find_field("prompt"), sample.find_field("answers", "completion")
        if question and answer and question != answer:
            return [
                Recognition(
                    kind,
                    {question: "question", answer: "answers"},
                    0.5,
                    f"`{question}` with the expected answer in `{answer}`",
                )
            ]
    return _nearly(sample, kind)


def _near_columns(sample: SampleRows, fields: Sequence[str]) -> dict[str, str]:
    """Return column -> field for fields with a column of a similar name; each column is used once."""
    mapping: dict[str, str] = {}
    for field in fields:
        column = nearest_column(field, [name for name in sample.columns if name not in mapping])
        if column is not None:
            mapping[column] = field
    return mapping


def _nearly(sample: SampleRows, kind: DatasetKind) -> list[Recognition]:
    """Return a mapping of columns whose names are close to those of the kind's fields."""
    for needed in REQUIRED[kind]:
        mapping = _near_columns(sample, needed)
        if set(mapping.values()) == set(needed):
            read = ", ".join(f"`{column}` as `{field}`" for column, field in mapping.items())
            return [Recognition(kind, mapping, 0.4, f"no column has the usual name; the nearest are {read}")]
    return []


def _nearest(sample: SampleRows, kind: DatasetKind | None) -> str:
    """Return a sentence that names the fields with a column and the one without."""
    if kind is None:
        return ""
    needed = max(REQUIRED[kind], key=lambda fields: len(_near_columns(sample, fields)) / len(fields))
    mapping = _near_columns(sample, needed)
    missing = [field for field in needed if field not in mapping.values()]
    rest = [f"`{column}`" for column in sample.columns if column not in mapping and sample.is_text(column)]
    if not mapping or not missing:
        return ""
    hint = f"; use {rest[0]}?" if len(rest) == 1 else ""
    return f" {', '.join(f'`{c}` serves as `{f}`' for c, f in mapping.items())}, and nothing as `{missing[0]}`{hint}."


def _share_that_works(sample: SampleRows, recognition: Recognition) -> float:
    """Return the share of usable rows; 1 from a half on, so that the earlier detector wins (max keeps the first)."""
    mapped = map_sample(sample.rows, kind=recognition.kind, mapping=recognition.mapping)
    parts = [part for _, part in itertools.islice(mapped, MAX_SAMPLED)]
    share = sum(not isinstance(part, RowProblem) for part in parts) / max(1, len(parts))
    return 1.0 if share >= 0.5 else share
