"""Form of an architecture: the fields of its family, with problems at the field at fault."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.architectures.config import ArchitectureConfig, fill_defaults, find_other_problems
from backend.domain.architectures.families import FAMILIES, FAMILY_NAMES, OPTIONAL_FIELDS, Family, explain_missing
from backend.domain.architectures.published import PUBLISHED
from backend.domain.json_values import FieldValues
from backend.services.context import Context
from backend.services.tokenizers.tokenizers import list_tokenizers
from pages.components.frame import handled, plain

SIZES = ("num_layers", "width", "num_heads", "num_kv_heads", "context", "feed_forward")
FIELDS = ArchitectureConfig.model_fields
GROUPS: dict[str, tuple[str, ...]] = {
    "Attention": ("head_size", "window", "global_every"),
    "Latent attention": ("query_rank", "kv_rank", "rope_head_size", "nope_head_size", "value_head_size"),
    "Positions": ("rope_theta", "local_rope_theta", "nope_every"),
    "Experts": ("num_experts", "experts_per_token", "expert_feed_forward", "shared_experts", "dense_layers"),
}
ABILITIES: dict[str, str] = {
    "num_kv_heads": "Grouped-query attention",
    "kv_rank": "Latent attention",
    "window": "Sliding window",
    "global_every": "Local and global layers",
    "rope_theta": "Rotary positions",
    "nope_every": "Layers without positions",
    "num_experts": "Experts",
    "feed_forward": "Feed-forward of any size",
    "tie_embeddings": "Tied or untied embeddings",
    "head_size": "Heads of any size",
}
"""Features a reader may look for, by the field that enables them."""
FLOATS = frozenset({"rope_theta", "local_rope_theta", "norm_eps"})
OWN_VOCABULARY = "Other"
KIND_HELP = {
    "MHA": "MHA, multi-head: every query head has its own key/value head.",
    "GQA": "GQA, grouped-query: several query heads share a key/value head; a smaller cache at little cost in quality.",
    "MQA": "MQA, multi-query: all query heads share one key/value head; the smallest cache.",
    "MLA": "MLA, latent: the cache holds one latent vector for all heads.",
}


def set_fields(config: ArchitectureConfig) -> None:
    """Set the form's fields from a config. Only before they are drawn."""
    set_values(config.model_dump())
    shared = "MQA" if config.num_kv_heads == 1 else "GQA"
    st.session_state["architecture_kind"] = "MHA" if config.num_kv_heads == config.num_heads else shared
    st.session_state.pop("architecture_tokenizer", None)


def set_values(values: Mapping[str, object]) -> None:
    """Set the form's fields from values; fields the family does not have stay empty."""
    st.session_state["architecture_family"] = values["family"]
    for field in (*SIZES, *OPTIONAL_FIELDS, "vocab_size"):
        value = values.get(field)
        st.session_state[f"architecture_{field}"] = (
            "" if value is None else f"{value:.12g}" if field in FLOATS else str(value)
        )
    st.session_state["architecture_tie_embeddings"] = values["tie_embeddings"]
    st.session_state["architecture_norm_eps"] = f"{values['norm_eps']:.12g}"


@handled
def take_family() -> None:
    """Keep the sizes when the family changes, and fill fields that are new with the family's defaults."""
    family = FAMILIES[st.session_state["architecture_family"]]
    values: FieldValues = {"family": family.name}
    for field in (*SIZES, "vocab_size"):
        # the state of a field that was not drawn is gone
        text = _cleaned(st.session_state.get(f"architecture_{field}"))
        if text.isdecimal() and field not in family.fixed:
            values[field] = int(text)
    values["tie_embeddings"] = st.session_state["architecture_tie_embeddings"] if family.tied is None else family.tied
    if st.session_state.get("architecture_kind", "MHA") == "MHA":
        values.pop("num_kv_heads", None)
    if "feed_forward" in family.fixed:
        values["feed_forward"] = 4 * values.get("width", 128)
    blank = ArchitectureConfig().model_dump(exclude=set(OPTIONAL_FIELDS))
    set_values({**blank, **fill_defaults(values)})


@handled
def take_attention() -> None:
    """Let query heads share key/value heads once grouped-query attention is chosen: with as many it would be MHA."""
    heads = _cleaned(st.session_state.get("architecture_num_heads"))
    if st.session_state["architecture_kind"] == "GQA" and heads.isdecimal() and int(heads) > 1:
        group = next((size for size in (4, 2, 3) if int(heads) % size == 0 and int(heads) > size), int(heads))
        st.session_state["architecture_num_kv_heads"] = str(int(heads) // group)


@handled
def take_published() -> None:
    """Fill the form with the published architecture that was chosen."""
    if (name := st.session_state["architecture_published"]) in PUBLISHED:
        set_fields(PUBLISHED[name])


def start_architecture_form(ctx: Context) -> None:
    """Fill the fields with defaults where the form is not drawn yet."""
    if "architecture_width" not in st.session_state:
        newest = next(iter(list_tokenizers(ctx, ready=True)), None)
        set_fields(
            ArchitectureConfig(vocab_size=newest.vocab_size) if newest and newest.vocab_size else ArchitectureConfig()
        )


def draw_architecture_form(ctx: Context) -> ArchitectureConfig | None:
    """Draw the fields with their problems; return the config, or None while it is invalid."""
    published = st.selectbox(
        "Start from",
        PUBLISHED,
        index=None,
        key="architecture_published",
        on_change=take_published,
        placeholder="A published model",
        help="Fills the fields with its sizes. Change any of them, such as a smaller width or your tokenizer.",
    )
    family = FAMILIES[
        st.selectbox(
            "Family",
            FAMILY_NAMES,
            key="architecture_family",
            on_change=take_family,
            format_func=lambda name: FAMILIES[name].title,
            help="Built as the transformers class of this name, so that other tools and servers load it.",
        )
    ]
    st.caption(family.summary)
    # rarely changed, so without a field of its own: kept as it was loaded
    texts: dict[str, str] = {"family": family.name, "norm_eps": st.session_state["architecture_norm_eps"]}
    slots: dict[str, DeltaGenerator] = {"family": st.container()}
    kind = _draw_kind(family)
    _draw_grid([name for name in SIZES if name != "num_kv_heads" or kind == "GQA"], family, texts, slots)
    if kind == "MQA":
        texts["num_kv_heads"] = "1"
    texts["vocab_size"], slots["vocab_size"] = _draw_vocabulary(ctx)
    tied = st.toggle(
        "Tie embeddings",
        key="architecture_tie_embeddings",
        disabled=family.tied is not None,
        help=family.fixed.get("tie_embeddings", FIELDS["tie_embeddings"].description or ""),
    )
    slots["tie_embeddings"] = st.container()
    for title, names in GROUPS.items():
        mine = [name for name in names if name in family.fields]
        if mine:
            st.markdown(f"**{title}**")
            _draw_grid(mine, family, texts, slots)
    problems, config = check_fields(texts, tie_embeddings=tied)
    for field, problem in problems.items():
        slots.get(field, slots["family"]).markdown(f":red[:material/error: {plain(problem)}]")
    if published is not None and config is not None and config != PUBLISHED[published]:
        st.caption(plain(f"Changed from {published}: {', '.join(_differences(config, PUBLISHED[published]))}."))
    _draw_traits(family)
    return config


def _differences(config: ArchitectureConfig, other: ArchitectureConfig) -> list[str]:
    """Return the labels of the fields in which a config differs from another."""
    return [str(info.title) for field, info in FIELDS.items() if getattr(config, field) != getattr(other, field)]


def _draw_kind(family: Family) -> str:
    """Draw the choice of attention where the family has several; return it."""
    if len(family.attention) == 1:
        kind = family.attention[0]
        st.caption(f"Attention: {KIND_HELP[kind]}")
        return kind
    chosen = st.segmented_control(
        "Attention",
        family.attention,
        key="architecture_kind",
        required=True,
        on_change=take_attention,
        help="  \n".join(KIND_HELP[kind] for kind in family.attention),
    )
    return str(chosen)


def _draw_grid(names: list[str], family: Family, texts: dict[str, str], slots: dict[str, DeltaGenerator]) -> None:
    """Draw fields in two columns; a field fixed by the family is disabled and shows the reason."""
    for pair in (names[at : at + 2] for at in range(0, len(names), 2)):
        for column, field in zip(st.columns(2), pair, strict=False):
            with column:
                fixed = family.fixed.get(field)
                if field == "feed_forward" and fixed:
                    width = _cleaned(texts["width"])
                    st.session_state["architecture_feed_forward"] = str(4 * int(width)) if width.isdecimal() else ""
                texts[field], slots[field] = _draw_field(field, disabled=bool(fixed), help_text=fixed)


def _draw_field(field: str, *, disabled: bool = False, help_text: str | None = None) -> tuple[str, DeltaGenerator]:
    """Draw a number field that reports while typing, and a placeholder for its problem."""
    text = st.text_input(
        str(FIELDS[field].title),
        key=f"architecture_{field}",
        help=help_text or FIELDS[field].description,
        live="200ms",
        disabled=disabled,
        placeholder="width / heads" if field == "head_size" else None,
    )
    return text or "", st.container()


def _draw_vocabulary(ctx: Context) -> tuple[str, DeltaGenerator]:
    """Draw the vocabulary: that of a tokenizer, or a number."""
    tokenizers = {t.name: int(t.vocab_size or 0) for t in list_tokenizers(ctx, ready=True)}
    current = str(st.session_state["architecture_vocab_size"])
    matching = next((name for name, entries in tokenizers.items() if str(entries) == current), OWN_VOCABULARY)
    if "architecture_tokenizer" not in st.session_state:
        # with an index alone the browser keeps its earlier choice
        st.session_state["architecture_tokenizer"] = matching
    left, right = st.columns(2)
    with left:
        chosen = st.selectbox(
            "Tokenizer",
            [*tokenizers, OWN_VOCABULARY],
            key="architecture_tokenizer",
            help="Sets the vocabulary size.",
        )
    if chosen in tokenizers:
        st.session_state["architecture_vocab_size"] = str(tokenizers[chosen])
    with right:
        return _draw_field("vocab_size", disabled=chosen in tokenizers)


def _draw_traits(family: Family) -> None:
    """Draw the traits of the family and its limits, with the families that support them."""
    with st.expander(f"{family.title}: traits and limits", icon=":material/info:"):
        made = {
            "Attention": ", ".join(family.attention),
            "Positions": family.positions,
            "Norm": family.norm,
            "Feed-forward": family.feed_forward,
            "Biases": family.biases,
            "Experts": family.experts,
            "Class": f"`{family.network_class}`",
        }
        st.markdown("  \n".join(f"**{name}** {text}" for name, text in made.items()))
        lacks = {title: explain_missing(family.name, field) for field, title in ABILITIES.items()}
        st.markdown(
            "  \n".join(f":gray[:material/block: **{title}**: {reason}.]" for title, reason in lacks.items() if reason)
        )


def _cleaned(text: object) -> str:
    return str(text or "").replace(",", "").replace("_", "").replace(" ", "")


def check_fields(texts: dict[str, str], *, tie_embeddings: bool) -> tuple[dict[str, str], ArchitectureConfig | None]:
    """Return the problems by field, and the config if there are none."""
    problems: dict[str, str] = {}
    values: dict[str, object] = {"tie_embeddings": tie_embeddings}
    for field, text in texts.items():
        cleaned = _cleaned(text)
        if field == "family":
            values[field] = text
        elif cleaned or field != "head_size":
            try:
                values[field] = float(cleaned) if field in FLOATS else int(cleaned)
            except ValueError:
                problems[field] = (
                    f"“{text}” is not a {'number' if field in FLOATS else 'whole number'}."
                    if cleaned
                    else "Give a number."
                )
    problems = find_other_problems(values, unreadable=tuple(problems)) | problems
    return problems, None if problems else ArchitectureConfig.model_validate(values)
