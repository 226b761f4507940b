"""Data report: settings, findings with their remedies, and rows as the trainer sees them."""

from __future__ import annotations

import uuid

import streamlit as st

from backend.domain.data.reports.report import (
    MAX_CONTEXT,
    DataFinding,
    DataReport,
    ReportSample,
    Severity,
    TokenPiece,
    list_findings,
)
from backend.domain.wording import format_duration, percent, plural, short
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.data.reports import (
    DataReportView,
    default_question,
    default_source,
    delete_data_report,
    drop_found_rows,
    epoch_time,
    get_data_report,
    list_data_reports,
    read_samples,
    request_data_report,
)
from backend.services.data.views import VersionView
from backend.services.tokenizers.sources import TokenizerSource, list_sources, resolve_source
from pages.components import routes
from pages.components.browser.token_strip.component import Mark, token_strip
from pages.components.choices import by_identity, choose_from, choose_one
from pages.components.confirm import draw_confirmed
from pages.components.data.report_details import draw_report_detail, length_figure
from pages.components.frame import draw_metric, draw_plot, errors_shown, plain, show_problem, warn_unknown
from pages.components.job_progress import draw_job
from pages.components.numbers import draw_number, number_form, wrong_numbers
from pages.components.words import when

ICONS = {
    Severity.BLOCKS: ":red[:material/block:]",
    Severity.LOOK: ":orange[:material/warning:]",
    Severity.FINE: ":green[:material/check_circle:]",
}
KINDS = {"checkpoint": "base", "tokenizer": "tokenizer"}


def draw_data_report(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the form and the latest report."""
    launched = _draw_form(ctx, person, version)
    if launched is not None:
        st.session_state[f"report_{version.id}"] = launched.id
    view = _shown(ctx, version)
    if view is None:
        st.caption(
            "A report renders, tokenizes and masks every row as the trainer will, and checks for truncated rows, rows"
            " without loss, duplicates, leakage, benchmark contamination and wrong encodings."
        )
        return
    if view.is_active and view.job_id:
        draw_job(ctx, person, view.job_id, doing="Analyzing rows")
    elif view.report is None:
        _draw_failure(view)
    else:
        _draw_report(ctx, person, version, view, view.report)


def _shown(ctx: Context, version: VersionView) -> DataReportView | None:
    """Return the report launched here or named in the address, else the newest."""
    for report_id in (st.session_state.get(f"report_{version.id}"), st.query_params.get("report")):
        if report_id:
            try:
                view = get_data_report(ctx, report_id)
            except RoundhouseError:
                if report_id == st.query_params.get("report") and report_id != "1":  # 1 asks for the form alone
                    warn_unknown("report", report_id, instead="it may have been deleted")
                continue
            if view.version_id == version.id:
                return view
    return next(iter(list_data_reports(ctx, version.id, limit=1)), None)


@number_form
def _draw_form(ctx: Context, person: Person, version: VersionView) -> DataReportView | None:
    sources = {source.ref: source for source in list_sources(ctx)}
    first = _first_source(ctx, version)
    if first is not None:
        sources.setdefault(first.ref, first)
    defaults = default_question(ctx, version, first)
    with st.container(border=True, horizontal=True, vertical_alignment="bottom"):
        ref = _choose_source(sources, first, key=f"report_source_{version.id}")
        context = draw_number(
            st,
            "Context",
            8,
            MAX_CONTEXT,
            _number("context", defaults.context),
            key=f"report_context_{version.id}",
            width=130,
            help="Tokens per sequence.",
        )
        batch = draw_number(
            st,
            "Micro-batch",
            1,
            65536,
            _number("micro_batch", defaults.micro_batch),
            key=f"report_batch_{version.id}",
            width=120,
            help="Sequences per forward pass, padded to the longest.",
        )
        steps = draw_number(
            st,
            "Accumulation",
            1,
            65536,
            _number("grad_accum_steps", defaults.grad_accum_steps),
            key=f"report_steps_{version.id}",
            width=120,
            help="Forward passes per optimizer step.",
        )
        if st.button(
            "Run report",
            type="primary",
            icon=":material/frame_inspect:",
            key=f"report_ask_{version.id}",
            disabled=bool(wrong_numbers()),
        ):
            with errors_shown():
                return request_data_report(
                    ctx,
                    version.id,
                    person=person,
                    source=ref or None,
                    context=int(context),
                    micro_batch=int(batch),
                    grad_accum_steps=int(steps),
                )
    return None


def _choose_source(sources: dict[str, TokenizerSource], first: TokenizerSource | None, *, key: str) -> str:
    options = list(sources) or [""]
    words = by_identity(
        key, options, lambda ref: f"{sources[ref].name} ({KINDS[sources[ref].kind]})" if ref else "bytes"
    )
    ref: str = st.selectbox(
        "Tokenizer",
        options,
        index=list(sources).index(first.ref) if first else 0,
        key=key,
        format_func=words,
        width=280,
        help=(
            "A base brings its tokenizer, chat template and maximum context; a tokenizer alone is for training from"
            " scratch."
        ),
    )
    return ref


def _first_source(ctx: Context, version: VersionView) -> TokenizerSource | None:
    """Return the tokenizer or base named in the address, else the newest."""
    name = st.query_params.get("base") or st.query_params.get("tokenizer")
    if name:
        try:
            return resolve_source(ctx, f"checkpoint:{name}" if "base" in st.query_params else name)
        except RoundhouseError:
            pass  # named in an old address, and deleted since
    return default_source(ctx, version.kind)


def _number(name: str, default: int) -> int:
    parameter = st.query_params.get(name, "")
    return (
        max(8 if name == "context" else 1, min(int(parameter), 65_536))
        if parameter.isdecimal() and len(parameter) < 10
        else default
    )


def _draw_failure(view: DataReportView) -> None:
    if view.error:
        show_problem(f"The report failed: {view.error.cause}", view.error.remedy)
    else:
        st.caption("The report was stopped, or comes from an older version. Run it again.")


def _draw_report(ctx: Context, person: Person, version: VersionView, view: DataReportView, report: DataReport) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        question = report.question
        st.caption(
            f"{plain(version.label)}, tokenizer {plain(view.source_name)} · context {question.context:,} · "
            f"micro-batch {question.micro_batch:,} · {when(view.created_at)}, in {report.seconds:.1f} s"
        )
        st.space("stretch")
        draw_confirmed(
            "Delete",
            f"The report is deleted; the dataset stays. Computing it took {report.seconds:.1f} s.",
            lambda: delete_data_report(ctx, view.id, person=person),
            key=f"report_delete_{view.id}",
        )
    _draw_findings(ctx, person, view, list_findings(report))
    _draw_numbers(ctx, view, report)
    st.subheader("What the trainer sees", anchor=False)
    draw_samples(ctx, view, report)
    st.subheader("Lengths", anchor=False)
    train = report.train
    draw_plot(
        length_figure(train.lengths, context=report.question.context, cuts=report.trainer in ("sft", "dpo", "kto")),
        key=f"report_lengths_{view.id}",
    )
    lengths = train.lengths
    st.caption(
        f"Tokens per row: median {lengths.p50:,}, 90th percentile {lengths.p90:,}, 99th {lengths.p99:,}, maximum"
        f" {lengths.max:,}."
    )
    st.subheader("Details", anchor=False)
    draw_report_detail(report, key=view.id)


def _draw_findings(ctx: Context, person: Person, view: DataReportView, findings: list[DataFinding]) -> None:
    problems = [finding for finding in findings if finding.grade is not Severity.FINE]
    passed = [finding for finding in findings if finding.grade is Severity.FINE]
    with st.container(border=True, gap="small"):
        if not problems:
            st.markdown(f"{ICONS[Severity.FINE]} **No problems found.**")
        for finding in problems:
            text, action = st.columns([5, 1], vertical_alignment="center")
            text.markdown(f"{ICONS[finding.grade]} {plain(finding.text)} {plain(finding.remedy)}")
            if finding.drop and finding.num_rows:
                with action:
                    _draw_drop(ctx, person, view, finding)
        if passed:
            with st.expander(f"{plural(len(passed), 'check')} passed", expanded=not problems):
                for finding in passed:
                    st.markdown(f"{ICONS[finding.grade]} {plain(finding.text)} {plain(finding.remedy)}")


def _draw_drop(ctx: Context, person: Person, view: DataReportView, finding: DataFinding) -> None:
    label = f"Drop {plural(finding.num_rows, 'row')}"
    key = f"report_drop_{view.id}_{finding.drop}"
    if st.button(
        label,
        icon=":material/filter_alt:",
        key=key,
        width="stretch",
        help="Creates a new version without them, in both splits",
    ):
        st.session_state.setdefault("report_once", uuid.uuid4().hex)
        with errors_shown():
            made = drop_found_rows(
                ctx,
                view.id,
                finding.drop,
                person=person,
                idempotency_key=f"report:{st.session_state.pop('report_once')}",
            )
            st.switch_page(
                routes.DATASETS,
                query_params={"dataset": made.dataset_id, "version": str(made.number), "job": made.job_id or ""},
            )


def _draw_numbers(ctx: Context, view: DataReportView, report: DataReport) -> None:
    train = report.train
    grid = st.grid(4, min_column_width=140)
    draw_metric(
        grid,
        "Train tokens",
        short(train.tokens),
        help=f"{train.tokens:,} in {plural(train.rows, 'row')}, before truncation.",
    )
    share = train.loss_tokens / train.tokens if train.tokens else 0.0
    draw_metric(
        grid,
        "With loss",
        percent(share),
        help=f"{train.loss_tokens:,} tokens carry a loss; the rest is context or masked.",
    )
    draw_metric(
        grid,
        "Truncated rows",
        percent(train.truncated_share, digits=1),
        help=f"{plural(train.truncated_rows, 'row')} longer than the context, {train.lost_tokens:,} tokens cut.",
    )
    time = epoch_time(ctx, view)
    steps = plural(report.epoch.steps, "step") if report.epoch.steps else "–"
    how = f"{short(report.epoch.tokens)} tokens. " + (
        f"{format_duration(time.seconds)} at {time.tokens_per_s:,.0f} tokens/s, as measured in run “{time.run}”."
        if time
        else "No speed was measured yet."
    )
    draw_metric(
        grid,
        "One epoch",
        f"{steps}, {format_duration(time.seconds)}" if time and report.epoch.steps else steps,
        help=plain(how),
    )


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
            + (" :gray-badge[faint: truncated]" if any(piece.cut_at is not None for piece in sample.pieces) else "")
        )


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
