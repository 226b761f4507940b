"""The permission to run programs that a model wrote."""

from __future__ import annotations

from backend.errors import NotAllowed
from backend.services.context import Context


def require_code_execution(ctx: Context) -> None:
    """Raise NotAllowed unless the operator lets benchmarks run programs that a model wrote."""
    if not ctx.policy.run_code:
        raise NotAllowed(
            "This benchmark runs programs that the model writes, and this installation does not allow it.",
            remedy="Set ROUNDHOUSE_RUN_CODE=true and restart; docs/security.md says what confines them.",
        )
