"""A plan: its form, whose values are kept in the address; network, run, expected loss, time and cost, notes, charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from backend.domain.architectures.families import FAMILIES
from backend.domain.json_values import FieldValues
from backend.domain.scaling.curves import frontier_line, profile_line
from backend.domain.scaling.fit import MIN_POINTS
from backend.domain.scaling.laws import PUBLISHED, ScalingLaw
from backend.domain.scaling.plan import DEFAULT_VOCABULARY, PlanConfig, ScalingPlan
from backend.domain.scaling.shapes import DENSE_FAMILIES
from backend.domain.scaling.study import format_budget
from backend.domain.wording import format_duration, format_number, format_usd, plural, short
from backend.services.context import Context
from backend.services.data.datasets import list_datasets
from backend.services.scaling.planner import OWN, PoolRun, RunPool, list_laws, list_measured_devices
from backend.services.serving.prices import current_prices
from backend.services.tokenizers.tokenizers import list_tokenizers
from pages.components import routes
from pages.components.charts.html import figure
from pages.components.choices import choose_one
from pages.components.forms import draw_fields
from pages.components.frame import draw_metric, plain
from pages.components.scaling.charts import Dot, frontier_chart, profiles_chart, run_dot
from pages.components.tables import draw_table

FLOPS, HOURS, MONEY = "FLOPs", "Device-hours", "Money"
OWN_LABEL = "Your own finished runs"
ADDRESS = {
    "device_hours": "hours",
    "money_usd": "money",
    "price_usd": "price",
    "tokens_per_parameter": "ratio",
    "flops_per_s": "rate",
    "vocab_size": "vocabulary",
}


def draw_plan_form(ctx: Context) -> FieldValues:
    """Draw the form, part of a `number_form`; return the values of a `PlanConfig`."""
    devices = list_measured_devices(ctx)
    values = _draw_budget(ctx, known=bool(devices))
    for field, name in zip(("dataset", "tokenizer"), first_parts(ctx), strict=True):
        if field not in st.query_params:
            st.session_state.setdefault(field, name)  # a default that can be cleared
    choices = {
        "dataset": {name: name for name in dataset_options(ctx)},
        "tokenizer": {name: name for name in tokenizer_options(ctx)},
        "law": {law: law_label(law) for law in (*PUBLISHED, OWN)},
        "family": {name: FAMILIES[name].title for name in DENSE_FAMILIES},
        "device": {name: name for name in devices},
    }
    values |= _draw("dataset", "tokenizer", choices=choices, empty=dict.fromkeys(("dataset", "tokenizer"), "Any"))
    values |= _draw("law", columns=1, choices=choices)
    values |= _draw("family", "context", choices=choices)
    more = {
        "vocab_size": values["tokenizer"] is None,
        "tokens_per_parameter": True,
        "device": len(devices) > 1,
        "flops_per_s": True,
    }
    with st.expander("More", icon=":material/tune:"):
        values |= _draw(
            *(name for name, is_drawn in more.items() if is_drawn),
            columns=1,
            values={"vocab_size": DEFAULT_VOCABULARY, "device": next(iter(devices), None)},
            choices=choices,
            empty={"flops_per_s": "As measured" if devices else "Nothing measured yet"},
        )
    return {name: value for name, value in values.items() if value is not None}


def _draw(*names: str, columns: int = 2, **options: Any) -> FieldValues:
    return draw_fields(PlanConfig, key="plan", only=names, columns=columns, address=ADDRESS, **options)


def _draw_budget(ctx: Context, *, known: bool) -> FieldValues:
    kind = choose_one(
        "Budget", [FLOPS, HOURS, MONEY], default=HOURS if known else FLOPS, key="budget", bind="query-params"
    )
    if kind == FLOPS:
        return _draw("flops", columns=1, values={"flops": 1e15})
    if kind == HOURS:
        return _draw("device_hours", columns=1, values={"device_hours": 1.0})
    return _draw("money_usd", "price_usd", values={"money_usd": 10.0, "price_usd": current_prices(ctx).default})


def law_label(key: str) -> str:
    """Return the label of a law."""
    return OWN_LABEL if key == OWN else PUBLISHED[key].title


def first_parts(ctx: Context) -> tuple[str | None, str | None]:
    """Return the default dataset and tokenizer: the newest tokenizer trained on a text, with that text."""
    datasets, tokenizers = dataset_options(ctx), list_tokenizers(ctx, ready=True)
    for tokenizer in tokenizers:
        if (learnt_from := (tokenizer.dataset or "").rpartition("@")[0]) in datasets:
            return learnt_from, tokenizer.name
    return next(iter(datasets), None), next((tokenizer.name for tokenizer in tokenizers), None)


def dataset_options(ctx: Context) -> list[str]:
    """Return the names of the text datasets that are ready."""
    return [dataset.name for dataset in list_datasets(ctx, kinds=("text",), ready=True)]


def tokenizer_options(ctx: Context) -> list[str]:
    """Return the names of the tokenizers that are ready."""
    return [tokenizer.name for tokenizer in list_tokenizers(ctx, ready=True)]


NEIGHBOURS = (0.1, 1.0, 10.0)


def draw_plan(plan: ScalingPlan) -> None:
    """Draw the plan's numbers and notes."""
    grid = st.grid(2, min_column_width=170)
    optimum_parameters = plan.optimal_parameters
    draw_metric(
        grid,
        "Parameters",
        short(plan.parameters),
        help=f"{plan.parameters:,}. Optimum by the law:"
        f" {short(optimum_parameters.value)}{optimum_parameters.bracketed(short)} ({optimum_parameters.method}).",
    )
    draw_metric(
        grid,
        "Tokens",
        short(plan.tokens),
        help=f"{plan.tokens:,}: budget / {plan.flops_per_token:,} FLOPs per token. Optimum by the law:"
        f" {short(plan.optimum.tokens)}, {plan.optimum.tokens_per_parameter:.3g} per parameter.",
    )
    draw_metric(
        grid,
        "Steps",
        f"{plan.steps:,}",
        help=f"{plan.batch.micro_batch} sequences × {plan.batch.grad_accum_steps} accumulation steps."
        f" {plan.batch.source}.",
        note=f"{short(plan.batch.tokens)} tokens each",
    )
    draw_metric(
        grid,
        "Learning rate",
        format_number(plan.batch.learning_rate),
        help=f"{plan.batch.source}.",
        note=f"{plural(plan.batch.warmup_steps, 'step')} of warm-up",
    )
    _draw_loss(grid, plan)
    draw_metric(
        grid,
        "Time",
        format_duration(plan.seconds) if plan.seconds is not None else "–",
        help=f"{plan.speed.device}: {plan.speed.source}." if plan.speed else "No run or probe was measured here yet.",
    )
    if plan.cost_usd is not None:
        draw_metric(grid, "Cost", format_usd(plan.cost_usd), help="Time × price of a device-hour.")
    shape = plan.architecture
    st.markdown(
        f"**Model:** {FAMILIES[shape.family].title}, {plural(shape.num_layers, 'layer')}, {shape.width:,} wide, "
        f"{plural(shape.num_heads, 'head')}, feed-forward {shape.feed_forward:,}, vocabulary {shape.vocab_size:,}."
    )
    for text in plan.notes:
        st.caption(f":material/info: {plain(text)}")


def _draw_loss(grid: st.delta_generator.DeltaGenerator, plan: ScalingPlan) -> None:
    loss = plan.loss
    if plan.loss_is_believable:
        draw_metric(
            grid,
            "Expected loss",
            f"{loss.value:.3f}",
            help=f"Nats per token, 95 % interval: {loss.method}.",
            note=loss.bracketed(lambda v: f"{v:.3f}").strip() or None,
        )
    else:
        draw_metric(grid, "Expected loss", "–", help="See the notes below.")


def draw_plan_use(plan: ScalingPlan) -> None:
    """Draw the link to the Launch page with this run, and its YAML."""
    run = plan.run_config()
    missing = [
        word
        for word, value in (("a dataset", plan.config.dataset), ("a tokenizer", plan.config.tokenizer))
        if value is None
    ]
    label = "Use this plan" if not missing else f"Choose {' and '.join(missing)} to launch this"
    if (
        st.button(label, key="plan_use", type="primary", icon=":material/rocket_launch:", disabled=run is None)
        and run is not None
    ):
        st.session_state["launch_fill"] = run
        st.switch_page(routes.LAUNCH, query_params={})  # parameters bound to widgets are an error without it
    if run is not None:
        panel = st.expander("Show as YAML", icon=":material/data_object:", key="plan_yaml", on_change="rerun")
        if not panel.open:  # syntax highlighting loads 1.6 MB
            return
        with panel:
            st.code(run.to_yaml(), language="yaml", wrap_lines=True)
            st.caption("`roundhouse run launch RECIPE.yaml` launches it.")


def draw_plan_charts(plan: ScalingPlan, pool: RunPool | None) -> None:
    """Draw the plan among sizes at its budget, and on the law's frontier with runs on the same data."""
    runs = pool.runs if pool else ()
    ceiling = math.log(plan.architecture.vocab_size)
    halves = st.grid(2, min_column_width=400, gap="large")
    left, right = halves.cell(), halves.cell()
    with left:
        st.subheader("Loss against size", anchor=False)
        lines = [
            profile_line(
                plan.law,
                factor * plan.law_flops,
                name=f"{format_budget(factor * plan.flops)} FLOPs",
                ceiling=ceiling,
                unique_tokens=plan.unique_tokens,
            )
            for factor in NEIGHBOURS
        ]
        mark = Dot(plan.parameters, plan.loss.value, "This plan", f"This plan: {short(plan.parameters)} parameters")
        if not any(line.x for line in lines):
            st.info(
                "The law was fitted to larger runs: at this budget it predicts no better than chance for any size. A"
                " model can still learn; how far is known at larger budgets.",
                icon=":material/info:",
            )
        else:
            st.html(
                figure(
                    profiles_chart(lines, [()] * len(lines), marked=mark if plan.loss_is_believable else None),
                    alt="Loss against parameters at three budgets, by the scaling law",
                )
            )
    with right:
        st.subheader("Loss against compute", anchor=False)
        draw_frontier(
            plan.law,
            runs,
            around=plan.flops,
            ceiling=ceiling,
            mark=Dot(plan.law_flops, plan.loss.value, "This plan") if plan.loss_is_believable else None,
        )
    _draw_chart_captions(plan, pool)


def _draw_chart_captions(plan: ScalingPlan, pool: RunPool | None) -> None:
    words = ["Lines: scaling law, cut off above chance level."]
    if plan.epochs is not None and plan.epochs > 1:
        words.append("Left: with your data repeated as often as each size needs; right: with new data.")
    if pool is not None:
        words.append(f"Dots are your {plural(len(pool.runs), 'finished run')} on {plain(pool.label)}.")
        if len(pool.runs) >= MIN_POINTS and plan.config.law != OWN:
            words.append("Enough for a fitted law: choose it under *Scaling law*.")
    elif not plan.law.is_own:
        words.append("Your runs on this data appear here; *Studies* launches them.")
    st.caption(" ".join(words))


def draw_frontier(
    law: ScalingLaw,
    runs: Sequence[PoolRun],
    *,
    around: float,
    ceiling: float,
    mark: Dot | None = None,
    spread: float = 1e3,
) -> None:
    """Draw a law's frontier with the published ones for reference and runs as dots."""
    budgets = [around / spread, around * spread, *(run.point.flops for run in runs)]
    low, high = min(budgets) / 2, max(budgets) * 2
    others = [other for other in list_laws() if other.key != law.key]
    lines = [frontier_line(each, low, high, ceiling=ceiling) for each in (law, *others)]
    dots = [
        run_dot(run.point.flops, run.point.loss, run.name, parameters=run.point.parameters, tokens=run.point.tokens)
        for run in runs
    ]
    st.html(
        figure(
            frontier_chart(lines, dots, marked=mark), alt="Loss against training compute: scaling laws and your runs"
        )
    )


def draw_laws() -> None:
    """Draw the published laws with constants, sources and formulas."""
    st.markdown(
        "`L(N, D) = E + A / N^alpha + B / D^beta`, with N parameters (all of them), D tokens, L in nats per token, and"
        " `C = 6 N D` FLOPs."
    )
    rows = [
        {
            "Law": law.title,
            **law.constants,
            "N grows as C^": law.parameter_exponent,
            "Tokens per parameter at 1e21 FLOPs": law.optimum(1e21).tokens_per_parameter,
        }
        for law in list_laws()
    ]
    draw_table(rows, key="laws", alt="Scaling laws and their constants", formats=dict.fromkeys(rows[0], ",.5g"))
    for law in list_laws():
        st.caption(f"**{plain(law.title)}.** {plain(law.source)} {plain(law.note)}")
