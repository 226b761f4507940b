"""The rewards of a GRPO run as a small table: a row a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from backend.domain.run_sections import RewardRule

KINDS = ("exact", "contains", "regex", "length")
ROWS, EDITOR = "launch_reward_rows", "launch_rewards"


def fill_rewards(rules: Sequence[RewardRule]) -> None:
    """Put rules into the table. Only before it is drawn."""
    st.session_state[ROWS] = [rule.model_dump() for rule in rules] or [RewardRule(kind="exact").model_dump()]
    st.session_state.pop(EDITOR, None)


def draw_rewards() -> list[dict[str, Any]]:
    """Draw the table and return its rows as values of `grpo.rewards`."""
    rows = st.session_state.setdefault(ROWS, [RewardRule(kind="exact").model_dump()])
    start = pd.DataFrame(rows, columns=["kind", "weight", "pattern", "target"]).astype({"weight": float, "pattern": str})
    st.caption("Rewards: what a completion is worth, added up.")
    table = st.data_editor(
        start, key=EDITOR, num_rows="dynamic", hide_index=True, alt="Rewards",
        column_config={
            "kind": st.column_config.SelectboxColumn(
                "Rule", options=KINDS, required=True, default="exact",
                help="exact: equals the row's answer. contains: holds it. regex: the pattern is found. length: full at the target.",
            ),
            "weight": st.column_config.NumberColumn("Weight", default=1.0, required=True, format="%g"),
            "pattern": st.column_config.TextColumn("Pattern", default="", max_chars=500, help="For regex."),
            "target": st.column_config.NumberColumn("Target, tokens", default=0, min_value=0, step=1, help="For length."),
        },
    )  # fmt: skip
    return [
        {
            "kind": row["kind"],
            "weight": float(row["weight"]) if pd.notna(row["weight"]) else 1.0,
            "pattern": row["pattern"] if isinstance(row["pattern"], str) else "",
            "target": int(row["target"]) if pd.notna(row["target"]) else 0,
        }
        for row in table.to_dict("records")
        if isinstance(row["kind"], str) and row["kind"]
    ]
