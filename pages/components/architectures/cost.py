"""Cost of an architecture: parameters, FLOPs, KV cache, a diagram of one block, and training memory by part, with the
largest micro-batch that fits a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Literal

import streamlit as st

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.estimates.memory import MAX_MICRO_BATCH, USUAL_DEVICES, largest_micro_batch
from backend.domain.estimates.prediction import describe_error, describe_source
from backend.domain.estimates.setting import Precision, TrainingSetting, pretraining_setting
from backend.domain.scaling.shapes import count_without_embeddings
from backend.domain.training.defaults import Basis, suggest_values
from backend.domain.training.objectives import Objective
from backend.domain.wording import percent, plural, short
from backend.services.context import Context
from backend.services.estimates.measurements import predict_setting
from backend.services.jobs.devices import Device, list_training_devices, training_workers
from pages.components.charts.html import SMALL, Share, figure, legend, stacked_bar, swatch
from pages.components.charts.style import COLORS, MUTED, fade
from pages.components.choices import choose_one
from pages.components.frame import draw_metric
from pages.components.numbers import draw_number, number_form
from pages.components.words import size


def draw_cost(config: ArchitectureConfig) -> Precision:
    """Draw parameters, FLOPs and KV cache of an architecture; return the chosen precision."""
    precision: Precision = choose_one(
        "Precision", ("fp32", "bf16"), key="architecture_precision", help="fp32 on the CPU, bf16 on a GPU."
    )
    report = describe_architecture(config, precision=precision)
    grid = st.grid(2, min_column_width=150)
    draw_metric(grid, "Parameters", short(report.parameters), help=f"{report.parameters:,}")
    if report.active_parameters != report.parameters:
        draw_metric(grid, "Active per token", short(report.active_parameters), help=f"{report.active_parameters:,}")
    flops = report.flops_per_token
    draw_metric(grid, "FLOPs per token, training", short(flops.training, zeros=True), help=report.conventions[0])
    draw_metric(grid, "FLOPs per token, forward", short(flops.forward, zeros=True), help=report.conventions[0])
    draw_metric(grid, "KV cache per token", size(report.kv_cache_bytes_per_token), help=report.conventions[2])
    draw_metric(grid, f"KV cache of {config.context:,} tokens", size(report.kv_cache_bytes), help=report.conventions[2])
    if report.kv_cache_expanded_bytes_per_token is not None:
        spared = size(report.kv_cache_expanded_bytes_per_token)
        st.caption(f"Without the latent it would be {spared} per token.")
    st.caption(f"{report.parameters:,} parameters by component")
    st.html(figure(_parameters_bar(report.parameters_by_component), alt="Parameters by component"))
    return precision


def draw_block(config: ArchitectureConfig) -> None:
    """Draw a diagram of one block, and of the layers where they differ."""
    st.caption("One block")
    st.html(figure(block_diagram(config), alt=describe_diagram(config)))
    strip = layers_strip(config)
    if strip is not None:
        st.caption("Layers")
        st.html(figure(strip, alt="Layers by kind"))


EMBEDDING, ATTENTION, FEED_FORWARD, NORM, HEAD = COLORS[:5]
EXPERTS = COLORS[5]
BRACKET = "1.1rem"
"""Width of the line of a residual connection next to its boxes."""
ARROW = f'<div style="height:.7rem;width:1.5px;margin:0 auto;background:{MUTED}"></div>'


@dataclass(frozen=True)
class Box:
    """A module. With `adds` its output is added to the input `since` boxes before it (a residual connection)."""

    title: str
    detail: str
    color: str
    adds: bool = False
    since: int = 0


def block_boxes(config: ArchitectureConfig) -> list[Box]:
    """Return the modules inside one block, first to last."""
    family = FAMILIES[config.family]
    norm = family.norm.split(" ")[0].rstrip(",")
    twice = config.family == "gemma3"
    before, after = Box(norm, f"{config.width}", NORM), Box(norm, f"{config.width}", NORM, adds=True, since=2)
    attention = _attention(config)
    work = _feed_forward(config)
    boxes = [before, Box(*attention, adds=not twice, since=1)]
    boxes += [after] if twice else []
    boxes += [before, Box(*work, adds=not twice, since=1)]
    return boxes + ([after] if twice else [])


def _attention(config: ArchitectureConfig) -> tuple[str, str, str]:
    family, heads, groups = FAMILIES[config.family], config.num_heads, config.num_kv_heads
    if family.latent:
        queries = f"queries through {config.query_rank}" if config.query_rank else "queries uncompressed"
        return (
            "Latent attention",
            f"{heads} heads of {config.head_dim}; {queries}, keys and values through {config.kv_rank}",
            ATTENTION,
        )
    if groups == heads:
        kind = f"{heads} heads of {config.head_dim}, multi-head"
    else:
        kind = f"{heads} query heads of {config.head_dim} on {plural(groups, 'key/value head')}"
    extras = {
        "qwen3": "queries and keys normed",
        "qwen3_moe": "queries and keys normed",
        "gemma3": "queries and keys normed",
        "bloom": "ALiBi",
    }
    return "Attention", "; ".join(part for part in (kind, extras.get(config.family, "")) if part), ATTENTION


def _feed_forward(config: ArchitectureConfig) -> tuple[str, str, str]:
    family = FAMILIES[config.family]
    kind = family.feed_forward.split(" ")[0]
    if config.num_experts is None:
        return "Feed-forward", f"{kind}, {config.width} → {config.feed_forward} → {config.width}", FEED_FORWARD
    shared = f", {config.shared_experts} always" if config.shared_experts else ""
    return (
        "Experts",
        (
            f"a router picks {config.experts_per_token} of {config.num_experts}{shared}; {kind}, {config.width} →"
            f" {config.expert_size}"
        ),
        EXPERTS,
    )


def layer_kinds(config: ArchitectureConfig) -> list[str]:
    """Describe each layer; equal layers have equal descriptions."""
    kinds = []
    for layer in range(config.num_layers):
        parts = []
        if config.window is not None:
            parts.append("sees everything" if config.is_global(layer) else f"sees {config.window:,} tokens")
        if config.nope_every is not None:
            parts.append("no positions" if (layer + 1) % config.nope_every == 0 else "RoPE")
        if config.num_experts is not None and config.dense_layers:
            parts.append("experts" if config.has_experts(layer) else "one feed-forward")
        kinds.append(", ".join(parts))
    return kinds


def block_diagram(config: ArchitectureConfig) -> str:
    """Return the network from tokens to logits, with one block in detail."""
    family = FAMILIES[config.family]
    positions = {"gpt2": f", {config.context:,} learned positions added", "bloom": ", normed"}.get(config.family, "")
    head = "tied to the embedding" if config.tie_embeddings else "untied"
    embedding = Box("Embedding", f"{config.vocab_size:,} tokens → {config.width}{positions}", EMBEDDING)
    norm = Box(family.norm.split(" ")[0].rstrip(","), f"{config.width}", NORM)
    output = Box("Output head", f"{config.width} → {config.vocab_size:,}, {head}", HEAD)
    block = (
        '<div style="display:flex;align-items:center;gap:.7rem"><div style="flex:1;min-width:0;padding:.55rem .55rem'
        f' .4rem;border:1.5px dotted {MUTED};border-radius:.4rem">{_draw_inside(block_boxes(config))}</div><strong'
        f' style="white-space:nowrap">× {config.num_layers}</strong></div>'
    )
    return ARROW.join([_draw_box(embedding), block, _draw_box(norm), _draw_box(output)])


def _draw_inside(boxes: list[Box]) -> str:
    """Draw the boxes of a block, those inside a residual connection in a bracket that ends in ⊕."""
    groups: list[str] = []
    start = 0
    for index, box in enumerate(boxes):
        if box.adds:
            before = [_draw_box(each) for each in boxes[start : index - box.since]]
            inside = ARROW.join(_draw_box(each) for each in boxes[index - box.since : index + 1])
            groups += [*before, _draw_residual(inside)]
            start = index + 1
    between = f'<div style="padding-left:{BRACKET}">{ARROW}</div>'
    return between.join([*groups, *(_draw_box(each) for each in boxes[start:])])


def _draw_residual(inside: str) -> str:
    bracket = (
        f"position:absolute;left:0;width:{BRACKET};top:-.35rem;bottom:.62rem;border:1.2px solid "
        f"{MUTED};border-right:0;border-radius:.4rem 0 0 .4rem"
    )
    plus = (
        f'<div style="text-align:center;line-height:1.25rem;color:{MUTED}" title="The input is added to the'
        ' output">⊕</div>'
    )
    return f'<div style="position:relative;padding-left:{BRACKET}"><div style="{bracket}"></div>{inside}{plus}</div>'


def _draw_box(box: Box) -> str:
    return (
        '<div style="position:relative;display:flex;flex-wrap:wrap;justify-content:space-between;align-items:center;'
        f"gap:.1rem 1rem;padding:.3rem .6rem;border:1.5px solid {box.color};border-radius:.3rem;"
        f'background:{fade(box.color, 0.14)}"><strong style="font-size:.87rem">{escape(box.title)}</strong>'
        f'<span style="font-size:.76rem;text-align:right;margin-left:auto">{escape(box.detail)}</span></div>'
    )


def layers_strip(config: ArchitectureConfig) -> str | None:
    """Return the layers side by side, coloured by kind; None where all are alike."""
    kinds = layer_kinds(config)
    colors = dict(zip(dict.fromkeys(kinds), (ATTENTION, EMBEDDING, EXPERTS, HEAD), strict=False))
    if len(colors) < 2:
        return None
    cells = "".join(
        f'<div title="{escape(f"layer {number}: {kind}")}" style="flex:1;background:{colors.get(kind, MUTED)}"></div>'
        for number, kind in enumerate(kinds, start=1)
    )
    strip = f'<div style="display:flex;gap:2px;height:30px;border-radius:.3rem;overflow:hidden">{cells}</div>'
    ends = (
        f'<div style="display:flex;justify-content:space-between;{SMALL}"><span>1</span>'
        f"<span>{config.num_layers}</span></div>"
    )
    return strip + ends + legend((name, swatch(color)) for name, color in colors.items())


def describe_diagram(config: ArchitectureConfig) -> str:
    """Return the diagram as alternative text."""
    steps = "; ".join(f"{box.title} ({box.detail})" for box in block_boxes(config))
    return f"{config.num_layers} blocks, each: {steps}. {short(config.vocab_size)} tokens."


_COMPONENTS: dict[str, str] = {
    "embedding": "Embedding",
    "attention": "Attention",
    "feed_forward": "Feed-forward",
    "norms": "Norms",
    "output_head": "Output head",
    "experts": "Experts",
    "shared_experts": "Shared experts",
    "router": "Router",
    "positions": "Positions",
    "biases": "Biases",
}
_MEMORY_PARTS: dict[str, str] = {
    "weights": "Weights",
    "gradients": "Gradients",
    "optimizer": "Optimizer",
    "activations": "Activations",
    "logits": "Loss",
    "temporary": "Workspace",
    "overhead": "Libraries",
    "beyond": "Correction",
}
_MIN_SHOWN = 0.004


def _parameters_bar(parts: Mapping[str, int]) -> str:
    """Return the parameters by component as one stacked bar."""
    total = sum(count for key, count in parts.items() if key != "total")
    return stacked_bar(
        Share(
            label,
            count,
            f"{short(count)} · {percent(count / total)}" if count >= 0.005 * total else f"{short(count)} · <1 %",
            _color(index),
        )
        for index, (key, label) in enumerate(_COMPONENTS.items())
        if (count := parts.get(key, 0))
    )


def _memory_bar(parts: Mapping[str, int]) -> str:
    """Return the parts of the peak as one stacked bar; parts below 0.4 % are left out."""
    least = _MIN_SHOWN * sum(parts.values())
    return stacked_bar(
        Share(label, num_bytes, size(num_bytes), _color(index))
        for index, (key, label) in enumerate(_MEMORY_PARTS.items())
        if (num_bytes := parts.get(key, 0)) and num_bytes >= least
    )


def _color(index: int) -> str:
    return COLORS[index] if index < len(COLORS) else MUTED


SHOWN_DEVICES = ("24 GB", "40 GB", "80 GB")
MOMENTS = {
    "load": "at the start: each device holds the whole model until it is sharded",
    "loss": "at the start of the backward pass: all activations, no gradients yet",
    "backward": "during the backward pass: activations are freed, gradients appear",
    "update": "at the end of the backward pass: all gradients",
}
MICRO_BATCH, SUGGESTED = "architecture_micro_batch", "micro_batch_suggested"
Shards = Literal["ddp", "fsdp"]
SHARDINGS: dict[Shards, str] = {"ddp": "Replicated (DDP)", "fsdp": "Sharded (FSDP)"}


SETTINGS = ("device", "micro_batch", "length", "rank", "devices", "recompute", "sharding", "precision")


def keep_settings() -> None:
    """Keep what was set for the estimate in a draw that leaves it out."""
    for key in (f"architecture_{name}" for name in SETTINGS):
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]


@number_form
def draw_memory(ctx: Context, config: ArchitectureConfig, *, precision: Precision = "fp32") -> None:
    """Draw the controls, the parts of the peak, its total, and the largest micro-batch on the chosen device."""
    st.subheader("Training memory", anchor=False)
    own = {device.name: device for device in list_training_devices(training_workers(ctx))}
    usual = {f"GPU, {name}": Device(f"a GPU of {name}", "gpu", USUAL_DEVICES[name]) for name in SHOWN_DEVICES}
    devices = own | usual
    chosen = st.selectbox(
        "Device", list(devices), key="architecture_device", help="Devices of this installation, and common GPU sizes."
    )
    device = devices[chosen]
    micro_batch, setting_at = _draw_setting(config, device, precision)
    setting = setting_at(micro_batch)
    memory = predict_setting(ctx, setting, device)
    if memory.formula is None or memory.num_bytes is None:
        return
    left, right = st.columns(2)
    draw_metric(left, "Peak", size(memory.num_bytes), help=describe_error(memory) or None)
    usable = device.usable_bytes
    if usable is not None:
        fits = largest_micro_batch(setting_at, usable, calibration=memory.num_bytes / memory.formula.total)
        is_split = setting_at(fits).micro_batch < fits if fits else False
        draw_metric(
            right,
            "Largest micro-batch",
            "no limit" if is_split and fits == MAX_MICRO_BATCH else f"{fits:,}" if fits else "none fits",
            help=f"Sequences in the {size(usable)} of {device.name} available to a run."
            + (" A forward pass takes as many of them as fit the CPU's cache." if is_split else ""),
        )
        if not fits:
            weights = memory.formula.weights
            st.warning(
                f"The weights alone take {size(weights)}, of {size(usable)} available: choose a smaller architecture or"
                " a larger device, or shard the weights over more devices."
                if weights > usable
                else "Not even one sequence fits. Enable activation recompute, use LoRA, or choose a larger device.",
                icon=":material/block:",
            )
    beyond = {"beyond": max(0, memory.num_bytes - memory.formula.total)}  # as measured here with similar settings
    st.html(figure(_memory_bar({**memory.formula.parts_within(memory.num_bytes), **beyond}), alt="Peak memory by part"))
    source = describe_source(memory)
    passes = ""
    if setting.micro_batch < micro_batch:
        passes = (
            f" A forward pass takes {setting.micro_batch} of the {micro_batch:,} sequences of a micro-batch, which fit"
            " the CPU's cache."
        )
    st.caption(f"{source[:1].upper()}{source[1:]}. The peak is {MOMENTS[memory.formula.moment]}.{passes}")


def _follow_launch_form(config: ArchitectureConfig) -> None:
    """Let the micro-batch be what the launch form suggests for this network, until someone changes it."""
    basis = Basis(Objective.PRETRAIN, parameters=count_without_embeddings(config), max_context=config.context)
    suggested = float(suggest_values(basis)["micro_batch"])
    if st.session_state.get(MICRO_BATCH) == st.session_state.get(SUGGESTED):
        st.session_state[MICRO_BATCH] = suggested
    st.session_state[SUGGESTED] = suggested


def _draw_setting(
    config: ArchitectureConfig, device: Device, precision: Precision
) -> tuple[int, Callable[[int], TrainingSetting]]:
    """Draw the fields; return the micro-batch and a function that returns the setting with any."""
    grid = st.grid(2, min_column_width=120)
    _follow_launch_form(config)
    micro_batch = draw_number(
        grid,
        "Micro-batch",
        1,
        MAX_MICRO_BATCH,
        ...,
        key=MICRO_BATCH,
        help="Sequences per device. A CPU may take fewer per forward pass, which needs less memory.",
    )
    if (st.session_state.get("architecture_length") or 1) > config.context:
        st.session_state["architecture_length"] = float(config.context)
    length = draw_number(
        grid,
        "Context, tokens",
        1,
        config.context,
        min(1024, config.context),
        key="architecture_length",
        help="Length of a training sequence, up to the model's context.",
    )
    rank = draw_number(grid, "LoRA rank", 0, 1024, 0, key="architecture_rank", help="0: full fine-tuning.")
    devices = draw_number(grid, "Devices", 1, 1024, 1, key="architecture_devices", help="Figures are per device.")
    sharding: Shards = "ddp"
    with st.container(horizontal=True):
        recompute = st.checkbox(
            "Recompute activations", key="architecture_recompute", help="Less memory, about a third more time."
        )
        if devices > 1:
            sharding = choose_one(
                "Weights on several devices",
                SHARDINGS,
                default="ddp",
                key="architecture_sharding",
                help=f"{plural(devices, 'device')}: replicated or sharded. From their documentation, not measured.",
                is_bare=True,
            )
    return micro_batch, lambda sequences: pretraining_setting(
        config,
        micro_batch=sequences,
        context=length,
        lora_rank=rank or None,
        devices=devices,
        sharding=sharding,
        recompute=recompute,
        precision=precision,
        device=device.kind,
    )
