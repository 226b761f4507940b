"""Link from a run's config to the data report for the same base or tokenizer and context."""

from __future__ import annotations

import streamlit as st

from backend.domain.data.reports.report import Severity, list_findings
from backend.domain.training.config import RunConfig
from backend.domain.wording import plural
from backend.services.data.reports import DataReportView
from pages.components import routes
from pages.components.frame import plain
from pages.components.links import page_link


def report_query(config: RunConfig) -> dict[str, str]:
    """Return the address of the report that fits a config."""
    name, _, version = config.dataset.partition("@")
    query = {
        "dataset": name.strip(),
        "report": "1",
        "context": str(config.context),
        "micro_batch": str(config.micro_batch),
    }
    query["grad_accum_steps"] = str(config.grad_accum_steps)
    if version:
        query["version"] = version
    if config.base:
        query["base"] = config.base
    elif config.tokenizer:
        query["tokenizer"] = config.tokenizer
    return query


def draw_report_link(config: RunConfig, view: DataReportView | None) -> None:
    """Draw the link to the data report for a run's base or tokenizer and context, and findings of `view`, if any."""
    page_link(routes.DATASETS, "See what the trainer will see", report_query(config), icon="frame_inspect")
    if known := known_findings(view):
        st.caption(known)


def known_findings(view: DataReportView | None) -> str:
    """Summarize the findings of a report; empty without a report or findings."""
    if view is None or view.report is None:
        return ""
    grave = [finding for finding in list_findings(view.report) if finding.grade is not Severity.FINE]
    if not grave:
        return ":material/check_circle: The data report has no warnings."
    return f":material/warning: The data report has {plural(len(grave), 'warning')}. {plain(grave[0].text)}"
