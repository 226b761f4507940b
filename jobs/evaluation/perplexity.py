"""Score perplexity and bits per byte of texts, or of the answers in conversations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from backend.domain.data.rows.conversations import TemplateInput, as_conversation
from backend.domain.data.rows.display import message_text, row_text
from backend.errors import InvalidInput
from jobs.evaluation.choices import counted
from jobs.evaluation.engines.base import ScoreRequest, Scores, WindowPolicy
from jobs.evaluation.items import Item, ScoredItem
from jobs.evaluation.questions import Question, RollRequest
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.modeling.chat.render import ConversationRefused, assistant_turns, encode_answer
from jobs.modeling.scores import TextNll

FEW_DOCUMENTS = 8
"""Below this many documents an interval over documents is unreliable, so windows are the items."""
SHOWN_CHARACTERS = 600


def counts_windows(items: Sequence[Item]) -> bool:
    """Return True if windows, not documents, are the items."""
    return len(items) < FEW_DOCUMENTS


def text_question(item: Item, *, windows: WindowPolicy, by_window: bool) -> Question:
    """Return the request of a whole text. Values: sum_nll (nats), tokens, bytes, and their two quotients."""
    text = row_text(item.row)

    def finish(result: TextNll) -> list[ScoredItem]:
        return _window_items(item, text, result) if by_window else [_document_item(item, text, result)]

    return Question(item, RollRequest(text, windows), finish)


def _document_item(item: Item, text: str, result: TextNll) -> ScoredItem:
    return ScoredItem(item.hash, item.position, _values(result) | _lost(result), {"text": _shorten(text)})


def _window_items(item: Item, text: str, result: TextNll) -> list[ScoredItem]:
    """Make an item of each window; its hash covers its byte range, so equal tokenizers give equal items."""
    data, start, scored = text.encode(), 0, []
    extra = (
        sum(part.bytes for part in result.windows) - result.bytes
    )  # a space that some tokenizers put before the first word
    for number, part in enumerate(result.windows):
        part = replace(part, bytes=part.bytes - extra) if number == 0 else part
        digest = hashlib.sha256(f"{item.hash} {start} {part.bytes}".encode()).hexdigest()
        shown = {"text": _shorten(data[start : start + part.bytes].decode(errors="ignore"))}
        lost = _lost(result) if number == 0 else {}
        scored.append(ScoredItem(digest, item.position * 1_000_000 + number, _values(part) | lost, shown))
        start += part.bytes
    return scored


def conversation_question(subject: EvaluatedNetwork, item: Item) -> Question:
    """Return the request of the assistants' answers, end token included, each given what came before it through the
    chat template.

    The bytes are those of the answers' text. Raises InvalidInput for a row without an answer.
    """
    conversation = as_conversation(item.row) or TemplateInput([])
    try:
        turns = assistant_turns(subject.tokenizer, conversation.messages, tools=conversation.tools)
    except ConversationRefused as error:
        raise InvalidInput(f"Row {item.position + 1} can't be scored. {error.message}", field="benchmark") from error
    if not turns:
        raise InvalidInput(
            f"Row {item.position + 1} has no answer to score.", remedy="Remove such rows and import again."
        )
    pairs = tuple(encode_answer(subject.tokenizer, before, answer) for _, before, answer in turns)
    size = sum(len(message_text(conversation.messages[place]).encode()) for place, _, _ in turns)

    def finish(scores: Scores) -> list[ScoredItem]:
        total = TextNll(-sum(score.sum_logprob for score in scores), sum(score.tokens for score in scores), size)
        return [
            ScoredItem(
                item.hash, item.position, _values(total) | counted(scores), {"text": _shorten(row_text(item.row))}
            )
        ]

    return Question(item, ScoreRequest(pairs), finish)


def _values(result: TextNll) -> dict[str, float]:
    values: dict[str, float] = {"sum_nll": result.sum_nll, "tokens": result.tokens, "bytes": result.bytes}
    if result.tokens:
        values["nll_per_token"] = result.sum_nll / result.tokens
    if result.bytes:
        values["bits_per_byte"] = result.sum_nll / result.bytes / math.log(2)
    return values


def _lost(result: TextNll) -> dict[str, float]:
    """Count the bytes that no token represents: text that the tokenizer can't encode and the network never predicts."""
    lost = result.bytes - sum(part.bytes for part in result.windows)
    return {"lost_bytes": float(lost)} if lost > 0 else {}


def _shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " …"
