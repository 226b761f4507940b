"""Form that starts a campaign."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.campaign_file import CampaignFile, ContestantSource, render_campaign
from backend.domain.data.kinds import PROMPT_KINDS
from backend.domain.wording import plural
from backend.services.battles.campaigns import start_campaign
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.serving.endpoints import list_endpoints
from pages.components import routes
from pages.components.choices import by_identity
from pages.components.frame import empty_state, errors_shown
from pages.components.numbers import draw_number, number_form, wrong_numbers

ENDPOINT = "endpoint:"
PAIRINGS = {"information": "Least certain pairs first", "uniform": "All pairs alike"}
GOLD = {"prompt": "Prompt", "better": "Better answer", "worse": "Worse answer"}
RATINGS = {"none": "Compare two answers", "thumbs": "Thumbs", "stars": "1 to 5 stars"}


@number_form
def draw_campaign_form(ctx: Context, person: Person) -> None:
    """Draw the form; a new campaign opens its own page."""
    checkpoints = {checkpoint.id: checkpoint.name for checkpoint in list_checkpoints(ctx, ready=True)}
    endpoints = {ENDPOINT + endpoint.name: f"{endpoint.name} (endpoint)" for endpoint in list_endpoints(ctx)}
    entrants = {**checkpoints, **endpoints}
    datasets = {
        d.newest.label: (d.kind, d.newest.rows) for d in list_datasets(ctx, kinds=PROMPT_KINDS, ready=True) if d.newest
    }
    if len(checkpoints) < 2 and not endpoints:
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
        "Name",
        key="campaign_name",
        max_chars=120,
        placeholder="Autumn stories",
        help="Raters may see it: don't name a contestant.",
    )
    chosen = st.multiselect(
        "Contestants",
        list(entrants),
        default=entered,
        format_func=by_identity("campaign_contestants", entrants, entrants.__getitem__),
        key="campaign_contestants",
        placeholder="Choose two or more checkpoints or endpoints",
    )
    uploads = st.file_uploader(
        "Completions of other models",
        type=["jsonl"],
        accept_multiple_files=True,
        key="campaign_files",
        help='JSON lines {"prompt", "completion"}, one file a model, which gives the contestant its name.',
    )
    dataset, prompts = draw_prompts(labels, datasets)
    values = {**prompts, **draw_sampling(), **draw_pairing(), **draw_ballot_fields(), **draw_gold()}
    sources = [_source(entrant) for entrant in chosen] + [ContestantSource(file=upload.name) for upload in uploads]
    least = 1 if values["rating"] != "none" else 2
    is_ready = bool(name) and len(sources) >= least
    label = "Generate completions" if is_ready else f"Enter a name and choose {plural(least, 'contestant')}"
    if st.button(
        label,
        type="primary",
        key="campaign_create",
        icon=":material/swords:",
        disabled=not is_ready or bool(wrong_numbers()),
    ):
        with errors_shown():
            files = {upload.name: upload.getvalue().decode("utf-8", "replace") for upload in uploads}
            config = CampaignConfig.of(**values)
            made = start_campaign(
                ctx, name=name, contestants=sources, dataset=dataset, config=config, person=person, files=files
            )
            st.switch_page(routes.BATTLES, query_params={"campaign": made.id})
    if is_ready:
        _draw_yaml(values, name=name, dataset=dataset, sources=sources)


def _draw_yaml(values: dict[str, Any], *, name: str, dataset: str, sources: list[ContestantSource]) -> None:
    with st.expander("Show as YAML", icon=":material/code:", key="campaign_yaml"), errors_shown():
        config = CampaignConfig.of(**values)
        document = CampaignFile(**config.model_dump(), name=name, dataset=dataset, contestants=tuple(sources))
        st.code(render_campaign(document), language="yaml")
        st.caption("`roundhouse campaign create FILE.yaml` starts the same campaign.")


def _source(entrant: str) -> ContestantSource:
    if entrant.startswith(ENDPOINT):
        return ContestantSource(endpoint=entrant.removeprefix(ENDPOINT))
    return ContestantSource(checkpoint=entrant)


def draw_prompts(labels: list[str], datasets: dict[str, tuple[str, int]]) -> tuple[str, dict[str, Any]]:
    """Draw the dataset of the prompts, their number, system text and column of categories; return the dataset and the
    values.
    """
    fields = CampaignConfig.model_fields
    left, right = st.columns([3, 1])
    dataset = left.selectbox(
        "Prompts",
        labels,
        key="campaign_dataset",
        format_func=by_identity(
            "campaign_dataset",
            labels,
            lambda label: f"{label} · {datasets[label][0]}, {plural(datasets[label][1], 'row')}",
        ),
    )
    num = draw_number(
        right, "Number of prompts", 1, 5000, 30, key="campaign_num", help=fields["num_prompts"].description
    )
    allow_train = st.checkbox("Allow training rows", key="campaign_allow_train", help=fields["allow_train"].description)
    with st.expander("System text, categories", key="campaign_prompts_more"):
        system = st.text_area(
            "System text", key="campaign_system", max_chars=20_000, height=100, help=fields["system"].description
        )
        column = st.text_input(
            "Category column",
            key="campaign_category",
            max_chars=80,
            placeholder="topic",
            help=fields["category_column"].description,
        )
    values = {
        "num_prompts": int(num),
        "allow_train": allow_train,
        "system": system.strip(),
        "category_column": column.strip(),
    }
    return dataset, values


def draw_gold() -> dict[str, Any]:
    """Draw the table of gold pairs and their share; return the values."""
    fields = CampaignConfig.model_fields
    with st.expander("Gold pairs", key="campaign_gold_more"):
        st.caption(
            "Battles whose better answer is known. They look like any other, stay off the board, and show which raters"
            " read."
        )
        table = st.data_editor(
            pd.DataFrame({column: pd.Series(dtype="str") for column in GOLD}),
            num_rows="dynamic",
            hide_index=True,
            width="stretch",
            alt="Gold pairs",
            key="campaign_gold",
            column_config={column: st.column_config.TextColumn(label, required=True) for column, label in GOLD.items()},
        )
        rows = [
            {column: str(row[column] or "").strip() for column in GOLD} for row in table.fillna("").to_dict("records")
        ]
        gold = [row for row in rows if any(row.values())]
        share = draw_number(
            st,
            "Share of gold battles",
            0.0,
            0.5,
            fields["gold_share"].default,
            key="campaign_gold_share",
            is_whole=False,
            step=0.05,
            width=240,
            help=fields["gold_share"].description,
        )
    return {"gold": gold, "gold_share": share} if gold else {}


def draw_sampling() -> dict[str, float | int]:
    """Draw sampling settings and ballot length; return the values."""
    with st.expander("Sampling, seed, ballot length", key="campaign_more"):
        left, middle, right = st.columns(3)
        return {
            "max_tokens": int(_number(left, "max_tokens", "Max new tokens", low=1, high=4096, step=1)),
            "temperature": float(_number(middle, "temperature", "Temperature", low=0.0, high=2.0, step=0.1)),
            "top_p": float(_number(right, "top_p", "Top p", low=0.05, high=1.0, step=0.05)),
            "seed": int(_number(left, "seed", "Seed", low=0, high=2**31, step=1)),
            "votes_per_rater": int(
                _number(middle, "votes_per_rater", "Max votes per rater", low=1, high=10_000, step=1)
            ),
            "smallest_gap": float(
                _number(right, "smallest_gap", "Smallest relevant gap", low=5.0, high=800.0, step=5.0)
            ),
        }


def draw_pairing() -> dict[str, Any]:
    """Draw pairing, overlap, repeats and the stopping rule; return the values."""
    fields = CampaignConfig.model_fields
    with st.expander("Pairing, overlap, stopping rule", key="campaign_pairing_more"):
        left, middle, right = st.columns(3)
        pairing = left.selectbox(
            "Pairing",
            list(PAIRINGS),
            format_func=PAIRINGS.__getitem__,
            key="campaign_pairing",
            help=fields["pairing"].description,
        )
        overlap = _number(middle, "overlap_share", "Overlap share", low=0.0, high=1.0, step=0.05)
        raters = _number(right, "overlap_raters", "Raters of shared battles", low=2, high=20, step=1)
        repeats = _number(left, "repeat_share", "Swapped repeats, share", low=0.0, high=0.5, step=0.05)
        stop_votes = draw_number(
            middle,
            "Stop after votes",
            1,
            None,
            key="campaign_stop_votes",
            placeholder="no limit",
            help=fields["stop_votes"].description,
        )
        on_verdict = right.checkbox(
            "Stop at the verdict", key="campaign_stop_on_verdict", help=fields["stop_on_verdict"].description
        )
    return {
        "pairing": pairing,
        "overlap_share": overlap,
        "overlap_raters": int(raters),
        "repeat_share": repeats,
        "stop_votes": stop_votes,
        "stop_on_verdict": on_verdict,
    }


def draw_ballot_fields() -> dict[str, Any]:
    """Draw what raters are asked; return the values."""
    fields = CampaignConfig.model_fields
    with st.expander("Ballot: question, reasons, rubric", key="campaign_ballot_more"):
        question = st.text_input(
            "Question",
            fields["question"].default,
            key="campaign_question",
            max_chars=200,
            help=fields["question"].description,
        )
        reasons = st.text_input(
            "Reasons to tick, separated by commas",
            key="campaign_reasons",
            placeholder="wrong fact, off topic, too long",
        )
        rubric = st.text_input(
            "Rubric dimensions, separated by commas", key="campaign_dimensions", placeholder="accuracy, style"
        )
        left, middle, right = st.columns(3, vertical_alignment="bottom")
        rating = left.selectbox(
            "Single answers",
            list(RATINGS),
            format_func=RATINGS.__getitem__,
            key="campaign_rating",
            help=fields["rating"].description,
        )
        note = middle.checkbox("Free note", value=True, key="campaign_note")
        rewrite = right.checkbox(
            "Rewriting the better answer", key="campaign_rewrite", help=fields["rewrite"].description
        )
    return {
        "question": question,
        "reasons": _split(reasons),
        "dimensions": [{"name": name.replace(" ", "_")} for name in _split(rubric)],
        "rating": rating,
        "note": note,
        "rewrite": rewrite,
    }


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(place: DeltaGenerator, field: str, label: str, *, low: float, high: float, step: float) -> float:
    """Draw a number field of the campaign's config with its default and description."""
    info = CampaignConfig.model_fields[field]
    return float(
        draw_number(
            place,
            label,
            low,
            high,
            info.default,
            key=f"campaign_{field}",
            is_whole=isinstance(low, int),
            step=step,
            help=info.description,
        )
    )
