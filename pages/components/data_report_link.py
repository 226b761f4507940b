"""From a run's config to its dataset's report, seen through the same base or tokenizer at the same context."""

from __future__ import annotations

import streamlit as st

from backend.domain.run_config import RunConfig


def report_query(config: RunConfig) -> dict[str, str]:
    """Return the address of the report that fits a run."""
    name, _, version = config.dataset.partition("@")
    query = {"dataset": name.strip(), "report": "1", "context": str(config.context), "micro_batch": str(config.micro_batch)}
    query["grad_accum_steps"] = str(config.grad_accum_steps)
    if version:
        query["version"] = version
    if config.base:
        query["base"] = config.base
    elif config.tokenizer:
        query["tokenizer"] = config.tokenizer
    return query


def draw_report_link(config: RunConfig) -> None:
    """Draw the link."""
    st.page_link(
        "build/datasets.py", label="See what the trainer will see", icon=":material/frame_inspect:", query_params=report_query(config)
    )
