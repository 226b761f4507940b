"""Form that starts a campaign."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from backend.domain.battles.campaign import (
    BALLOT,
    PAIRING,
    SAMPLING,
    CampaignConfig,
    CampaignFile,
    ContestantSource,
    render_campaign,
)
from backend.domain.data.kinds import PROMPT_KINDS
from backend.domain.data.rows.display import displayable
from backend.domain.wording import plural
from backend.errors import InvalidInput
from backend.services.battles.campaigns import list_completion_columns, start_campaign
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.serving.endpoints import describe_same_models, list_endpoints
from pages.components import routes
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import by_identity, choose_from
from pages.components.form_drafts import draw_restored, forget_form, keep_form, restore_form
from pages.components.forms import draw_fields, draw_refusal, group_expander, refusals_marked
from pages.components.frame import empty_state, errors_shown, no_checkpoint_state, plain, show_problem, spoken
from pages.components.links import page_link
from pages.components.numbers import form_button, number_form

FORM = "campaign"
NO_FIELDS = ("campaign_create", "campaign_yaml", "campaign_draft_discard")
ENDPOINT = "endpoint:"
GOLD = {"prompt": "Prompt", "better": "Better answer", "worse": "Worse answer"}
SYSTEM = "System prompt, categories"
OWN_PROMPTS = ""
MORE = [str(shown.group) for shown in (SAMPLING, PAIRING, BALLOT)]


@number_form
def draw_campaign_form(ctx: Context, person: Person) -> None:
    """Draw the form; a new campaign opens its own page."""
    checkpoints = label_usable_first(ctx, list_checkpoints(ctx, ready=True))
    served = {ENDPOINT + endpoint.name: endpoint for endpoint in list_endpoints(ctx)}
    endpoints = {key: f"{one.name} (endpoint, serves {one.checkpoint_name})" for key, one in served.items()}
    entrants = {**checkpoints, **endpoints}
    datasets = {
        d.newest.label: (d.kind, d.newest.rows) for d in list_datasets(ctx, kinds=PROMPT_KINDS, ready=True) if d.newest
    }
    if len(checkpoints) < 2 and not endpoints:
        no_checkpoint_state(
            "A battle needs two contestants: checkpoints, such as two steps of one run, endpoints, or files of"
            " completions of other models. Train a model, or add a base."
        )
    if not datasets:
        empty_state(
            "No prompts yet. Import a dataset of kind prompts or chat, or use those of files of completions.",
            page=routes.DATASETS,
            label="Datasets",
        )
    entered = [part for part in st.query_params.get("contestants", "").split(",") if part in checkpoints]
    labels = sorted(datasets, key=lambda label: PROMPT_KINDS.index(datasets[label][0]))
    if not entered:
        restore_form(ctx, person, FORM, first="campaign_name")
    draw_restored(ctx, person, FORM)
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
        filter_mode="contains",
        select_all=False,  # a word typed and Enter would take all that match it
    )
    for key in chosen:
        if key in served and served[key].checkpoint_id in chosen:
            words = f"The endpoint {served[key].name} serves {served[key].checkpoint_name}, which is chosen too: the"
            st.warning(plain(f"{words} two are one model."), icon=":material/content_copy:")
    if words := describe_same_models(served[key] for key in chosen if key in served):
        st.warning(plain(f"{words} Raters would compare one model with itself."), icon=":material/content_copy:")
    uploads = st.file_uploader(
        "Completions of other models",
        type=["jsonl"],
        accept_multiple_files=True,
        key="campaign_files",
        help='JSON lines {"prompt", "completion"}, one file a model, which gives the contestant its name. A file with'
        " several columns of completions holds a contestant in each.",
    )
    files = {upload.name: upload.getvalue().decode("utf-8", "replace") for upload in uploads}
    entered_files = [source for upload in uploads for source in _draw_columns(upload, files[upload.name])]
    dataset, prompts = draw_prompts(labels, datasets)
    gold, incomplete = draw_gold()
    values = {**prompts, **draw_more(), **gold}
    keep_form(ctx, person, FORM, prefix="campaign_", skip=NO_FIELDS)
    sources = [_source(entrant) for entrant in chosen] + entered_files
    least = 1 if values["rating"] != "none" else 2
    missing = {
        "enter a name": not name.strip(),
        f"choose {plural(least, 'contestant')}": len(sources) < least,
        "add a file of completions, or choose a dataset": dataset == OWN_PROMPTS and not uploads,
        f"complete gold pair {', '.join(map(str, incomplete[:3]))}": bool(incomplete),
    }
    if form_button("Create campaign", missing, key="campaign_create", icon="swords"):
        with refusals_marked(values, key=FORM):
            config = CampaignConfig.of(**values)
            made = start_campaign(
                ctx, name=name, contestants=sources, dataset=dataset, config=config, person=person, files=files
            )
            forget_form(ctx, person, FORM)
            st.switch_page(routes.BATTLES, query_params={"campaign": made.id})
    draw_refusal(CampaignConfig, key=FORM)
    if not any(missing.values()):
        _draw_yaml(values, name=name, dataset=dataset, sources=sources)


def _draw_yaml(values: Mapping[str, object], *, name: str, dataset: str, sources: list[ContestantSource]) -> None:
    with st.expander("Show as YAML", icon=":material/code:", key="campaign_yaml"), errors_shown():
        config = CampaignConfig.of(**values)
        document = CampaignFile(**config.model_dump(), name=name, dataset=dataset, contestants=tuple(sources))
        st.code(render_campaign(document), language="yaml")
        st.caption("`roundhouse campaign create FILE.yaml` starts the same campaign.")


def _source(entrant: str) -> ContestantSource:
    if entrant.startswith(ENDPOINT):
        return ContestantSource(endpoint=entrant.removeprefix(ENDPOINT))
    return ContestantSource(checkpoint=entrant)


def _draw_columns(upload: UploadedFile, text: str) -> list[ContestantSource]:
    """Draw the choice of a file's columns that are contestants, or why it can't be used; return the contestants."""
    try:
        columns, usual = list_completion_columns(text)
    except InvalidInput as error:
        show_problem(f"{upload.name}: {error.message}", error.remedy)
        return []
    if columns == (usual,):
        return [ContestantSource(file=upload.name)]
    key = f"contestant_columns_{upload.file_id}"
    default = [usual] if usual else list(columns) if len(columns) == 1 else []
    shown = {column: displayable(column) for column in columns}
    chosen = st.multiselect(
        f"Columns of {spoken(upload.name)} with completions",
        columns,
        default=default,
        format_func=by_identity(key, shown, shown.__getitem__),
        key=key,
        placeholder="Choose one for each contestant",
        help="The column gives the contestant its name; a single one has the file's.",
        select_all=False,
    )
    if len(chosen) > 1:
        return [ContestantSource(file=upload.name, column=column) for column in chosen]
    return [ContestantSource(file=upload.name, column=column, name=Path(upload.name).stem[:120]) for column in chosen]


def draw_prompts(labels: list[str], datasets: dict[str, tuple[str, int]]) -> tuple[str, dict[str, object]]:
    """Draw the dataset of the prompts, number, system prompt and column of categories; return it, `OWN_PROMPTS` for
    those of the files of completions, and the values.
    """
    left, right = st.columns([3, 1])
    words = {label: f"{label} · {datasets[label][0]}, {plural(datasets[label][1], 'row')}" for label in labels}
    dataset = choose_from(
        "Prompts",
        words | {OWN_PROMPTS: "The files' own prompts"},
        key="campaign_dataset",
        place=left,
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Prompts of your own: paste them or upload a file, kind prompts, one a line.", width="content")
        page_link(routes.DATASETS, "Import a dataset", {"import": "1"})
    values = draw_fields(CampaignConfig, only=("num_prompts",), key="campaign", place=right)
    values |= draw_fields(CampaignConfig, key="campaign", skip=("num_prompts",))
    with group_expander(CampaignConfig, SYSTEM, SYSTEM, name="campaign_prompts_more", key=FORM):
        values |= draw_fields(CampaignConfig, group=SYSTEM, key="campaign", columns=1)
    return dataset, values


def draw_more() -> dict[str, object]:
    """Draw the other groups of fields, folded; return the values."""
    values: dict[str, object] = {}
    for group in MORE:
        name = f"campaign_{group.split(',')[0].split(':')[0].lower()}_more"
        with group_expander(CampaignConfig, group, group, name=name, key=FORM):
            values |= draw_fields(CampaignConfig, group=group, key="campaign")
            if group == BALLOT.group:
                rubric = st.text_input(
                    "Rubric dimensions, separated by commas", key="campaign_dimensions", placeholder="accuracy, style"
                )
                names = [name.strip().replace(" ", "_") for name in rubric.split(",") if name.strip()]
                values["dimensions"] = [{"name": name} for name in names]
    return values


def draw_gold() -> tuple[dict[str, object], list[int]]:
    """Draw the table of gold pairs and their share; return the values, and the numbers of incomplete pairs from 1."""
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
            column_config=dict(GOLD),  # none required: browsers withhold a row that lacks a required cell
        )
        rows = [
            {column: str(row[column] or "").strip() for column in GOLD} for row in table.fillna("").to_dict("records")
        ]
        gold = [row for row in rows if any(row.values())]
        share = draw_fields(CampaignConfig, group="Gold pairs", key="campaign")
    incomplete = [number for number, row in enumerate(rows, start=1) if row in gold and not all(row.values())]
    return {"gold": gold, **share} if gold else {}, incomplete
