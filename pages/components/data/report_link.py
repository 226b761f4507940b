"""From a run's config to its dataset's report, seen through the same base or tokenizer at the same context."""

from __future__ import annotations

import streamlit as st

from backend.domain.data.reports.findings import Grade, find_out
from backend.domain.training.config import RunConfig
from backend.domain.wording import plural
from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.reports import find_data_report
from backend.services.tokenizers.sources import resolve_source
from pages.components import routes
from pages.components.frame import plain


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


def draw_report_link(ctx: Context, config: RunConfig) -> None:
    """Draw the link, and what is known already."""
    st.page_link(routes.DATASETS, label="See what the trainer will see", icon=":material/frame_inspect:", query_params=report_query(config))
    if known := known_findings(ctx, config):
        st.caption(known)


def known_findings(ctx: Context, config: RunConfig) -> str:
    """Say what a report for this base and context has found; empty if there is none."""
    named = f"checkpoint:{config.base}" if config.base else config.tokenizer
    try:
        source = resolve_source(ctx, named).ref if named else None
        view = find_data_report(ctx, resolve_version(ctx, config.dataset).id, source=source, context=config.context)
    except RoundhouseError:
        return ""  # what is wrong with the config is said elsewhere
    if view is None or view.report is None:
        return ""
    grave = [finding for finding in find_out(view.report) if finding.grade is not Grade.FINE]
    if not grave:
        return ":material/check_circle: Its report found nothing that stands in the way."
    return f":material/warning: Its report has {plural(len(grave), 'thing')} to look at. {plain(grave[0].text)}"
