"""Weights of a checkpoint: outliers, layer by layer, histograms, and the change to another checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import streamlit as st

from backend.domain.checkpoints.inspection import InspectionConfig, TensorChange, TensorStatistics
from backend.domain.wording import percent, short
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.checkpoints.inspections import (
    InspectionResults,
    InspectionView,
    find_inspection,
    get_inspection,
    launch_inspection,
)
from backend.services.context import Context, Person
from pages.components.checkpoints.inspection.charts import by_layer, weight_histogram, weight_histograms
from pages.components.choices import choose_one
from pages.components.frame import draw_metric, draw_plot, plain, rerun_after, show_problem
from pages.components.job_progress import draw_job
from pages.components.tables import draw_table

MAX_LINES = 12
MAX_ROWS = 64
MEASURES: dict[str, tuple[str, Callable[[TensorStatistics], float | None], bool]] = {
    "rms": ("RMS", lambda line: line.rms, False),
    "largest": ("Largest value", lambda line: line.largest, False),
    "spectral": ("Spectral norm", lambda line: line.spectral, False),
    "zeros": ("Share of zeros", lambda line: line.zeros, True),
}


def draw_weights(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    """Draw the weights tab, or the button that starts the analysis."""
    inspection = _find(
        ctx, person, checkpoint, None, label="Analyze weights", about="Statistics of every tensor. No text is needed."
    )
    if inspection is None:
        return
    results = InspectionResults(ctx, inspection)
    lines = results.tensors()
    facts = inspection.result["facts"]
    grid = st.grid(3, min_column_width=170)
    draw_metric(grid, "Tensors", f"{facts['tensors']:,}")
    draw_metric(grid, "Values", short(facts["values"]))
    draw_metric(grid, "Outliers", f"{inspection.result['outliers']:,}")
    if facts["merged"]:
        st.caption("The adapter was merged into its base first.")
    _draw_outliers(results)
    _draw_layers(lines)
    _draw_tensor(results, lines)


def _find(
    ctx: Context, person: Person, checkpoint: CheckpointView, against: str | None, *, label: str, about: str
) -> InspectionView | None:
    """Return a finished inspection of weights; else draw its progress or the button that starts it; return None."""
    inspection = find_inspection(ctx, checkpoint=checkpoint.id, config=InspectionConfig(), against=against)
    if inspection is not None and inspection.is_ready:
        return inspection
    if inspection is not None and inspection.is_active and inspection.job_id:
        draw_job(ctx, person, inspection.job_id, doing="Analyzing weights")
        return None
    if inspection is not None and inspection.error.cause:
        show_problem(inspection.error.cause, inspection.error.remedy)
    st.caption(about)
    if st.button(label, icon=":material/play_arrow:", type="primary", key=f"weights_{checkpoint.id}_{against}"):
        with rerun_after():
            made = launch_inspection(
                ctx, checkpoint=checkpoint.id, config=InspectionConfig(), against=against, person=person
            )
            get_inspection(ctx, made.id)
    return None


def _draw_outliers(results: InspectionResults) -> None:
    st.subheader("Outliers", anchor=False)
    if not results.outliers:
        st.caption("None: no tensor has outlier channels, spikes, many zeros or an RMS unlike that of its neighbours.")
        return
    draw_table(
        [{"Tensor": name, "Reason": why} for name, why in results.outliers],
        key="weights_outliers",
        alt="Outlier tensors",
    )
    st.caption("Heuristics: most outliers of trained models are harmless; NaN, infinity and all-zero tensors are not.")


def _draw_layers(lines: list[TensorStatistics]) -> None:
    st.subheader("Layer by layer", anchor=False)
    measure = choose_one(
        "Measure",
        list(MEASURES),
        default="rms",
        format_func=lambda k: MEASURES[k][0],
        key="weights_measure",
        is_bare=True,
    )
    title, value_of, percent = MEASURES[measure]
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in lines:
        value = value_of(line)
        if line.layer is not None and value is not None and not line.name.endswith("bias") and len(line.shape) > 1:
            points[line.part.removesuffix(".weight")].append((line.layer, value))
    if not points:
        st.caption("Not available: the matrices are too large, or none belongs to a layer.")
        return
    if len(points) > MAX_LINES:
        st.caption(f"The first {MAX_LINES} of {len(points)} weights; the table below has all.")
    draw_plot(
        by_layer(dict(list(points.items())[:MAX_LINES]), title=f"{title}, %" if percent else title, percent=percent),
        key="weights_layers",
        alt=f"{title} by layer",
    )


def _draw_tensor(results: InspectionResults, lines: list[TensorStatistics]) -> None:
    edges = results.array("edges")
    st.subheader("Histograms", anchor=False)
    in_layers = [line for line in lines if line.layer is not None]
    # matrices first
    parts = list(dict.fromkeys(line.part for line in sorted(in_layers, key=lambda line: len(line.shape) < 2)))
    if parts:
        part = st.selectbox("Weight", parts, key="weights_part", width=380)
        shown = [line for line in in_layers if line.part == part][:MAX_ROWS]
        draw_plot(
            weight_histograms(
                np.stack([line.counts for line in shown]), [f"layer {line.layer}" for line in shown], edges
            ),
            key="weights_spreads",
            alt="Histogram of values, one row per layer",
        )
    name = st.selectbox("Tensor", [line.name for line in lines], key="weights_name", width=560)
    line = next(line for line in lines if line.name == name)
    draw_plot(
        weight_histogram(line.counts, edges, rms=line.rms), key="weights_one", alt="Histogram of one tensor's values"
    )
    spectral = f", spectral norm {line.spectral:.4g}" if line.spectral is not None else ""
    st.caption(
        f"{' × '.join(map(str, line.shape)) or 'a single value'}, {line.dtype}: mean {line.mean:.3g}, RMS"
        f" {line.rms:.4g}, largest {line.largest:.4g}, {percent(line.zeros, digits=2)} zeros,"
        f" {percent(line.beyond, digits=3)} beyond 5 RMS (in the outermost bars){spectral}."
    )
    with st.expander("All tensors as a table", icon=":material/table:"):
        st.dataframe(
            [
                {
                    "Tensor": one.name,
                    "Shape": " × ".join(map(str, one.shape)),
                    "Type": one.dtype,
                    "RMS": one.rms,
                    "Largest": one.largest,
                    "Mean": one.mean,
                    "Zeros": one.zeros,
                    "Beyond 5 RMS": one.beyond,
                    "Spectral norm": one.spectral,
                    "NaN or infinite": one.not_finite,
                }
                for one in lines
            ],
            hide_index=True,
            key="weights_table",
            column_config={"Tensor": st.column_config.Column(pinned=True)}
            | {
                name: st.column_config.NumberColumn(format="%.5g")
                for name in ("RMS", "Largest", "Mean", "Spectral norm")
            }
            | {name: st.column_config.NumberColumn(format="percent") for name in ("Zeros", "Beyond 5 RMS")},
        )


def draw_weight_changes(ctx: Context, person: Person, checkpoint: CheckpointView, other_id: str, other: str) -> None:
    """Draw the change of weights between two checkpoints."""
    about = "Relative change of every tensor from the first checkpoint to the second."
    inspection = _find(ctx, person, checkpoint, other_id, label="Compare weights", about=about)
    if inspection is None:
        return
    results, summary = InspectionResults(ctx, inspection), inspection.result["changes"]
    changes, missing = results.changes(), results.missing
    if not changes:
        st.info("No tensor has the same name and shape in both checkpoints.", icon=":material/difference:")
        return
    lone = sum(len(names) for names in missing.values())
    words = f"{summary['equal']:,} of {summary['compared']:,} tensors are equal."
    if summary["relative"] is not None:
        change = percent(summary["relative"], digits=3)
        words = (
            f"From {plain(checkpoint.name)} to {plain(other)} the weights changed by {change} of their norm. {words}"
        )
    st.markdown(words + (f" {lone:,} have no counterpart of the same name and shape." if lone else ""))
    moved = _by_part(changes)
    if moved:
        draw_plot(
            by_layer(moved, title="Change, % of the norm", percent=True),
            key="changes_layers",
            alt="Relative change by layer",
        )
    with st.expander("All tensors as a table", icon=":material/table:"):
        st.dataframe(
            [
                {
                    "Tensor": one.name,
                    "Change": one.relative,
                    "Cosine": one.cosine,
                    "Norm": one.norm_a,
                    "Norm of the change": one.norm_change,
                }
                for one in changes
            ],
            hide_index=True,
            key="changes_table",
            column_config={
                "Tensor": st.column_config.Column(pinned=True),
                "Change": st.column_config.NumberColumn(format="percent"),
                "Cosine": st.column_config.NumberColumn(format="%.6f"),
            },
        )
        for name, title in (
            ("unlike", "Different shapes"),
            ("only_first", "Only in the first"),
            ("only_other", "Only in the second"),
        ):
            if missing[name]:
                st.caption(title)
                st.text("\n".join(missing[name][:MAX_ROWS]))


def _by_part(changes: Sequence[TensorChange]) -> dict[str, list[tuple[int, float]]]:
    """Group changes of matrices by weight, the most changed first."""
    points: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for change in changes:
        if change.layer is not None and np.isfinite(change.relative):
            part = change.name.partition(f".{change.layer}.")[2].removesuffix(".weight")
            points[part].append((change.layer, change.relative))
    order = sorted(points, key=lambda part: -float(np.mean([value for _, value in points[part]])))
    return {part: points[part] for part in order[:MAX_LINES]}
