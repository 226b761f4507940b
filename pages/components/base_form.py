"""The form that brings a base in: a folder, a GGUF file, a Hub id, or what lies under MODEL_PATH."""

from __future__ import annotations

import uuid
from pathlib import Path

import streamlit as st

from backend.services.checkpoint_files import add_base, list_base_offers
from backend.services.checkpoints import CheckpointView
from backend.services.context import Context, Person
from pages.components.frame import errors_shown


def draw_base_form(ctx: Context, person: Person) -> CheckpointView | None:
    """Draw the form; return the base once the person has asked for it."""
    with st.container(border=True):
        st.subheader("Add a base", anchor=False)
        source = _choose_source(ctx, person)
        name = st.text_input("Name", value=_suggest(source), key=f"base_name_{source}")
        st.caption("Weights are read from safetensors or GGUF only; code that comes with a checkpoint is never run.")
        st.session_state.setdefault("base_once", uuid.uuid4().hex)
        if not st.button("Add", type="primary", icon=":material/add:", key="base_add", disabled=not source):
            return None
    with errors_shown():
        return add_base(ctx, name=name or "", source=source, person=person, idempotency_key=st.session_state.pop("base_once"))
    return None


def _choose_source(ctx: Context, person: Person) -> str:
    offers = list_base_offers(ctx)
    ways = [
        *(["From the folder of checkpoints"] if offers else []),
        *(["Folder or .gguf file"] if person.id is None else []),
        "From the Hugging Face Hub",
    ]
    way = st.segmented_control("Source", ways, default=ways[0], required=True, key="base_way", label_visibility="collapsed")
    if way == "From the folder of checkpoints":
        icons = {"folder": "folder", "gguf": "GGUF file"}
        offer = st.selectbox(
            "Checkpoint",
            offers,
            index=None,
            key="base_offer",
            format_func=lambda o: f"{o.name} · {icons[o.kind]}",
            placeholder="Choose one",
        )
        return str(offer.path) if offer else ""
    if way == "Folder or .gguf file":
        path = st.text_input(
            "Path on the server",
            key="base_path",
            placeholder="/path/to/checkpoint",
            help="A folder with config.json and safetensors, or a .gguf file.",
        )
        return (path or "").strip()
    hub = st.text_input("Hub id", key="base_hub", placeholder="owner/name", help="A public checkpoint on huggingface.co.")
    return (hub or "").strip()


def _suggest(source: str) -> str:
    """Suggest a name: the folder's, or its parent's where the folder is called as everybody's."""
    path = Path(source)
    stem = path.stem if path.suffix == ".gguf" else path.name
    return path.parent.name if stem in {"hf", "model", "checkpoint", "final"} else stem
