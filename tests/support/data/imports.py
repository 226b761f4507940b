"""Which packages a process imported, read from what `python -X importtime` writes."""

from __future__ import annotations

HEAVY = frozenset(
    {"scipy", "pandas", "pyarrow", "torch", "transformers", "streamlit", "plotly", "datasets", "optuna", "sklearn"}
)
"""Packages that take a third of a second or 30 MB each."""


def imports_of(importtime: str) -> set[str]:
    """Return the top-level packages in the output of `-X importtime`."""
    lines = (line.rpartition("|")[2].strip() for line in importtime.splitlines() if line.startswith("import time:"))
    return {line.partition(".")[0] for line in lines}
