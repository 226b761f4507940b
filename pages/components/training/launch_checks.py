"""Checks before a launch: errors by field, warnings to accept, differences from the copied run, the first rows of the
data as the objective trains on them, and its report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import streamlit as st
from pydantic import ValidationError

from backend.domain.data.reports.report import Severity, list_findings
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import field_label
from backend.domain.training.differences import list_differences
from backend.domain.training.launch_warnings import LaunchWarning
from backend.domain.training.objectives import Objective, Rows
from backend.domain.validation import errors_by_field
from backend.domain.wording import plural, shorten
from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.data.reports import DataReportView
from backend.services.training.row_preview import preview_training_rows
from backend.services.training.views import RunDetail
from pages.components import routes
from pages.components.frame import errors_shown, plain
from pages.components.links import page_link
from pages.components.tables import draw_table
from pages.components.training.config_fields import ON_FORM, fields_in, set_field_errors, with_labels


def mark_fields(problem: RoundhouseError | None) -> None:
    """Show an error under the fields at fault; fields that it only mentions get a red label."""
    errors: dict[str, str] = {}
    if problem is not None:
        named = fields_in(problem.message)
        errors = dict.fromkeys((*named, problem.field) if problem.field in ON_FORM else named, "")
        if isinstance(problem.__cause__, ValidationError):
            errors |= {path: text for path, text in errors_by_field(problem.__cause__).items() if path in ON_FORM}
        first = next(iter(errors), None)
        if first is not None and not any(errors.values()):
            errors[first] = with_labels(problem.message)
    set_field_errors(errors)


def draw_launch_problem(problem: RoundhouseError) -> None:
    """Draw the reason why the form can't be launched, with the form's labels."""
    text = plain(with_labels(problem.message)) + (f"  \n{plain(with_labels(problem.remedy))}" if problem.remedy else "")
    st.warning(text, icon=":material/error:")


def accept_warnings(warnings: Sequence[LaunchWarning]) -> bool:
    """Draw a checkbox that accepts warnings, beside the launch button; return whether the run may be launched. Other
    warnings ask again.
    """
    if not warnings:
        return True
    shown = "".join(warning.model_dump_json() for warning in warnings)
    fingerprint = hashlib.sha256(shown.encode()).hexdigest()[:12]
    return st.checkbox(f"Proceed despite {plural(len(warnings), 'warning')}", key=f"launch_proceed_{fingerprint}")


def draw_warnings(warnings: Sequence[LaunchWarning]) -> None:
    """Draw what is likely a mistake, each with its cure."""
    if not warnings:
        return
    with st.container(border=True, key="launch_warnings", gap="small"):
        st.markdown(f":orange[:material/warning:] **{plural(len(warnings), 'warning')}**")
        for warning in warnings:
            st.markdown(f"**{field_label(warning.field)}.** {plain(warning.sentence)} :gray[{plain(warning.cure)}]")


def draw_config_changes(before: RunDetail, now: RunConfig) -> None:
    """Draw the differences from the run that the form was copied from."""
    with st.container(border=True, key="launch_changes", gap="small"):
        st.subheader("A new run from", anchor=False)
        page_link(routes.RUN, plain(before.run.name), {"run": before.run.id}, icon="subdirectory_arrow_right")
        changes = list_differences([before.config, now])
        if not changes:
            st.caption("Nothing differs from it yet.")
            return
        table = [{"Field": each.label, "Before": each.texts[0], "Now": each.texts[1]} for each in changes]
        draw_table(table, key="launch_differences", alt="Fields that differ from the copied run")


MAX_CHARACTERS = 1_500
ANSWERS = "The loss is on the answers; the prompt is read only."
LOSS: dict[Rows, str] = {
    "text": "Every token is trained on.",
    "conversations": "The loss is on the assistant's answers; everything before is read only.",
    "pairs": ANSWERS,
    "ratings": ANSWERS,
    "prompts": "The model writes completions itself, and the rewards compare them with the answer.",
}
SCORED = "The whole row is scored: the chosen answer above the rejected one."


def draw_row_preview(ctx: Context, dataset: str | None, objective: Objective) -> None:
    """Draw the first rows, once opened, with a mark on what is trained on."""
    panel = st.expander("First rows", icon=":material/table_rows:", key="launch_rows", on_change="rerun")
    if not panel.open:
        return
    with panel, errors_shown():
        if dataset is None:
            st.caption("Choose a dataset to see its first rows.")
            return
        rows = preview_training_rows(ctx, dataset, objective)
        if not rows:
            st.caption("The dataset has no rows yet.")
            return
        st.caption(LOSS[objective.facts.rows] if objective.facts.writes else SCORED)
        for number, parts in enumerate(rows):
            with st.container(border=True, gap="xsmall", key=f"launch_row_{number}"):
                for part in parts:
                    mark = " :green-badge[trained]" if part.is_trained else ""
                    st.markdown(f":small[:gray[{plain(part.title)}]]{mark}")
                    st.code(shorten(part.text, MAX_CHARACTERS) or "(empty)", language=None, wrap_lines=True)


def _report_query(config: RunConfig) -> dict[str, str]:
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
    page_link(routes.DATASETS, "See what the trainer will see", _report_query(config), icon="frame_inspect")
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
