"""Keys for /v1: shown once, stored as a hash, valid only while their owner's account is."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from backend.db.tables import ApiKey
from backend.domain.serving.key_limits import KeyLimits, KeyScopes
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, change_role, disable_account, enable_account
from backend.services.people.keys import (
    Spending,
    change_key,
    check_key,
    create_key,
    key_spending,
    list_keys,
    revoke_key,
)
from backend.services.serving.usage import UsageRow, add_usage

PASSWORD = "correct horse battery"


def test_a_key_is_shown_once_stored_as_a_hash_and_ends_when_revoked(ctx: Context) -> None:
    owner = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    key = create_key(ctx, "bot", person=owner)
    with ctx.db.read() as session:
        row = session.scalars(select(ApiKey)).one()
    assert key not in (row.key_hash, row.hint)
    grant = check_key(ctx, key)
    assert grant is not None
    assert grant.id == row.id
    assert check_key(ctx, key + "x") is None
    revoke_key(ctx, row.id, person=owner)
    assert check_key(ctx, key) is None


def test_a_name_that_is_too_long_is_refused_and_never_cut(ctx: Context) -> None:
    with pytest.raises(InvalidInput, match="has 81 characters"):
        create_key(ctx, "k" * 81, person=LOCAL)
    create_key(ctx, "k" * 80, person=LOCAL)
    assert [key.name for key in list_keys(ctx, person=LOCAL)] == ["k" * 80]


def test_the_name_of_an_active_key_is_refused_until_that_one_is_revoked(any_ctx: Context) -> None:
    owner = add_user(any_ctx, "maya", PASSWORD, person=LOCAL)
    create_key(any_ctx, "bot", person=LOCAL)
    create_key(any_ctx, "bot", person=owner)  # another person's
    with pytest.raises(Conflict, match="already an active key “bot”"):
        create_key(any_ctx, " bot ", person=LOCAL)
    create_key(any_ctx, "bot", person=LOCAL, is_own=True)
    for key in list_keys(any_ctx, person=LOCAL):
        revoke_key(any_ctx, key.id, person=LOCAL)
    create_key(any_ctx, "bot", person=LOCAL)


@pytest.mark.parametrize("name", ["Judge", " playground ", "LOAD TEST", "Evaluation", "Answers of a campaign"])
def test_the_names_of_the_products_own_keys_are_refused(ctx: Context, name: str) -> None:
    """An engineer's key of such a name was none in the log of keys that admins read."""
    maya = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    with pytest.raises(Conflict, match=f"Keys named “{name.strip()}” are Roundhouse's own. Choose another name."):
        create_key(ctx, name, person=maya)
    create_key(ctx, name, person=maya, is_own=True)


def test_a_key_stops_with_its_owners_account_and_role(any_ctx: Context) -> None:
    owner = add_user(any_ctx, "maya", PASSWORD, person=LOCAL)
    key = create_key(any_ctx, "bot", person=owner)
    disable_account(any_ctx, owner.id or "", person=LOCAL)
    assert check_key(any_ctx, key) is None
    enable_account(any_ctx, owner.id or "", person=LOCAL)
    assert check_key(any_ctx, key) is not None
    change_role(any_ctx, owner.id or "", "rater", person=LOCAL)
    assert check_key(any_ctx, key) is None
    with pytest.raises(NotAllowed):
        create_key(any_ctx, "bot", person=add_user(any_ctx, "rob", PASSWORD, role="rater", person=LOCAL))


def test_a_key_made_without_an_account_stays_valid(ctx: Context) -> None:
    assert check_key(ctx, create_key(ctx, "bot", person=LOCAL)) is not None


def test_only_an_admin_sees_and_revokes_another_persons_key(ctx: Context) -> None:
    owner = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    other = add_user(ctx, "noor", PASSWORD, person=LOCAL)
    create_key(ctx, "bot", person=owner)
    (key,) = list_keys(ctx, person=LOCAL)
    assert key.owner == "maya"
    assert list_keys(ctx, person=other) == []
    with pytest.raises(NotFound):
        revoke_key(ctx, key.id, person=other)
    revoke_key(ctx, key.id, person=LOCAL)


def test_limits_scopes_and_expiry_hold_from_the_next_request_on(ctx: Context) -> None:
    key = create_key(ctx, "bot", person=LOCAL, limits=KeyLimits(requests=60), expires_at=ctx.now() + timedelta(hours=1))
    grant = check_key(ctx, key)
    assert grant is not None
    assert grant.limits == KeyLimits(requests=60, concurrency=64), "the installation's number, since the key sets none"
    until = ctx.now() + timedelta(seconds=30)
    change_key(
        ctx,
        "bot",
        person=LOCAL,
        limits=KeyLimits(tokens=5, concurrency=3),
        scopes=KeyScopes(models=("small",)),
        expires_at=until,
    )
    grant = check_key(ctx, key)
    assert grant is not None
    assert (grant.limits, grant.scopes.models) == (KeyLimits(tokens=5, concurrency=3), ("small",))
    without = replace(ctx, policy=replace(ctx.policy, key_requests_at_once=0))
    free = check_key(without, create_key(ctx, "free", person=LOCAL))
    assert free is not None
    assert not free.limits.is_limited
    assert check_key(replace(ctx, now=lambda: until), key) is None
    assert next(view for view in list_keys(ctx, person=LOCAL) if view.name == "bot").state(until) == "expired"


def test_only_an_admin_gives_the_admin_scope(ctx: Context) -> None:
    owner = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    with pytest.raises(NotAllowed, match="admin scope"):
        create_key(ctx, "bot", person=owner, scopes=KeyScopes(admin=True))


def test_the_spending_of_a_key_is_that_of_the_utc_day_and_month(any_ctx: Context) -> None:
    now = datetime(2026, 11, 27, 0, 30, tzinfo=UTC)
    ctx = replace(any_ctx, now=lambda: now)
    grant = check_key(ctx, create_key(ctx, "bot", person=LOCAL))
    assert grant is not None
    rows = [
        UsageRow(f"u{n}", "gone", grant.id, None, 10, 5, None, 1.0, "aborted", at, cost_usd=0.25)
        for n, at in enumerate([now, now - timedelta(hours=1), now - timedelta(days=27)])
    ]
    add_usage(ctx, rows)
    assert key_spending(ctx, grant.id, "day") == Spending(15, 0.25)
    assert key_spending(ctx, grant.id, "month") == Spending(30, 0.5)
