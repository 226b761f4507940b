"""Form of a sweep, beneath the form of the run that it varies: fields, their values, and the search."""

from __future__ import annotations

import math
import re
from typing import Any

import streamlit as st

from backend.domain.fields import bounds_of, shown_of
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import field_at, field_label, form_groups, kind_of, traits_of, value_at
from backend.domain.training.sweep import (
    SweepConfig,
    goal_of_metric,
    label_of_metric,
    point_at,
    sweep_yaml,
)
from backend.domain.wording import plural
from backend.errors import RoundhouseError
from backend.services.architectures import list_architectures
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.estimates.forecasts import count_slots
from backend.services.jobs.devices import training_workers
from pages.components.choices import choose_one
from pages.components.forms import draw_fields
from pages.components.numbers import draw_number
from pages.components.tables import draw_table
from pages.components.training.config_fields import get_field
from pages.components.training.run_charts import say

METHOD_HELP = {
    "grid": "Every combination.",
    "random": "Random search covers more values of each field than a grid with as many runs.",
    "bayesian": "Random at first, then near the best runs so far (TPE, by Optuna).",
}
RANGE, LIST = "Range", "List"
SHOWN = 12


def draw_sweep_form(ctx: Context, config: RunConfig) -> dict[str, object]:
    """Draw the varied fields and the search settings; return the values of a `SweepConfig`."""
    with st.container(border=True, key="sweep_form"):
        st.subheader("Search space", anchor=False)
        names = _names(ctx, config)
        fields = st.multiselect(
            "Fields",
            [*_fields(config), *names],
            key="sweep_fields",
            default=["learning_rate"],
            format_func=field_label,
            max_selections=8,
            placeholder="Choose fields",
        )
        method = st.session_state.get("sweep_method", "random")
        vary = {path: _draw_choice(path, names.get(path), grid=method == "grid") for path in fields}
        st.space("small")
        usual, slots = SweepConfig.model_fields["parallel"].default, count_slots(config, training_workers(ctx))
        values = _draw_search(config, validates=_validates(ctx, config), parallel=min(usual, slots or usual))
    name = st.text_input(
        "Sweep name", key="sweep_name", max_chars=90, placeholder=_generated_name(config)
    ) or _generated_name(config)
    return {"name": name, "run": config.model_dump(mode="json"), "vary": vary, **values}


def draw_sweep_preview(config: SweepConfig) -> None:
    """Draw the known values of the first runs, and the sweep as YAML."""
    with st.container(border=True, key="sweep_preview", gap="small"):
        st.subheader(plural(config.num_runs, "run"), anchor=False)
        if config.method == "bayesian":
            st.caption("Values are chosen as earlier runs are measured.")
        else:
            shown = [point_at(config, number) for number in range(min(SHOWN, config.num_runs))]
            rows = [{field_label(path): say(value) for path, value in point.items()} for point in shown]
            draw_table(rows, key="sweep_points", alt="Values of the first runs")
            if config.num_runs > SHOWN:
                st.caption(f"and {config.num_runs - SHOWN:,} more")
    with st.expander("Sweep as YAML", icon=":material/data_object:"):
        st.code(sweep_yaml(config), language="yaml", wrap_lines=True)
        st.caption("Launch it from a terminal with `roundhouse run sweep FILE.yaml`.")


def _fields(config: RunConfig) -> list[str]:
    """Return the fields of the form that a sweep can vary."""
    groups = form_groups(lambda path: value_at(config, path))
    return [path for paths in groups.values() for path in paths if traits_of(path).sweep == "offered"]


def _names(ctx: Context, config: RunConfig) -> dict[str, list[str]]:
    """Return the names of rows that a sweep can vary."""
    if config.base is not None:
        return {"base": [checkpoint.name for checkpoint in list_checkpoints(ctx, ready=True)]}
    return {"architecture": [architecture.name for architecture in list_architectures(ctx)]}


def _draw_choice(path: str, names: list[str] | None, *, grid: bool) -> Any:
    """Draw one field's values; return them as `SweepConfig.vary` has them."""
    kind, key = kind_of(path), path.replace(".", "_")
    if kind is bool:
        st.caption(f"**{field_label(path)}:** off and on")
        return [False, True]
    options = names if names is not None else list(kind) if isinstance(kind, tuple) else None
    if options is not None:
        return st.multiselect(
            field_label(path), options, key=f"sweep_words_{key}", default=options[:2], placeholder="Choose values"
        )
    columns = st.columns([1.2, 1, 1, 1], vertical_alignment="bottom")
    with columns[0]:
        shape = choose_one(
            field_label(path), [RANGE, LIST], default=RANGE if kind is float else LIST, key=f"sweep_shape_{key}"
        )
    now = float(get_field(path) or 0)
    if shape == LIST:
        first = [now] if not now else [now / 2, now, now * 2]
        text = ", ".join(str(round(value) if kind is int else float(f"{value:.4g}")) for value in first)
        with st.container():
            written = st.text_input(
                "Values",
                text,
                key=f"sweep_values_{key}",
                label_visibility="collapsed",
                placeholder="Values, separated by commas",
            )
        return split_values(written or "", fractions=kind is float)
    low, high = _near_range(path, now)
    span = {
        "low": draw_number(columns[1], "From", None, None, low, key=f"sweep_low_{key}", is_whole=False, step=None),
        "high": draw_number(columns[2], "To", None, None, high, key=f"sweep_high_{key}", is_whole=False, step=None),
    }
    with columns[3]:
        if grid:
            span["points"] = draw_number(st, "Points", None, None, 4, key=f"sweep_points_{key}")
    span["log"] = st.checkbox(
        "Log scale", value=low > 0, key=f"sweep_log_{key}", help="For ranges over orders of magnitude."
    )
    return span


def _near_range(path: str, now: float) -> tuple[float, float]:
    """Return a range about a field's value in two figures, within its bounds."""
    bounds = bounds_of(field_at(path))
    most = math.inf if bounds.most is None else bounds.most
    most = most if bounds.below is None else max(now, 0.99 * bounds.below)
    least = -math.inf if bounds.least is None else bounds.least
    low, high = (now / 3, now * 3) if now else (0.0 if bounds.above is None else bounds.above + 0.01, 0.1)
    low, high = max(low, least), max(now, min(high, most))
    rounded = float(f"{low:.2g}"), float(f"{high:.2g}")
    return max(rounded[0], least), min(rounded[1], most)


def split_values(text: str, *, fractions: bool) -> list[str]:
    """Return the values of a list, separated by commas; by semicolons they may have decimal commas: `0,002; 0,02`.

    `fractions`: the field takes them. All numbers with a comma and a space between them, `0,002, 0,02`, have decimal
    commas; other commas between digits, as in `0,5`, stay in their value, which is then no number.
    """
    if ";" in text:
        parts = text.replace(",", ".").split(";")
    elif not fractions or "." in text or not re.search(r"(?<![^\s,])[+-]?\d+,\d", text):
        parts = text.split(",")
    else:
        parts = re.split(r",?\s+", text.strip().rstrip(","))
        if len(parts) > 1 and all(part.count(",") == 1 for part in parts):
            parts = [part.replace(",", ".") for part in parts]
    return [part.strip() for part in parts if part.strip()]


def _validates(ctx: Context, config: RunConfig) -> bool:
    """Return whether runs have a validation loss, as far as is known."""
    try:
        version = resolve_version(ctx, config.dataset, ready=False)
    except RoundhouseError:
        return True
    return version.val_rows > 0 or not version.is_ready


def _draw_search(config: RunConfig, *, validates: bool, parallel: int) -> dict[str, object]:
    """Draw the search settings; `parallel` is what that field holds at first."""
    shown = shown_of(SweepConfig.model_fields["method"])
    method = choose_one("Search", shown.choices, default="random", key="sweep_method")
    st.caption(METHOD_HELP[method])
    metrics = config.objective.facts.metrics
    if not validates:  # without validation these are never measured
        metrics = tuple(name for name in metrics if not name.startswith("val_")) or ("train_loss",)
    left, right = st.columns(2)
    metric = left.selectbox(
        "Metric",
        metrics,
        key=f"sweep_metric_{config.objective}{'' if validates else '_train'}",
        format_func=label_of_metric,
        accept_new_options=True,
        help="Runs are compared by their best value of it. Type the name of any other metric that the runs write.",
    )
    held = {"method": method, "goal": goal_of_metric(metric or metrics[0]), "parallel": parallel}
    if not validates:
        st.caption("The dataset has no validation rows: runs are compared by what is measured in training.")
    goal = draw_fields(SweepConfig, key=f"sweep_{metric}", values=held, only=["goal"], place=right)
    others = draw_fields(SweepConfig, key="sweep", values=held, skip=("metric", "goal"), columns=4)
    return {"method": method, "metric": metric or metrics[0], **goal, **others}


def _generated_name(config: RunConfig) -> str:
    return f"{config.dataset.partition('@')[0][:80]} sweep"
