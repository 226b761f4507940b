"""Labels of the metrics of runs."""

from __future__ import annotations

from collections.abc import Mapping

from backend.domain.training.objectives import OBJECTIVE_FACTS, Objective

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


def validation_result(metrics: Mapping[str, float | None], objective: str | None) -> tuple[str, float] | None:
    """Return name and value of a checkpoint's result on the validation split, None where none was measured: the mean
    reward of a policy, else the loss, which is in nats per token only where the objective predicts tokens.

    Example:
        >>> validation_result({"val_loss": 0.636}, "dpo")
        ('DPO loss, validation', 0.636)
    """
    reward, loss = metrics.get("val_reward/mean"), metrics.get("val_loss")
    if reward is not None:
        return METRIC_LABELS["val_reward/mean"], reward
    if loss is None:
        return None
    if objective in OBJECTIVE_FACTS and not Objective(objective).predicts_tokens:
        return f"{OBJECTIVE_FACTS[Objective(objective)].name} loss, validation", loss
    return METRIC_LABELS["val_loss"], loss


def curve_label(metric: str) -> str:
    """Return what a metric is called; one of another program or version by the words of its name."""
    words = metric.removeprefix("val_").replace("/", ", ").replace("_", " ").strip() or metric
    if metric.startswith("val_"):
        words = f"validation {words}"
    return METRIC_LABELS.get(metric) or words[:1].upper() + words[1:]
