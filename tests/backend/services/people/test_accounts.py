"""Accounts from their making to their end, on both databases: only an admin changes them, and one admin always
stays.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from backend.db.tables import User
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.people import accounts
from backend.services.people.accounts import (
    add_user,
    change_own_password,
    change_role,
    count_users,
    disable_account,
    enable_account,
    get_account,
    hash_password,
    list_accounts,
    reset_password,
)
from backend.services.people.sessions import SignedIn, end_sessions, person_from_cookie, sign_in, why_ended
from tests.support.scenario import add_row

PASSWORD = "correct horse battery"


def enter(ctx: Context, name: str, password: str = PASSWORD) -> SignedIn:
    """Sign in from an address of the name's own."""
    return sign_in(ctx, name, password, address=name)


def test_a_password_is_kept_as_argon2(
    ctx: Context, product_hasher: PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_hasher", product_hasher)
    add_user(ctx, "maya", PASSWORD, role="lead", person=LOCAL)
    with ctx.db.read() as session:
        stored = session.scalars(select(User.password_hash)).one()
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert PASSWORD not in stored


def test_a_short_password_an_unknown_role_and_a_taken_name_are_refused_with_the_value(ctx: Context) -> None:
    with pytest.raises(InvalidInput, match="5 characters"):
        add_user(ctx, "maya", "short", person=LOCAL)
    with pytest.raises(InvalidInput, match="'boss'"):
        add_user(ctx, "maya", PASSWORD, role="boss", person=LOCAL)
    add_user(ctx, "maya", PASSWORD, person=LOCAL)
    with pytest.raises(Conflict, match="'maya'"):
        add_user(ctx, "maya", PASSWORD, person=LOCAL)


@pytest.mark.parametrize("name", ["rita", " RITA ", "Ｒｉｔａ", "Rita"])
def test_two_accounts_whose_names_look_alike_are_refused_with_the_cure(ctx: Context, name: str) -> None:
    add_user(ctx, "Rita", PASSWORD, person=LOCAL)
    with pytest.raises(Conflict, match="already an account 'Rita'") as refused:
        add_user(ctx, name, PASSWORD, person=LOCAL)
    assert "upper and lower case" in refused.value.remedy


def test_a_name_that_can_not_be_seen_is_refused(ctx: Context) -> None:
    with pytest.raises(InvalidInput, match="can be seen"):
        add_user(ctx, "Ri\u200bta", PASSWORD, person=LOCAL)


def test_a_name_signs_in_in_any_case_and_names_that_were_alike_before_as_they_are_written(ctx: Context) -> None:
    add_user(ctx, "Straße", PASSWORD, person=LOCAL)
    assert enter(ctx, "STRASSE")
    first = add_user(ctx, "Rita", PASSWORD, person=LOCAL)
    add_row(ctx, User(name="rita", role="rater", password_hash=hash_password("of the second")))
    assert person_from_cookie(ctx, enter(ctx, "RITA").session) == first
    assert enter(ctx, "rita", "of the second")


def test_guesses_at_a_name_count_in_every_case(ctx: Context) -> None:
    add_user(ctx, "Straße", PASSWORD, person=LOCAL)
    for name in ["Straße", "STRASSE"] * 5:
        with pytest.raises(NotAllowed):
            sign_in(ctx, name, "a guess", address="203.0.113.7")
    with pytest.raises(NotAllowed, match="Too many"):
        sign_in(ctx, "Straße", PASSWORD, address="203.0.113.7")


def test_a_disabled_account_is_out_at_once_and_in_again_once_it_is_enabled(ctx: Context) -> None:
    maya = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    cookie = enter(ctx, "maya").session
    disable_account(ctx, maya.id or "", person=LOCAL)
    assert person_from_cookie(ctx, cookie) is None
    with pytest.raises(NotAllowed, match="wrong"):
        enter(ctx, "maya")
    assert count_users(ctx) == 0
    assert get_account(ctx, "maya").disabled_at is not None
    enable_account(ctx, maya.id or "", person=LOCAL)
    assert person_from_cookie(ctx, cookie) is None, "what was open before stays ended"
    assert person_from_cookie(ctx, enter(ctx, "maya").session) == maya


def test_a_new_role_holds_for_open_sessions_too(ctx: Context) -> None:
    maya = add_user(ctx, "maya", PASSWORD, role="engineer", person=LOCAL)
    cookie = enter(ctx, "maya").session
    change_role(ctx, maya.id or "", "rater", person=LOCAL)
    seen = person_from_cookie(ctx, cookie)
    assert seen is not None
    assert not seen.may_build


def test_a_reset_password_ends_the_old_one_and_every_session(ctx: Context) -> None:
    maya = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    cookie = enter(ctx, "maya").session
    reset_password(ctx, maya.id or "", "another good password", person=LOCAL)
    assert person_from_cookie(ctx, cookie) is None
    with pytest.raises(NotAllowed):
        enter(ctx, "maya")
    assert enter(ctx, "maya", "another good password")


def test_the_holder_of_a_session_that_ended_reads_why_and_nobody_else(ctx: Context) -> None:
    maya = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    cookie = enter(ctx, "maya").session
    assert why_ended(ctx, cookie) == ""
    reset_password(ctx, maya.id or "", "another password", person=LOCAL)
    assert "your password was changed" in why_ended(ctx, cookie)
    disable_account(ctx, maya.id or "", person=LOCAL)
    assert "Your account was disabled" in why_ended(ctx, cookie)
    assert why_ended(ctx, cookie[:-2]) == why_ended(ctx, None) == ""


def test_changing_the_own_password_requires_the_old_one(ctx: Context) -> None:
    maya = add_user(ctx, "maya", PASSWORD, role="rater", person=LOCAL)
    with pytest.raises(NotAllowed, match="current password"):
        change_own_password(ctx, "not it", "another good password", person=maya)
    change_own_password(ctx, PASSWORD, "another good password", person=maya)
    assert enter(ctx, "maya", "another good password")
    with pytest.raises(NotFound):
        change_own_password(ctx, PASSWORD, "another good password", person=LOCAL)


def test_the_last_admin_who_can_sign_in_stays(any_ctx: Context) -> None:
    ada = add_user(any_ctx, "ada", PASSWORD, role="admin", person=LOCAL)
    bea = add_user(any_ctx, "bea", PASSWORD, role="admin", person=LOCAL)
    disable_account(any_ctx, ada.id or "", person=bea)
    for attempt in (
        lambda: disable_account(any_ctx, bea.id or "", person=bea),
        lambda: change_role(any_ctx, bea.id or "", "lead", person=bea),
    ):
        with pytest.raises(Conflict, match="only admin"):
            attempt()
    change_role(any_ctx, bea.id or "", "admin", person=bea)
    assert {one.name: bool(one.disabled_at) for one in list_accounts(any_ctx)} == {"bea": False, "ada": True}


def test_two_admins_who_disable_each_other_at_once_leave_one(any_ctx: Context) -> None:
    ada = add_user(any_ctx, "ada", PASSWORD, role="admin", person=LOCAL)
    bea = add_user(any_ctx, "bea", PASSWORD, role="admin", person=LOCAL)

    def disable(pair: tuple[Person, Person]) -> bool:
        try:
            disable_account(any_ctx, pair[0].id or "", person=pair[1])
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(disable, [(ada, bea), (bea, ada)])) == [False, True]
    assert count_users(any_ctx) == 1


def test_signing_out_everywhere_is_allowed_for_oneself_and_for_admins(ctx: Context) -> None:
    maya = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    noor = add_user(ctx, "noor", PASSWORD, person=LOCAL)
    with pytest.raises(NotAllowed):
        end_sessions(ctx, maya.id or "", person=noor)
    cookie = enter(ctx, "maya").session
    end_sessions(ctx, maya.id or "", person=maya)
    assert person_from_cookie(ctx, cookie) is None


def test_a_rater_may_not_build() -> None:
    assert not Person(id="x", name="r", role="rater").may_build
    assert Person(id="x", name="e", role="engineer").may_build
