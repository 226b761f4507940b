"""Training memory of a network by part, and the largest micro-batch that fits a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import streamlit as st

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.memory import MAX_MICRO_BATCH, USUAL_DEVICES, largest_micro_batch
from backend.domain.estimates.prediction import describe_error, describe_source
from backend.domain.estimates.setting import Precision, TrainingSetting, pretraining_setting
from backend.domain.scaling.shapes import count_without_embeddings
from backend.domain.training.defaults import Basis, suggest_values
from backend.domain.training.objectives import Objective
from backend.domain.wording import plural
from backend.services.context import Context
from backend.services.estimates.measurements import predict_setting
from backend.services.jobs.devices import Device, list_training_devices, training_workers
from pages.components.architectures.figures import memory_bar
from pages.components.charts.html import figure
from pages.components.choices import choose_one
from pages.components.frame import draw_metric
from pages.components.numbers import draw_number, number_form
from pages.components.words import size

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
            st.warning(
                "Not even one sequence fits. Enable activation recompute, use LoRA, or choose a larger device.",
                icon=":material/block:",
            )
    beyond = {"beyond": max(0, memory.num_bytes - memory.formula.total)}  # as measured here with similar settings
    st.html(figure(memory_bar({**memory.formula.parts, **beyond}), alt="Peak memory by part"))
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
