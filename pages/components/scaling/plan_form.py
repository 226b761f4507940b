"""Form of a plan: budget, data, tokenizer, scaling law. Its values are kept in the address."""

from __future__ import annotations

from typing import Any

import streamlit as st

from backend.domain.architectures.families import FAMILIES
from backend.domain.json_values import FieldValues
from backend.domain.scaling.laws import PUBLISHED
from backend.domain.scaling.plan import DEFAULT_VOCABULARY, PlanConfig
from backend.domain.scaling.shapes import DENSE_FAMILIES
from backend.services.context import Context
from backend.services.data.datasets import list_datasets
from backend.services.scaling.planner import OWN, list_measured_devices
from backend.services.serving.prices import current_prices
from backend.services.tokenizers.tokenizers import list_tokenizers
from pages.components.choices import choose_one
from pages.components.forms import draw_fields

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
