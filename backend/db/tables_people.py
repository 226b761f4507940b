"""Accounts, keys, saved views and dismissed steps."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import Table, new_id, utc_now
from backend.domain.jobs.gpu_hours import PersonLimits
from backend.domain.serving.key_limits import KeyLimits, KeyScopes


class User(Table):
    """An account. Raising `session_epoch` ends every issued cookie."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    role: Mapped[str] = mapped_column(String(20), default="engineer")
    password_hash: Mapped[str] = mapped_column(String(200))
    session_epoch: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    disabled_at: Mapped[datetime | None]
    limits: Mapped[PersonLimits] = mapped_column(default=PersonLimits)


class ApiKey(Table):
    """A key for /v1. Only its SHA-256 is stored; `hint` is its last four characters."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(80))
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(8))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    scopes: Mapped[KeyScopes] = mapped_column(default=KeyScopes)
    limits: Mapped[KeyLimits] = mapped_column(default=KeyLimits)
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SavedView(Table):
    """A person's named way of looking at a page: the query of its address. Without sign-in it has no `user_id`."""

    __tablename__ = "saved_views"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    page: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(80))
    query: Mapped[str] = mapped_column(Text)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class DismissedStep(Table):
    """A next step of the overview that a person has dismissed. `key` says what it is about. Without sign-in it has no
    `user_id`.
    """

    __tablename__ = "dismissed_steps"
    id: Mapped[str] = mapped_column(String(12), primary_key=True, default=new_id)
    key: Mapped[str] = mapped_column(String(400))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
