"""Streamed answers of real replicas for the playground: two sides, stopping, and what is left out of a long conversation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from backend.db.tables import Checkpoint, Job, Replica, Usage
from backend.domain.jobs.events import ReadyEvent
from backend.domain.serving.protocol import ChatMessage, Role, SamplingParams
from backend.errors import NotFound, Unavailable
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next
from backend.services.serving.chat import Question, shuffle_sides, stream_answers, without_oldest_turn
from backend.services.serving.deployments import deploy
from backend.services.serving.replicas import record_ready
from tests.support.networks.serving_networks import make_llama, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica, eventually

HELLO = (ChatMessage(role=Role.USER, content="Hello"),)
LONG = SamplingParams(max_tokens=100_000, temperature=0.0, ignore_end=True)
SHORT = SamplingParams(max_tokens=8, temperature=0.0, ignore_end=True)


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReplica]:
    folder: Path = tmp_path_factory.mktemp("replica")
    save_checkpoint(folder / "checkpoint", network=make_llama(context=100_000))
    running = RunningReplica(folder)
    yield running
    running.stop()


def place(ctx: Context, name: str, replica: RunningReplica | None) -> None:
    with ctx.db.write() as session:
        checkpoint = session.scalar(select(Checkpoint).where(Checkpoint.name == "tiny"))
        if checkpoint is None:
            checkpoint = Checkpoint(name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=10)
            session.add(checkpoint)
            session.flush()
        checkpoint_id = checkpoint.id
    deploy(ctx, checkpoint_id=checkpoint_id, name=name, person=LOCAL)
    if replica is None:
        return
    claim = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    with ctx.db.write() as session:
        record_ready(session, ctx, claim, ReadyEvent(url=replica.url))
        session.scalars(select(Replica).where(Replica.job_id == claim.job_id)).one().internal_token = TOKEN
        assert session.get_one(Job, claim.job_id).lease_until is not None


def test_two_endpoints_answer_side_by_side_with_their_own_times(ctx: Context, replica: RunningReplica) -> None:
    place(ctx, "left", replica)
    place(ctx, "right", replica)
    answers = list(stream_answers(ctx, [Question("left", HELLO, SHORT), Question("right", HELLO, SHORT)]))[-1]
    assert [answer.tokens for answer in answers] == [8, 8]
    assert answers[0].text == answers[1].text, "the same network, greedily"
    assert all(answer.ttft_ms is not None and answer.finish_reason == "length" for answer in answers)
    with ctx.db.read() as session:
        assert session.scalars(select(Usage.status)).all() == ["finished", "finished"]


def test_leaving_an_answer_stops_the_generation(ctx: Context, replica: RunningReplica) -> None:
    place(ctx, "tales", replica)
    before = replica.stats()["generated_tokens"]
    stream = stream_answers(ctx, [Question("tales", HELLO, LONG)])
    eventually(lambda: next(stream)[0].tokens > 3)
    assert replica.stats()["running"] == 1
    stream.close()
    eventually(lambda: replica.stats()["running"] == 0)
    assert replica.stats()["generated_tokens"] - before < LONG.max_tokens, "stopped, not finished"
    with ctx.db.read() as session:
        assert session.scalars(select(Usage.status)).one() == "aborted"
    assert not [thread for thread in threading.enumerate() if thread.name == "asking"]


def test_a_missing_endpoint_or_one_without_a_replica_is_an_error(ctx: Context) -> None:
    with pytest.raises(NotFound, match="'nowhere'"):
        next(stream_answers(ctx, [Question("nowhere", HELLO, SHORT)]))
    place(ctx, "slow", None)
    with pytest.raises(Unavailable, match="ready"):
        next(stream_answers(ctx, [Question("slow", HELLO, SHORT)]))


def test_a_replica_that_is_gone_ends_the_answer_with_an_error_and_not_the_page(ctx: Context, replica: RunningReplica) -> None:
    place(ctx, "gone", replica)
    with ctx.db.write() as session:
        session.scalars(select(Replica)).one().url = "http://127.0.0.1:1"
    answer = list(stream_answers(ctx, [Question("gone", HELLO, SHORT)]))[-1][0]
    assert answer.error is not None
    assert "can't be reached" in answer.error


def test_sides_are_shuffled_for_every_turn() -> None:
    drawn = {tuple(shuffle_sides(["a", "b"])) for _ in range(100)}
    assert drawn == {("a", "b"), ("b", "a")}


def _turns(*pairs: tuple[Role, str]) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage(role=role, content=content) for role, content in pairs)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_turns((Role.USER, "a")), None),
        (_turns((Role.SYSTEM, "s"), (Role.USER, "a")), None),
        (_turns((Role.USER, "a"), (Role.ASSISTANT, "b"), (Role.USER, "c")), _turns((Role.USER, "c"))),
        (
            _turns((Role.SYSTEM, "s"), (Role.USER, "a"), (Role.ASSISTANT, "b"), (Role.USER, "c")),
            _turns((Role.SYSTEM, "s"), (Role.USER, "c")),
        ),
        (
            _turns((Role.USER, "a"), (Role.USER, "b"), (Role.ASSISTANT, "c"), (Role.USER, "d")),
            _turns((Role.USER, "b"), (Role.ASSISTANT, "c"), (Role.USER, "d")),
        ),
        ((), None),
    ],
    ids=["one question", "system and one question", "a turn before", "a system prompt stays", "a question without answer", "nothing"],
)
def test_the_oldest_question_is_dropped_with_its_answer(before: tuple[ChatMessage, ...], after: tuple[ChatMessage, ...] | None) -> None:
    assert without_oldest_turn(before) == after
