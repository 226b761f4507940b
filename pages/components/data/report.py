"""Data report: settings, findings with their remedies, rows as the trainer sees them, and details: duplicates, leakage,
contamination, unusable rows, languages, characters, packing.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import plotly.graph_objects as go
import streamlit as st

from backend.domain.data.reports.near_duplicates import detection_probability
from backend.domain.data.reports.report import (
    MAX_CONTEXT,
    DataFinding,
    DataReport,
    DuplicateCluster,
    Language,
    Lengths,
    ReportSample,
    RowRef,
    Severity,
    TokenPiece,
    list_findings,
    sampling_error,
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
from pages.components.charts.style import ACCENT, MARGIN, MUTED
from pages.components.choices import by_identity, choose_from, choose_one
from pages.components.confirm import draw_confirmed
from pages.components.frame import draw_metric, draw_plot, errors_shown, plain, show_problem, warn_unknown
from pages.components.job_progress import draw_job
from pages.components.links import page_link
from pages.components.numbers import draw_number, number_form, wrong_numbers
from pages.components.tables import draw_table
from pages.components.words import figure_text, when

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
        _length_figure(train.lengths, context=report.question.context, cuts=report.trainer in ("sft", "dpo", "kto")),
        key=f"report_lengths_{view.id}",
    )
    lengths = train.lengths
    st.caption(
        f"Tokens per row: median {lengths.p50:,}, 90th percentile {lengths.p90:,}, 99th {lengths.p99:,}, maximum"
        f" {lengths.max:,}."
    )
    st.subheader("Details", anchor=False)
    _draw_report_detail(report, key=view.id)


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


SHOWN = 200


def _draw_report_detail(report: DataReport, *, key: str) -> None:
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
    draw_plot(_language_figure(report.languages[:15]), key=f"report_languages_{key}")


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


def _length_figure(lengths: Lengths, *, context: int, cuts: bool) -> go.Figure:
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


def _language_figure(languages: Sequence[Language]) -> go.Figure:
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
