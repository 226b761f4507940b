"""Tools in the playground: a call, what the tool returned, and the answer to it; and answers side by side that are
continued.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.db.tables import Message
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.serving.chat.reading import chat_document, read_chat
from backend.services.serving.chat.sharing import export_chat
from backend.services.serving.chat.turns import continue_answer, regenerate, send_message, send_results
from backend.services.serving.conversations import MessageView, select_branch
from tests.support.networks.chat_world import ChatWorld

TOOLS = json.dumps([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])


def turns(chat: ChatWorld, conversation: str) -> list[dict[str, Any]]:
    """Return the conversation as the browser gets it, once no answer is on its way."""
    chat.messages(conversation)
    return list(chat_document(read_chat(chat.ctx, conversation, person=LOCAL))["turns"])


def call_weather(chat: ChatWorld, arguments: str = '{"city": "Graz"}') -> tuple[str, MessageView]:
    """Return a conversation whose last answer calls a tool."""
    chat.replicas["tales"].script = f"call:weather:{arguments}"
    conversation = send_message(chat.ctx, None, "Weather in Graz?", settings=chat.settings(tools=TOOLS), person=LOCAL)
    answer = chat.messages(conversation)[-1]
    chat.replicas["tales"].script = "finish"
    return conversation, answer


def test_the_result_of_a_tool_is_sent_with_its_call_and_answered(chat: ChatWorld) -> None:
    conversation, answer = call_weather(chat)
    assert turns(chat, conversation)[-1]["answers"][0]["calls"] == ["weather"]
    send_results(chat.ctx, conversation, answer.id, ["12 degrees"], settings=chat.settings(tools=TOOLS), person=LOCAL)
    assert [turn["kind"] for turn in turns(chat, conversation)] == ["question", "answers", "result", "answers"]
    _, asking, result = chat.replicas["tales"].bodies[-1]["messages"]
    assert asking["tool_calls"] == [
        {
            "id": answer.usage.tool_calls[0]["id"],
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Graz"}'},
        }
    ]
    assert (result["role"], result["content"], result["name"]) == ("tool", "12 degrees", "weather")
    assert result["tool_call_id"] == asking["tool_calls"][0]["id"]
    send_message(chat.ctx, conversation, "Thanks", settings=chat.settings(tools=TOOLS), person=LOCAL)
    chat.messages(conversation)
    roles = [message["role"] for message in chat.replicas["tales"].bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_another_result_is_a_version_to_go_back_from_and_its_answer_can_be_given_again(chat: ChatWorld) -> None:
    conversation, answer = call_weather(chat)
    for text in ("12 degrees", "30 degrees"):
        send_results(chat.ctx, conversation, answer.id, [text], settings=chat.settings(), person=LOCAL)
        chat.messages(conversation)
    result, last = turns(chat, conversation)[2:]
    assert (result["text"], result["tool"], result["version"], result["versions"]) == ("30 degrees", "weather", 2, 2)
    regenerate(chat.ctx, conversation, last["id"], settings=chat.settings(), person=LOCAL)
    assert turns(chat, conversation)[-1]["versions"] == 2


def test_a_call_that_is_cut_off_takes_no_result_and_is_not_sent_again(chat: ChatWorld) -> None:
    conversation, answer = call_weather(chat, arguments='{"city": "Gr')
    assert turns(chat, conversation)[-1]["answers"][0]["calls"] == []
    with pytest.raises(InvalidInput, match="calls 0 tools"):
        send_results(chat.ctx, conversation, answer.id, ["12"], settings=chat.settings(), person=LOCAL)
    send_message(chat.ctx, conversation, "And now?", settings=chat.settings(), person=LOCAL)
    chat.messages(conversation)
    assert not any(message.get("tool_calls") for message in chat.replicas["tales"].bodies[-1]["messages"])


def test_an_export_holds_calls_and_results(chat: ChatWorld) -> None:
    conversation, answer = call_weather(chat)
    send_results(chat.ctx, conversation, answer.id, ["```\n12"], settings=chat.settings(tools=TOOLS), person=LOCAL)
    chat.messages(conversation)
    row = json.loads(export_chat(chat.ctx, conversation, "row", person=LOCAL))
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert json.loads(row["tools"])[0]["function"]["name"] == "weather"
    text = export_chat(chat.ctx, conversation, "markdown", person=LOCAL)
    assert 'weather({"city": "Graz"})' in text
    assert "**Result of weather**\n\n````\n```\n12\n````" in text


def test_answers_side_by_side_that_were_cut_off_are_continued_together_and_the_others_stay(chat: ChatWorld) -> None:
    chat.replicas["tales"].script = "length"
    settings = chat.settings("tales", "verse", blind=True)
    conversation = send_message(chat.ctx, None, "Hello", settings=settings, person=LOCAL)
    before = {answer.endpoint: answer for answer in chat.messages(conversation)[1:]}
    shown = turns(chat, conversation)[1]["answers"]
    assert sorted(answer["can_continue"] for answer in shown) == [False, True]
    assert not any(answer["endpoint"] for answer in shown)
    continue_answer(chat.ctx, conversation, before["tales"].id, settings=settings, together=True, person=LOCAL)
    after = {answer.endpoint: answer for answer in chat.messages(conversation)[3:]}
    assert after["tales"].content == 2 * before["tales"].content
    assert after["verse"].content == before["verse"].content
    assert [after[name].branch for name in after] == [before[name].branch for name in after], "each stays on its side"
    assert after["verse"].checkpoint_id == before["verse"].checkpoint_id
    turn = turns(chat, conversation)[1]
    assert (turn["hidden"], turn["versions"], turn["votable"]) == (True, 2, True)
    assert chat.replicas["verse"].seen == 1


def test_a_blind_answer_that_was_stopped_is_voted_on_once_it_is_continued(chat: ChatWorld) -> None:
    settings = chat.settings("tales", "verse", blind=True)
    conversation = send_message(chat.ctx, None, "Hello", settings=settings, person=LOCAL)
    before = {answer.endpoint: answer for answer in chat.messages(conversation)[1:]}
    with chat.ctx.db.write() as session:
        session.get_one(Message, before["tales"].id).status = "stopped"
    turn = turns(chat, conversation)[1]
    assert (turn["hidden"], turn["votable"]) == (True, False), "a vote on half an answer would count as any other"
    assert sorted(answer["status"] for answer in turn["answers"]) == ["done", "stopped"]
    continue_answer(chat.ctx, conversation, before["tales"].id, settings=settings, together=True, person=LOCAL)
    chat.messages(conversation)
    turn = turns(chat, conversation)[1]
    assert (turn["hidden"], turn["votable"]) == (True, True)


def test_one_of_two_answers_is_continued_beside_the_other(chat: ChatWorld) -> None:
    settings = chat.settings("tales", "verse")
    conversation = send_message(chat.ctx, None, "Hello", settings=settings, person=LOCAL)
    second = next(answer for answer in chat.messages(conversation) if answer.branch == 1)
    continue_answer(chat.ctx, conversation, second.id, settings=settings, person=LOCAL)
    turn = turns(chat, conversation)[1]
    assert [answer["text"].count("w0") for answer in turn["answers"]] == [1, 2]
    assert turn["selected"] == turn["answers"][1]["id"]
    with pytest.raises(InvalidInput, match="complete"):
        continue_answer(
            chat.ctx, conversation, turn["answers"][0]["id"], settings=settings, together=True, person=LOCAL
        )


def test_one_of_two_answers_is_regenerated_beside_the_other_and_the_selected_one_stays_selected(
    chat: ChatWorld,
) -> None:
    """Both were regenerated, changed sides at random, and the next turn went to another model."""
    settings = chat.settings("tales", "verse")
    conversation = send_message(chat.ctx, None, "Hello", settings=settings, person=LOCAL)
    first, second = chat.messages(conversation)[1:]
    select_branch(chat.ctx, conversation, second.id, person=LOCAL)
    for _ in range(4):
        answers = turns(chat, conversation)[1]["answers"]
        regenerate(chat.ctx, conversation, answers[0]["id"], settings=settings, person=LOCAL)
        chat.messages(conversation)
        turn = turns(chat, conversation)[1]
        assert [answer["endpoint"] for answer in turn["answers"]] == [first.endpoint, second.endpoint]
        assert turn["selected"] == turn["answers"][1]["id"]
    seen = {name: chat.replicas[name].seen for name in ("tales", "verse")}
    assert (seen[first.endpoint or ""], seen[second.endpoint or ""]) == (5, 1)
    for _ in range(4):
        send_message(chat.ctx, conversation, "And then?", settings=settings, person=LOCAL)
        chat.messages(conversation)
        turn = turns(chat, conversation)[-1]
        chosen = next(answer for answer in turn["answers"] if answer["id"] == turn["selected"])
        assert chosen["endpoint"] == second.endpoint, "the conversation stays with the answer that was chosen"
        assert [one["endpoint"] for one in turn["answers"]] == [first.endpoint, second.endpoint], "each keeps its side"
