"""Canaries from start to promotion or end, judged by stored requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from backend.db.tables import ApiKey, Conversation, Feedback, Message, Usage, User
from backend.domain.serving.canary import CanaryRules, Votes
from backend.errors import Conflict, NotAllowed
from backend.services.context import LOCAL, Context, Person
from backend.services.people.keys import create_key
from backend.services.serving import canaries
from backend.services.serving.canaries import (
    abort_canary,
    change_canary,
    judge_canaries,
    likely_successor,
    observe_canary,
    promote_canary,
    start_canary,
)
from backend.services.serving.deployments import rollback_endpoint
from backend.services.serving.endpoints import get_endpoint, list_revisions
from backend.services.serving.monitoring.traffic import compare_revisions, find_window, read_traffic
from backend.services.serving.replicas import ready_targets
from backend.services.serving.usage import LostRequest, UsageRow, add_failures, add_usage
from tests.support.scenario import Scenario, add_rows
from tests.support.serving.serving_world import ServingWorld

RULES = CanaryRules(percent=10, step_up=True, step_minutes=5)


@pytest.fixture
def scene(ctx: Context) -> ServingWorld:
    scene = ServingWorld(ctx)
    scene.deploy(num_replicas=2)
    start_canary(ctx, "tales", checkpoint_id=scene.checkpoint("elm"), rules=RULES, person=LOCAL)
    scene.start_all()
    return scene


def record(scene: ServingWorld, *, requests: int, failures: int = 0) -> None:
    """Let the canary's replica answer requests and lose others."""
    (replica,) = [r.id for r in get_endpoint(scene.ctx, "tales").replicas if r.role == "canary"]
    now = scene.ctx.now()
    add_usage(
        scene.ctx,
        [UsageRow(f"{now}{n}", "tales", None, replica, 3, 4, 100.0, 200.0, "finished", now) for n in range(requests)],
    )
    add_failures(scene.ctx, [LostRequest(f"f{n}", replica, "broken", now) for n in range(failures)])


def thumbs(scene: ServingWorld) -> Votes:
    """Return the thumbs on the canary and its stable revision."""
    observed = observe_canary(scene.ctx, "tales")
    assert observed is not None
    return observed.votes


def test_the_requests_of_the_present_step_are_counted_towards_the_next(scene: ServingWorld) -> None:
    record(scene, requests=7, failures=1)
    observed = observe_canary(scene.ctx, "tales")
    assert observed is not None
    assert (observed.requests, observed.failures) == (8, 1)
    abort_canary(scene.ctx, "tales", person=LOCAL)
    assert observe_canary(scene.ctx, "tales") is None


def test_a_likely_successor_is_of_the_same_run_made_from_the_served_one_or_with_its_tokenizer(ctx: Context) -> None:
    scenario = Scenario(ctx)
    run, twin = scenario.run(name="tales"), scenario.run(name="twin")
    served, later, alike = (scenario.checkpoint(run=one, step=step) for one, step in ((run, 1), (run, 2), (twin, 1)))
    base, tuned = scenario.checkpoint("Oak"), scenario.checkpoint("Tuned", parent_id=scenario.checkpoint("Oak"))
    assert likely_successor(ctx, served, [base, later, alike]) == later
    assert likely_successor(ctx, served, [base, alike, served]) == alike
    assert likely_successor(ctx, served, [base, tuned]) is None
    assert likely_successor(ctx, base, [served, tuned]) == tuned


def test_a_canary_gets_its_share_beside_the_stable_replicas(scene: ServingWorld) -> None:
    view = get_endpoint(scene.ctx, "tales")
    assert (view.state, view.checkpoint_name, view.rollout) == ("ready", "oak", None)
    assert view.canary is not None
    assert (view.canary.checkpoint_name, view.canary.percent, view.canary.num_ready) == ("elm", 10, 1)
    targets = ready_targets(scene.ctx, canaries=True)["tales"]
    assert sorted((target.variant == "stable", target.percent) for target in targets) == [
        (False, 10),
        (True, 0),
        (True, 0),
    ]
    assert len(ready_targets(scene.ctx)["tales"]) == 2


def test_a_canary_that_loses_requests_is_aborted_with_the_reason(scene: ServingWorld) -> None:
    record(scene, requests=6, failures=1)
    judge_canaries(scene.ctx)
    assert get_endpoint(scene.ctx, "tales").canary is not None, "one lost request is no proof"
    record(scene, requests=0, failures=4)
    judge_canaries(scene.ctx)
    view = get_endpoint(scene.ctx, "tales")
    assert (view.canary, view.checkpoint_name, scene.served()) == (None, "oak", ["oak", "oak"])
    assert list_revisions(scene.ctx, "tales")[0].note == "canary, aborted: lost 4 of 10 requests (40 %), more than 5 %"


def test_a_healthy_canary_grows_and_replaces_the_stable_revision(scene: ServingWorld) -> None:
    shares = []
    for step in range(1, 5):
        later = replace(scene.ctx, now=lambda step=step: scene.ctx.now() + timedelta(minutes=6 * step))
        record(ServingWorld(later), requests=20)
        judge_canaries(replace(scene.ctx, now=lambda step=step: scene.ctx.now() + timedelta(minutes=6 * step + 5.5)))
        canary = get_endpoint(scene.ctx, "tales").canary
        shares.append(canary.percent if canary else None)
    assert shares == [25, 50, 100, None]
    scene.start_all()
    assert scene.served() == ["elm", "elm"]
    assert get_endpoint(scene.ctx, "tales").rollout is None
    assert list_revisions(scene.ctx, "tales")[0].note == "canary, promoted: 20 requests at 100 %"


def test_a_canary_is_changed_promoted_and_aborted_by_hand(scene: ServingWorld) -> None:
    changed = change_canary(scene.ctx, "tales", rules=CanaryRules(percent=50), person=LOCAL).canary
    assert changed is not None
    assert changed.percent == 50
    assert abort_canary(scene.ctx, "tales", person=LOCAL).canary is None
    with pytest.raises(Conflict, match="no canary"):
        promote_canary(scene.ctx, "tales", person=LOCAL)
    start_canary(scene.ctx, "tales", checkpoint_id=scene.checkpoint("fir"), rules=RULES, person=LOCAL)
    scene.start_all()
    promote_canary(scene.ctx, "tales", person=LOCAL)
    scene.start_all()
    assert scene.served() == ["fir", "fir"]
    with pytest.raises(NotAllowed):
        start_canary(scene.ctx, "tales", checkpoint_id="x", rules=RULES, person=Person("x", "r", "rater"))


def test_figures_beside_a_canary_are_those_of_the_present_revisions_alone(scene: ServingWorld) -> None:
    """Two answers by each replica that gets requests, in every phase."""
    ctx, window = scene.ctx, find_window("1 h")

    def ask(phase: str) -> list[tuple[int, str, str, int]]:
        targets = ready_targets(ctx, canaries=True)["tales"]
        rows = [
            UsageRow(f"{phase}{at}", "tales", None, one.replica_id, 3, 4, 9.0, 9.0, "finished", ctx.now(), one.variant)
            for at, one in enumerate(targets * 2)
        ]
        add_usage(ctx, rows)
        return compared()

    def compared() -> list[tuple[int, str, str, int]]:
        return [
            (one.revision, one.role, one.checkpoint_name, one.total.requests)
            for one in compare_revisions(ctx, window, endpoint="tales")
        ]

    assert ask("first") == [(1, "stable", "oak", 4), (2, "canary", "elm", 2)]
    promote_canary(ctx, "tales", person=LOCAL)
    scene.start_all()
    assert compared() == [(2, "stable", "elm", 0)], "what it answered as a canary was a part of the requests"
    assert ask("promoted") == [(2, "stable", "elm", 4)]
    rollback_endpoint(ctx, "tales", person=LOCAL)
    scene.start_all()
    assert ask("back") == [(3, "stable", "oak", 4)]
    start_canary(ctx, "tales", checkpoint_id=scene.checkpoint("fir"), rules=RULES, person=LOCAL)
    scene.start_all()
    assert compared() == [(3, "stable", "oak", 4), (4, "canary", "fir", 0)]
    assert ask("second") == [(3, "stable", "oak", 8), (4, "canary", "fir", 2)]
    stable = read_traffic(ctx, window, endpoint="tales", variant="stable").total.requests
    assert stable == 4 + 4 + 4 + 4, "Monitor counts every stable revision"


def test_a_deployment_ends_the_canary(scene: ServingWorld) -> None:
    scene.deploy("fir", start=False, num_replicas=2)
    assert get_endpoint(scene.ctx, "tales").canary is None
    assert [row.note for row in list_revisions(scene.ctx, "tales")] == ["", "superseded by the next revision", ""]


def rate(scene: ServingWorld, *, role: str, ratings: list[int], prefix: str) -> None:
    """Let a replica of a role answer requests whose answers get thumbs: every other one in the playground."""
    replica = next(r.id for r in get_endpoint(scene.ctx, "tales").replicas if r.role == role)
    for number, rating in enumerate(ratings):
        now = scene.ctx.now()
        request = f"{prefix}{number}"
        add_usage(scene.ctx, [UsageRow(request, "tales", None, replica, 3, 4, 100.0, 200.0, "finished", now)])
        with scene.ctx.db.write() as session:
            if number % 2:
                conversation = Conversation(endpoint="tales")
                session.add(conversation)
                session.flush()
                message = Message(
                    conversation_id=conversation.id,
                    role="assistant",
                    content="x",
                    usage={"request_id": request},
                    position=1,
                )
                session.add(message)
                session.flush()
                session.add(Feedback(source="playground", request_id=message.id, rating=rating, created_at=now))
            else:
                session.add(Feedback(source="api", request_id=request, rating=rating, created_at=now))


def test_a_canary_whose_answers_are_liked_less_is_aborted_and_few_votes_decide_nothing(scene: ServingWorld) -> None:
    rate(scene, role="stable", ratings=[1] * 12, prefix="s")
    rate(scene, role="canary", ratings=[-1] * 6 + [1], prefix="c")
    votes = thumbs(scene)
    assert (votes.up, votes.total, votes.stable_up, votes.stable_total, votes.wins, votes.losses) == (
        1,
        7,
        12,
        12,
        0,
        6,
    )
    assert votes.e_value == pytest.approx(2**6 / 7)  # 2^n B(1, 1 + n)
    judge_canaries(scene.ctx)
    assert get_endpoint(scene.ctx, "tales").canary is not None
    rate(scene, role="canary", ratings=[-1] * 3, prefix="d")
    judge_canaries(scene.ctx)
    assert get_endpoint(scene.ctx, "tales").canary is None
    note = list_revisions(scene.ctx, "tales")[0].note
    likes = "thumbs up on 1 of 10 answers, 12 of 12 of the stable revision"
    assert note == f"canary, aborted: {likes}, by 22 without an account (e-value 26)"


def test_the_first_thumbs_count_where_there_are_too_many(scene: ServingWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "MAX_VOTES", 3)
    rate(scene, role="canary", ratings=[-1] * 6, prefix="c")
    with scene.ctx.db.write() as session:
        for number, thumb in enumerate(session.query(Feedback).order_by(Feedback.id)):
            is_early = number % 2 == 0
            thumb.rating, thumb.created_at = (
                (1, scene.ctx.now()) if is_early else (-1, scene.ctx.now() + timedelta(seconds=9))
            )
            thumb.source, thumb.request_id = "api", f"c{number}"
    votes = thumbs(scene)
    assert (votes.up, votes.total) == (3, 3)


def test_thumbs_on_other_endpoints_take_no_room(scene: ServingWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "MAX_VOTES", 3)
    add_rows(
        scene.ctx,
        *(Feedback(source="api", request_id=f"other{n}", rating=1, created_at=scene.ctx.now()) for n in range(5)),
    )
    rate(scene, role="canary", ratings=[-1, -1], prefix="c")
    assert thumbs(scene).total == 2


def test_the_voters_are_counted_as_people_and_keys(scene: ServingWorld) -> None:
    rate(scene, role="canary", ratings=[1] * 4, prefix="c")
    create_key(scene.ctx, "app", person=LOCAL)
    with scene.ctx.db.write() as session:
        people = [User(name=f"{n}", password_hash="") for n in range(2)]
        session.add_all(people)
        session.flush()
        key_id = session.query(ApiKey.id).scalar()
        for thumb, voter in zip(session.query(Feedback), (people[0].id, people[0].id, people[1].id, None), strict=True):
            thumb.user_id, thumb.key_id = voter, None if voter else key_id
    votes = thumbs(scene)
    assert votes.voters == 3
    assert votes.describe() == "thumbs up on 4 of 4 answers, 0 of 0 of the stable revision, by 3 voters"


def test_two_people_do_not_end_a_canary_however_many_thumbs_they_give(scene: ServingWorld) -> None:
    """One likes what it gets, one does not: pairs of thumbs took that for a difference of the checkpoints."""
    rate(scene, role="stable", ratings=[1] * 20, prefix="s")
    rate(scene, role="canary", ratings=[-1] * 20, prefix="c")
    with scene.ctx.db.write() as session:
        people = [User(name=f"{n}", password_hash="") for n in range(2)]
        session.add_all(people)
        session.flush()
        keys = [ApiKey(name=f"{n}", user_id=people[1].id, key_hash=f"{n}", hint="abcd") for n in range(2)]
        session.add_all(keys)
        session.flush()
        for number, thumb in enumerate(session.query(Feedback)):
            if thumb.rating == 1:
                thumb.user_id = people[0].id
            else:
                thumb.key_id = keys[number % 2].id  # two keys of one account
    votes = thumbs(scene)
    assert (votes.voters, votes.anonymous, votes.e_value > 20, votes.voter_e_value < 1) == (2, 0, True, True)
    judge_canaries(scene.ctx)
    assert get_endpoint(scene.ctx, "tales").canary is not None


def test_a_canary_that_steps_on_votes_grows_once_its_answers_are_liked_more(scene: ServingWorld) -> None:
    ctx = replace(scene.ctx, now=lambda: scene.ctx.now() + timedelta(minutes=6))
    change_canary(scene.ctx, "tales", rules=RULES.model_copy(update={"step_on_votes": True}), person=LOCAL)
    record(scene, requests=30)
    rate(scene, role="stable", ratings=[-1] * 9, prefix="s")
    judge_canaries(ctx)
    canary = get_endpoint(scene.ctx, "tales").canary
    assert canary is not None
    assert canary.percent == 10
    rate(scene, role="canary", ratings=[1] * 9, prefix="c")
    judge_canaries(ctx)
    canary = get_endpoint(scene.ctx, "tales").canary
    assert canary is not None
    assert canary.percent == 25


def test_thumbs_on_answers_of_before_a_canary_are_not_its(scene: ServingWorld) -> None:
    """An answer of an earlier stable revision, liked while a canary ran, counted for the stable side."""
    rate(scene, role="stable", ratings=[1] * 4, prefix="s")
    with scene.ctx.db.write() as session:
        for request in session.query(Usage).where(Usage.id.in_(["s0", "s1"])):
            request.created_at -= timedelta(hours=1)
    votes = thumbs(scene)
    assert (votes.stable_up, votes.stable_total) == (2, 2)
