"""A campaign's votes as they are read while more are cast."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import delete, update

from backend.db.base import utc_now
from backend.db.tables import Vote
from backend.services.battles import vote_log
from backend.services.battles.ballots import undo
from backend.services.battles.raters import rater_for
from backend.services.battles.vote_log import VoteLog, read_vote_log
from backend.services.context import LOCAL, Context
from tests.support.queries import count_selects
from tests.support.scenario import Scenario


def read(ctx: Context, campaign_id: str) -> VoteLog:
    with ctx.db.read() as session:
        return read_vote_log(session, campaign_id)


def contents(log: VoteLog) -> list[tuple[object, ...]]:
    """Return each vote in words, so that logs are alike however their codes are numbered."""
    columns = log.columns
    return [
        (
            log.prompts[log.prompt[vote]],
            log.answers[log.answer_a[vote]],
            log.answers[log.answer_b[vote]],
            log.purposes[log.purpose[vote]],
            columns.raters[columns.rater[vote]],
            columns.contestants[columns.a[vote]],
            columns.contestants[columns.b[vote]],
            int(columns.label[vote]),
            None if np.isnan(log.duration_ms[vote]) else float(log.duration_ms[vote]),
        )
        for vote in range(len(log))
    ]


def read_afresh(ctx: Context, campaign_id: str, monkeypatch: pytest.MonkeyPatch) -> VoteLog:
    """Read as a process does that has read nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(vote_log, "_newest", type(vote_log._newest)())
        return read(ctx, campaign_id)


def test_later_votes_and_undone_ones_are_added_to_those_that_were_read(
    ctx: Context, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = scenario.campaign(num_prompts=20)
    rater = rater_for(ctx, LOCAL)
    scenario.votes(campaign, "Oak", rater=rater, limit=8)
    with ctx.db.write() as session:
        session.execute(update(Vote).values(created_at=utc_now() - timedelta(hours=1)))
    assert len(read(ctx, campaign.id)) == 8
    scenario.votes(campaign, "Elm", rater=rater, limit=4)
    undo(ctx, campaign.id, rater)
    with count_selects(ctx.db.engine) as selects:
        log = read(ctx, campaign.id)
    assert selects["votes"] == 2, "their number, and the votes that came since"
    assert len(log) == 11
    assert contents(log) == contents(read_afresh(ctx, campaign.id, monkeypatch))


def test_a_database_that_was_put_back_is_read_afresh(
    ctx: Context, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = scenario.campaign(num_prompts=20)
    rater = rater_for(ctx, LOCAL)
    scenario.votes(campaign, "Oak", rater=rater, limit=8)
    gone = read(ctx, campaign.id)
    with ctx.db.write() as session:
        session.execute(delete(Vote))
    scenario.votes(campaign, "Elm", rater=rater, limit=9)
    log = read(ctx, campaign.id)
    assert len(gone) == 8
    assert contents(log) == contents(read_afresh(ctx, campaign.id, monkeypatch))
