"""The form of a sweep, beneath the form of the run that it varies: which fields, over what, how many, how they are searched."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import form_groups, kind_of, label_of, traits_of, value_at
from backend.domain.training.sweep import SweepConfig, point_at, sweep_yaml
from backend.domain.wording import plural, say_duration
from backend.services.architectures import list_architectures
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context
from backend.services.estimates.forecasts import Forecast
from pages.components.tables import draw_table
from pages.components.training.config_fields import get_field
from pages.components.training.sweep_charts import say

METHODS = {"grid": "Grid", "random": "Random", "bayesian": "Bayesian"}
ABOUT = {
    "grid": "Every combination.",
    "random": "Drawn at random: more of each field is seen than by a grid of as many runs.",
    "bayesian": "The first are drawn at random, the others where earlier runs were good (TPE, by Optuna).",
}
PRUNERS = {"none": "Let all finish", "median": "Below the median", "hyperband": "Hyperband"}
ABOUT_PRUNERS = "Runs that do badly at a step are stopped, with a checkpoint. Worth it where a run measures val_loss several times."
RANGE, LIST = "Range", "List"
SHOWN = 12


def draw_sweep_form(ctx: Context, config: RunConfig) -> dict[str, Any]:
    """Draw what varies and how it is searched; return the values of a `SweepConfig`."""
    with st.container(border=True, key="sweep_form"):
        st.subheader("What varies", anchor=False)
        names = _names(ctx, config)
        fields = st.multiselect(
            "Fields",
            [*_fields(config), *names],
            key="sweep_fields",
            default=["learning_rate"],
            format_func=label_of,
            max_selections=8,
            placeholder="Choose fields",
        )
        method = st.session_state.get("sweep_method", "random")
        vary = {path: _draw_choice(path, names.get(path), grid=method == "grid") for path in fields}
        st.space("small")
        values = _draw_search()
    name = st.text_input("Name of the sweep", key="sweep_name", max_chars=90, placeholder=_made_up_name(config)) or _made_up_name(config)
    return {"name": name, "run": config.model_dump(mode="json"), "vary": vary, **values}


def draw_sweep_preview(config: SweepConfig, found: Forecast | None) -> None:
    """Draw how many runs there will be, how long they take, and which as far as that is known."""
    with st.container(border=True, key="sweep_preview", gap="small"):
        st.subheader(plural(config.num_runs, "run"), anchor=False)
        time = found.prediction.time if found else None
        if time is not None and found is not None:
            at_once = max(1, min(config.parallel, found.queue.num_slots or 1))
            st.caption(f"About {say_duration(config.num_runs * time.seconds / at_once)} in all, {at_once} at a time.")
        elif found is not None:
            st.caption("How long they take is not known: a probe of the run measures it.")
        if config.method == "bayesian":
            st.caption("Which values are tried depends on what the earlier runs measure.")
        else:
            shown = [point_at(config, number) for number in range(min(SHOWN, config.num_runs))]
            rows = [{label_of(path): say(value) for path, value in point.items()} for point in shown]
            draw_table(rows, key="sweep_points", alt="Values of the first runs")
            if config.num_runs > SHOWN:
                st.caption(f"and {config.num_runs - SHOWN:,} more")
    with st.expander("The sweep as YAML", icon=":material/data_object:"):
        st.code(sweep_yaml(config), language="yaml", wrap_lines=True)
        st.caption("`roundhouse run sweep FILE.yaml` reads this.")


def _fields(config: RunConfig) -> list[str]:
    """Return the fields of the form that a sweep of this run is offered."""
    groups = form_groups(lambda path: value_at(config, path))
    return [path for paths in groups.values() for path in paths if traits_of(path).sweep == "offered"]


def _names(ctx: Context, config: RunConfig) -> dict[str, list[str]]:
    """Return rows that may be tried one after the other."""
    if config.base is not None:
        return {"base": [checkpoint.name for checkpoint in list_checkpoints(ctx, ready=True)]}
    return {"architecture": [architecture.name for architecture in list_architectures(ctx)]}


def _draw_choice(path: str, names: list[str] | None, *, grid: bool) -> Any:
    """Draw one field's values; return them as `SweepConfig.vary` has them."""
    kind, key = kind_of(path), path.replace(".", "_")
    if kind is bool:
        st.caption(f"**{label_of(path)}**: off and on")
        return [False, True]
    options = names if names is not None else list(kind) if isinstance(kind, tuple) else None
    if options is not None:
        return st.multiselect(label_of(path), options, key=f"sweep_words_{key}", default=options[:2], placeholder="Choose some")
    columns = st.columns([1.2, 1, 1, 1], vertical_alignment="bottom")
    with columns[0]:
        shape = st.segmented_control(
            label_of(path), [RANGE, LIST], key=f"sweep_shape_{key}", default=RANGE if kind is float else LIST, required=True
        )
    now = float(get_field(path))
    if shape == LIST:
        first = [now] if not now else [now / 2, now, now * 2]
        text = ", ".join(str(round(value) if kind is int else float(f"{value:.4g}")) for value in first)
        with st.container():
            written = st.text_input(
                "Values", text, key=f"sweep_values_{key}", label_visibility="collapsed", placeholder="Values, by commas"
            )
        return [part.strip() for part in (written or "").replace(";", ",").split(",") if part.strip()]
    low, high = (now / 3, now * 3) if now else (0.0, 0.1)
    found = {
        "low": columns[1].number_input("From", value=float(f"{low:.2g}"), format="%g", step=None, key=f"sweep_low_{key}"),
        "high": columns[2].number_input("To", value=float(f"{high:.2g}"), format="%g", step=None, key=f"sweep_high_{key}"),
    }
    with columns[3]:
        if grid:
            found["points"] = st.number_input("Points", 2, 64, 4, step=1, key=f"sweep_points_{key}")
    found["log"] = st.checkbox("Evenly by ratio", value=low > 0, key=f"sweep_log_{key}", help="For what spans orders of magnitude.")
    return found


def _draw_search() -> dict[str, Any]:
    method = st.segmented_control(
        "Search", list(METHODS), key="sweep_method", default="random", required=True, format_func=METHODS.__getitem__
    )
    st.caption(ABOUT[str(method)])
    values: dict[str, Any] = {"method": method}
    with st.grid(4, min_column_width=150):
        if method != "grid":
            values["runs"] = st.number_input("Runs", 1, 500, 12, step=1, key="sweep_runs")
        values["parallel"] = st.number_input(
            "At once",
            1,
            64,
            2,
            step=1,
            key="sweep_parallel",
            help="Runs that wait or run at the same time. A bayesian search learns less from many.",
        )
        values["pruner"] = st.selectbox("Pruning", list(PRUNERS), key="sweep_pruner", format_func=PRUNERS.__getitem__, help=ABOUT_PRUNERS)
        values["metric"] = (
            st.text_input("Metric", "val_loss", key="sweep_metric", help="The best value that a run measures of it.") or "val_loss"
        )
        values["goal"] = st.selectbox("Best is", ["lowest", "highest"], key="sweep_goal")
        if method != "grid":
            values["seed"] = st.number_input("Seed of the search", 0, 2**31 - 1, 1, step=1, key="sweep_seed")
    return values


def _made_up_name(config: RunConfig) -> str:
    return f"{config.dataset.partition('@')[0][:80]} sweep"
