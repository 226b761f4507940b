"""The overview's log: what ended, was voted, deployed and decided."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from backend.db.base import utc_now
from backend.db.tables import Alert, Job, Run, RunGroup
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.services.activity import MAX_ACTIVITIES, ActivityKind, list_activities
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, disable_account
from backend.services.people.keys import create_key, list_keys, revoke_key
from backend.services.serving.monitoring.alerts import AlertWatch
from backend.services.serving.own_keys import playground_key
from pages.components.routes import OBJECTS
from tests.support.filled_installation import fill
from tests.support.run_world import claim, end
from tests.support.scenario import Scenario, add_rows


def test_runs_that_ended_are_named_with_their_outcome_and_cause(ctx: Context, scenario: Scenario) -> None:
    since = ctx.now()
    for name, status in (("good", Status.FINISHED), ("bad", Status.FAILED), ("ended", Status.CANCELLED)):
        scenario.run(status=status, name=name)
    scenario.run(name="waiting")
    assert AlertWatch().check(ctx), "two of the ends are sent as events"
    assert len(list_activities(ctx, since=since, person=LOCAL)) == 3, "an event is no line beside the run's"
    activities = {
        one.name: one for one in list_activities(ctx, since=since, person=LOCAL) if one.name in {"good", "bad", "ended"}
    }
    assert {name: one.kind for name, one in activities.items()} == {
        "good": ActivityKind.FINISHED,
        "bad": ActivityKind.FAILED,
        "ended": ActivityKind.STOPPED,
    }
    assert activities["bad"].text.startswith("failed")
    assert all(one.name != "waiting" for one in list_activities(ctx, since=since, person=LOCAL))


@pytest.mark.parametrize("cause", ["column\n" * 40, f"{'/a-long-folder' * 20} can't be read."], ids=["words", "path"])
def test_a_long_cause_is_cut_to_one_line(ctx: Context, scenario: Scenario, cause: str) -> None:
    """Of one that began with a path, nothing was left."""
    since = ctx.now()
    run = scenario.run(status=Status.FAILED)
    with ctx.db.write() as session:
        session.get_one(Job, session.get_one(Run, run.id).job_id).error = JobFailure(cause=cause)
    (line,) = [one for one in list_activities(ctx, since=since, person=LOCAL) if one.kind is ActivityKind.FAILED]
    assert line.text == f"failed: {cause[:159]}…".replace("\n", " ")


def test_the_runs_of_a_sweep_are_one_line(ctx: Context, scenario: Scenario) -> None:
    since = ctx.now()
    runs = [scenario.run(name=f"point {number}") for number in range(3)]
    with ctx.db.write() as session:
        session.add(RunGroup(id="sweep", name="rates", kind="sweep"))
        session.flush()
        for run in runs:
            session.get_one(Run, run.id).group_id = "sweep"
    for run, status in zip(runs, (Status.FINISHED, Status.FINISHED, Status.FAILED), strict=True):
        end(ctx, claim(ctx, run), status)
    (line,) = [
        one
        for one in list_activities(ctx, since=since, person=LOCAL)
        if one.subject and one.subject[0] in {"sweep", "run"}
    ]
    assert (line.name, line.text, line.subject) == ("rates", "2 runs finished, 1 run failed", ("sweep", "sweep"))


def test_a_filled_installation_has_lines_of_its_parts_and_each_leads_to_a_page(ctx: Context) -> None:
    fill(ctx)
    activities = list_activities(ctx, since=ctx.now() - timedelta(days=1), person=LOCAL)
    assert [one.at for one in activities] == sorted((one.at for one in activities), reverse=True)
    assert {ActivityKind.VOTED, ActivityKind.DEPLOYED, ActivityKind.CAMPAIGN} <= {one.kind for one in activities}
    assert {one.subject[0] for one in activities if one.subject} <= set(OBJECTS)
    votes = next(one for one in activities if one.kind is ActivityKind.VOTED)
    assert (votes.who, votes.text) == (LOCAL.name, "got 2 votes")
    with_accounts = list_activities(replace(ctx, sign_in=True), since=ctx.now() - timedelta(days=1), person=LOCAL)
    votes = next(one for one in with_accounts if one.kind is ActivityKind.VOTED)
    assert votes.who == "before sign-in was set up", "who reads it need not have cast them"


def test_a_run_that_diverged_until_it_ended_is_not_said_to_be_resolved(ctx: Context) -> None:
    now = ctx.now()
    facts = {"severity": "critical", "opened_at": now, "resolved_at": now}
    add_rows(ctx, *(Alert(fingerprint=kind, kind=kind, message=kind, **facts) for kind in ("run_diverging", "disk")))
    said = {one.name: one.text for one in list_activities(ctx, since=now - timedelta(days=1), person=LOCAL)}
    assert said == {"run_diverging": "ended", "disk": "resolved"}


def test_older_events_and_more_than_forty_are_left_out(ctx: Context) -> None:
    now = utc_now()
    with ctx.db.write() as session:
        for minutes in range(60):
            session.add(
                Alert(
                    fingerprint=str(minutes),
                    kind="latency",
                    severity="warning",
                    message=f"{minutes} min",
                    opened_at=now - timedelta(minutes=minutes),
                    resolved_at=now,
                )
            )
    names = [one.name for one in list_activities(ctx, since=now - timedelta(minutes=30), person=LOCAL)]
    assert names == [f"{minutes} min" for minutes in range(31)]
    assert len(list_activities(ctx, since=now - timedelta(days=1), person=LOCAL)) == MAX_ACTIVITIES


def test_admins_read_which_accounts_and_keys_were_made_and_ended(ctx: Context) -> None:
    """A new admin and a revoked key left no trace on the overview."""
    since = ctx.now()
    maya = add_user(ctx, "maya", "a long password", person=LOCAL)
    create_key(ctx, "bot", person=maya)
    playground_key(ctx)
    disable_account(ctx, maya.id or "", person=LOCAL)
    (key,) = list_keys(ctx, person=maya)
    revoke_key(ctx, key.id, person=LOCAL)
    said = {
        (one.name, one.text.replace(key.hint, "1234"), one.who)
        for one in list_activities(ctx, since=since, person=LOCAL)
    }
    assert said == {
        ("maya", "account was created, engineer", ""),
        ("maya", "account was disabled", ""),
        ("bot", "key …1234 was created", "of maya"),
        ("bot", "key …1234 was revoked", "of maya"),
    }
    assert not list_activities(ctx, since=since, person=maya)
