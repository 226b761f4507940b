"""Judgements of a person on answers of their conversation: a vote on answers side by side, a thumb on one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from backend.domain.data.rows.tool_calls import call_text
from backend.errors import InvalidInput, NotFound
from backend.services.battles.side_by_side import record_side_by_side_vote
from backend.services.context import Context, Person
from backend.services.serving.conversations import (
    MessageView,
    build_prompt,
    get_conversation,
    list_messages,
    messages_before,
    select_branch,
    set_vote,
    system_of,
)
from backend.services.serving.feedback import give_feedback

SIDES = ("A", "B", "C", "D")


def vote_on_answers(ctx: Context, conversation_id: str, message_id: str, label: str, *, person: Person) -> None:
    """Store a vote on the answers beside a message: the best one's side, TIE or BOTH_BAD. A line that ends here
    continues with the best answer.

    Of more than two answers the best one wins a battle against each other one; a tie is one for each pair. Pairs of one
    checkpoint are left out. Raises InvalidInput where no vote is possible.
    """
    conversation = get_conversation(ctx, conversation_id, person=person)
    messages = list_messages(ctx, conversation_id, person=person)
    answers = answers_beside(messages, message_id)
    if not is_votable(answers):
        raise InvalidInput(
            "These answers can't be voted on.",
            remedy="A vote needs complete answers of two different checkpoints with the same settings.",
        )
    best = SIDES.index(label) if label in SIDES else None
    if label not in (*SIDES[: len(answers)], "TIE", "BOTH_BAD"):
        raise InvalidInput(f"{label!r} is not a vote on {len(answers)} answers.", field="label")
    prompt = build_prompt(conversation.system_prompt, messages_before(messages, answers[0].parent_id or ""))
    for first, second in combinations(range(len(answers)), 2):
        if best not in (None, first, second) or answers[first].checkpoint_id == answers[second].checkpoint_id:
            continue
        record_side_by_side_vote(
            ctx,
            messages=[{"role": message.role.value, "content": message.content} for message in prompt],
            answer_a=_judged_text(answers[first]),
            answer_b=_judged_text(answers[second]),
            checkpoint_a=answers[first].checkpoint_id or "",
            checkpoint_b=answers[second].checkpoint_id or "",
            label=label if best is None else "A" if best == first else "B",
            person=person,
        )
    set_vote(ctx, conversation_id, [answer.id for answer in answers], label, person=person)
    is_answered = {answer.id for answer in answers} & {message.parent_id for message in messages}
    if best is not None and not is_answered:
        select_branch(ctx, conversation_id, answers[best].id, person=person)


def _judged_text(answer: MessageView) -> str:
    """Return an answer with the calls that it makes, as a rater reads it."""
    return "\n".join(part for part in (answer.content, *map(call_text, answer.tool_calls)) if part)


def rate_answer(ctx: Context, conversation_id: str, message_id: str, value: int, *, person: Person) -> None:
    """Store a thumb on an answer, 1 or -1; 0 takes it back. Raises NotFound for no answer of this conversation."""
    conversation = get_conversation(ctx, conversation_id, person=person)
    messages = list_messages(ctx, conversation_id, person=person)
    line = messages_before(messages, message_id)
    if not line or line[-1].role != "assistant":
        raise NotFound("There is no such answer in this conversation.", remedy="Reload the page.")
    give_feedback(
        ctx,
        source="playground",
        source_id=message_id,
        endpoint=line[-1].endpoint or conversation.endpoint,
        checkpoint_id=line[-1].checkpoint_id,
        messages=list(build_prompt(system_of(conversation, line[-1]), line[:-1])),
        answer=line[-1].content,
        value=value,
        person=person,
    )


def answers_beside(messages: Sequence[MessageView], message_id: str) -> list[MessageView]:
    """Return the answers of a message's round by column."""
    this = next((message for message in messages if message.id == message_id), None)
    if this is None:
        raise NotFound("There is no such message in this conversation.", remedy="Reload the page.")
    beside = [m for m in messages if (m.parent_id, m.round, m.role) == (this.parent_id, this.round, "assistant")]
    return sorted(beside, key=lambda message: message.branch)


def is_votable(answers: Sequence[MessageView]) -> bool:
    """Return whether answers are complete, of known checkpoints, not all of one, with the same settings, and not yet
    voted on: a vote between settings would count as one between checkpoints.
    """
    if len(answers) < 2 or any(
        answer.is_running
        or answer.was_stopped
        or answer.has_failed
        or answer.vote
        or answer.usage.own
        or not answer.checkpoint_id
        for answer in answers
    ):
        return False
    return len({answer.checkpoint_id for answer in answers}) > 1
