"""Conversations: order, titles, side-by-side turns, and whose they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from backend.db.tables import Conversation, Message
from backend.errors import InvalidInput, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.people.accounts import add_user
from backend.services.serving.conversations import (
    delete_conversation,
    get_conversation,
    list_conversations,
    list_messages,
    rename_conversation,
    set_vote,
)
from tests.support.serving.stored_chat import add_message, start_conversation


@pytest.fixture
def people(ctx: Context) -> tuple[Person, Person]:
    return add_user(ctx, "maya", "a long password", person=LOCAL), add_user(
        ctx, "noor", "a long password", person=LOCAL
    )


def test_a_conversation_is_named_after_its_first_prompt_and_listed_once_it_has_one(ctx: Context) -> None:
    row = start_conversation(ctx, endpoint="tales", person=LOCAL)
    assert list_conversations(ctx, person=LOCAL) == []
    add_message(ctx, row.id, role="user", content="Tell me about the harbour\nand the sea", person=LOCAL)
    add_message(ctx, row.id, role="assistant", content="It is deep.", endpoint="tales", person=LOCAL)
    assert [c.title for c in list_conversations(ctx, person=LOCAL)] == ["Tell me about the harbour"]
    assert len(list_conversations(ctx, person=LOCAL, query="HAR\0bour")) == 1
    assert [(m.position, m.role) for m in list_messages(ctx, row.id, person=LOCAL)] == [(0, "user"), (1, "assistant")]


def test_two_answers_side_by_side_share_a_position_and_a_vote(ctx: Context) -> None:
    row = start_conversation(ctx, endpoint="a", other_endpoint="b", person=LOCAL)
    add_message(ctx, row.id, role="user", content="Hello", person=LOCAL)
    add_message(ctx, row.id, role="assistant", content="left", branch=0, person=LOCAL)
    add_message(ctx, row.id, role="assistant", content="right", branch=1, person=LOCAL)
    set_vote(ctx, row.id, [m.id for m in list_messages(ctx, row.id, person=LOCAL)[1:]], "B", person=LOCAL)
    answers = [(m.position, m.branch, m.content, m.vote) for m in list_messages(ctx, row.id, person=LOCAL)[1:]]
    assert answers == [(1, 0, "left", "B"), (1, 1, "right", "B")]
    add_message(ctx, row.id, role="user", content="And now?", person=LOCAL)
    assert list_messages(ctx, row.id, person=LOCAL)[-1].position == 2


def test_another_persons_conversation_looks_like_a_missing_one(ctx: Context, people: tuple[Person, Person]) -> None:
    owner, other = people
    row = start_conversation(ctx, endpoint="tales", person=owner)
    add_message(ctx, row.id, role="user", content="secret", person=owner)
    for person in (other, LOCAL):
        assert list_conversations(ctx, person=person) == []
        for access in (get_conversation, list_messages, delete_conversation):
            with pytest.raises(NotFound):
                access(ctx, row.id, person=person)
        with pytest.raises(NotFound):
            rename_conversation(ctx, row.id, "mine", person=person)
    assert get_conversation(ctx, row.id, person=owner).title == "secret"


def test_a_conversation_can_be_renamed_and_deleted(ctx: Context) -> None:
    row = start_conversation(ctx, endpoint="tales", person=LOCAL)
    add_message(ctx, row.id, role="user", content="Hello", person=LOCAL)
    rename_conversation(ctx, row.id, "  Harbour talk ", person=LOCAL)
    assert get_conversation(ctx, row.id, person=LOCAL).title == "Harbour talk"
    with pytest.raises(InvalidInput, match="title"):
        rename_conversation(ctx, row.id, "  ", person=LOCAL)
    delete_conversation(ctx, row.id, person=LOCAL)
    assert list_conversations(ctx, person=LOCAL) == []


def test_a_deleted_conversation_leaves_no_row_and_no_text_in_the_file(ctx: Context, home: Path) -> None:
    long = "The lighthouse keeper said something private. " * 300
    remaining, gone = (start_conversation(ctx, endpoint="tales", person=LOCAL) for _ in range(2))
    add_message(ctx, remaining.id, role="user", content="Hello", person=LOCAL)
    add_message(ctx, gone.id, role="user", content="lighthouse", person=LOCAL)
    add_message(ctx, gone.id, role="assistant", content=long, person=LOCAL)
    delete_conversation(ctx, gone.id, person=LOCAL)
    with ctx.db.read() as session:
        assert session.scalars(select(Conversation.id)).all() == [remaining.id]
        assert session.scalars(select(Message.content)).all() == ["Hello"]
    for file in home.glob("models.db*"):
        assert b"lighthouse" not in file.read_bytes(), file.name
