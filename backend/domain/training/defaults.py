"""Suggested hyperparameters for an objective, a method, a network's size and the size of the data. Rules of thumb with
their sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.domain.json_values import FieldValues
from backend.domain.training.launch_warnings import MIN_CONTEXT, most_context, most_epochs
from backend.domain.training.objectives import Objective
from backend.domain.training.published_rules import batch_tokens_rule, learning_rate_rule, split_batch
from backend.domain.wording import plural

TOKENS_PER_PARAMETER = 20
"""Compute-optimal tokens per parameter (Hoffmann et al. 2022, arXiv 2203.15556)."""
PRETRAIN_EPOCHS = 4
"""Epochs up to which repeated text is nearly as good as new text (Muennighoff et al. 2023, arXiv 2305.16264)."""
SFT_EPOCHS, PREFERENCE_EPOCHS = 3, 1
MIN_STEPS, MAX_STEPS = 10, 100_000
DEFAULT_CONTEXT, MAX_CONTEXT = 512, 1024
DEFAULT_PARAMETERS = 1_000_000_000
LION_DIVISOR = 5.0
"""Lion takes 3 to 10 times less than AdamW (Chen et al. 2023, arXiv 2302.06675)."""


@dataclass(frozen=True)
class Basis:
    """Facts that the suggested defaults depend on. None: unknown.

    `parameters` are those without embeddings where the shape is known. `unique_tokens` are those of the train split.
    `chosen` holds fixed values, by path: steps follow a chosen micro-batch, the learning rate a chosen optimizer.
    """

    objective: Objective
    method: str = "full"
    has_base: bool = False
    parameters: int | None = None
    max_context: int | None = None
    train_rows: int | None = None
    unique_tokens: int | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)


def suggest_values(basis: Basis) -> FieldValues:
    """Return suggested values by path, for fields that depend on the basis. Chosen values are included unchanged."""
    chosen = dict(basis.chosen)
    pretrains = basis.objective.pretrains
    longest = min(basis.max_context or DEFAULT_CONTEXT, MAX_CONTEXT)
    if pretrains and basis.unique_tokens:
        longest = max(MIN_CONTEXT, min(longest, most_context(basis.unique_tokens)))
    context = int(chosen.get("context") or longest)
    micro_batch, accumulate = _batch(basis, context)
    micro_batch = int(chosen.get("micro_batch") or micro_batch)
    accumulate = int(chosen.get("grad_accum_steps") or accumulate)
    steps = int(chosen.get("max_steps") or _steps(basis, micro_batch * accumulate, context))
    rate = float(
        chosen.get("learning_rate") or suggest_learning_rate(basis, tokens=steps * micro_batch * accumulate * context)
    )
    values: dict[str, object] = {
        "context": context,
        "micro_batch": micro_batch,
        "grad_accum_steps": accumulate,
        "max_steps": steps,
        "learning_rate": rate,
        "min_learning_rate": float(f"{rate / 10:.2g}") if pretrains else 0.0,
        "weight_decay": 0.1 if pretrains else 0.0,
        "eval_every": max(1, steps // 10),
        "checkpoint_every": max(1, math.ceil(steps / 4)),
    }
    if basis.method != "full":
        values |= {"lora.rank": 16, "lora.alpha": 32.0}
    if basis.objective is Objective.SIMPO:  # Meng et al. 2024, arXiv 2405.14734, table 8
        values |= {"preference.beta": 2.0, "preference.gamma": 1.0}
    if basis.objective.samples:
        values["grpo.max_new_tokens"] = min(64, max(1, context // 2))
    return values | chosen


def suggest_learning_rate(basis: Basis, *, tokens: float) -> float:
    """Return a peak learning rate to one figure.

    Pretraining: the Step Law, a third of it when continuing from a checkpoint. Fine-tuning all weights: 2e-5 at 7 B,
    growing by the power 0.7 as networks shrink, which passes through 3e-4 at 135 M, at most 2e-3. LoRA takes five times
    that, at most 4e-3 (Schulman et al. 2025, "LoRA Without Regret", find up to ten). Preferences take a fortieth (5e-7
    at 7 B; Tunstall et al. 2023, arXiv 2310.16944), with LoRA a twentieth of LoRA's; GRPO a twentieth; reward models a
    tenth.
    """
    parameters = basis.parameters or DEFAULT_PARAMETERS
    if basis.objective.pretrains:
        rate = learning_rate_rule(parameters, max(tokens, 1.0)).value / (3.0 if basis.has_base else 1.0)
    else:
        full = min(2e-5 * math.pow(7e9 / parameters, 0.7), 2e-3)
        adapters = basis.method != "full"
        rate = min(5.0 * full, 4e-3) if adapters else full
        if not basis.objective.facts.writes:
            rate /= 20.0 if adapters else 10.0
        elif basis.objective.samples or (adapters and basis.objective.learns_preferences):
            rate /= 20.0
        elif basis.objective.learns_preferences:
            rate /= 40.0
    return float(f"{rate / (LION_DIVISOR if basis.chosen.get('optimizer') == 'lion' else 1.0):.1g}")


def _batch(basis: Basis, context: int) -> tuple[int, int]:
    """Return (micro_batch, grad_accum_steps): pretraining by Step Law, else 8 sequences, 16 above 10 M parameters, and
    no more than there are rows.
    """
    parameters = basis.parameters or DEFAULT_PARAMETERS
    tokens_at_once = 8192 if parameters <= 200_000_000 else 4096 if parameters <= 2_000_000_000 else 2048
    if basis.objective.pretrains:
        micro_batch, accumulate = split_batch(
            batch_tokens_rule(_pretrain_tokens(basis)), context=context, micro_batch_tokens=tokens_at_once
        )
        return 2 ** round(math.log2(micro_batch)), accumulate
    sequences = 16 if basis.objective.samples or parameters > 10_000_000 else 8
    if basis.train_rows and not basis.objective.samples:
        sequences = min(sequences, 2 ** int(math.log2(basis.train_rows)))
    smallest = basis.objective.facts.min_micro_batch
    micro_batch = max(
        size for size in (1, 2, 4, 8, 16) if size <= max(smallest, min(sequences, tokens_at_once // context))
    )
    return micro_batch, max(1, sequences // micro_batch)


def _pretrain_tokens(basis: Basis) -> float:
    """Return the tokens to train on: compute-optimal, but no more than four epochs of the data."""
    limits = [float(TOKENS_PER_PARAMETER * basis.parameters)] if basis.parameters else []
    if basis.unique_tokens:
        limits.append(float(PRETRAIN_EPOCHS * basis.unique_tokens))
    return min(limits, default=float(TOKENS_PER_PARAMETER * 1_000_000))


def _steps(basis: Basis, sequences: int, context: int) -> int:
    least = MIN_STEPS
    if basis.objective.pretrains:
        steps = _pretrain_tokens(basis) / (sequences * context)
    elif basis.train_rows:
        epochs = SFT_EPOCHS if basis.objective.packs else PREFERENCE_EPOCHS
        rows = sequences / 8 if basis.objective.samples else sequences  # a group of 8 completions a prompt
        steps = epochs * basis.train_rows / rows
        least = min(least, max(1, int(most_epochs(basis.objective, basis.method) * basis.train_rows / rows)))
    else:
        steps = 300.0
    return max(least, min(MAX_STEPS, _rounded(steps)))


def _rounded(steps: float) -> int:
    """Round up to two figures."""
    if steps <= 100:
        return math.ceil(steps)
    unit = int(10 ** (math.floor(math.log10(steps)) - 1))
    return math.ceil(steps / unit) * unit


VOTE_STEPS, VOTE_CONTEXT = 2000, 512
"""Most steps and longest context of a recipe for a set of votes."""
NAMES_OF_METHODS = {"lora": "LoRA", "qlora": "QLoRA", "full": "all weights"}
SMALL_SET, MEDIUM_SET = 200, 1000
"""Rows below which a run makes three epochs, and two."""
FEW_BATCHES = 8
"""Batches that a small set is divided into at least, so that an epoch is more than one step."""


@dataclass(frozen=True)
class SuggestedRecipe:
    """Values by path of a RunConfig, and (label, reason) of those that depend on the set."""

    values: Mapping[str, Any]
    reasons: tuple[tuple[str, str], ...] = field(default=())


def suggest_recipe(objective: Objective, *, num_rows: int, parameters: int | None, context: int) -> SuggestedRecipe:
    """Return the recipe for LoRA on `num_rows` training rows and a network of this many parameters.

    The learning rate is `suggest_learning_rate`'s. Small sets get more epochs and smaller batches; beta is 0.1
    (Rafailov et al. 2023, arXiv 2305.18290), twice that below 200 pairs, which keeps the network nearer to its base.
    """
    context = min(context, VOTE_CONTEXT)
    basis = Basis(objective, "lora", has_base=True, parameters=parameters, max_context=context, train_rows=num_rows)
    values = suggest_values(basis)
    smallest = objective.facts.min_micro_batch
    batch = max(
        smallest,
        min(values["micro_batch"] * values["grad_accum_steps"], 2 ** int(math.log2(max(1, num_rows / FEW_BATCHES)))),
    )
    micro_batch = max(smallest, min(values["micro_batch"], batch))
    accumulate = max(1, batch // micro_batch)
    epochs = 3 if num_rows < SMALL_SET else 2 if num_rows < MEDIUM_SET else 1
    steps = max(MIN_STEPS, min(VOTE_STEPS, math.ceil(epochs * num_rows / (micro_batch * accumulate))))
    chosen = {
        **basis.chosen,
        "context": context,
        "micro_batch": micro_batch,
        "grad_accum_steps": accumulate,
        "max_steps": steps,
    }
    values = suggest_values(
        Basis(objective, "lora", has_base=True, parameters=parameters, train_rows=num_rows, chosen=chosen)
    )
    values |= {"warmup_steps": min(10, steps // 10), "eval_every": max(1, steps // 4), "checkpoint_every": steps}
    reasons = [
        ("Steps", f"{plural(epochs, 'epoch')} over {plural(num_rows, 'row')} in batches of {micro_batch * accumulate}"),
        (
            "Learning rate",
            f"for {objective.value.upper()} with {NAMES_OF_METHODS['lora']} on {_size(parameters)} parameters",
        ),
    ]
    if objective.facts.has_reference:
        values["preference.beta"] = 0.2 if num_rows < SMALL_SET else 0.1
        reasons.append(
            (
                "Beta",
                "the usual 0.1" if num_rows >= SMALL_SET else "twice the usual 0.1: few pairs, so stay near the base",
            )
        )
    reasons.append(("Method", "LoRA changes the base least and is merged or removed in one step"))
    return SuggestedRecipe(values, tuple(reasons))


def _size(parameters: int | None) -> str:
    if not parameters:
        return "an unknown number of"
    return f"{parameters / 1e6:,.1f} M" if parameters >= 100_000 else f"{parameters:,}"
