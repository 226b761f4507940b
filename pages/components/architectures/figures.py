"""Figures of a network's size. Pure: plain data in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping

from backend.domain.wording import percent, short
from pages.components.charts.html import Share, stacked_bar
from pages.components.charts.style import COLORS, MUTED
from pages.components.words import size

COMPONENTS: dict[str, str] = {
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
MEMORY_PARTS: dict[str, str] = {
    "weights": "Weights",
    "gradients": "Gradients",
    "optimizer": "Optimizer",
    "activations": "Activations",
    "logits": "Loss",
    "temporary": "Workspace",
    "overhead": "Libraries",
    "beyond": "Correction",
}
MIN_SHOWN = 0.004


def parameters_bar(parts: Mapping[str, int]) -> str:
    """Return the parameters by component as one stacked bar."""
    total = sum(count for key, count in parts.items() if key != "total")
    return stacked_bar(
        Share(
            label,
            count,
            f"{short(count)} · {percent(count / total)}" if count >= 0.005 * total else f"{short(count)} · <1 %",
            _color(index),
        )
        for index, (key, label) in enumerate(COMPONENTS.items())
        if (count := parts.get(key, 0))
    )


def memory_bar(parts: Mapping[str, int]) -> str:
    """Return the parts of the peak as one stacked bar; parts below 0.4 % are left out."""
    least = MIN_SHOWN * sum(parts.values())
    return stacked_bar(
        Share(label, num_bytes, size(num_bytes), _color(index))
        for index, (key, label) in enumerate(MEMORY_PARTS.items())
        if (num_bytes := parts.get(key, 0)) and num_bytes >= least
    )


def _color(index: int) -> str:
    return COLORS[index] if index < len(COLORS) else MUTED
