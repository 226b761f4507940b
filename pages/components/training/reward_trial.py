"""Try rewards before a launch: on rows of the dataset, with right, wrapped, empty and own completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st
from pydantic import ValidationError

from backend.domain.training.config_sections import RewardRule
from backend.domain.validation import validation_message
from backend.services.context import Context
from backend.services.training.row_preview import try_rewards
from pages.components.frame import errors_shown, plain


def draw_reward_trial(
    ctx: Context, rows: Sequence[Mapping[str, Any]], *, dataset: str | None, base: str | None
) -> None:
    """Draw what the rules give to completions of the dataset's first rows, once opened."""
    panel = st.expander("Try the rewards", icon=":material/science:", key="launch_reward_trial", on_change="rerun")
    if not panel.open:
        return
    with panel, errors_shown():
        if dataset is None:
            st.caption("Choose a dataset: its first rows are tried.")
            return
        try:
            rules = [RewardRule.model_validate(row) for row in rows]
        except ValidationError as error:
            st.warning(plain(validation_message(error, RewardRule)), icon=":material/error:")
            return
        own = st.text_input(
            "A completion of your own", key="launch_own_completion", placeholder="Tried on the same prompts"
        )
        trial = try_rewards(ctx, rules, dataset=dataset, base=base, own=own or "")
        for problem in trial.problems:
            st.warning(plain(problem), icon=":material/warning:")
        names = [f"{number}. {rule.kind}" for number, rule in enumerate(rules, 1)]
        st.dataframe(
            [
                {
                    "Prompt": one.prompt,
                    "Completion": one.completion or "(empty)",
                    "Tokens": one.tokens,
                    **dict(zip(names, one.scores, strict=True)),
                    "Reward": one.total,
                }
                for one in trial.rows
            ],
            hide_index=True,
            height=320,
            alt="Rewards of completions",
            placeholder="The dataset has no rows yet.",
            column_config={"Reward": st.column_config.NumberColumn(format="%.3g")},
        )
        if trial.counts_words and any(rule.kind == "length" for rule in rules):
            st.caption("Lengths count words until a base is chosen whose tokenizer can be read.")
