"""Turns of the playground through a real gateway: answers that belong to the server, branches, and a context that is
full.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from backend.db.tables import ApiKey, Feedback, Message
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user
from backend.services.people.keys import revoke_key
from backend.services.serving.chat.generation import ANSWERS
from backend.services.serving.chat.judgements import rate_answer, vote_on_answers
from backend.services.serving.chat.reading import chat_document, read_chat
from backend.services.serving.chat.turns import continue_answer, regenerate, send_message, stop_answers
from backend.services.serving.conversations import select_branch
from backend.services.serving.usage import add_usage
from tests.support.gateway_fixtures import eventually
from tests.support.networks.chat_world import ChatWorld, chat_world


def lines(chat: ChatWorld, conversation: str) -> list[str]:
    """Return the texts of the selected line."""
    view = read_chat(chat.ctx, conversation, person=LOCAL)
    return [next(m.content for m in turn.messages if m.id == turn.selected) for turn in view.turns]


def test_an_answer_is_generated_by_the_server_and_passes_the_gateway_with_a_key_of_its_own(chat: ChatWorld) -> None:
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(), person=LOCAL)
    question, answer = chat.messages(conversation)
    assert (question.content, answer.content) == ("Hello", "w0 w1 w2 ")
    assert answer.status == "done"
    assert answer.usage.ttft_ms > 0
    with chat.ctx.db.read() as session:
        key = session.scalars(select(ApiKey)).one()
    assert chat.directory.last(1).key_id == key.id, "limits, usage and balancing apply to the playground's key"
    revoke_key(chat.ctx, key.id, person=LOCAL)
    send_message(chat.ctx, conversation, "Again", settings=chat.settings(), person=LOCAL)
    assert chat.messages(conversation)[-1].status == "done", "after a revocation the playground takes another key"


def test_a_message_of_a_window_that_lags_behind_is_not_put_after_turns_that_it_never_showed(chat: ChatWorld) -> None:
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(), person=LOCAL)
    first = chat.messages(conversation)[0].id
    send_message(chat.ctx, conversation, "From one window", settings=chat.settings(), after=first, person=LOCAL)
    newest = chat.messages(conversation)[2].id
    with pytest.raises(Conflict, match="went on in another window"):
        send_message(chat.ctx, conversation, "From another", settings=chat.settings(), after=first, person=LOCAL)
    assert [one.content for one in chat.messages(conversation) if one.role == "user"] == ["Hello", "From one window"]
    send_message(chat.ctx, conversation, "From another", settings=chat.settings(), after=newest, person=LOCAL)


def test_stop_keeps_what_arrived_and_says_who_stopped_it(chat: ChatWorld) -> None:
    chat.replicas["tales"].tokens, chat.replicas["tales"].delay_s = 10_000, 0.01
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(), person=LOCAL)
    eventually(lambda: chat.replicas["tales"].seen)
    with pytest.raises(InvalidInput, match="still being generated"):
        send_message(chat.ctx, conversation, "More", settings=chat.settings(), person=LOCAL)
    stop_answers(chat.ctx, conversation, person=LOCAL)
    answer = chat.messages(conversation)[-1]
    assert (answer.status, answer.usage.finish_reason) == ("stopped", "stopped")
    eventually(lambda: chat.replicas["tales"].left == 1)


def test_an_answer_of_a_server_that_is_gone_is_marked_as_interrupted_and_not_as_stopped(chat: ChatWorld) -> None:
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(), person=LOCAL)
    answer = chat.messages(conversation)[-1]
    eventually(lambda: ANSWERS.get(answer.id) is None)
    with chat.ctx.db.write() as session:
        row = session.get_one(Message, answer.id)
        row.status, row.updated_at = "running", chat.ctx.now() - timedelta(minutes=1)
    (shown,) = read_chat(chat.ctx, conversation, person=LOCAL).turns[-1].messages
    assert shown.status == "failed"
    assert "server stopped" in shown.usage.error
    assert shown.content == "w0 w1 w2 "


def test_an_answer_is_stored_as_interrupted_when_the_server_ends(chat: ChatWorld) -> None:
    chat.replicas["tales"].tokens, chat.replicas["tales"].delay_s = 10_000, 0.01
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(), person=LOCAL)
    eventually(lambda: chat.replicas["tales"].seen)
    ANSWERS.close()
    answer = chat.messages(conversation)[-1]
    assert (answer.status, answer.usage.error_code) == ("failed", "interrupted")


def test_a_line_longer_than_the_context_loses_its_oldest_turns_and_no_turn_fails(chat: ChatWorld) -> None:
    chat.replicas["tales"].prompt_tokens, conversation = None, None
    for _ in range(4):
        conversation = send_message(
            chat.ctx, conversation, "word " * 20, settings=chat.settings(max_tokens=16), person=LOCAL
        )
        assert chat.messages(conversation)[-1].status == "done"
    assert conversation is not None
    last = chat.replicas["tales"].bodies[-1]["messages"]
    assert len(last) < 7, "64 tokens hold no four turns of 100 characters"
    view = read_chat(chat.ctx, conversation, person=LOCAL)
    assert view.use.left_out >= 1
    assert view.context == 64
    assert view.first_sent in {turn.selected for turn in view.turns if turn.is_question}


def test_the_context_of_an_answer_that_was_stopped_is_counted_as_the_gateway_books_it(chat: ChatWorld) -> None:
    """The meter said 56 of 512 tokens after 72 of an answer, and the next prompt took 164."""
    replica = chat.replicas["tales"]
    replica.tokens, replica.delay_s, replica.prompt_tokens, replica.word = 10_000, 0.01, 41, "x"
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(), person=LOCAL)
    answer_id = read_chat(chat.ctx, conversation, person=LOCAL).turns[-1].messages[0].id
    eventually(lambda: len(getattr(ANSWERS.get(answer_id), "text", "")) > 20)
    stop_answers(chat.ctx, conversation, person=LOCAL)
    answer = chat.messages(conversation)[-1]
    view = read_chat(chat.ctx, conversation, person=LOCAL)
    assert view.is_booking
    assert not view.use.is_exact
    assert view.use.tokens >= len(answer.content), "one character is a token here"
    eventually(lambda: chat.directory.usage)
    add_usage(chat.ctx, [row := chat.directory.last(1)])
    view = read_chat(chat.ctx, conversation, person=LOCAL)
    assert (view.use.tokens, view.use.is_exact) == (41 + row.completion_tokens, True)
    assert chat_document(view)["context"]["exact"]
    assert not view.is_booking


def test_the_divider_counts_turns_that_were_sent_and_not_those_that_failed(chat: ChatWorld) -> None:
    replica = chat.replicas["tales"]
    replica.script, replica.prompt_tokens = "refuse:400:invalid_request", None
    conversation = send_message(chat.ctx, None, "This one fails.", settings=chat.settings(), person=LOCAL)
    assert chat.messages(conversation)[-1].has_failed
    replica.script = "finish"
    for number in range(3):
        send_message(
            chat.ctx, conversation, f"{number} " + "word " * 20, settings=chat.settings(max_tokens=16), person=LOCAL
        )
        chat.messages(conversation)
    view = read_chat(chat.ctx, conversation, person=LOCAL)
    first = next(message for turn in view.turns for message in turn.messages if message.id == view.first_sent)
    assert replica.bodies[-1]["messages"][0]["content"] == first.content


def test_a_prompt_that_the_replica_finds_too_long_is_sent_again_with_one_turn_less(chat: ChatWorld) -> None:
    conversation = send_message(chat.ctx, None, "One", settings=chat.settings(), person=LOCAL)
    chat.messages(conversation)
    chat.replicas["tales"].script = "refuse:400:context_length_exceeded"
    send_message(chat.ctx, conversation, "Two", settings=chat.settings(), person=LOCAL)
    answer = chat.messages(conversation)[-1]
    assert [len(body["messages"]) for body in chat.replicas["tales"].bodies] == [1, 3, 1]
    assert answer.usage.error_code == "context_length_exceeded", (
        "the last message alone is still too long for this replica"
    )


def test_an_edited_question_and_a_regenerated_answer_are_branches_to_go_back_to(chat: ChatWorld) -> None:
    conversation = send_message(chat.ctx, None, "First", settings=chat.settings(), person=LOCAL)
    question, answer = chat.messages(conversation)
    chat.replicas["tales"].word = "other "
    regenerate(chat.ctx, conversation, answer.id, settings=chat.settings(), person=LOCAL)
    chat.messages(conversation)
    assert lines(chat, conversation) == ["First", "other other other "]
    send_message(chat.ctx, conversation, "Second", settings=chat.settings(), edited=question.id, person=LOCAL)
    chat.messages(conversation)
    assert lines(chat, conversation) == ["Second", "other other other "]
    versions = [(turn.version, len(turn.rounds)) for turn in read_chat(chat.ctx, conversation, person=LOCAL).turns]
    assert versions == [(1, 2), (0, 1)]
    select_branch(chat.ctx, conversation, question.id, person=LOCAL)
    assert lines(chat, conversation) == ["First", "other other other "]
    select_branch(chat.ctx, conversation, answer.id, round_=0, person=LOCAL)
    assert lines(chat, conversation) == ["First", "w0 w1 w2 "]


def test_an_endpoint_without_a_replica_fails_the_answer_alone(chat: ChatWorld) -> None:
    chat.directory.endpoints["tales"] = []
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(), person=LOCAL)
    question, answer = chat.messages(conversation)
    assert question.content == "Hello"
    assert answer.has_failed


def test_turns_of_another_persons_conversation_are_refused(chat: ChatWorld) -> None:
    owner, other = (add_user(chat.ctx, name, "a long password", person=LOCAL) for name in ("maya", "noor"))
    conversation = send_message(chat.ctx, None, "secret", settings=chat.settings(), person=owner)
    answer = chat.messages(conversation, person=owner)[-1]
    for act in (
        lambda: send_message(chat.ctx, conversation, "x", settings=chat.settings(), person=other),
        lambda: regenerate(chat.ctx, conversation, answer.id, settings=chat.settings(), person=other),
        lambda: continue_answer(chat.ctx, conversation, answer.id, settings=chat.settings(), person=other),
        lambda: stop_answers(chat.ctx, conversation, person=other),
        lambda: select_branch(chat.ctx, conversation, answer.id, person=other),
        lambda: read_chat(chat.ctx, conversation, person=other),
    ):
        with pytest.raises(NotFound):
            act()


def test_an_answer_is_continued_from_its_end_or_from_another_token_in_a_version_of_its_own(chat: ChatWorld) -> None:
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(), person=LOCAL)
    answer = chat.messages(conversation)[-1]
    with chat.ctx.db.write() as session:
        top = [["w1 ", -0.7], ["x ", -0.9]]
        session.get_one(Message, answer.id).tokens = [
            {"text": text, "logprob": -0.7, "top": top} for text in ("w0 ", "w1 ", "w2 ")
        ]
    settings = chat.settings(json_schema='{"type": "object"}')
    continue_answer(chat.ctx, conversation, answer.id, settings=settings, token=1, instead="x ", person=LOCAL)
    chat.messages(conversation)
    assert lines(chat, conversation) == ["Hello", "w0 x w0 w1 w2 "]
    turn = read_chat(chat.ctx, conversation, person=LOCAL).turns[-1]
    assert (turn.version, len(turn.rounds)) == (1, 2)
    assert [token["text"] for token in turn.messages[0].tokens or []] == ["w0 ", "x "]
    body = chat.replicas["tales"].bodies[-1]
    assert body["continue_final"]
    assert [message["content"] for message in body["messages"]] == ["Hello", "w0 x "]
    continue_answer(chat.ctx, conversation, turn.messages[0].id, settings=settings, person=LOCAL)
    chat.messages(conversation)
    assert lines(chat, conversation)[1].startswith("w0 x w0 w1 w2 w0")
    with pytest.raises(InvalidInput, match="no token 9"):
        continue_answer(chat.ctx, conversation, answer.id, settings=settings, token=9, person=LOCAL)


def test_probabilities_of_an_answer_are_stored_with_their_alternatives(chat: ChatWorld) -> None:
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings(token_view=True), person=LOCAL)
    chat.messages(conversation)
    assert chat.replicas["tales"].bodies[-1]["params"]["logprobs"] == 5


def test_each_side_is_asked_with_its_own_settings_which_stay_with_its_answer(ctx: Context) -> None:
    with chat_world(ctx, "tales", "other") as chat:
        ctx = chat.ctx
        sides = ({}, {"system": "Be brief.", "temperature": 0.0})
        settings = chat.settings("tales", "other", system="Be kind.", temperature=0.7, blind=True, sides=sides)
        conversation = send_message(ctx, None, "Hello", settings=settings, person=LOCAL)
        chat.messages(conversation)

        def asked(name: str) -> tuple[str, float]:
            body = chat.replicas[name].bodies[-1]
            return body["messages"][0]["content"], body["params"]["temperature"]

        assert (asked("tales"), asked("other")) == (("Be kind.", 0.7), ("Be brief.", 0.0))
        turn = chat_document(read_chat(ctx, conversation, person=LOCAL))["turns"][-1]
        assert [answer["endpoint"] for answer in turn["answers"]] == ["tales", "other"], "in the order of the form"
        assert [answer["own"] for answer in turn["answers"]] == [[], ["System prompt: Be brief.", "Greedy"]]
        assert not turn["votable"], "a vote would count for the model, not for its settings"
        with pytest.raises(InvalidInput, match="can't be voted on"):
            vote_on_answers(ctx, conversation, turn["answers"][0]["id"], "A", person=LOCAL)
        rate_answer(ctx, conversation, turn["answers"][1]["id"], 1, person=LOCAL)
        with ctx.db.read() as session:
            assert session.scalars(select(Feedback)).one().messages[0]["content"] == "Be brief."
        for name in ("tales", "other"):
            stop_early(chat, conversation, name)
        everyone = chat.settings("tales")
        first = turn["answers"][0]["id"]
        continue_answer(ctx, conversation, first, settings=everyone, together=True, person=LOCAL)
        chat.messages(conversation)
        assert asked("other") == ("Be brief.", 0.0), "an answer continues with the settings that it began with"


def stop_early(chat: ChatWorld, conversation: str, endpoint: str) -> None:
    """Store that an answer was stopped."""
    with chat.ctx.db.write() as session:
        rows = select(Message).where(Message.conversation_id == conversation, Message.endpoint == endpoint)
        for row in session.scalars(rows):
            row.status = "stopped"


def test_an_endpoint_answers_twice_side_by_side(chat: ChatWorld) -> None:
    conversation = send_message(chat.ctx, None, "Hello", settings=chat.settings("tales", "tales"), person=LOCAL)
    _, first, second = chat.messages(conversation)
    assert (first.endpoint, second.endpoint) == ("tales", "tales")
    assert (first.branch, second.branch) == (0, 1)
