"""Accounts, cookies, keys and signed statements."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from backend.db.tables import ApiKey, User
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import Context, Person
from backend.services.people import accounts as people
from backend.services.people.accounts import (
    add_user,
    check_key,
    create_key,
    end_sessions,
    person_from_cookie,
    revoke_key,
    sign,
    sign_in,
    unsign,
)

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _forget_attempts() -> None:
    people._attempts.clear()


def test_a_password_is_kept_as_argon2_and_signs_in(ctx: Context) -> None:
    add_user(ctx, "maya", PASSWORD, role="lead")
    with ctx.db.read() as session:
        kept = session.scalars(select(User.password_hash)).one()
    assert kept.startswith("$argon2id$")
    assert PASSWORD not in kept
    person = person_from_cookie(ctx, sign_in(ctx, "maya", PASSWORD, address="10.0.0.1"))
    assert person is not None
    assert (person.name, person.role) == ("maya", "lead")


def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(ctx: Context) -> None:
    add_user(ctx, "maya", PASSWORD)
    with pytest.raises(NotAllowed) as wrong:
        sign_in(ctx, "maya", "not the password", address="a")
    with pytest.raises(NotAllowed) as unknown:
        sign_in(ctx, "nobody", PASSWORD, address="b")
    assert str(wrong.value) == str(unknown.value)


def test_guessing_is_slowed_down_for_the_address_and_for_the_name(ctx: Context) -> None:
    add_user(ctx, "maya", PASSWORD)
    for number in range(people.ATTEMPTS):
        with pytest.raises(NotAllowed, match="wrong"):
            sign_in(ctx, "maya", f"guess {number}", address=f"10.0.0.{number}")
    with pytest.raises(NotAllowed, match="Too many"):
        sign_in(ctx, "maya", PASSWORD, address="10.9.9.9")


def test_many_guesses_at_once_are_no_way_round_the_limit(ctx: Context) -> None:
    add_user(ctx, "maya", PASSWORD)

    def guess(number: int) -> str:
        try:
            sign_in(ctx, "maya", f"guess {number}", address=f"10.0.0.{number}")
        except NotAllowed as error:
            return str(error)
        return "signed in"

    with ThreadPoolExecutor(3 * people.ATTEMPTS) as pool:
        answers = list(pool.map(guess, range(3 * people.ATTEMPTS)))
    assert sum("wrong" in answer for answer in answers) == people.ATTEMPTS


def test_names_that_were_tried_long_ago_are_forgotten() -> None:
    long_ago = time.monotonic() - 2 * people.WINDOW_S
    people._attempts.update({f"name:{number}": [long_ago] for number in range(people.MAX_REMEMBERED + 1)})
    people._count_attempt(("name:maya",))
    assert set(people._attempts) == {"name:maya"}


def test_a_forged_or_ended_cookie_belongs_to_nobody(ctx: Context) -> None:
    person = add_user(ctx, "maya", PASSWORD)
    cookie = sign_in(ctx, "maya", PASSWORD, address="a")
    assert person_from_cookie(ctx, cookie[:-2] + "xx") is None
    assert person_from_cookie(ctx, None) is None
    end_sessions(ctx, person.id or "")
    assert person_from_cookie(ctx, cookie) is None


def test_a_short_password_an_unknown_role_and_a_taken_name_are_refused_with_the_value(ctx: Context) -> None:
    with pytest.raises(InvalidInput, match="5 characters"):
        add_user(ctx, "maya", "short")
    with pytest.raises(InvalidInput, match="'boss'"):
        add_user(ctx, "maya", PASSWORD, role="boss")
    add_user(ctx, "maya", PASSWORD)
    with pytest.raises(Conflict, match="'maya'"):
        add_user(ctx, "maya", PASSWORD)


def test_a_key_is_seen_once_kept_as_a_hash_and_ends_when_revoked(ctx: Context) -> None:
    owner = add_user(ctx, "maya", PASSWORD)
    key = create_key(ctx, "bot", person=owner)
    with ctx.db.read() as session:
        row = session.scalars(select(ApiKey)).one()
    assert key not in (row.key_hash, row.hint)
    assert check_key(ctx, key) == row.id
    assert check_key(ctx, key + "x") is None
    revoke_key(ctx, row.id, person=owner)
    assert check_key(ctx, key) is None


def test_the_keys_of_a_disabled_account_and_of_a_rater_are_none(ctx: Context) -> None:
    owner = add_user(ctx, "maya", PASSWORD)
    key = create_key(ctx, "bot", person=owner)
    with ctx.db.write() as session:
        session.get_one(User, owner.id).disabled_at = ctx.now()
    assert check_key(ctx, key) is None
    with pytest.raises(NotAllowed):
        create_key(ctx, "bot", person=add_user(ctx, "rob", PASSWORD, role="rater"))


def test_somebody_elses_key_can_not_be_revoked(ctx: Context) -> None:
    owner = add_user(ctx, "maya", PASSWORD)
    other = add_user(ctx, "noor", PASSWORD)
    create_key(ctx, "bot", person=owner)
    key_id = people.list_keys(ctx, person=owner)[0].id
    assert people.list_keys(ctx, person=other) == []
    with pytest.raises(NotFound):
        revoke_key(ctx, key_id, person=other)


def test_a_signed_statement_holds_for_its_purpose_alone(ctx: Context) -> None:
    token = sign(ctx, {"run": "abc"}, purpose="points")
    assert unsign(ctx, token, purpose="points", max_age_s=60) == {"run": "abc"}
    with pytest.raises(NotAllowed):
        unsign(ctx, token, purpose="ballot", max_age_s=60)


def test_a_rater_may_not_build(ctx: Context) -> None:
    assert not Person(id="x", name="r", role="rater").may_build
    assert Person(id="x", name="e", role="engineer").may_build
