"""Votes on side-by-side answers in the playground."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from backend.db.tables import Checkpoint, Vote
from backend.domain.serving.upstream import UPSTREAM
from backend.errors import InvalidInput, NotAllowed
from backend.services.battles.raters import rater_for
from backend.services.battles.side_by_side import record_side_by_side_vote
from backend.services.battles.standings import standings
from backend.services.battles.views import list_campaigns, list_open_campaigns, valid_votes
from backend.services.battles.vote_training import plan_training
from backend.services.context import LOCAL, Context
from tests.support.battle_world import next_battle
from tests.support.scenario import Scenario


def test_a_playground_vote_is_stored_once_and_a_change_supersedes_it(any_ctx: Context) -> None:
    oak, elm = Scenario(any_ctx).checkpoints("Oak", "Elm")
    turn = {
        "messages": [{"role": "user", "content": "Hi"}],
        "answer_a": "yes",
        "answer_b": "no",
        "checkpoint_a": oak,
        "checkpoint_b": elm,
    }
    first = record_side_by_side_vote(any_ctx, label="A", person=LOCAL, **turn)  # type: ignore[arg-type]
    assert record_side_by_side_vote(any_ctx, label="A", person=LOCAL, **turn) == first  # type: ignore[arg-type]
    assert record_side_by_side_vote(any_ctx, label="BOTH_BAD", person=LOCAL, **turn) != first  # type: ignore[arg-type]
    record_side_by_side_vote(any_ctx, label="B", person=LOCAL, **{**turn, "answer_a": "another"})  # type: ignore[arg-type]
    (playground,) = list_campaigns(any_ctx)
    assert (playground.name, playground.is_standing, playground.num_votes) == ("Playground", True, 2)
    assert list_open_campaigns(any_ctx) == []
    with any_ctx.db.read() as session:
        assert [vote.label for vote in valid_votes(session, playground.id)] == ["BOTH_BAD", "B"]
        assert len(session.scalars(select(Vote)).all()) == 3
    with pytest.raises(InvalidInput, match="same checkpoint"):
        record_side_by_side_vote(any_ctx, label="A", person=LOCAL, **{**turn, "checkpoint_b": oak})  # type: ignore[arg-type]
    with pytest.raises(NotAllowed, match="own conversations"):
        next_battle(any_ctx, playground.id, rater_for(any_ctx, LOCAL))


def test_a_model_on_another_server_is_voted_on_and_training_starts_from_a_checkpoint_with_files(ctx: Context) -> None:
    oak, remote = Scenario(ctx).checkpoints("Oak", "remote")
    with ctx.db.write() as session:
        session.get_one(Checkpoint, remote).folder = None
        session.get_one(Checkpoint, remote).origin = UPSTREAM
    for number in range(4):
        turn = [{"role": "user", "content": f"Question {number}"}]
        record_side_by_side_vote(
            ctx,
            messages=turn,
            answer_a="no",
            answer_b="yes",
            checkpoint_a=oak,
            checkpoint_b=remote,
            label="B",
            person=LOCAL,
        )
    (playground,) = list_campaigns(ctx)
    board = standings(ctx, playground.id)
    assert board.table is not None
    assert board.table.contestants == ("remote", "Oak")
    assert plan_training(ctx, playground.id).base.id == oak


def test_prompts_that_differ_in_space_at_their_ends_are_one_cluster(ctx: Context, scenario: Scenario) -> None:
    oak, elm = scenario.checkpoints("Oak", "Elm")
    for number, prompt in enumerate(("Hi", "Hi ", "\nHi", "Hi!")):
        turn = [{"role": "user", "content": prompt}]
        record_side_by_side_vote(
            ctx,
            messages=turn,
            answer_a=f"a {number}",
            answer_b="b",
            checkpoint_a=oak,
            checkpoint_b=elm,
            label="A",
            person=LOCAL,
        )
    (playground,) = list_campaigns(ctx)
    (verdict,) = standings(ctx, playground.id).verdicts
    assert (verdict.votes, verdict.prompts) == (4, 2)
