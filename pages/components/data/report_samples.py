"""Sample rows of a data report, token by token: tokens with loss are coloured, truncated ones are faint."""

from __future__ import annotations

import streamlit as st

from backend.domain.data.reports.report import DataReport, ReportSample, TokenPiece
from backend.domain.wording import plural
from backend.services.context import Context
from backend.services.data.reports import DataReportView, read_samples
from pages.components.browser.token_strip.component import Mark, token_strip
from pages.components.choices import choose_from, choose_one
from pages.components.frame import errors_shown, plain

GROUPS = {
    "window": "First window",
    "first": "First rows",
    "random": "Random rows",
    "longest": "Longest",
    "truncated": "Truncated",
    "zero-label": "Rows without loss",
}
SPLITS = {"train": "train", "val": "validation"}


def draw_samples(ctx: Context, view: DataReportView, report: DataReport) -> None:
    """Draw the choice of a sample and its tokens."""
    samples: list[ReportSample] = []
    with errors_shown():
        samples = read_samples(ctx, view)
    if not samples:
        return
    groups = [group for group in GROUPS if any(sample.group == group for sample in samples)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        group = choose_one("Rows", groups, format_func=lambda name: GROUPS[name], key=f"report_group_{view.id}")
        candidates = [sample for sample in samples if sample.group == group]
        chosen = candidates[0]
        if len(candidates) > 1:
            index = choose_from(
                "Row",
                range(len(candidates)),
                words=lambda place: _name(candidates[place]),
                key=f"report_row_{view.id}_{group}",
                width=240,
            )
            chosen = candidates[index]
        with_ids = st.toggle("Token ids", key=f"report_ids_{view.id}")
    _draw_caption(chosen, report)
    for place, piece in enumerate(chosen.pieces):
        _draw_piece(piece, key=f"{view.id}_{group}_{chosen.row}_{place}", with_ids=with_ids)


def _name(sample: ReportSample) -> str:
    return f"Row {sample.row:,}, {SPLITS[sample.split]}" if sample.row is not None else "Window"


def _draw_caption(sample: ReportSample, report: DataReport) -> None:
    parts = [_name(sample), plural(sample.num_tokens, "token")]
    if report.trainer != "none":
        parts.append(f"{sample.loss_tokens:,} with loss")
    st.caption(" · ".join(parts))
    if sample.note:
        st.markdown(f":material/warning: :orange[No token has a loss: {plain(sample.note)}.]")
    if report.trainer != "none":
        st.markdown(
            ":green-badge[with loss] :gray-badge[context only]"
            + (" :gray-badge[faint: truncated]" if _is_cut(sample) else "")
        )


def _is_cut(sample: ReportSample) -> bool:
    return any(piece.cut_at is not None for piece in sample.pieces)


def _draw_piece(piece: TokenPiece, *, key: str, with_ids: bool) -> None:
    if piece.label:
        st.caption(piece.label.capitalize())
    length = len(piece.ids) if piece.cut_at is None else piece.cut_at
    _draw_strip(piece, 0, length, key=f"strip_{key}", with_ids=with_ids)
    if length < len(piece.ids):
        st.caption(":material/content_cut: The context ends here. Truncated:")
        _draw_strip(piece, length, len(piece.ids), key=f"strip_{key}_cut", with_ids=with_ids)
    if piece.left_out:
        st.caption(f"… {piece.left_out:,} tokens are not shown …")


def _draw_strip(piece: TokenPiece, begin: int, end: int, *, key: str, with_ids: bool) -> None:
    cut = piece.cut_at is not None and begin >= piece.cut_at
    places = range(begin, end)
    with st.container(border=True):
        token_strip(
            piece.tokens[begin:end],
            key=key,
            titles=[f"id {piece.ids[place]}" + (", with loss" if piece.trained[place] else "") for place in places],
            marks=[_mark(piece, place, cut=cut) for place in places],
            clickable=False,
        )
        if with_ids:
            st.code(" ".join(str(piece.ids[place]) for place in places), language=None, wrap_lines=True)


def _mark(piece: TokenPiece, place: int, *, cut: bool) -> Mark:
    if cut:
        return "muted"
    return "trained" if piece.trained[place] else "special" if piece.special[place] else ""
