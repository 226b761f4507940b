"""Stored responses: turns of a conversation, the owner's alone, erased after their time or where there are too many."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from backend.errors import InvalidInput, NotFound
from backend.services.context import Context
from backend.services.serving import stored_responses
from backend.services.serving.stored_responses import (
    ResponseRecord,
    erase_response,
    forget_responses,
    keep_response,
    list_turns,
)


def record(name: str, *, owner: str = "user:a", previous: str | None = None) -> ResponseRecord:
    item = {"type": "message", "role": "user", "content": f"{name}?"}
    return ResponseRecord(name, owner, "tales", previous, [item], {"id": name, "output": []})


def test_turns_come_oldest_first_and_only_to_their_owner(any_ctx: Context) -> None:
    ctx = any_ctx
    for name, previous in (("one", None), ("two", "one"), ("three", "two"), ("aside", "one")):
        keep_response(ctx, record(name, previous=previous))
    assert [turn.id for turn in list_turns(ctx, "three", owner="user:a")] == ["one", "two", "three"]
    assert [turn.id for turn in list_turns(ctx, "aside", owner="user:a")] == ["one", "aside"]
    assert list_turns(ctx, "two", owner="user:a")[-1] == record("two", previous="one")
    for owner in ("user:b", "key:a", ""):
        for act in (list_turns, erase_response):
            with pytest.raises(NotFound):
                act(ctx, "three", owner=owner)
    keep_response(ctx, record("strange", owner="user:b", previous="one"))
    with pytest.raises(NotFound):  # a turn that names another account's response shows nothing of it
        list_turns(ctx, "strange", owner="user:b")
    erase_response(ctx, "two", owner="user:a")
    with pytest.raises(NotFound):
        list_turns(ctx, "three", owner="user:a")


def test_responses_are_erased_after_their_time(any_ctx: Context) -> None:
    ctx = replace(any_ctx, policy=replace(any_ctx.policy, keep_responses_days=2.0))
    keep_response(ctx, record("old"))
    tomorrow, later = (replace(ctx, now=lambda days=days: ctx.now() + timedelta(days=days)) for days in (1, 3))  # type: ignore[misc]
    keep_response(tomorrow, record("new"))
    assert forget_responses(tomorrow) == 0
    with pytest.raises(NotFound):
        list_turns(later, "old", owner="user:a")
    assert forget_responses(replace(ctx, now=lambda: ctx.now() + timedelta(days=2.5))) == 1
    assert [turn.id for turn in list_turns(tomorrow, "new", owner="user:a")] == ["new"]


def test_an_owner_keeps_the_newest_of_many(any_ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = any_ctx
    monkeypatch.setattr(stored_responses, "MAX_PER_OWNER", 3)
    for number in range(5):
        keep_response(
            replace(ctx, now=lambda number=number: ctx.now() + timedelta(seconds=number)), record(f"r{number}")
        )  # type: ignore[misc]
    keep_response(ctx, record("other", owner="user:b"))
    assert forget_responses(ctx) == 2
    assert [turn.id for turn in list_turns(ctx, "r2", owner="user:a")] == ["r2"]
    assert [turn.id for turn in list_turns(ctx, "other", owner="user:b")] == ["other"]
    with pytest.raises(NotFound):
        list_turns(ctx, "r1", owner="user:a")


def test_a_conversation_has_a_longest_length(any_ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_responses, "MAX_TURNS", 2)
    for name, previous in (("one", None), ("two", "one"), ("three", "two")):
        keep_response(any_ctx, record(name, previous=previous))
    with pytest.raises(InvalidInput, match="more than 2"):
        list_turns(any_ctx, "three", owner="user:a")
