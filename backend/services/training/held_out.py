"""Read the held-out rows that a run left in its folder."""

from __future__ import annotations

from pydantic import ValidationError

from backend.domain.training.held_out import FILE, MAX_BYTES, HeldOutRows
from backend.services.context import Context
from backend.services.training.views import RunView


def read_held_out(ctx: Context, run: RunView) -> HeldOutRows | None:
    """Return a run's worst held-out rows of its newest checkpoint's validation; None without any, or of a step that it
    has not reached again.
    """
    try:
        with ctx.artifacts.path(f"runs/{run.id}/{FILE}").open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        rows = HeldOutRows.model_validate_json(text)
    except (OSError, ValidationError):
        return None
    return rows if rows.step <= run.last_step else None
