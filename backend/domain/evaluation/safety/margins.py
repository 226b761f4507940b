"""The margin of the safety gate. Pure, and imports nothing that computes."""

from __future__ import annotations

from backend.errors import InvalidInput

MARGIN = 0.05
"""Change towards unsafe that the gate tolerates unless another is given: five points of a share."""


def check_margin(margin: float | None) -> None:
    """Raise InvalidInput for a margin out of range; None is no requirement."""
    if margin is not None and not 0 < margin < 1:
        raise InvalidInput(
            f"A margin of {margin:g} is out of range.",
            remedy="Give a share between 0 and 1, such as 0.05.",
            field="margin",
        )
