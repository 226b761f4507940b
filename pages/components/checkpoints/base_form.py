"""Form that adds a base from MODEL_PATH, a folder or GGUF file, or the Hub, with a preview."""

from __future__ import annotations

import uuid
from pathlib import Path

import streamlit as st

from backend.domain.wording import plural, short
from backend.errors import RoundhouseError
from backend.services.checkpoints.bases import (
    MAX_OFFERS,
    BaseOffer,
    BasePreview,
    add_base,
    list_base_offers,
    preview_base,
)
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context, Person
from pages.components.choices import choose_from, choose_one
from pages.components.frame import draw_metric, errors_shown, object_heading, plain, show_error
from pages.components.numbers import form_button
from pages.components.tables import draw_table
from pages.components.words import size

OFFERED, PATH, HUB = "From MODEL_PATH", "Folder or .gguf file", "From the Hugging Face Hub"
MANY_BYTES = 4_000_000_000


def draw_base_form(ctx: Context, person: Person) -> CheckpointView | None:
    """Draw the form; return the base that was added."""
    object_heading("Add a base")
    with st.container(border=True):
        offers = list_base_offers(ctx)
        ways = [*([OFFERED] if offers else []), *([PATH] if person.id is None else []), HUB]
        way = choose_one("Source", ways, key="base_way", is_bare=True)
        if way == OFFERED:
            source, revision, look = _choose_offer(offers)
        else:
            source, revision, look = _choose_path(ctx, person) if way == PATH else _choose_hub(ctx, person)
        if look is not None:
            _draw_preview(look)
        name = st.text_input("Name", value=_suggest(source), key=f"base_name_{source}")
        st.caption("Weights are read from safetensors or GGUF; code in a checkpoint is never run.")
        st.session_state.setdefault("base_once", uuid.uuid4().hex)
        missing = {_next_step(way): not source, "enter the name": bool(source) and not name}
        submitted = form_button("Add", missing, key="base_add", icon="add")
        if way == OFFERED:
            _draw_unusable(offers)
    if not submitted:
        return None
    with errors_shown():
        once = st.session_state.pop("base_once")
        return add_base(ctx, name=name or "", source=source, revision=revision, person=person, idempotency_key=once)
    return None


def _next_step(way: str) -> str:
    if way == OFFERED:
        return "choose a checkpoint"
    key, field = ("base_path", "path on the server") if way == PATH else ("base_hub", "Hub id")
    return f"{'correct' if st.session_state.get(key) else 'enter'} the {field}"


def _choose_offer(offers: list[BaseOffer]) -> tuple[str, str, BasePreview | None]:
    usable = [offer for offer in offers if offer.facts is not None]
    if usable:
        by_path = {str(offer.path): offer for offer in usable}
        picked = choose_from(
            "Checkpoint",
            by_path,
            words=lambda path: _offer_words(by_path[path]),
            key="base_offer",
            value=None,
            placeholder=f"Choose one of {len(usable):,}",
        )
        chosen = by_path[picked] if picked is not None else None
        if len(offers) >= MAX_OFFERS:
            st.caption(f"The first {MAX_OFFERS} found. Enter the path of another, or narrow MODEL_PATH.")
    else:
        chosen = None
        st.info("Nothing under MODEL_PATH can be used as a base.", icon=":material/folder_off:")
    return (str(chosen.path), "", BasePreview(chosen.name, chosen.facts)) if chosen and chosen.facts else ("", "", None)


def _draw_unusable(offers: list[BaseOffer]) -> None:
    """List the checkpoints under MODEL_PATH that can't be used as a base, with the reason."""
    rows = [{"Checkpoint": offer.name, "Why": offer.problem} for offer in offers if offer.facts is None]
    if rows:
        with st.expander(f"{plural(len(rows), 'other')} can't be used", icon=":material/block:"):
            draw_table(rows, key="base_refused", alt="Checkpoints that can't be a base")


def _choose_path(ctx: Context, person: Person) -> tuple[str, str, BasePreview | None]:
    path = st.text_input(
        "Path on the server",
        key="base_path",
        placeholder="/path/to/checkpoint",
        help="A folder with config.json, safetensors and a tokenizer, or a .gguf file.",
    )
    path = (path or "").strip()
    if not path:
        return "", "", None
    try:
        if not path.startswith(("/", "~")):
            path = f"./{path}"  # a Hub id has a field of its own
        return path, "", preview_base(ctx, path, person=person)
    except RoundhouseError as error:
        show_error(error)
        return "", "", None


def _choose_hub(ctx: Context, person: Person) -> tuple[str, str, BasePreview | None]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        hub = st.text_input(
            "Hub id",
            key="base_hub",
            placeholder="owner/name",
            width=400,
            help="Private and gated repositories need HF_TOKEN.",
        )
        revision = st.text_input(
            "Revision",
            key="base_revision",
            placeholder="main",
            width=220,
            help="Branch, tag or commit. The resolved commit is stored with the base.",
        )
        hub, revision = (hub or "").strip(), (revision or "").strip()
        pressed = st.button("Look up", key="base_look", icon=":material/search:", disabled=not hub)
    if pressed:
        st.session_state.pop("base_looked", None)
        try:
            with st.spinner("Looking up"):
                st.session_state["base_looked"] = (
                    hub,
                    revision,
                    preview_base(ctx, hub, revision=revision, person=person),
                )
        except RoundhouseError as error:
            st.session_state["base_looked"] = (hub, revision, error)
    looked_up = st.session_state.get("base_looked")
    outlook = looked_up[2] if looked_up and looked_up[:2] == (hub, revision) else None
    if isinstance(outlook, RoundhouseError):
        show_error(outlook)
        return "", "", None
    return hub, revision, outlook


def _draw_preview(look: BasePreview) -> None:
    """Draw a preview of the base."""
    facts = look.facts
    grid = st.grid(4, min_column_width=150)
    draw_metric(grid, "Family", plain(facts.family or "–"))
    draw_metric(grid, "Parameters", short(facts.parameters) if facts.parameters else "–")
    draw_metric(grid, "Download size" if look.commit else "Weights", size(look.download_bytes or facts.bytes))
    draw_metric(grid, "Licence", plain(_first(facts.licence)), help="As stated by the checkpoint.")
    half, full = facts.memory_bytes
    notes = [f"Weights in memory: about {size(half)} in 16-bit, {size(full)} in 32-bit (CPU)."]
    if look.disk_bytes is not None:
        notes.append(f"Disk: about {size(look.disk_bytes)}{', the file and its safetensors' * (facts.kind == 'gguf')}.")
    if facts.kind == "gguf":
        if facts.quantisation:
            notes.append(f"{plain(facts.quantisation)}, {facts.bits_per_weight} bits per weight.")
        notes.append("It is converted to safetensors with the same values; engine llama.cpp serves the file itself.")
    if look.commit:
        notes.append(f"{plain(look.revision or 'main')} is commit `{look.commit[:12]}`.")
    if facts.licence and facts.licence != _first(facts.licence):
        notes.append(f"Licence: {plain(facts.licence)}.")
    st.caption(" ".join(notes))
    if full > MANY_BYTES and look.commit:
        st.caption(":material/info: Large download. Disk space is checked first, and interrupted downloads continue.")


def _first(licence: str | None) -> str:
    return licence.split(" (")[0] if licence else "not stated"


def _offer_words(offer: BaseOffer) -> str:
    facts = offer.facts
    assert facts is not None
    parts = [offer.name, facts.family, short(facts.parameters or 0), size(facts.bytes), _first(facts.licence)]
    return " · ".join(parts[:-1] + ([parts[-1]] if facts.licence else []))


def _suggest(source: str) -> str:
    """Suggest a name: the folder's, or its parent's where the folder has a generic name."""
    path = Path(source.partition("@")[0])
    stem = path.stem if path.suffix == ".gguf" else path.name
    return path.parent.name if stem in {"hf", "model", "checkpoint", "final"} else stem
