"""Signing in while somebody else guesses: the guesser is stopped, the owner gets in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from itsdangerous import TimestampSigner

from backend.errors import NotAllowed
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.data.exports import download_link, version_of_link
from backend.services.people import sessions
from backend.services.people.accounts import add_user, disable_account, reset_password
from backend.services.people.sessions import (
    ADDRESS_LIMIT,
    MAX_REMEMBERED,
    NAME_LIMIT,
    PAIR_LIMIT,
    WINDOW_S,
    Attempts,
    end_sessions,
    person_from_cookie,
    sign_in,
)
from backend.services.people.signatures import sign, sign_for, unsign, unsign_for
from backend.services.serving.conversations import list_conversations
from backend.services.training.live import runs_of_token, token_for_runs
from tests.support.scenario import Scenario
from tests.support.serving.stored_chat import add_message, start_conversation

PASSWORD = "correct horse battery"


class Clock:
    """A clock that a test turns."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch) -> Attempts:
    """Counters of the test's own, on a clock that it turns."""
    fresh = Attempts(clock=Clock())
    monkeypatch.setattr(sessions, "_attempts", fresh)
    return fresh


@pytest.fixture
def maya(ctx: Context) -> str:
    """An account."""
    add_user(ctx, "maya", PASSWORD, role="lead", person=LOCAL)
    return "maya"


def guess(ctx: Context, name: str, *, address: str, times: int = 1, device: str | None = None) -> str:
    """Give wrong passwords; return the last answer."""
    answer = ""
    for _ in range(times):
        with pytest.raises(NotAllowed) as refused:
            sign_in(ctx, name, "not the password", address=address, device=device)
        answer = str(refused.value)
    return answer


def test_a_right_password_signs_in(ctx: Context, maya: str) -> None:
    person = person_from_cookie(ctx, sign_in(ctx, maya, PASSWORD, address="10.0.0.1").session)
    assert person is not None
    assert (person.name, person.role) == ("maya", "lead")


def test_the_first_admin_who_signs_in_has_the_conversations_of_before_there_were_accounts(ctx: Context) -> None:
    """They were there and in nobody's list: “It may have been deleted.”"""
    row = start_conversation(ctx, endpoint="tales", person=LOCAL)
    add_message(ctx, row.id, role="user", content="Hello", person=LOCAL)
    for name, role in (("maya", "lead"), ("ada", "admin"), ("ben", "admin")):
        add_user(ctx, name, PASSWORD, role=role, person=LOCAL)
    sign_in(ctx, "ada", PASSWORD, address="10.0.0.1")
    assert [one.id for one in list_conversations(ctx, person=LOCAL)] == [row.id], "nobody has to sign in yet"
    closed = replace(ctx, sign_in=True)
    people = {}
    for name in ("maya", "ada", "ben"):
        person = person_from_cookie(closed, sign_in(closed, name, PASSWORD, address="10.0.0.1").session)
        assert person is not None
        people[name] = [one.id for one in list_conversations(closed, person=person)]
    assert people == {"maya": [], "ada": [row.id], "ben": []}


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(ctx: Context, maya: str) -> None:
    assert guess(ctx, maya, address="a") == guess(ctx, "nobody", address="b")


def test_a_strangers_failures_lock_the_stranger_out_and_not_the_owner(ctx: Context, maya: str) -> None:
    guess(ctx, maya, address="203.0.113.9", times=PAIR_LIMIT)
    with pytest.raises(NotAllowed, match="Too many"):
        sign_in(ctx, maya, PASSWORD, address="203.0.113.9")
    assert sign_in(ctx, maya, PASSWORD, address="198.51.100.7")


def test_failures_from_many_addresses_do_not_lock_the_owner_out(ctx: Context, maya: str) -> None:
    for number in range(30):
        guess(ctx, maya, address=f"203.0.113.{number}")
    assert sign_in(ctx, maya, PASSWORD, address="198.51.100.7")


def test_a_known_device_gets_in_beside_a_guesser_behind_the_same_address(ctx: Context, maya: str) -> None:
    device = sign_in(ctx, maya, PASSWORD, address="203.0.113.9").device
    guess(ctx, maya, address="203.0.113.9", times=PAIR_LIMIT)
    assert sign_in(ctx, maya, PASSWORD, address="203.0.113.9", device=device)


def test_a_known_device_may_guess_no_more_than_others_and_not_for_other_names(ctx: Context, maya: str) -> None:
    add_user(ctx, "noor", PASSWORD, person=LOCAL)
    device = sign_in(ctx, maya, PASSWORD, address="a").device
    guess(ctx, maya, address="a", device=device, times=PAIR_LIMIT)
    assert "Too many" in guess(ctx, maya, address="b", device=device)
    guess(ctx, "noor", address="a", device=device, times=PAIR_LIMIT)
    assert "Too many" in guess(ctx, "noor", address="a", device=device)
    assert "Too many" in guess(ctx, "noor", address="a", device="forged")


def test_one_address_can_not_try_many_names_and_own_success_gives_it_no_more(
    ctx: Context, maya: str, attempts: Attempts
) -> None:
    for number in range(ADDRESS_LIMIT):
        attempts.begin(name=f"name {number}", address="10.0.0.1")
        if number % 5 == 0 and number < ADDRESS_LIMIT - 1:
            sign_in(ctx, maya, PASSWORD, address="10.0.0.1")
    with pytest.raises(NotAllowed, match="Too many"):
        attempts.begin(name="another", address="10.0.0.1")


def test_addresses_of_one_ipv6_network_are_one_visitor(attempts: Attempts) -> None:
    for number in range(PAIR_LIMIT):
        attempts.begin(name="maya", address=f"2001:db8:0:1::{number + 1:x}")
    with pytest.raises(NotAllowed):
        attempts.begin(name="maya", address="2001:db8:0:1:ffff::1")
    attempts.begin(name="maya", address="2001:db8:0:2::1")


def test_hundreds_of_addresses_together_are_limited_for_a_name(attempts: Attempts) -> None:
    for number in range(NAME_LIMIT):
        attempts.begin(name="maya", address=f"address {number}")
    with pytest.raises(NotAllowed):
        attempts.begin(name="maya", address="one more")
    attempts.begin(name="maya", address="one more", device="known")


def test_parallel_guesses_do_not_exceed_the_limit(ctx: Context, maya: str) -> None:
    def try_once(number: int) -> str:
        try:
            sign_in(ctx, maya, f"guess {number}", address="10.0.0.1")
        except NotAllowed as error:
            return str(error)
        return "signed in"

    with ThreadPoolExecutor(3 * PAIR_LIMIT) as pool:
        answers = list(pool.map(try_once, range(3 * PAIR_LIMIT)))
    assert sum("wrong" in answer for answer in answers) == PAIR_LIMIT


def test_after_five_minutes_the_failures_are_forgotten(ctx: Context, maya: str, attempts: Attempts) -> None:
    guess(ctx, maya, address="a", times=PAIR_LIMIT)
    assert isinstance(attempts.clock, Clock)
    attempts.clock.now += WINDOW_S + 1
    assert sign_in(ctx, maya, PASSWORD, address="a")


def test_old_counters_are_deleted(attempts: Attempts) -> None:
    attempts.moments = {("name", str(number)): [0.0] for number in range(MAX_REMEMBERED + 1)}
    attempts.begin(name="maya", address="a")
    assert set(attempts.moments) == {("pair", "a", "maya"), ("address", "a"), ("name", "maya")}


def test_a_forged_cookie_belongs_to_no_one(ctx: Context, maya: str) -> None:
    cookies = sign_in(ctx, maya, PASSWORD, address="a")
    assert person_from_cookie(ctx, cookies.session[:-2] + "xx") is None
    assert person_from_cookie(ctx, cookies.device) is None
    assert person_from_cookie(ctx, None) is None


def test_a_signed_statement_holds_for_its_purpose_alone(ctx: Context) -> None:
    token = sign(ctx, {"run": "abc"}, purpose="points")
    assert unsign(ctx, token, purpose="points", max_age_s=60) == {"run": "abc"}
    with pytest.raises(NotAllowed):
        unsign(ctx, token, purpose="ballot", max_age_s=60)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(
            lambda ctx, user_id: reset_password(ctx, user_id, "another horse battery", person=LOCAL), id="new password"
        ),
        pytest.param(lambda ctx, user_id: end_sessions(ctx, user_id, person=LOCAL), id="signed out everywhere"),
        pytest.param(lambda ctx, user_id: disable_account(ctx, user_id, person=LOCAL), id="disabled"),
    ],
)
def test_what_was_signed_for_a_person_ends_with_their_sessions(
    ctx: Context, end: Callable[[Context, str], None]
) -> None:
    person = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    version = resolve_version(ctx, Scenario(ctx).dataset())
    points, file = (
        token_for_runs(ctx, ["run"], person=person),
        download_link(ctx, version, person=person).partition("token=")[2],
    )
    assert runs_of_token(ctx, points) == ["run"]
    assert version_of_link(ctx, file).id == version.id
    end(ctx, str(person.id))
    for read, token in ((runs_of_token, points), (version_of_link, file)):
        with pytest.raises(NotAllowed, match="not signed in any more"):
            read(ctx, token)


def test_what_was_signed_for_the_local_person_ends_when_sign_in_is_required(ctx: Context) -> None:
    token = sign_for(ctx, LOCAL, {"run": "abc"}, purpose="points")
    assert unsign_for(ctx, token, purpose="points", max_age_s=60)[0] == LOCAL
    with pytest.raises(NotAllowed):
        unsign_for(replace(ctx, sign_in=True), token, purpose="points", max_age_s=60)


def test_a_download_link_holds_for_an_hour(ctx: Context, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    version = resolve_version(ctx, scenario.dataset())
    token = download_link(ctx, version, person=LOCAL).partition("token=")[2]
    now = TimestampSigner.get_timestamp
    for hours, is_valid in ((0.9, True), (1.1, False)):
        monkeypatch.setattr(
            TimestampSigner, "get_timestamp", lambda signer, hours=hours: now(signer) + int(3600 * hours)
        )
        if is_valid:
            assert version_of_link(ctx, token).id == version.id
        else:
            with pytest.raises(NotAllowed, match="not valid any more"):
                version_of_link(ctx, token)
