"""Labels of the metrics of runs."""

from __future__ import annotations

METRIC_LABELS = {
    "best_val_loss": "Best validation loss",
    "val_loss": "Validation loss",
    "val_bpb": "Validation bits per byte",
    "train_loss": "Training loss",
    "tok_per_sec": "Tokens per second",
    "val_rewards/accuracies": "Preference accuracy, validation",
    "val_rewards/margins": "Reward margin, validation",
    "val_accuracy": "Preference accuracy, validation",
    "val_margin": "Reward margin, validation",
    "val_reward/mean": "Mean reward, validation",
    "reward/mean": "Mean reward, training",
}


def curve_label(metric: str) -> str:
    """Return what a metric is called; one of another program or version by the words of its name."""
    words = metric.removeprefix("val_").replace("/", ", ").replace("_", " ").strip() or metric
    if metric.startswith("val_"):
        words = f"validation {words}"
    return METRIC_LABELS.get(metric) or words[:1].upper() + words[1:]
