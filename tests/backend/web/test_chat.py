"""The playground's HTTP interface: streams that survive a reload, blind comparisons, hostile texts, and whose
conversations they are.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from backend.db.tables import CampaignPrompt, Feedback, Vote
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, disable_account
from tests.support.gateway_fixtures import eventually
from tests.support.networks.chat_world import ChatWorld, chat_world
from tests.support.opening import EVIL


def post(client: TestClient, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/playground/api/{path}", json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


def events(client: TestClient, conversation: str) -> list[dict[str, Any]]:
    """Read a stream to its end."""
    lines = client.get("/playground/api/stream", params={"conversation": conversation}).text.split("\n\n")
    assert lines[-2].startswith("event: end")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def settled(client: TestClient, conversation: str) -> dict[str, Any]:
    """Read a conversation once no answer is on its way."""

    def read() -> dict[str, Any] | None:
        document = client.get("/playground/api/chat", params={"conversation": conversation}).json()
        return None if document["running"] else document

    return eventually(read)  # type: ignore[no-any-return]


def test_two_tabs_read_the_same_stream_and_a_reload_reads_it_from_its_beginning(chat: ChatWorld) -> None:
    replica = chat.replicas["tales"]
    replica.tokens, replica.delay_s = 8, 0.03
    with chat.browser() as client:
        document = post(client, "send", text="Hello", settings=chat.settings("tales").model_dump())
        assert document["running"]
        both = [events(client, document["id"]), events(client, document["id"])]
        done = settled(client, document["id"])
    for seen in both:
        drawn: list[Any] = []
        for event in seen:
            drawn = [*drawn[: event["keep"]], *event["nodes"]]
        assert not drawn or drawn == done["turns"][1]["answers"][0]["nodes"]
    assert both[0], "the first tab reads the answer while it is generated"
    assert done["turns"][1]["answers"][0]["usage"]["finish_reason"] == "stop"
    assert replica.seen == 1


def test_one_request_sends_a_message_and_reads_its_answer(chat: ChatWorld) -> None:
    chat.replicas["tales"].tokens, chat.replicas["tales"].delay_s = 8, 0.03
    body = {"text": "Hello", "settings": chat.settings("tales").model_dump()}
    with chat.browser() as client:
        response = client.post("/playground/api/send", json=body, headers={"accept": "text/event-stream"})
        first, *answers, last, _ = response.text.split("\n\n")
        document = json.loads(first.removeprefix("event: document\ndata: "))
        assert document["running"]
        assert {json.loads(event[6:])["id"] for event in answers} == {document["turns"][1]["answers"][0]["id"]}
        assert last.startswith("event: end")
        assert settled(client, document["id"])["turns"][1]["answers"][0]["text"].startswith("w0 w1")
        refused = client.post(
            "/playground/api/send", json={**body, "text": " "}, headers={"accept": "text/event-stream"}
        )
    assert (refused.status_code, refused.json()["error"]) == (422, "The message is empty.")


def test_a_blind_comparison_hides_names_and_figures_until_the_vote_and_then_shows_them(chat: ChatWorld) -> None:
    with chat.browser() as client:
        settings = chat.settings("tales", "verse", blind=True).model_dump()
        document = post(client, "send", text="Hello", settings=settings)
        shown = settled(client, document["id"])
        hidden = json.dumps(shown["turns"][1])
        assert not any(word in hidden for word in ("tales", "verse", "ttft_ms", "tok_per_sec", "completion_tokens"))
        assert [answer["side"] for answer in shown["turns"][1]["answers"]] == ["A", "B"]
        world_answer = shown["turns"][1]["id"]
        voted = post(client, "vote", conversation=document["id"], message=world_answer, label="B")["turns"][1]
        assert {answer["endpoint"] for answer in voted["answers"]} == {"tales", "verse"}
        assert all("ttft_ms" in answer["usage"] for answer in voted["answers"])
        assert (voted["vote"], voted["selected"]) == (
            "B",
            voted["answers"][1]["id"],
        ), "the line continues with the better answer"
        post(client, "vote", 422, conversation=document["id"], message=world_answer, label="A")


def test_a_vote_on_three_answers_is_a_battle_of_the_best_against_each_other_one_on_one_prompt(ctx: Context) -> None:
    with chat_world(ctx, "one", "two", "three") as chat, chat.browser() as client:
        for name, replica in chat.replicas.items():
            replica.word = name
        settings = chat.settings("one", "two", "three").model_dump()
        document = post(client, "send", text="Hello", settings=settings)
        turn = settled(client, document["id"])["turns"][1]
        post(client, "vote", conversation=document["id"], message=turn["id"], label="C")
        post(client, "regenerate", conversation=document["id"], message=turn["id"], settings=settings)
        again = settled(client, document["id"])["turns"][1]
        assert again["versions"] == 2
        with ctx.db.read() as session:
            labels = sorted(session.scalars(select(Vote.label)))
            prompts = session.scalar(select(func.count()).select_from(CampaignPrompt))
    assert labels == ["B", "B"], "C, on the right of both battles, is better than A and B"
    assert prompts == 1


def test_a_thumb_is_stored_with_its_prompt_and_can_be_taken_back(chat: ChatWorld) -> None:
    with chat.browser() as client:
        document = post(client, "send", text="Hello", settings=chat.settings("tales", system="Be brief.").model_dump())
        answer = settled(client, document["id"])["turns"][1]["answers"][0]
        rated = post(client, "rate", conversation=document["id"], message=answer["id"], value=-1)
        assert rated["turns"][1]["answers"][0]["thumb"] == -1
        with chat.ctx.db.read() as session:
            row = session.scalars(select(Feedback)).one()
            assert [message["content"] for message in row.messages or []] == ["Be brief.", "Hello"]
            assert (row.answer, row.rating, row.endpoint) == ("w0 w1 w2 ", -1, "tales")
        post(client, "rate", conversation=document["id"], message=answer["id"], value=0)
        with chat.ctx.db.read() as session:
            assert session.scalars(select(Feedback)).all() == []


def test_hostile_text_reaches_the_browser_as_text_and_names_of_nodes_alone(chat: ChatWorld) -> None:
    chat.replicas["tales"].word = f"{EVIL} [here](javascript:alert(1)) <img src=x onerror=alert(1)>\n\n"
    with chat.browser() as client:
        document = post(client, "send", text=EVIL, settings=chat.settings("tales").model_dump())
        nodes = settled(client, document["id"])["turns"][1]["answers"][0]["nodes"]

    def tags(node: Any) -> set[str]:
        return set() if isinstance(node, str) else {node[0], *(tag for kid in node[1] for tag in tags(kid))}

    assert {tag for node in nodes for tag in tags(node)} <= {
        "p",
        "image",
        "br",
    }, "no element that runs, loads or leads elsewhere"


def test_a_message_of_another_person_or_without_a_token_is_refused(chat: ChatWorld) -> None:
    owner, other = (add_user(chat.ctx, name, "a long password", person=LOCAL) for name in ("maya", "noor"))
    with chat.browser(person=owner) as client:
        conversation = post(client, "send", text="secret", settings=chat.settings("tales").model_dump())["id"]
        settled(client, conversation)
        with chat.browser(person=other) as stranger:
            for path in ("chat", "stream"):
                assert stranger.get(f"/playground/api/{path}", params={"conversation": conversation}).status_code == 404
            for path, body in {
                "stop": {},
                "select": {"message": "m"},
                "vote": {"message": "m", "label": "A"},
                "rate": {"message": "m", "value": 1},
            }.items():
                post(stranger, path, 404, conversation=conversation, **body)
        disable_account(chat.ctx, owner.id or "", person=LOCAL)
        assert client.get("/playground/api/chat", params={"conversation": conversation}).status_code == 403
        assert (
            client.get(
                "/playground/api/chat", params={"conversation": conversation}, headers={"authorization": ""}
            ).status_code
            == 403
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoints": ["a", "b", "c", "d", "e"]}, "endpoints"),
        ({"sides": [{}, {"temperature": 50}]}, "sides, entry 2, temperature"),
        ({"temperature": 50}, "temperature"),
        ({"json_schema": "{"}, "json_schema"),
        ({"tools": "{}"}, "list of tools"),
    ],
    ids=["five endpoints", "temperature of a side", "temperature", "schema", "tools"],
)
def test_settings_that_can_t_be_used_are_refused_with_their_name(
    chat: ChatWorld, change: dict[str, Any], words: str
) -> None:
    with chat.browser() as client:
        refusal = post(client, "send", 422, text="Hello", settings={**chat.settings("tales").model_dump(), **change})
    assert words in refusal["error"]
