"""Recognise training rows: conversations, instructions, preferences, labelled answers, prompts, text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.recognition.column_names import FIELD_NAMES, SIDE_NAMES, nearest_column, plain_name
from backend.domain.data.recognition.sample import Recognition, SampleRows
from backend.domain.data.rows.columns import read_column
from backend.domain.data.rows.conversations import ROLE_KEYS, is_message, is_transcript
from backend.domain.data.rows.labels import read_goodness, side_of

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
