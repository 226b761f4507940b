"""Tokenizer reports: form, progress, figure and table."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import streamlit as st

from backend.domain.data.languages import language_name
from backend.domain.wording import plural
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.tokenizers.reports import (
    MAX_DATASETS,
    Measure,
    ReportView,
    delete_report,
    get_report,
    list_reports,
    request_report,
)
from backend.services.tokenizers.sources import TokenizerSource
from pages.components.charts.style import COLORS, MARGIN
from pages.components.choices import choose_one
from pages.components.confirm import draw_confirmed
from pages.components.frame import draw_plot, errors_shown, plain, show_problem, warn_unknown
from pages.components.job_progress import draw_job, status_badge
from pages.components.words import figure_text, when

ALL = "All datasets"
MEASURES: dict[str, tuple[str, str, bool]] = {
    "fertility": ("Fertility", "Tokens per word; per character in scripts without spaces. Lower is better.", False),
    "bytes_per_token": ("Bytes per token", "Compression. Higher is better.", False),
    "unknown_share": ("Unknown", "Share of unknown tokens, whose text is lost.", True),
    "raw_byte_share": (
        "Byte fallback",
        "Share of tokens that are single bytes of characters outside the vocabulary.",
        True,
    ),
}

BAR, GAP = 15, 14


def draw_reports(ctx: Context, person: Person, sources: Sequence[TokenizerSource]) -> None:
    """Draw the form for these tokenizers and the latest report, or the one named in the address."""
    tag = "_".join(source.id for source in sources)
    with st.container(border=True, horizontal=True, vertical_alignment="bottom"):
        names = [dataset.name for dataset in list_datasets(ctx) if dataset.newest is not None]
        datasets = st.multiselect(
            "Datasets",
            names,
            default=names[:1],
            key=f"report_datasets_{tag}",
            max_selections=MAX_DATASETS,
            placeholder="Choose datasets",
            help="At most 20,000 rows or 20 MB of each train split, sampled evenly.",
        )
        if st.button("Measure", type="primary", icon=":material/straighten:", key=f"report_ask_{tag}"):
            st.session_state.setdefault("report_once", uuid.uuid4().hex)
            with errors_shown():
                made = request_report(
                    ctx,
                    tokenizers=[source.ref for source in sources],
                    datasets=datasets,
                    person=person,
                    idempotency_key=st.session_state.pop("report_once"),
                )
                st.query_params["report"] = made.id
        _draw_earlier(ctx)
    shown = _shown(ctx, sources)
    if shown is None:
        st.caption("Reports measure tokens per word, bytes per token and unknown tokens by dataset and language.")
    elif shown.is_ready:
        _draw_report(ctx, person, shown)
    elif shown.is_active and shown.job_id:
        draw_job(ctx, person, shown.job_id, doing="Measuring")
    else:
        show_problem(f"The report failed: {shown.error.cause or 'it was stopped.'}", shown.error.remedy)


def _shown(ctx: Context, sources: Sequence[TokenizerSource]) -> ReportView | None:
    """Return the report named in the address, else the newest on just these tokenizers, else one with them."""
    if report_id := st.query_params.get("report"):
        try:
            return get_report(ctx, report_id)
        except RoundhouseError:
            warn_unknown("report", report_id, instead="it may have been deleted")
    refs, reports = {source.ref for source in sources}, list_reports(ctx)
    return next((one for one in reports if set(one.refs) == refs), None) or next(
        (one for one in reports if refs <= set(one.refs)), None
    )


def _draw_earlier(ctx: Context) -> None:
    reports = list_reports(ctx)
    if not reports:
        return
    with st.popover("Earlier reports", icon=":material/history:", key="reports_earlier", width="content"):
        for report in reports:
            with st.container(horizontal=True, vertical_alignment="center"):
                if st.button(
                    plain(report.title),
                    type="tertiary",
                    icon=":material/straighten:",
                    key=f"open_{report.id}",
                    wrap=True,
                ):
                    st.query_params["report"] = report.id
                    st.rerun()
                if not report.is_ready:
                    status_badge(report.status)
                st.caption(when(report.created_at), width="content")


def _draw_report(ctx: Context, person: Person, report: ReportView) -> None:
    def delete() -> None:
        delete_report(ctx, report.id, person=person)
        st.query_params.pop("report", None)

    with st.container(horizontal=True, vertical_alignment="center"):
        rows = sum(entry.rows for entry in report.datasets)
        st.caption(f"{plain(report.title)} · {plural(rows, 'row')} read · {when(report.created_at)}")
        st.space("stretch")
        draw_confirmed(
            "Delete",
            "The report is deleted; its tokenizers and datasets stay.",
            delete,
            key=f"report_delete_{report.id}",
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        measure = choose_one(
            "Measure",
            list(MEASURES),
            default="fertility",
            format_func=lambda k: MEASURES[k][0],
            key=f"report_measure_{report.id}",
            is_bare=True,
        )
        over = [*([ALL] if len(report.dataset_names) > 1 else []), *report.dataset_names]
        chosen = over[0]
        if len(over) > 1:
            chosen = st.selectbox("Over", over, key=f"report_over_{report.id}", label_visibility="collapsed", width=280)
    title, meaning, percent = MEASURES[measure]
    st.caption(meaning)
    places, values = _groups(report, chosen, measure)
    draw_plot(
        measure_bars(values, places, title=f"{title}, % of tokens" if percent else title, percent=percent),
        key=f"report_chart_{report.id}",
        alt=f"{title} of each tokenizer",
    )
    if any(language.code in ("short", "unsure") for entry in report.datasets for language in entry.languages):
        st.caption("Languages are detected per row; rows too short or too mixed are counted separately.")
    _draw_table(report)


def _groups(report: ReportView, chosen: str, measure: str) -> tuple[list[str], dict[str, list[float | None]]]:
    """Return the groups of the figure (datasets, or one dataset's languages) and each tokenizer's values."""
    values = {(one.tokenizer, one.dataset, one.language): one.values[measure] for one in report.measures}
    if chosen == ALL:
        places: list[tuple[str, str | None]] = [(dataset, None) for dataset in report.dataset_names]
        names = list(report.dataset_names)
    else:
        entry = next(entry for entry in report.datasets if entry.name == chosen)
        codes = [language.code for language in entry.languages]
        places = [(chosen, None), *((chosen, code) for code in codes if len(codes) > 1)]
        names = ["All" if language is None else language_name(language) for _, language in places]
    return names, {
        name: [values.get((name, dataset, language)) for dataset, language in places] for name in report.names
    }


def _draw_table(report: ReportView) -> None:
    sizes = {entry.name: entry.vocab_size for entry in report.tokenizers}
    single = {entry.name for entry in report.datasets if len(entry.languages) < 2}
    rows = [_row(one, sizes) for one in report.measures if one.language is None or one.dataset not in single]
    percent, number = st.column_config.NumberColumn(format="percent"), st.column_config.NumberColumn(format="localized")
    decimal = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(
        rows,
        hide_index=True,
        key=f"report_table_{report.id}",
        placeholder="",
        column_config={
            "Fertility": decimal,
            "Bytes per token": decimal,
            "Tokens": number,
            "Rows": number,
            "Vocabulary": number,
        }
        | {"Tokenizer": st.column_config.Column(pinned=True)}
        | dict.fromkeys(("Unknown", "Byte fallback", "Vocabulary used"), percent)
        | {"Changed rows": st.column_config.NumberColumn(help="Rows that do not round-trip.")},
    )


def _row(measure: Measure, sizes: dict[str, int]) -> dict[str, object]:
    values, size = measure.values, sizes.get(measure.tokenizer, 0)
    used = values.get("used_entries")
    return {
        "Dataset": measure.dataset,
        "Language": "All" if measure.language is None else language_name(measure.language),
        "Tokenizer": measure.tokenizer,
        "Fertility": values["fertility"],
        "Bytes per token": values["bytes_per_token"],
        "Unknown": values["unknown_share"],
        "Byte fallback": values["raw_byte_share"],
        "Vocabulary": size,
        "Vocabulary used": used / size if used is not None and size else None,
        "Rows": values["rows"],
        "Tokens": values["tokens"],
        "Changed rows": values["changed"],
    }


def measure_bars(
    values: Mapping[str, Sequence[float | None]], places: Sequence[str], *, title: str, percent: bool
) -> go.Figure:
    """Return a group of bars for each place (a dataset, a language), the first on top, one bar for each tokenizer.

    `values` maps a tokenizer to its value at each place, None where there is none.
    """
    names = [figure_text(place) for place in places]
    figure = go.Figure()
    for order, (tokenizer, row) in enumerate(values.items()):
        shown = [None if value is None else 100 * value if percent else value for value in row]
        figure.add_bar(
            y=names,
            x=shown,
            name=figure_text(tokenizer),
            orientation="h",
            marker_color=COLORS[order % len(COLORS)],
            text=["" if value is None else f"{value:.1f} %" if percent else f"{value:.2f}" for value in shown],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{text}<extra>%{fullData.name}</extra>",
        )
    reach = max((value for row in values.values() for value in row if value is not None), default=0.0) * (
        100 if percent else 1
    )
    figure.update_layout(
        height=70 + len(names) * (BAR * len(values) + GAP) + 22,
        margin={**MARGIN, "t": 0, "r": 24},
        barmode="group",
        bargap=0.25,
        xaxis={"title": title, "range": [0, max(reach * 1.12, 1e-9)], "zeroline": False},
        yaxis={"autorange": "reversed", "automargin": True, "type": "category", "title": None, "showgrid": False},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        showlegend=len(values) > 1,
    )
    return figure
