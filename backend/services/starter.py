"""Starter content, made at the first start."""

from __future__ import annotations

from backend.services.context import Context


def ensure_starter_content(ctx: Context) -> None:
    """Queue the starter content unless it is there."""
