"""Form of a plan: budget, data, tokenizer, scaling law. Its values are kept in the address."""

from __future__ import annotations

import streamlit as st

from backend.domain.architectures.families import FAMILIES
from backend.domain.json_values import FieldValues
from backend.domain.scaling.laws import DEFAULT_LAW, PUBLISHED
from backend.domain.scaling.plan import DEFAULT_VOCABULARY
from backend.domain.scaling.shapes import DENSE_FAMILIES
from backend.services.context import Context
from backend.services.data.datasets import list_datasets
from backend.services.scaling.planner import OWN, list_measured_devices
from backend.services.serving.costs.prices import current_prices
from backend.services.tokenizers.tokenizers import list_tokenizers
from pages.components.numbers import draw_number

FLOPS, HOURS, MONEY = "FLOPs", "Device-hours", "Money"
OWN_LABEL = "Your own finished runs"


def draw_plan_form(ctx: Context) -> FieldValues:
    """Draw the form, part of a `number_form`; return the values of a `PlanConfig`."""
    devices = list_measured_devices(ctx)
    values: FieldValues = _draw_budget(ctx, known=bool(devices))
    for field, name in zip(("dataset", "tokenizer"), first_parts(ctx), strict=True):
        if field not in st.query_params:
            st.session_state.setdefault(field, name)  # a default that can be cleared
    left, right = st.columns(2)
    values["dataset"] = left.selectbox(
        "Dataset",
        dataset_options(ctx),
        index=None,
        key="dataset",
        bind="query-params",
        placeholder="Any",
        help="Sets the number of epochs. Required to launch.",
    )
    values["tokenizer"] = right.selectbox(
        "Tokenizer",
        tokenizer_options(ctx),
        index=None,
        key="tokenizer",
        bind="query-params",
        placeholder="Any",
        help="Sets the vocabulary. Required to launch.",
    )
    values["law"] = st.selectbox(
        "Scaling law",
        [*PUBLISHED, OWN],
        key="law",
        bind="query-params",
        format_func=law_label,
        index=[*PUBLISHED].index(DEFAULT_LAW),
        help="Published laws were fitted on other data; your own runs give a law for the dataset and tokenizer above.",
    )
    left, right = st.columns(2)
    values["family"] = left.selectbox(
        "Family",
        DENSE_FAMILIES,
        key="family",
        bind="query-params",
        format_func=lambda name: FAMILIES[name].title,
        help="Dense models: the laws do not cover mixtures of experts.",
    )
    values["context"] = draw_number(right, "Context, tokens", 8, 1_048_576, 256, key="context", bind="query-params")
    values |= _draw_more(devices, tokenizer=values["tokenizer"])
    return {name: value for name, value in values.items() if value is not None}


def _draw_budget(ctx: Context, *, known: bool) -> dict[str, object]:
    kind = st.segmented_control(
        "Budget",
        [FLOPS, HOURS, MONEY],
        key="budget",
        bind="query-params",
        default=HOURS if known else FLOPS,
        required=True,
    )
    if kind == FLOPS:
        amount = draw_number(
            st,
            "Training FLOPs",
            1.0,
            1e40,
            1e15,
            is_whole=False,
            written="%.3e",
            key="flops",
            bind="query-params",
            help="Such as 1e15. A model of N parameters takes about 6 N FLOPs per token.",
        )
        return {"flops": amount}
    if kind == HOURS:
        return {
            "device_hours": draw_number(
                st,
                "Device-hours",
                0.001,
                1e12,
                1.0,
                is_whole=False,
                key="hours",
                bind="query-params",
                help="At the speed measured on this installation.",
            )
        }
    left, right = st.columns(2)
    money = draw_number(left, "US dollars", 0.01, 1e15, 10.0, is_whole=False, key="money", bind="query-params")
    price = draw_number(
        right,
        "Price of a device-hour",
        0.0001,
        1e9,
        current_prices(ctx).default,
        is_whole=False,
        key="price",
        bind="query-params",
        placeholder="Not set",
        help="In US dollars. The Costs page sets the default.",
    )
    return {"money_usd": money, "price_usd": price}


def _draw_more(devices: list[str], *, tokenizer: str | None) -> dict[str, object]:
    values: dict[str, object] = {}
    with st.expander("More", icon=":material/tune:"):
        if tokenizer is None:
            values["vocab_size"] = draw_number(
                st,
                "Vocabulary",
                2,
                1_000_000,
                DEFAULT_VOCABULARY,
                key="vocabulary",
                bind="query-params",
                help="Vocabulary size of the tokenizer.",
            )
        values["tokens_per_parameter"] = draw_number(
            st,
            "Tokens per parameter",
            0.01,
            1e6,
            is_whole=False,
            key="ratio",
            bind="query-params",
            placeholder="The law's optimum",
            help="More than the optimum (about 20) gives a smaller model that is cheaper to serve.",
        )
        if len(devices) > 1:
            values["device"] = st.selectbox(
                "Device", devices, key="device", bind="query-params", help="Device whose measured speed is used."
            )
        values["flops_per_s"] = draw_number(
            st,
            "Device speed, FLOP/s",
            1.0,
            1e30,
            is_whole=False,
            written="%.3e",
            key="rate",
            bind="query-params",
            placeholder="As measured" if devices else "Nothing measured yet",
            help="For a device you don't have: achieved in training, commonly 30 to 50 % of the data sheet.",
        )
    return values


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
