"""Shared links, presets and exports: read-only, revocable, and no one else's."""

from __future__ import annotations

import json

import pytest

from backend.errors import InvalidInput, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.people.accounts import add_user, disable_account
from backend.services.serving.chat.presets import delete_preset, list_presets, save_preset
from backend.services.serving.chat.sharing import (
    export_chat,
    list_shares,
    read_shared,
    revoke_share,
    share_conversation,
)
from backend.services.serving.chat.turns import send_message
from backend.services.serving.conversations import delete_conversation
from tests.support.networks.chat_world import ChatWorld
from tests.support.serving.stored_chat import add_message, start_conversation


@pytest.fixture
def people(ctx: Context) -> tuple[Person, Person]:
    return add_user(ctx, "maya", "a long password", person=LOCAL), add_user(
        ctx, "noor", "a long password", person=LOCAL
    )


@pytest.fixture
def conversation(ctx: Context, people: tuple[Person, Person]) -> str:
    row = start_conversation(ctx, endpoint="tales", system_prompt="Be brief.", person=people[0])
    add_message(ctx, row.id, role="user", content="Hello", person=people[0])
    add_message(ctx, row.id, role="assistant", content="Good day.", endpoint="tales", person=people[0])
    return row.id


def token_of(url: str) -> str:
    return url.split("shared=")[1]


def test_a_link_shows_the_conversation_as_it_was_until_it_is_revoked(
    ctx: Context, people: tuple[Person, Person], conversation: str
) -> None:
    owner, other = people
    share = share_conversation(ctx, conversation, person=owner)
    add_message(ctx, conversation, role="user", content="private", person=owner)
    view = read_shared(ctx, token_of(share.url))
    assert [message.content for turn in view.turns for message in turn.messages] == ["Hello", "Good day."]
    for act in (
        lambda: share_conversation(ctx, conversation, person=other),
        lambda: list_shares(ctx, conversation, person=other),
        lambda: revoke_share(ctx, share.id, person=other),
    ):
        with pytest.raises(NotFound):
            act()
    revoke_share(ctx, share.id, person=owner)
    assert list_shares(ctx, conversation, person=owner) == []
    with pytest.raises(NotFound, match="does not lead"):
        read_shared(ctx, token_of(share.url))


def test_a_link_can_t_be_guessed_and_ends_with_its_conversation_or_account(
    ctx: Context, people: tuple[Person, Person], conversation: str
) -> None:
    owner, _ = people
    first, second = (token_of(share_conversation(ctx, conversation, person=owner).url) for _ in range(2))
    assert len(first.split(".")[1]) == 40
    for forged in ("", "x", first[:-1], f"{first.split('.')[0]}.{second.split('.')[1]}", f"{first}ü"):
        with pytest.raises(NotFound):
            read_shared(ctx, forged)
    disable_account(ctx, owner.id or "", person=LOCAL)
    with pytest.raises(NotFound):
        read_shared(ctx, first)


def test_a_deleted_conversation_takes_its_links_with_it(
    ctx: Context, people: tuple[Person, Person], conversation: str
) -> None:
    share = share_conversation(ctx, conversation, person=people[0])
    delete_conversation(ctx, conversation, person=people[0])
    with pytest.raises(NotFound):
        read_shared(ctx, token_of(share.url))


def test_a_blind_comparison_stays_blind_in_a_link_and_an_export(chat: ChatWorld) -> None:
    conversation = send_message(
        chat.ctx, None, "Hello", settings=chat.settings("tales", "verse", blind=True), person=LOCAL
    )
    chat.messages(conversation)
    turns = json.loads(export_chat(chat.ctx, conversation, "json", person=LOCAL))["turns"]
    assert [answer["endpoint"] for answer in turns[1]] == [None, None]
    shared = read_shared(chat.ctx, token_of(share_conversation(chat.ctx, conversation, person=LOCAL).url))
    assert all(message.usage.ttft_ms is None for message in shared.turns[1].messages)


def test_a_conversation_is_exported_as_markdown_and_as_a_row_of_a_dataset(
    ctx: Context, people: tuple[Person, Person], conversation: str
) -> None:
    owner, other = people
    row = json.loads(export_chat(ctx, conversation, "row", person=owner))
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert "**tales**\n\nGood day." in export_chat(ctx, conversation, "markdown", person=owner)
    with pytest.raises(NotFound):
        export_chat(ctx, conversation, "json", person=other)


def test_a_shared_preset_is_offered_to_others_and_changed_by_its_owner_alone(
    chat: ChatWorld, people: tuple[Person, Person]
) -> None:
    owner, other = people
    settings = chat.settings("tales", system="Be brief.", temperature=0.3)
    own = save_preset(chat.ctx, "Terse", settings, person=owner)
    assert list_presets(chat.ctx, person=other) == []
    save_preset(chat.ctx, "Terse", settings, is_shared=True, person=owner)
    (offered,) = list_presets(chat.ctx, person=other)
    assert (offered.name, offered.owner, offered.is_own) == ("Terse", "maya", False)
    assert offered.settings.system == "Be brief."
    assert "endpoints" not in type(offered.settings).model_fields
    with pytest.raises(NotFound):
        delete_preset(chat.ctx, own.id, person=other)
    with pytest.raises(InvalidInput, match="name"):
        save_preset(chat.ctx, " ", settings, person=owner)
    delete_preset(chat.ctx, own.id, person=owner)
    assert list_presets(chat.ctx, person=owner) == []
