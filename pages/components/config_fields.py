"""From schema to widget: a field of RunConfig becomes the input that fits its type, bounds and description."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import streamlit as st
from annotated_types import Ge, Gt, Le, Lt

from backend.domain.run_config import RunConfig

LABELS: dict[str, str] = {
    "max_steps": "Steps",
    "micro_batch": "Micro-batch",
    "grad_accum_steps": "Gradient accumulation",
    "context": "Context, tokens",
    "learning_rate": "Learning rate",
    "min_learning_rate": "Final learning rate",
    "schedule": "Schedule",
    "warmup_steps": "Warm-up steps",
    "weight_decay": "Weight decay",
    "beta1": "Beta 1",
    "beta2": "Beta 2",
    "grad_clip": "Gradient clip",
    "seed": "Seed",
    "eval_every": "Measure every, steps",
    "eval_batches": "Batches per measurement",
    "checkpoint_every": "Checkpoint every, steps",
    "keep_last": "Checkpoints kept",
    "sample_tokens": "Sample length, tokens",
    "precision": "Precision",
    "recompute": "Activation recompute",
    "compile": "torch.compile",
    "device": "Device",
    "priority": "Priority",
}
HELP: dict[str, str] = {
    "grad_accum_steps": "Micro-batches per optimizer update: a larger batch in the same memory.",
    "learning_rate": "Size of an update at the schedule's peak.",
    "schedule": "How the learning rate falls after the warm-up.",
    "warmup_steps": "Steps over which the learning rate rises to its peak.",
    "weight_decay": "Pull of weights towards zero (AdamW).",
    "beta1": "AdamW: memory of the gradient.",
    "beta2": "AdamW: memory of its square.",
    "seed": "The same seed, config and machine give the same run.",
    "device": "auto: a GPU where the worker has one, otherwise the CPU. gpu waits for a worker with one.",
    "checkpoint_every": "Each can be resumed from, evaluated and deployed.",
    "sample_tokens": "How much the network writes for each sample prompt.",
}
PREFIX = "launch_"


def set_field(name: str, value: Any) -> None:
    """Put a value into a field's widget. Only before it is drawn."""
    st.session_state[PREFIX + name] = float(value) if _kind(name) is float else value


def draw_field(name: str) -> Any:
    """Draw one field and return its value."""
    label, key = LABELS[name], PREFIX + name
    text = HELP.get(name) or RunConfig.model_fields[name].description
    kind = _kind(name)
    if kind is bool:
        return st.checkbox(label, key=key, help=text)
    if kind not in (int, float):
        return st.selectbox(label, list(kind), key=key, help=text)
    low, high = _bounds(name)
    if kind is int:
        return st.number_input(
            label, min_value=None if low is None else int(low), max_value=None if high is None else int(high), step=1, key=key, help=text
        )
    return st.number_input(label, min_value=low, max_value=high, step=None, format="%g", key=key, help=text)


def _kind(name: str) -> Any:
    """Return int, float, bool, or the allowed words of a field."""
    annotation = RunConfig.model_fields[name].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else annotation


def _bounds(name: str) -> tuple[float | None, float | None]:
    """Return the bounds that a number input can keep; what is stricter is said by the schema itself."""
    low: float | None = None
    high: float | None = None
    for item in RunConfig.model_fields[name].metadata:
        if isinstance(item, Ge):
            low = float(item.ge)  # type: ignore[arg-type]
        elif isinstance(item, Gt):
            low = float(item.gt)  # type: ignore[arg-type]
        elif isinstance(item, Le):
            high = float(item.le)  # type: ignore[arg-type]
        elif isinstance(item, Lt):
            high = float(item.lt)  # type: ignore[arg-type]
    return low, high
