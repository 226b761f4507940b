"""Links of raters: for one campaign, for one browser if asked, until they end; and the campaign's own end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backend.db.tables import Rater
from backend.errors import Conflict, NotAllowed, NotFound
from backend.services.battles import raters
from backend.services.battles.assignment import VoteInput
from backend.services.battles.ballots import close_when_over, open_ballot, submit_vote
from backend.services.battles.raters import (
    Voter,
    ballot_token,
    create_rater_link,
    find_link,
    link_qr_svg,
    list_raters,
    rater_for,
    rater_from_link,
    reissue_rater_link,
    voter_of_token,
)
from backend.services.battles.views import get_campaign
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, change_own_password
from backend.services.people.sessions import Attempts, end_sessions
from tests.support.battle_world import next_battle, prefer, vote_in_turn
from tests.support.scenario import Scenario


def single_use(ctx: Context, campaign_id: str) -> str:
    link = create_rater_link(ctx, campaign_id, name="guest", single_use=True, person=LOCAL)
    assert "/ballot/open?link=" in link.url
    return link.url.split("link=")[1]


def test_a_single_use_link_belongs_to_the_first_browser_that_opens_it(any_ctx: Context) -> None:
    secret = single_use(any_ctx, Scenario(any_ctx).campaign().id)
    rater = rater_from_link(any_ctx, secret, browser="first")
    assert rater_from_link(any_ctx, secret, browser="first") == rater
    with pytest.raises(NotAllowed, match="another browser"):
        rater_from_link(any_ctx, secret, browser="second")
    with pytest.raises(NotAllowed, match="cookie"):
        rater_from_link(any_ctx, secret)
    with any_ctx.db.read() as session:
        assert session.get_one(Rater, rater.id).browser_hash not in (None, "first")


def test_a_token_of_a_single_use_link_is_refused_in_another_browser(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    rater = rater_from_link(ctx, single_use(ctx, campaign.id), browser="first")
    token = ballot_token(ctx, campaign.id, rater)
    assert voter_of_token(ctx, token, browser="first") == Voter(campaign.id, rater)
    for browser in ("", "second"):
        with pytest.raises(NotAllowed):
            voter_of_token(ctx, token, browser=browser)


def test_a_reusable_link_opens_in_every_browser(ctx: Context, scenario: Scenario) -> None:
    link = create_rater_link(ctx, scenario.campaign().id, name="guest", person=LOCAL)
    secret = link.url.split("/ballot?link=")[1]
    assert rater_from_link(ctx, secret, browser="first") == rater_from_link(ctx, secret, browser="second")


def test_a_reissued_link_keeps_the_rater_and_ends_the_old_link_and_its_ballots(any_ctx: Context) -> None:
    campaign = Scenario(any_ctx).campaign()
    old = single_use(any_ctx, campaign.id)
    rater = rater_from_link(any_ctx, old, browser="first")
    token = ballot_token(any_ctx, campaign.id, rater)
    Scenario(any_ctx).votes(campaign, "Oak", rater=rater, limit=2)
    again = reissue_rater_link(any_ctx, rater.id, person=LOCAL)
    with pytest.raises(NotAllowed, match="not valid any more"):
        rater_from_link(any_ctx, old, browser="first")
    with pytest.raises(NotAllowed, match="not valid any more"):
        voter_of_token(any_ctx, token, browser="first")
    assert "/ballot/open?link=" in again.url
    assert rater_from_link(any_ctx, again.url.split("link=")[1], browser="second").id == rater.id
    (row,) = list_raters(any_ctx, campaign.id)
    assert (row.rater.name, row.num_votes, row.single_use) == ("guest", 2, True)


def test_a_revoked_or_expired_link_is_reissued_and_a_stranger_to_links_is_not(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    link = create_rater_link(ctx, campaign.id, name="guest", person=LOCAL)
    raters.revoke_rater_link(ctx, link.rater.id, person=LOCAL)
    again = reissue_rater_link(ctx, find_link(ctx, campaign.id, "guest").rater.id, days=3, person=LOCAL)
    assert rater_from_link(ctx, again.url.split("link=")[1]).expires_at == again.rater.expires_at
    with pytest.raises(NotFound):
        reissue_rater_link(ctx, rater_for(ctx, LOCAL).id, person=LOCAL)
    other = create_rater_link(ctx, campaign.id, name="other", person=LOCAL).rater
    with ctx.db.write() as session:  # names were not unique in earlier versions
        session.get_one(Rater, other.id).name = "guest"
    with pytest.raises(Conflict, match="2 raters"):
        find_link(ctx, campaign.id, "guest")


def test_a_name_belongs_to_one_rater_of_a_campaign(any_ctx: Context) -> None:
    """Two raters of one name looked like one in every list; a second click on *Create link* made them."""
    scenario = Scenario(any_ctx)
    campaign = scenario.campaign()
    create_rater_link(any_ctx, campaign.id, name="Ada", person=LOCAL)
    with pytest.raises(Conflict, match="already named “Ada”") as caught:
        create_rater_link(any_ctx, campaign.id, name=" ada", person=LOCAL)
    assert caught.value.remedy == "Use another name, or reissue that rater's link."
    own = rater_for(any_ctx, LOCAL)
    scenario.votes(campaign, "Oak", rater=own)
    with pytest.raises(Conflict, match=f"already named “{own.name}”") as caught:
        create_rater_link(any_ctx, campaign.id, name=own.name, person=LOCAL)
    assert caught.value.remedy == "Use another name."
    other = scenario.campaign(name="Other", dataset=campaign.dataset)
    assert create_rater_link(any_ctx, other.id, name="Ada", person=LOCAL).rater.name == "Ada"


@pytest.mark.parametrize("end", ["password", "sign-out everywhere"])
def test_a_ballots_token_ends_with_the_accounts_sessions(ctx: Context, scenario: Scenario, end: str) -> None:
    campaign, person = scenario.campaign(), add_user(ctx, "Ada", "correct horse battery", person=LOCAL)
    token = ballot_token(ctx, campaign.id, rater_for(ctx, person))
    assert voter_of_token(ctx, token).rater.name == "Ada"
    if end == "password":
        change_own_password(ctx, "correct horse battery", "another horse battery", person=person)
    else:
        assert person.id is not None
        end_sessions(ctx, person.id, person=person)
    with pytest.raises(NotAllowed, match="not valid any more"):
        voter_of_token(ctx, token)
    assert voter_of_token(ctx, ballot_token(ctx, campaign.id, rater_for(ctx, person))).rater.name == "Ada"


def test_wrong_links_from_one_address_are_limited_and_a_valid_one_is_never_locked(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raters, "_attempts", Attempts())
    secret = create_rater_link(ctx, Scenario(ctx).campaign().id, name="guest", person=LOCAL).url.split("link=")[1]
    messages = []
    for number in range(60):
        with pytest.raises(NotAllowed) as caught:
            rater_from_link(ctx, f"guess {number}", address="203.0.113.9")
        messages.append(caught.value.message)
    assert messages[0] == "This ballot link is not valid any more."
    assert messages[-1] == "Too many failed attempts."
    assert rater_from_link(ctx, secret, address="203.0.113.9").name == "guest"


def test_the_local_persons_token_ends_when_sign_in_is_required(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    token = ballot_token(ctx, campaign.id, rater_for(ctx, LOCAL))
    assert voter_of_token(ctx, token).rater.name == "you"
    with pytest.raises(NotAllowed):
        voter_of_token(replace(ctx, sign_in=True), token)


def test_a_token_signed_by_another_installation_is_refused(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    token = ballot_token(replace(ctx, secret=b"another key"), campaign.id, rater_for(ctx, LOCAL))
    with pytest.raises(NotAllowed):
        voter_of_token(ctx, token)


def test_a_links_code_is_an_image_without_script_or_address_of_others() -> None:
    svg = link_qr_svg("http://127.0.0.1:8501/ballot?link=abc")
    assert svg.startswith("<svg")
    assert "script" not in svg
    assert "href" not in svg


def voter(ctx: Context, campaign_id: str) -> Voter:
    return Voter(campaign_id, rater_for(ctx, LOCAL))


def test_a_campaign_closes_with_its_last_vote(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=8, stop_votes=3)
    person = voter(ctx, campaign.id)
    closed = []
    for _ in range(3):
        battle = open_ballot(ctx, person).battles[0]
        closed.append(submit_vote(ctx, person, VoteInput(battle=battle.battle_id, label="A")).progress.closed)
    assert closed == [False, False, True]
    assert not get_campaign(ctx, campaign.id).is_open
    assert open_ballot(ctx, person).progress.closed


def test_a_campaign_closes_at_its_date(ctx: Context) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    early = replace(ctx, now=lambda: start)
    campaign = Scenario(early).campaign(stop_at=start + timedelta(days=1))
    assert next_battle(early, campaign.id, rater_for(early, LOCAL)) is not None
    late = replace(ctx, now=lambda: start + timedelta(days=2))
    with pytest.raises(Conflict, match="closed"):
        next_battle(late, campaign.id, rater_for(late, LOCAL))
    assert close_when_over(late, campaign.id)
    assert get_campaign(late, campaign.id).closed_at == late.now()


def test_a_campaign_closes_once_every_pair_has_a_verdict(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=40, stop_on_verdict=True, overlap_share=0)
    assert not close_when_over(ctx, campaign.id)
    vote_in_turn(ctx, campaign.id, prefer("Oak"), each=4)
    from backend.services.battles import ballots

    ballots._checked.clear()
    assert close_when_over(ctx, campaign.id)
