"""Keys for /v1: shown once, stored as a hash, valid only while their owner's account is."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from backend.db.tables import ApiKey
from backend.errors import NotAllowed, NotFound
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user, change_role, disable_account, enable_account
from backend.services.people.keys import check_key, create_key, list_keys, revoke_key

PASSWORD = "correct horse battery"


def test_a_key_is_shown_once_stored_as_a_hash_and_ends_when_revoked(ctx: Context) -> None:
    owner = add_user(ctx, "maya", PASSWORD, person=LOCAL)
    key = create_key(ctx, "bot", person=owner)
    with ctx.db.read() as session:
        row = session.scalars(select(ApiKey)).one()
    assert key not in (row.key_hash, row.hint)
    assert check_key(ctx, key) == row.id
    assert check_key(ctx, key + "x") is None
    revoke_key(ctx, row.id, person=owner)
    assert check_key(ctx, key) is None


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
