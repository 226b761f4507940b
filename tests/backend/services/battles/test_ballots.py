"""The ballot's invariants; those that rest on the database on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

from backend.db.tables import Battle, Checkpoint, Completion, Contestant, Rater, Run, Vote
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.battles.ballots import BallotView, ballot_progress, undo
from backend.services.battles.campaigns import close_campaign
from backend.services.battles.raters import (
    create_rater_link,
    list_raters,
    rater_for,
    rater_from_link,
    revoke_rater_link,
)
from backend.services.battles.side_by_side import record_side_by_side_vote
from backend.services.battles.views import get_campaign, list_campaigns, valid_votes
from backend.services.context import LOCAL, Context, Person
from backend.services.people.accounts import add_user, disable_account, enable_account
from tests.support.battle_world import (
    cast_vote,
    claim_generation,
    link_rater,
    next_battle,
    write_all,
    write_completions,
)
from tests.support.scenario import Scenario


class Clock:
    """A clock that moves a second at each look, and further when a test turns it."""

    def __init__(self) -> None:
        self.moment = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment

    def advance(self, **span: float) -> None:
        self.moment += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ctx(ctx_sqlite: Context, clock: Clock) -> Context:
    return replace(ctx_sqlite, now=clock)


@pytest.fixture
def both(any_ctx: Context, clock: Clock) -> Context:
    """On SQLite and on PostgreSQL: for what rests on constraints and on concurrency."""
    return replace(any_ctx, now=clock)


def shown(ballot: BallotView | None) -> BallotView:
    assert ballot is not None
    return ballot


def test_the_name_of_a_contestants_run_is_masked_whatever_its_recipe_holds(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(write=False)
    with ctx.db.write() as session:
        session.add(run := Run(name="acorn-12M", objective="pretrain"))
        session.flush()
        session.execute(update(Checkpoint).where(Checkpoint.name == "Oak").values(run_id=run.id))
        session.execute(text('UPDATE runs SET config = \'{"max_steps": "many"}\''))  # of another program
    write_all(ctx, campaign.id, text=lambda name, prompt: f"{prompt} by {name}, trained as acorn-12M")
    ballot = shown(next_battle(ctx, campaign.id, rater_for(ctx, LOCAL)))
    assert "acorn-12M" not in ballot.text_a + ballot.text_b


def test_a_ballot_does_not_reveal_the_contestants(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(write=lambda name, prompt: f"{len(name)} words on {prompt} {name == 'Oak'}")
    ballot = shown(next_battle(ctx, campaign.id, rater_for(ctx, LOCAL)))
    ballot_text = repr(asdict(ballot))
    with ctx.db.read() as session:
        secrets = [row.id for row in session.scalars(select(Contestant))] + [
            row.id for row in session.scalars(select(Completion))
        ]
    for secret in ["Oak", "Elm", *secrets, *(contestant.checkpoint_id for contestant in campaign.contestants)]:
        assert secret not in ballot_text


def test_each_prompt_and_pair_is_met_once_by_each_rater(both: Context) -> None:
    campaign = Scenario(both).campaign("Oak", "Elm", "Ash", num_prompts=4)
    raters = [rater_for(both, LOCAL), link_rater(both, campaign.id)]
    assert [Scenario(both).votes(campaign, "Oak", rater=rater) for rater in raters] == [12, 12]
    with both.db.read() as session:
        met = Counter(
            (vote.rater_id, vote.prompt_id, frozenset((vote.a, vote.b))) for vote in valid_votes(session, campaign.id)
        )
    assert len(met) == 24
    assert set(met.values()) == {1}


def test_sides_are_shuffled_and_the_votes_are_counted_by_contestant(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=40)
    scenario.votes(campaign, "Oak")
    names = {contestant.id: contestant.name for contestant in campaign.contestants}
    with ctx.db.read() as session:
        votes = valid_votes(session, campaign.id)
    assert {names[vote.winner or ""] for vote in votes} == {"Oak"}
    assert 8 < sum(names[vote.a] == "Oak" for vote in votes) < 32


def test_votes_are_spread_evenly_over_pairs_and_every_battle_logs_its_probability(ctx: Context) -> None:
    campaign = Scenario(ctx).campaign("Oak", "Elm", "Ash", num_prompts=20)
    Scenario(ctx).votes(campaign, lambda a, b: "TIE", limit=30)
    with ctx.db.read() as session:
        battles = session.scalars(select(Battle)).all()
    pairs = Counter(battle.pair for battle in battles)
    assert len(pairs) == 3
    assert min(pairs.values()) >= 6
    assert all(0 < battle.sampling_probability <= 1 for battle in battles)


def test_equal_completions_are_never_served(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(
        num_prompts=4,
        write=lambda name, prompt: "same\n" if name == "Oak" and "number 2" in prompt else "same",
        gold=[{"prompt": "gold", "better": "right", "worse": "wrong"}],
    )
    assert next_battle(ctx, campaign.id, rater_for(ctx, LOCAL)) is None
    assert ballot_progress(ctx, campaign.id, rater_for(ctx, LOCAL)).total == 0


def test_gold_pairs_alone_are_no_ballot(ctx: Context, scenario: Scenario) -> None:
    """Alone on a ballot they show that they are gold."""
    gold = [{"prompt": f"gold {n}", "better": f"right {n}", "worse": f"wrong {n}"} for n in range(3)]
    campaign = scenario.campaign(num_prompts=4, write=False, gold=gold, gold_share=0.5, repeat_share=0.0)
    rater = rater_for(ctx, LOCAL)
    assert ballot_progress(ctx, campaign.id, rater).total == 7, "answers and gold pairs that will come"
    first, second = campaign.contestants
    write_completions(ctx, claim_generation(ctx, first.id), lambda prompt: "one answer")
    assert next_battle(ctx, campaign.id, rater) is None
    write_completions(ctx, claim_generation(ctx, second.id), lambda prompt: f"other {prompt['id']}")
    assert ballot_progress(ctx, campaign.id, rater).total == 7
    assert next_battle(ctx, campaign.id, rater) is not None


def test_a_reload_shows_the_same_battle_with_the_same_sides(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    rater = rater_for(ctx, LOCAL)
    assert [next_battle(ctx, campaign.id, rater) for _ in range(5)].count(next_battle(ctx, campaign.id, rater)) == 5


def test_sending_a_vote_twice_is_one_vote(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    rater = rater_for(ctx, LOCAL)
    ballot = shown(next_battle(ctx, campaign.id, rater))
    first = cast_vote(ctx, ballot.battle_id, label="A", rater=rater)
    assert cast_vote(ctx, ballot.battle_id, label="A", rater=rater) == first
    with pytest.raises(Conflict, match="voted on this battle already"):
        cast_vote(ctx, ballot.battle_id, label="B", rater=rater)
    assert get_campaign(ctx, campaign.id).num_votes == 1


def test_eight_presses_in_one_moment_are_one_vote(both: Context) -> None:
    campaign = Scenario(both).campaign()
    rater = rater_for(both, LOCAL)
    ballot = shown(next_battle(both, campaign.id, rater))
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(cast_vote(both, ballot.battle_id, label="A", rater=rater)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == 1


def test_two_tabs_of_one_rater_are_served_the_same_battle(both: Context) -> None:
    campaign = Scenario(both).campaign(num_prompts=12)
    rater = rater_for(both, LOCAL)
    seen: list[str] = []
    threads = [
        threading.Thread(target=lambda: seen.append(shown(next_battle(both, campaign.id, rater)).battle_id))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = shown(next_battle(both, campaign.id, rater)).battle_id
    assert len(seen) == 6
    assert again in seen
    if both.db.is_sqlite:
        assert len(set(seen)) == 1


def test_undo_appends_a_row_and_serves_the_battle_again(both: Context) -> None:
    campaign = Scenario(both).campaign()
    rater = rater_for(both, LOCAL)
    first = shown(next_battle(both, campaign.id, rater))
    vote = cast_vote(both, first.battle_id, label="A", rater=rater)
    waiting = shown(next_battle(both, campaign.id, rater))
    assert undo(both, campaign.id, rater) == first.battle_id
    again = shown(next_battle(both, campaign.id, rater))
    assert (again.battle_id, again.text_a) == (first.battle_id, first.text_a)
    cast_vote(both, again.battle_id, label="B", rater=rater)
    assert shown(next_battle(both, campaign.id, rater)).battle_id == waiting.battle_id
    with both.db.read() as session:
        rows = session.scalars(select(Vote).order_by(Vote.revision)).all()
        assert [(row.label, row.revision) for row in rows] == [("A", 1), ("UNDONE", 2), ("B", 3)]
        assert rows[0].id == vote == rows[1].supersedes_id
        assert [held.label for held in valid_votes(session, campaign.id)] == ["B"]


def test_undo_goes_ten_back_and_no_further(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=14)
    rater = rater_for(ctx, LOCAL)
    scenario.votes(campaign, "Oak", rater=rater, limit=12)
    taken_back = [undo(ctx, campaign.id, rater) for _ in range(10)]
    assert not ballot_progress(ctx, campaign.id, rater).can_undo
    with pytest.raises(Conflict, match="10 votes are taken back"):
        undo(ctx, campaign.id, rater)
    served = []
    for _ in range(10):
        ballot = shown(next_battle(ctx, campaign.id, rater))
        served.append(ballot.battle_id)
        cast_vote(ctx, ballot.battle_id, label="TIE", rater=rater)
    assert served == taken_back[::-1]
    assert get_campaign(ctx, campaign.id).num_votes == 12


def test_there_is_nothing_to_undo_before_the_first_vote(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    with pytest.raises(Conflict, match="no vote to take back"):
        undo(ctx, campaign.id, rater_for(ctx, LOCAL))


def test_a_battle_served_to_another_rater_takes_no_vote(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    ballot = shown(next_battle(ctx, campaign.id, rater_for(ctx, LOCAL)))
    with pytest.raises(NotFound, match="not served to you"):
        cast_vote(ctx, ballot.battle_id, label="A", rater=link_rater(ctx, campaign.id))
    with pytest.raises(NotFound, match="not served to you"):
        cast_vote(ctx, "nobodyknows2", label="A", rater=rater_for(ctx, LOCAL))
    with pytest.raises(InvalidInput, match="no vote 'LEFT'"):
        cast_vote(ctx, ballot.battle_id, label="LEFT", rater=rater_for(ctx, LOCAL))
    assert get_campaign(ctx, campaign.id).num_votes == 0


def test_a_battle_shown_yesterday_takes_no_vote_until_it_is_served_again(ctx: Context, clock: Clock) -> None:
    campaign = Scenario(ctx).campaign()
    rater = rater_for(ctx, LOCAL)
    ballot = shown(next_battle(ctx, campaign.id, rater))
    clock.advance(hours=13)
    with pytest.raises(Conflict, match="too long ago"):
        cast_vote(ctx, ballot.battle_id, label="A", rater=rater)
    assert shown(next_battle(ctx, campaign.id, rater)).battle_id == ballot.battle_id
    cast_vote(ctx, ballot.battle_id, label="A", rater=rater)


def test_a_closed_campaign_takes_and_serves_nothing(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    rater = rater_for(ctx, LOCAL)
    ballot = shown(next_battle(ctx, campaign.id, rater))
    close_campaign(ctx, campaign.id, person=LOCAL)
    for act in (
        lambda: next_battle(ctx, campaign.id, rater),
        lambda: cast_vote(ctx, ballot.battle_id, label="A", rater=rater),
    ):
        with pytest.raises(Conflict, match="closed"):
            act()
    close_campaign(ctx, campaign.id, person=LOCAL, closed=False)
    cast_vote(ctx, ballot.battle_id, label="A", rater=rater)


def test_a_link_opens_one_campaign_until_it_expires_and_is_stored_as_a_hash(both: Context, clock: Clock) -> None:
    campaign = Scenario(both).campaign()
    link = create_rater_link(both, campaign.id, name="guest", days=2, person=LOCAL)
    secret = link.url.split("/ballot?link=")[1]
    rater = rater_from_link(both, secret)
    assert (rater.name, rater.campaign_id) == ("guest", campaign.id)
    with both.db.read() as session:
        held = session.get_one(Rater, rater.id)
        assert secret not in repr(vars(held))
        assert len(held.link_hash or "") == 64
    clock.advance(days=3)
    with pytest.raises(NotAllowed, match="not valid any more"):
        rater_from_link(both, secret)
    with pytest.raises(NotAllowed):
        next_battle(both, campaign.id, rater)


def test_a_link_opens_no_other_campaign(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    rater = link_rater(ctx, campaign.id)
    record_side_by_side_vote(
        ctx,
        messages=[{"role": "user", "content": "Hi"}],
        answer_a="one",
        answer_b="two",
        label="A",
        person=LOCAL,
        checkpoint_a=campaign.contestants[0].checkpoint_id,
        checkpoint_b=campaign.contestants[1].checkpoint_id,
    )
    other = next(c for c in list_campaigns(ctx) if c.id != campaign.id)
    with pytest.raises(NotAllowed):
        next_battle(ctx, other.id, rater)


def test_a_forged_and_a_revoked_link_get_the_same_error(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    link = create_rater_link(ctx, campaign.id, name="guest", person=LOCAL)
    revoke_rater_link(ctx, link.rater.id, person=LOCAL)
    messages = set()
    for secret in (link.url.split("link=")[1], "forged", ""):
        with pytest.raises(NotAllowed) as caught:
            rater_from_link(ctx, secret)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_a_link_stops_with_the_account_that_made_it(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    maya = add_user(ctx, "maya", "a long password", person=LOCAL)
    secret = create_rater_link(ctx, campaign.id, name="guest", person=maya).url.split("link=")[1]
    assert rater_from_link(ctx, secret).name == "guest"
    disable_account(ctx, maya.id or "", person=LOCAL)
    with pytest.raises(NotAllowed, match="not valid any more"):
        rater_from_link(ctx, secret)
    enable_account(ctx, maya.id or "", person=LOCAL)
    assert rater_from_link(ctx, secret).name == "guest"


def test_only_builders_make_links(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    with pytest.raises(NotAllowed):
        create_rater_link(ctx, campaign.id, name="friend", person=Person(id=None, name="Rita", role="rater"))


def test_a_signed_in_user_and_the_person_on_loopback_are_one_rater_each(ctx: Context) -> None:
    rita = add_user(ctx, "Rita", "a long password", role="rater", person=LOCAL)
    assert rater_for(ctx, rita) == rater_for(ctx, rita)
    assert rater_for(ctx, LOCAL) == rater_for(ctx, LOCAL)
    assert {rater_for(ctx, rita).name, rater_for(ctx, LOCAL).name} == {"Rita", "you"}
    with ctx.db.read() as session:
        assert len(session.scalars(select(Rater)).all()) == 2


def test_the_raters_list_shows_votes(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=6)
    guest = link_rater(ctx, campaign.id)
    scenario.votes(campaign, lambda a, b: "A", rater=guest)
    scenario.votes(campaign, lambda a, b: "TIE", limit=2)
    rows = list_raters(ctx, campaign.id)
    assert [(row.rater.name, row.is_link, row.num_votes) for row in rows] == [("guest", True, 6), ("you", False, 2)]
