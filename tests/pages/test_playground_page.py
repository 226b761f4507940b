"""The playground against a real replica with a small context: a conversation that outgrows it goes on, and nothing typed is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from backend.db.tables import Checkpoint
from backend.domain.jobs.events import ReadyEvent
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next
from backend.services.serving.conversations import list_conversations, list_messages
from backend.services.serving.deployments import deploy, stop_endpoint
from backend.services.serving.endpoints import get_endpoint
from backend.services.serving.replicas import record_ready
from tests.support.networks.serving_networks import make_llama, save_checkpoint
from tests.support.opening import open_page, words
from tests.support.serving_replica import TOKEN, RunningReplica

PAGE = "serve/playground.py"
SHORT, OTHER, LONG = "Tell me of the mill.", "And of the river?", "mill " * 200
CONTEXT = 128


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReplica]:
    folder: Path = tmp_path_factory.mktemp("replica")
    save_checkpoint(folder / "checkpoint", network=make_llama(context=CONTEXT))
    running = RunningReplica(folder)
    yield running
    running.stop()


def place(ctx: Context, name: str, replica: RunningReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deploy an endpoint whose one replica is `replica`."""
    monkeypatch.setattr("backend.services.serving.deployments.secrets.token_urlsafe", lambda _size: TOKEN)
    with ctx.db.write() as session:
        checkpoint = Checkpoint(name=f"{name}-network", origin="added", folder="bases/tiny", family="llama", parameters=10)
        session.add(checkpoint)
        session.flush()
        checkpoint_id = checkpoint.id
    deploy(ctx, checkpoint_id=checkpoint_id, name=name, person=LOCAL)
    claim = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    with ctx.db.write() as session:
        record_ready(session, ctx, claim, ReadyEvent(url=replica.url))


def say(app: AppTest, text: str) -> None:
    """Send a message with short greedy answers."""
    app.number_input[0].set_value(8)
    app.chat_input[0].set_value(text).run()
    assert not app.exception


def fill_context(app: AppTest) -> None:
    """Talk until the network refuses the conversation."""
    for _ in range(CONTEXT):
        say(app, SHORT)
        if app.error:
            return
    raise AssertionError("the context never filled")


def test_a_conversation_that_outgrows_the_context_continues_without_its_oldest_turns(
    site: Context, replica: RunningReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(site, "tales", replica, monkeypatch)
    app = open_page(PAGE)
    fill_context(app)
    assert "this network's context holds 128" in app.error[0].value.replace("\\", "")
    (conversation,) = list_conversations(site, person=LOCAL)
    assert list_messages(site, conversation.id, person=LOCAL)[-2].content == SHORT, "what was typed is kept"
    app.button(key="cure_trim").click().run()
    assert not app.error
    last = list_messages(site, conversation.id, person=LOCAL)[-1]
    assert last.usage["left_out"] >= 1
    assert "oldest turn" in words(app)
    before = len(list_messages(site, conversation.id, person=LOCAL))
    say(app, OTHER)
    assert not app.error, "once chosen, later turns leave out old ones by themselves"
    assert len(list_messages(site, conversation.id, person=LOCAL)) == before + 2


def test_a_full_conversation_continues_in_a_new_one_with_the_message_in_the_field(
    site: Context, replica: RunningReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(site, "tales", replica, monkeypatch)
    app = open_page(PAGE)
    fill_context(app)
    app.button(key="cure_new").click().run()
    assert app.chat_input[0].proto.value == SHORT
    assert "conversation" not in app.query_params
    assert not app.error


def test_a_message_that_is_too_long_comes_back_into_the_field(
    site: Context, replica: RunningReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(site, "tales", replica, monkeypatch)
    app = open_page(PAGE)
    say(app, LONG)
    assert "context holds 128" in app.error[0].value
    assert "cure_trim" not in [button.key for button in app.button], "there is no older turn to leave out"
    app.button(key="cure_edit").click().run()
    assert app.chat_input[0].proto.value == LONG
    say(app, SHORT)
    assert not app.error, "the failed turn is not sent again"


def test_a_message_to_an_endpoint_without_a_replica_is_kept_and_can_be_sent_again(
    site: Context, replica: RunningReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site.db.write() as session:
        session.add(Checkpoint(name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=10, id="tiny"))
    deploy(site, checkpoint_id="tiny", name="slow", person=LOCAL)
    app = open_page(PAGE)
    say(app, SHORT)
    assert "No replica of 'slow' is ready yet" in app.error[0].value.replace("\\", "")
    stop_endpoint(site, "slow", person=LOCAL)
    place(site, "slow", replica, monkeypatch)
    app.button(key="cure_retry").click().run()
    assert not app.error
    assert app.text[0].value == SHORT


def test_the_address_of_a_stopped_endpoint_says_so_and_starts_it(
    site: Context, replica: RunningReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(site, "tales", replica, monkeypatch)
    place(site, "other", replica, monkeypatch)
    stop_endpoint(site, "tales", person=LOCAL)
    app = open_page(PAGE, endpoint="tales")
    assert "is stopped" in app.warning[0].value
    assert not app.chat_input, "nothing typed here could go to another endpoint unnoticed"
    assert app.button(key="chat_other").label == "Chat with other"
    app.button(key="playground_start").click().run()
    assert get_endpoint(site, "tales").state == "starting"
    assert app.chat_input


def test_the_address_of_an_unknown_endpoint_says_so(site: Context, replica: RunningReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    place(site, "tales", replica, monkeypatch)
    app = open_page(PAGE, endpoint="nothing<b>")
    assert "There is no endpoint" in app.warning[0].value
    assert "<b>" not in app.warning[0].value.replace("\\<b\\>", "")
    app.button(key="chat_tales").click().run()
    assert app.chat_input
