"""Cost of an architecture: parameters, FLOPs, KV cache, and a diagram of one block."""

from __future__ import annotations

import streamlit as st

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.estimates.setting import Precision
from backend.domain.wording import short
from pages.components.architectures.diagram import block_diagram, describe_diagram, layers_strip
from pages.components.architectures.figures import parameters_bar
from pages.components.charts.html import figure
from pages.components.choices import choose_one
from pages.components.frame import draw_metric
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
    draw_metric(grid, "FLOPs per token, training", short(flops.training), help=report.conventions[0])
    draw_metric(grid, "FLOPs per token, forward", short(flops.forward), help=report.conventions[0])
    draw_metric(grid, "KV cache per token", size(report.kv_cache_bytes_per_token), help=report.conventions[2])
    draw_metric(grid, f"KV cache of {config.context:,} tokens", size(report.kv_cache_bytes), help=report.conventions[2])
    if report.kv_cache_expanded_bytes_per_token is not None:
        spared = size(report.kv_cache_expanded_bytes_per_token)
        st.caption(f"Without the latent it would be {spared} per token.")
    st.caption(f"{report.parameters:,} parameters by component")
    st.html(figure(parameters_bar(report.parameters_by_component), alt="Parameters by component"))
    return precision


def draw_block(config: ArchitectureConfig) -> None:
    """Draw a diagram of one block, and of the layers where they differ."""
    st.caption("One block")
    st.html(figure(block_diagram(config), alt=describe_diagram(config)))
    strip = layers_strip(config)
    if strip is not None:
        st.caption("Layers")
        st.html(figure(strip, alt="Layers by kind"))
