"""Exit statuses of every command."""

from __future__ import annotations

DONE, FAILED, MISUSED = 0, 1, 2
