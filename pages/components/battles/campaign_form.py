"""Form that starts a campaign."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.battles.campaign import CampaignConfig
from backend.domain.data.kinds import PROMPT_KINDS
from backend.domain.wording import plural
from backend.services.battles.campaigns import create_campaign
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from pages.components import routes
from pages.components.frame import empty_state, errors_shown


def draw_campaign_form(ctx: Context, person: Person) -> None:
    """Draw the form; a new campaign opens its own page."""
    checkpoints = {checkpoint.id: checkpoint.name for checkpoint in list_checkpoints(ctx, ready=True)}
    datasets = {d.newest.label: (d.kind, d.newest.rows) for d in list_datasets(ctx, kinds=PROMPT_KINDS, ready=True) if d.newest}
    if len(checkpoints) < 2:
        empty_state(
            "A battle needs two checkpoints, such as two steps of one run. Train a network, or add a base.",
            page=routes.LAUNCH,
            label="Launch a run",
        )
        return
    if not datasets:
        empty_state("No prompts yet. Import a dataset of kind prompts or chat.", page=routes.DATASETS, label="Datasets")
        return
    entered = [part for part in st.query_params.get("contestants", "").split(",") if part in checkpoints]
    labels = sorted(datasets, key=lambda label: PROMPT_KINDS.index(datasets[label][0]))
    name = st.text_input(
        "Name", key="campaign_name", max_chars=120, placeholder="Autumn stories", help="Raters may see it: don't name a contestant."
    )
    chosen = st.multiselect(
        "Contestants",
        list(checkpoints),
        default=entered,
        format_func=checkpoints.__getitem__,
        key="campaign_contestants",
        placeholder="Choose two or more checkpoints",
    )
    left, right = st.columns([3, 1])
    dataset = left.selectbox(
        "Prompts",
        labels,
        key="campaign_dataset",
        format_func=lambda label: f"{label} · {datasets[label][0]}, {plural(datasets[label][1], 'row')}",
    )
    fields = CampaignConfig.model_fields
    num = right.number_input("Number of prompts", 1, 5000, 30, key="campaign_num", help=fields["num_prompts"].description)
    allow_train = st.checkbox("Allow training rows", key="campaign_allow_train", help=fields["allow_train"].description)
    values = {"num_prompts": int(num), "allow_train": allow_train, **draw_sampling()}
    label = "Generate completions" if name and len(chosen) > 1 else "Enter a name and choose two contestants"
    if st.button(label, type="primary", key="campaign_create", icon=":material/swords:", disabled=not (name and len(chosen) > 1)):
        with errors_shown():
            made = create_campaign(
                ctx, name=name, checkpoint_ids=chosen, dataset=dataset, config=CampaignConfig.model_validate(values), person=person
            )
            st.switch_page(routes.BATTLES, query_params={"campaign": made.id})


def draw_sampling() -> dict[str, float | int]:
    """Draw sampling settings and ballot length; return the values."""
    with st.expander("Sampling, seed, ballot length", key="campaign_more"):
        left, middle, right = st.columns(3)
        return {
            "max_tokens": int(_number(left, "max_tokens", "Max new tokens", low=1, high=4096, step=1)),
            "temperature": float(_number(middle, "temperature", "Temperature", low=0.0, high=2.0, step=0.1)),
            "top_p": float(_number(right, "top_p", "Top p", low=0.05, high=1.0, step=0.05)),
            "seed": int(_number(left, "seed", "Seed", low=0, high=2**31, step=1)),
            "votes_per_rater": int(_number(middle, "votes_per_rater", "Max votes per rater", low=1, high=10_000, step=1)),
            "smallest_gap": float(_number(right, "smallest_gap", "Smallest relevant gap", low=5.0, high=800.0, step=5.0)),
        }


def _number(place: DeltaGenerator, field: str, label: str, *, low: float, high: float, step: float) -> float:
    """Draw a number field of the campaign's config with its default and description."""
    info = CampaignConfig.model_fields[field]
    return float(place.number_input(label, low, high, info.default, step, key=f"campaign_{field}", help=info.description))
