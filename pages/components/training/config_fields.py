"""From schema to widget: a field of a run's config becomes the input that fits its type, bounds and description."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import streamlit as st
from annotated_types import Ge, Gt, Le, Lt

from backend.domain.training.config_fields import default_at, field_at, kind_of

LABELS: dict[str, str] = {
    "max_steps": "Steps",
    "learning_rate": "Learning rate",
    "micro_batch": "Micro-batch",
    "context": "Context, tokens",
    "lora.rank": "Rank",
    "lora.alpha": "Alpha",
    "lora.variant": "Variant",
    "lora.dropout": "Adapter dropout",
    "lora.bits": "Bits of the base",
    "preference.beta": "Beta",
    "preference.loss": "Loss",
    "preference.gamma": "Margin (gamma)",
    "preference.sft_weight": "Weight of the answer itself",
    "preference.label_smoothing": "Labels taken to be wrong",
    "preference.desirable_weight": "Weight of good answers",
    "preference.undesirable_weight": "Weight of bad answers",
    "grpo.group_size": "Completions per prompt",
    "grpo.max_new_tokens": "Completion tokens",
    "grpo.temperature": "Temperature",
    "grpo.kl_weight": "Pull to the base (KL)",
    "grpo.clip_range": "Clip range",
    "optimizer": "Optimizer",
    "grad_accum_steps": "Gradient accumulation",
    "weight_decay": "Weight decay",
    "grad_clip": "Gradient clip",
    "beta1": "Beta 1",
    "beta2": "Beta 2",
    "seed": "Seed",
    "schedule": "Schedule",
    "warmup_steps": "Warm-up steps",
    "min_learning_rate": "Final learning rate",
    "decay_steps": "Steps of the decay",
    "max_epochs": "Most passes over the data",
    "patience": "Patience",
    "dropout": "Dropout",
    "label_smoothing": "Label smoothing",
    "z_loss": "z-loss",
    "ema_decay": "Average of weights (EMA)",
    "freeze_blocks": "Frozen blocks",
    "packing": "Packing",
    "eval_every": "Measure every, steps",
    "eval_batches": "Batches per measurement",
    "checkpoint_every": "Checkpoint every, steps",
    "keep_last": "Checkpoints kept",
    "sample_tokens": "Sample length, tokens",
    "device": "Device",
    "devices.count": "Devices",
    "devices.sharding": "How they share",
    "devices.nodes": "Machines",
    "devices.rendezvous": "Where they meet",
    "precision": "Precision",
    "attention": "Attention",
    "compile": "torch.compile",
    "recompute": "Activation recompute",
    "priority": "Priority",
    "trackers": "Also written to",
}
HELP: dict[str, str] = {
    "grad_accum_steps": "Micro-batches per optimizer update: a larger batch in the same memory.",
    "learning_rate": "Size of an update at the schedule's peak.",
    "schedule": "How the learning rate falls after the warm-up.",
    "warmup_steps": "Steps over which the learning rate rises to its peak.",
    "optimizer": "AdamW is the usual choice; Muon often learns in fewer steps, Lion and Adafactor hold less, 8-bit needs a GPU.",
    "weight_decay": "Pull of weights towards zero.",
    "beta1": "Memory of the gradient.",
    "beta2": "Memory of its square.",
    "seed": "The same seed, config and machine give the same run.",
    "device": "auto: a GPU where the worker has one, otherwise the CPU. gpu waits for a worker with one.",
    "devices.count": "GPUs (or processes on the CPU) that train together. The micro-batch is that of one.",
    "devices.sharding": "ddp: each holds all. fsdp, zero2 and zero3 share out weights and optimizer.",
    "checkpoint_every": "Each can be resumed from, evaluated and deployed.",
    "sample_tokens": "How much the network writes for each sample prompt.",
    "lora.rank": "Larger adapters can learn more and cost more.",
    "lora.alpha": "Scale of the adapters: alpha / rank.",
    "lora.variant": "rslora scales by the root of the rank, dora learns magnitude and direction apart, pissa starts from the largest directions.",
    "lora.dropout": "Share of the adapters' inputs dropped while training.",
    "grpo.max_new_tokens": "Longest completion that is tried.",
    "grpo.temperature": "How varied the completions are.",
    "grpo.clip_range": "How far one update may move the odds of a token.",
    "max_epochs": "Stop after so many passes, if the steps allow; 0: no limit.",
    "ema_decay": "Decay of a moving average of the weights, which is then what is saved; 0: none.",
    "trackers": "Files that these tools read, on this machine; nothing is sent.",
}
OTHER_LABELS: dict[str, str] = {
    "dataset": "Dataset",
    "architecture": "Architecture",
    "tokenizer": "Tokenizer",
    "base": "Base",
    "objective": "Objective",
    "method": "Method",
    "sample_prompts": "Sample prompts",
    "grpo.rewards": "Rewards",
    "queue": "Queue",
}
"""Of fields that are drawn elsewhere, for tables and warnings."""

WORDS: dict[str, str] = {
    "adamw": "AdamW",
    "muon": "Muon",
    "lion": "Lion",
    "adafactor": "Adafactor",
    "adamw_8bit": "AdamW, 8-bit",
    "wsd": "warm-up, hold, decay",
    "inverse_sqrt": "inverse root",
    "lora": "LoRA",
    "rslora": "rsLoRA",
    "dora": "DoRA",
    "pissa": "PiSSA",
    "ipo": "IPO",
    "ddp": "DDP",
    "fsdp": "FSDP",
    "zero2": "ZeRO 2",
    "zero3": "ZeRO 3",
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "wandb": "Weights & Biases",
    "trackio": "Trackio",
}
PREFIX = "launch_"
TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
_NAMED = re.compile(r"(?<![\w.])(" + "|".join(sorted(map(re.escape, LABELS), key=len, reverse=True)) + r")(?![\w])")


def label_of(path: str) -> str:
    """Return what the form calls a field."""
    return LABELS.get(path) or OTHER_LABELS.get(path, path)


def field_key(path: str) -> str:
    """Return the key of a field's widget."""
    return PREFIX + path.replace(".", "_")


def set_field(path: str, value: Any) -> None:
    """Put a value into a field. Only before it is drawn.

    It goes to the widget when that is drawn: a key that is set for a widget that is not there keeps its first value for ever.
    """
    _kept()[path] = float(value) if kind_of(path) is float else list(value) if isinstance(value, tuple) else value
    st.session_state.pop(field_key(path), None)


def get_field(path: str) -> Any:
    """Return what a field holds, drawn or not: a widget that leaves the page would take its value with it."""
    return st.session_state.get(field_key(path), _kept().get(path, default_at(path)))


def count_changed(paths: Iterable[str]) -> int:
    """Return how many of these fields are not at their default."""
    return sum(_plain(get_field(path)) != _plain(default_at(path)) for path in paths)


def draw_field(path: str) -> Any:
    """Draw one field and return its value. A field that an error names has a red label."""
    key = field_key(path)
    if key not in st.session_state:
        set_field(path, get_field(path))
        st.session_state[key] = _kept()[path]
    label = f":red[{LABELS[path]}]" if path in st.session_state.get("launch_at_fault", ()) else LABELS[path]
    value = _draw(path, label, key, HELP.get(path) or field_at(path).description)
    _kept()[path] = value
    return value


def draw_fields(paths: Iterable[str], values: dict[str, Any], *, columns: int = 4) -> None:
    """Draw fields side by side, and put what they hold into a config's values; those of a section into the section."""
    with st.grid(columns, min_column_width=150):
        for path in paths:
            section, _, name = path.partition(".")
            if name:
                values.setdefault(section, {})[name] = draw_field(path)
            else:
                values[path] = draw_field(path)


def fields_in(message: str) -> tuple[str, ...]:
    """Return the fields that an error names."""
    return tuple(dict.fromkeys(_NAMED.findall(message)))


def with_labels(message: str) -> str:
    """Put the form's words where an error has the schema's."""
    return _NAMED.sub(lambda found: f"“{LABELS[found[0]]}”", message)


def _draw(path: str, label: str, key: str, text: str | None) -> Any:
    if path == "trackers":
        return tuple(st.multiselect(label, TRACKERS, key=key, help=text, format_func=_word, placeholder="Nowhere else"))
    kind = kind_of(path)
    if kind is bool:
        with st.container(height="stretch", vertical_alignment="bottom"):
            return st.toggle(label, key=key, help=text)
    if not isinstance(kind, type):
        return st.selectbox(label, list(kind), key=key, help=text, format_func=_word)
    if kind is str:
        return st.text_input(label, key=key, help=text)
    low, high = _bounds(path)
    if kind is int:
        return st.number_input(
            label, min_value=None if low is None else int(low), max_value=None if high is None else int(high), step=1, key=key, help=text
        )
    return st.number_input(label, min_value=low, max_value=high, step=None, format="%g", key=key, help=text)


def _kept() -> dict[str, Any]:
    kept: dict[str, Any] = st.session_state.setdefault("launch_kept", {})
    return kept


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _word(value: Any) -> str:
    return WORDS.get(str(value), str(value))


def _bounds(path: str) -> tuple[float | None, float | None]:
    """Return the bounds that a number input can keep; what is stricter is said by the schema itself."""
    low: float | None = None
    high: float | None = None
    for item in field_at(path).metadata:
        if isinstance(item, Ge):
            low = float(item.ge)  # type: ignore[arg-type]
        elif isinstance(item, Gt):
            low = float(item.gt)  # type: ignore[arg-type]
        elif isinstance(item, Le):
            high = float(item.le)  # type: ignore[arg-type]
        elif isinstance(item, Lt):
            high = float(item.lt)  # type: ignore[arg-type]
    return low, high
