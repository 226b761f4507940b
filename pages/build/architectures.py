"""Architectures: design a network, see its cost, save it."""

from __future__ import annotations

import streamlit as st

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.wording import plural, short
from backend.services.architectures import (
    ArchitectureView,
    architecture_yaml,
    archive_architecture,
    delete_architecture,
    get_architecture,
    list_architectures,
    parse_architecture,
    save_architecture,
)
from backend.services.context import Context, Person
from backend.services.tokenizers.tokenizers import get_tokenizer
from pages.components import routes
from pages.components.architectures.cost import draw_block, draw_cost, draw_memory, keep_settings
from pages.components.architectures.form import draw_architecture_form, set_fields, start_architecture_form
from pages.components.confirm import draw_confirmed_in_menu
from pages.components.form_drafts import draw_restored, forget_form, keep_form, restore_form
from pages.components.frame import errors_shown, handled, page_frame, plain, rerun_after
from pages.components.links import page_link, row_link
from pages.components.tables import WidgetTable
from pages.components.words import when

FORM = "architecture"
NO_FIELDS = (
    "architecture_save",
    "architecture_read",
    "architecture_yaml",
    "architecture_yaml_panel",
    "architecture_loaded",
    "architecture_for",
    "architecture_draft_discard",
)
TABLE = WidgetTable("architectures", {"Name": 2.6, "Shape": 2.8, "Parameters": 1.3, "Runs": 1.1, " ": 1.9, "  ": 1.3})


def draw_saved(ctx: Context, person: Person) -> None:
    """Draw the saved architectures with their actions."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("Saved", anchor=False, width="content")
        archived = st.toggle("Archived", key="archived", bind="query-params")
    stored = list_architectures(ctx, archived=archived)
    if not stored:
        st.caption("No architecture is archived." if archived else "Nothing saved yet.")
        return
    with TABLE.frame():
        for view in stored:
            draw_saved_row(ctx, person, view)


def draw_saved_row(ctx: Context, person: Person, view: ArchitectureView) -> None:
    """Draw one saved architecture."""
    columns = TABLE.row(view.id)
    with columns[0]:
        row_link(view.name, page=routes.ARCHITECTURES, query={"architecture": view.id}, key=f"open_{view.id}")
    config = view.config
    shape = f"{plural(config.num_layers, 'layer')} × {config.width} wide, {config.context:,} tokens"
    columns[1].caption(f"{FAMILIES[config.family].title}, {shape}")
    columns[2].text(short(view.parameters))
    columns[3].caption(plural(view.num_runs, "run"))
    page_link(routes.LAUNCH, "Launch", {"architecture": view.name}, place=columns[4])
    with columns[5].popover("", icon=":material/more_horiz:", key=f"more_{view.id}", help="Archive or delete"):
        st.caption(f"Saved {when(view.created_at)}")
        word = "Restore from the archive" if view.archived_at else "Archive"
        if st.button(word, key=f"archive_{view.id}", icon=":material/archive:"):
            with rerun_after():
                archive_architecture(ctx, view.id, person=person, archived=view.archived_at is None)
        draw_confirmed_in_menu(
            "Delete",
            f"**{plain(view.name)}** is deleted permanently.",
            lambda: delete_architecture(ctx, view.id, person=person),
            key=f"delete_{view.id}",
        )


def draw_save(ctx: Context, person: Person, config: ArchitectureConfig | None) -> None:
    """Draw the name and the save button."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("Name", key="architecture_name", placeholder="tiny-llama", width="stretch")
        if (
            st.button("Save", type="primary", icon=":material/save:", key="architecture_save", disabled=config is None)
            and config is not None
        ):
            with errors_shown():
                saved = save_architecture(ctx, name=name or "", config=config, person=person)
                forget_form(ctx, person, FORM)
                st.toast(f"Saved {plain(saved.name)}.", icon=":material/check_circle:")


def draw_architecture_yaml(config: ArchitectureConfig | None) -> None:
    """Draw the config as YAML and the form that reads YAML. Drawn only when opened: highlighting loads 1.6 MB."""
    panel = st.expander("As YAML", icon=":material/data_object:", key="architecture_yaml_panel", on_change="rerun")
    if not panel.open:
        return
    with panel:
        if config is not None:
            st.code(architecture_yaml(config), language="yaml")
            st.caption("`roundhouse architecture describe FILE.yaml` reads the same YAML.")
        st.text_area("Read from YAML", key="architecture_yaml", height=120, placeholder="num_layers: 6\nwidth: 192\n…")
        st.button("Load into the form", key="architecture_read", icon=":material/input:", on_click=read_yaml)


@handled
def read_yaml() -> None:
    """Load the pasted YAML into the form. A callback, before the page is drawn: a rerun could stop between fields."""
    set_fields(parse_architecture(st.session_state["architecture_yaml"] or ""))


def load_requested(ctx: Context) -> None:
    """Fill the form from the address before its widgets are drawn: `?architecture=`, or that of `?tokenizer=`."""
    name = st.query_params.get("architecture")
    if name and st.session_state.get("architecture_loaded") != name:
        set_fields(get_architecture(ctx, name).config)
        st.session_state["architecture_loaded"] = name
    tokenizer = st.query_params.get("tokenizer")
    if tokenizer and st.session_state.get("architecture_for") != tokenizer:
        entries = get_tokenizer(ctx, tokenizer).vocab_size
        set_fields(ArchitectureConfig(vocab_size=entries) if entries else ArchitectureConfig())
        st.session_state["architecture_for"] = tokenizer


with page_frame(
    "Architectures", "Design a decoder and see parameters, FLOPs and memory as you type.", way_back=True
) as (ctx, person):
    load_requested(ctx)
    is_new = "architecture_width" not in st.session_state
    start_architecture_form(ctx)
    if is_new:
        restore_form(ctx, person, FORM, first="architecture_name")
    halves = st.grid(2, min_column_width=360, gap="large")  # side by side from 1280 pixels
    form, cost = halves.cell(), halves.cell()
    with form, st.container(border=True):
        st.subheader("Shape", anchor=False)
        draw_restored(ctx, person, FORM)
        config = draw_architecture_form(ctx)
        draw_save(ctx, person, config)
        keep_form(ctx, person, FORM, prefix="architecture_", skip=NO_FIELDS)
    with cost:
        if config is None:
            st.warning("This model can't be built: see the messages at the fields.", icon=":material/rule:")
            keep_settings()
        else:
            precision = draw_cost(config)
            draw_memory(ctx, config, precision=precision)
            draw_block(config)
        draw_architecture_yaml(config)
    draw_saved(ctx, person)
