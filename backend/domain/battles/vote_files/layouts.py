"""Read the layouts in which other projects publish votes into the columns of `rows`.

- Chatbot Arena and MT-bench keep `conversation_a` and `conversation_b`, lists of messages: they become texts, up to the
  vote's `turn`.
- LMSYS's competition has a column for each outcome: `winner_model_a`, `winner_model_b`, `winner_tie`.
- PandaLM has a row for each pair of answers, with `cmp_key` naming the two models and a column for each annotator: 1,
  2, or 0 for a tie.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from backend.domain.json_values import RowMapping
from backend.errors import InvalidInput

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
