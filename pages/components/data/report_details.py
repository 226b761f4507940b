"""Details of a data report: duplicates, leakage, contamination, unusable rows, languages, characters, packing."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import streamlit as st

from backend.domain.data.reports.near_duplicates import detection_probability
from backend.domain.data.reports.report import DataReport, DuplicateCluster, Language, Lengths, RowRef, sampling_error
from backend.domain.wording import percent, plural
from pages.components import routes
from pages.components.charts.style import ACCENT, MARGIN, MUTED
from pages.components.choices import choose_one
from pages.components.frame import draw_plot
from pages.components.links import page_link
from pages.components.tables import draw_table
from pages.components.words import figure_text

SHOWN = 200


def draw_report_detail(report: DataReport, *, key: str) -> None:
    """Draw the detail that is chosen."""
    same, leak = report.duplicates, report.leakage
    unusable = report.train.zero_label_rows + len(report.empty) + report.refused_rows + report.forged_rows
    details = {
        "Duplicates": (same.exact + same.near, _draw_duplicates),
        "Leakage": (leak.exact + leak.near, _draw_leakage),
        "Benchmarks": (report.contaminated_rows, _draw_contamination),
        "Odd rows": (unusable, _draw_unusable),
        "Languages": (0, _draw_languages),
        "Characters": (sum(fault.rows for fault in report.faults), _draw_faults),
        "Packing": (0, _draw_packing),
    }
    name = choose_one(
        "Details",
        list(details),
        default="Duplicates",
        format_func=lambda name: f"{name} ({details[name][0]:,})" if details[name][0] else name,
        key=f"report_details_{key}",
    )
    details[name][1](report, key)


def _draw_duplicates(report: DataReport, _key: str) -> None:
    same = report.duplicates
    chance = detection_probability(same.threshold)
    st.caption(
        f"Near duplicates share at least {percent(same.threshold)} of their character 5-grams, ignoring case,"
        f" punctuation and spacing. A pair at the threshold is found with probability {percent(chance, digits=1)};"
        f" {same.pairs_checked:,} pairs were compared exactly, in {same.seconds:.1f} s."
    )
    if not same.exact and not same.near:
        st.markdown(":material/check_circle: No duplicates.")
    for title, clusters in (("Duplicates", same.exact_clusters), ("Near duplicates", same.near_clusters)):
        if clusters:
            st.markdown(f"**{title}**")
            for cluster in clusters:
                _draw_cluster(cluster)


def _draw_cluster(cluster: DuplicateCluster) -> None:
    with st.expander(f"{plural(cluster.size, 'row')}, among them {_place(cluster.rows[0])}"):
        for row, similarity in zip(cluster.rows, cluster.similarity, strict=True):
            st.caption(_place(row) + ("" if row is cluster.rows[0] else f", {percent(similarity)} similar"))
            st.code(row.text or " ", language=None, wrap_lines=True)


def _place(row: RowRef) -> str:
    return f"{row.split} row {row.row:,}"


def _draw_leakage(report: DataReport, key: str) -> None:
    leak = report.leakage
    if not leak.rows:
        st.markdown(":material/check_circle: No validation row is similar to a train row.")
        return
    st.caption("Validation rows and the similar train rows. The first are shown.")
    table = [
        {
            "Validation row": item.val.row,
            "Train": item.train.row,
            "Similarity, %": round(100 * item.similarity, 1),
            "Validation text": item.val.text,
            "Train text": item.train.text,
        }
        for item in leak.rows
    ]
    draw_table(table, key=f"report_leaks_{key}", alt="Validation rows that are similar to train rows")


def _draw_contamination(report: DataReport, key: str) -> None:
    st.caption(
        "An item counts if 13 consecutive words of its question and answer occur in a row, or a whole question of 3 to"
        " 12 words; case and punctuation aside."
    )
    looked = [{"Benchmark": one.name, "Items": one.items, "Found": one.found} for one in report.benchmarks]
    if not looked:
        st.markdown("No benchmarks yet. Imported benchmarks are checked for in the rows.")
        page_link(routes.DATASETS, "Import a benchmark", {"import": "1"}, icon="upload")
        return
    draw_table(looked, key=f"report_benchmarks_{key}", alt="Benchmarks checked")
    if report.contamination:
        table = [
            {
                "Benchmark": one.benchmark,
                "Item": one.item,
                "Split": one.split,
                "Row": one.row,
                "Words": one.words,
                "Share of the question, %": round(100 * one.share),
                "Text": one.text,
            }
            for one in report.contamination[:SHOWN]
        ]
        draw_table(table, key=f"report_items_{key}", alt="Benchmark items that occur in rows")
        if len(report.contamination) > SHOWN:
            st.caption(f"The first {SHOWN:,} are shown; the command line lists more.")


def _draw_unusable(report: DataReport, key: str) -> None:
    unusable = [
        *((row, row.reason) for row in report.zero_label),
        *((row, "empty") for row in report.empty),
        *((row, "refused by the chat template") for row in report.refused),
        *((row, "spells a special token") for row in report.forged),
    ]
    rows = [{"Split": row.split, "Row": row.row, "Why": reason, "Text": row.text} for row, reason in unusable]
    if not rows:
        st.markdown(":material/check_circle: Every row has text and tokens with loss.")
        return
    st.caption(
        "The first rows without loss, without text, refused by the chat template, or with special tokens in their text."
    )
    draw_table(rows, key=f"report_unusable_{key}", alt="Unusable rows")


def _draw_languages(report: DataReport, key: str) -> None:
    if not report.languages:
        st.caption("No text was checked.")
        return
    total = sum(split.rows for split in report.splits.values())
    error = sampling_error(report.languages_of, total)
    within = f" Each share is within {percent(error, digits=1)} of that of all rows (95 %)." if error else ""
    st.caption(
        f"Guessed on {plural(report.languages_of, 'row')} spread over the dataset; code and lists of names are often"
        f" uncertain.{within}"
    )
    draw_plot(language_figure(report.languages[:15]), key=f"report_languages_{key}")


def _draw_faults(report: DataReport, _key: str) -> None:
    if not report.faults:
        st.markdown(":material/check_circle: No wrong encoding, control characters or leftover HTML.")
        return
    for fault in report.faults:
        with st.expander(f"{fault.meaning}: {plural(fault.rows, 'row')}, {fault.count:,} times"):
            for row in fault.examples:
                st.caption(_place(row))
                st.code(_visible(row.text), language=None, wrap_lines=True)


def _visible(text: str) -> str:
    """Replace invisible characters by their codes."""
    return "".join(letter if letter.isprintable() or letter == "\n" else f"⟨{ord(letter):x}⟩" for letter in text)


def _draw_packing(report: DataReport, _key: str) -> None:
    packing = report.packing
    if packing.trainer is None:
        st.caption("No row of this dataset is used for training.")
        return
    st.caption(f"Share of computed positions that are text. The trainer: {packing.method}.")
    rows: Sequence[tuple[str, float | None]] = (
        ("This trainer", packing.trainer),
        ("One row per sequence, padded", packing.padded),
        (
            (
                f"Packed into {report.question.context:,} tokens (first-fit decreasing, {packing.packed_sequences:,}"
                " sequences)"
            ),
            packing.packed,
        ),
    )
    table = [{"Layout": name, "Tokens, %": round(100 * share, 1)} for name, share in rows if share is not None]
    draw_table(table, key="report_packing", alt="Share of real tokens in the computed positions")


def length_figure(lengths: Lengths, *, context: int, cuts: bool) -> go.Figure:
    """Return a histogram of tokens per row with the context as a line; `cuts` colours the rows it truncates."""
    starts, width = lengths.edges[:-1], (lengths.edges[1] - lengths.edges[0]) if len(lengths.edges) > 1 else 1
    figure = go.Figure()
    figure.add_bar(
        x=[start + width / 2 for start in starts],
        y=lengths.counts,
        width=0.92 * width,
        marker_color=[ACCENT if cuts and start >= context else MUTED for start in starts],
        customdata=[f"{start:,} to {end - 1:,} tokens" for start, end in zip(starts, lengths.edges[1:], strict=True)],
        hovertemplate="%{customdata}: %{y:,} rows<extra></extra>",
        showlegend=False,
    )
    reach: float = starts[-1] + width if starts else 1  # the last bar holds all longer rows
    if context <= 1.6 * reach:
        reach = max(reach, 1.04 * context)
        figure.add_vline(
            x=context,
            line={"dash": "dot", "width": 1.5, "color": ACCENT},
            annotation_text=f"context {context:,}",
            annotation_position="top",
        )
    figure.update_layout(
        height=230,
        margin={**MARGIN, "t": 24},
        bargap=0,
        xaxis={"title": "Tokens per row", "range": [0, reach], "zeroline": False},
        yaxis={"title": "Rows", "rangemode": "tozero"},
    )
    return figure


def language_figure(languages: Sequence[Language]) -> go.Figure:
    """Return the share of each language."""
    names = [figure_text(language.name) for language in languages]
    figure = go.Figure()
    figure.add_bar(
        y=names,
        x=[100 * language.share for language in languages],
        orientation="h",
        marker_color=MUTED,
        text=[percent(language.share, digits=1) for language in languages],
        textposition="outside",
        cliponaxis=False,
        customdata=[language.rows for language in languages],
        hovertemplate="%{y}: %{customdata:,} rows<extra></extra>",
    )
    figure.update_layout(
        height=40 + 28 * len(names),
        margin={**MARGIN, "t": 8, "r": 48},
        xaxis={"visible": False, "range": [0, 115]},
        yaxis={"categoryorder": "array", "categoryarray": names[::-1], "automargin": True, "title": None},
    )
    return figure
