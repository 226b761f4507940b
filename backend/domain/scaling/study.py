"""Scaling study: networks of several sizes on equal budgets (IsoFLOP), to find the optimal size on own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_flops
from backend.domain.estimates.throughput import Speed, rate_at
from backend.domain.fields import setting
from backend.domain.scaling.isoflop import MIN_SIZES
from backend.domain.scaling.laws import DEFAULT_LAW, ScalingLaw
from backend.domain.scaling.shapes import count_all, count_without_embeddings, propose_architecture
from backend.domain.training.config import RunConfig
from backend.domain.training.objectives import Objective
from backend.domain.training.published_rules import batch_tokens_rule, learning_rate_rule
from backend.domain.validation import read_values
from backend.domain.wording import format_count
from backend.errors import InvalidInput

EVAL_TOKENS = 65_536
"""Tokens of each run's val_loss, the same windows for all runs: low noise, about a second."""

FINAL_LEARNING_RATE = 1e-5
MAX_RUNS = 60


class StudyConfig(BaseModel):
    """Config of a study: budgets, and sizes per budget, evenly spaced in log N about the law's optimum."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = setting(..., "Name", "What the study is called.", min_length=1, max_length=100)
    dataset: str = setting(..., "Dataset", "Dataset of kind text.", min_length=1, max_length=140)
    tokenizer: str = setting(..., "Tokenizer", "Tokenizer of all runs.", min_length=1, max_length=140)
    budgets: tuple[float, ...] = setting(
        ...,
        "Budgets",
        "FLOPs of each profile: two to four, each at least three times the one before.",
        min_length=1,
        max_length=8,
        unit="FLOPs",
    )
    sizes: int = setting(5, "Sizes per budget", "Models at each budget.", ge=3, le=12)
    spread: float = setting(
        4.0,
        "Spread",
        "Ratio of the largest model to the middle one, and of the middle one to the smallest.",
        ge=1.2,
        le=64,
        step=0.5,
    )
    law: str = setting(
        DEFAULT_LAW,
        "Middle size by",
        "The law whose optimum is the middle size; the study finds the optimum.",
        max_length=60,
    )
    family: str = Field(default="llama", max_length=40, description="Family of the models.")
    context: int = setting(128, "Context", "Tokens per training sequence.", ge=8, le=1_048_576, unit="tokens")
    seed: int = setting(1, "Seed", ge=0, le=2**32 - 1)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    priority: int = Field(default=6, ge=0, le=9, description="0 runs first; by default a study runs after single runs.")

    @field_validator("budgets")
    @classmethod
    def _check_budgets(cls, budgets: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < budget < 1e40 for budget in budgets):
            raise ValueError("each budget must be a positive number of FLOPs")
        if len(set(budgets)) < len(budgets):
            raise ValueError("two budgets are the same")
        return tuple(sorted(budgets))


@dataclass(frozen=True)
class StudyRun:
    """One run of a study. `seconds` is None where no rate was measured, `epochs` where its tokens aren't known."""

    budget: float
    parameters: int
    tokens: int
    flops: float
    epochs: float | None
    seconds: float | None
    config: RunConfig


@dataclass(frozen=True)
class StudyPlan:
    """The runs of a study, smallest budget and network first, with notes."""

    config: StudyConfig
    runs: tuple[StudyRun, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Seconds of all runs, one after the other; None if not known."""
        times = [run.seconds for run in self.runs]
        return None if any(time is None for time in times) else float(sum(time for time in times if time is not None))


def parse_study(values: Any) -> StudyConfig:
    """Return a config from a form's values or a YAML file's. Raises InvalidInput naming field, value and bound."""
    if not isinstance(values, dict):
        raise InvalidInput("A study is a mapping of fields to values, such as `dataset: stories`.")
    return read_values(StudyConfig, values, intro="This study can't be run: ")


def plan_study(
    config: StudyConfig,
    *,
    law: ScalingLaw,
    vocab_size: int,
    speeds: Sequence[Speed] = (),
    unique_tokens: int | None = None,
) -> StudyPlan:
    """Lay out the runs of a study. Raises InvalidInput for too many runs, or budgets too small for several sizes."""
    if len(config.budgets) * config.sizes > MAX_RUNS:
        raise InvalidInput(
            f"{len(config.budgets)} budgets of {config.sizes} sizes are {len(config.budgets) * config.sizes} runs.",
            remedy=f"Take at most {MAX_RUNS}; three budgets of five sizes are a good start.",
            field="sizes",
        )
    shapes = [(budget, _shapes(config, law, vocab_size, budget)) for budget in config.budgets]
    smallest = min(batch_tokens_rule(budget / _per_token(shape, config)) for budget, of in shapes for shape in of)
    micro_batch = _power_of_two(smallest / config.context)
    runs = [
        _study_run(config, budget, shape, micro_batch=micro_batch, speeds=speeds, unique_tokens=unique_tokens)
        for budget, of in shapes
        for shape in of
    ]
    return StudyPlan(config, tuple(runs), tuple(_notes(config, shapes, runs)))


def _shapes(config: StudyConfig, law: ScalingLaw, vocab_size: int, budget: float) -> list[ArchitectureConfig]:
    """Return the networks of one budget, smallest first; duplicates of the smallest possible network are dropped."""
    middle = law.optimum(budget).parameters
    targets = middle * np.geomspace(1 / config.spread, config.spread, config.sizes)
    architectures = [
        propose_architecture(float(n), family=config.family, vocab_size=vocab_size, context=config.context)
        for n in targets
    ]
    return list(dict.fromkeys(architectures))


def _study_run(
    config: StudyConfig,
    budget: float,
    shape: ArchitectureConfig,
    *,
    micro_batch: int,
    speeds: Sequence[Speed],
    unique_tokens: int | None,
) -> StudyRun:
    per_token = _per_token(shape, config)
    target_tokens = budget / per_token
    accumulate = max(1, round(batch_tokens_rule(target_tokens) / (micro_batch * config.context)))
    per_step = micro_batch * accumulate * config.context
    steps = max(1, round(target_tokens / per_step))
    rate = learning_rate_rule(count_without_embeddings(shape), target_tokens).value
    tokens = steps * per_step
    run = RunConfig(
        name=f"{config.name} {format_budget(budget)} {format_count(count_all(shape))}"[:120],
        objective=Objective.PRETRAIN,
        dataset=config.dataset,
        tokenizer=config.tokenizer,
        architecture=shape,
        context=config.context,
        max_steps=steps,
        micro_batch=micro_batch,
        grad_accum_steps=accumulate,
        learning_rate=rate,
        min_learning_rate=min(FINAL_LEARNING_RATE, rate),
        warmup_steps=min(steps, max(1, steps // 20), 2000),
        seed=config.seed,
        eval_every=steps,
        checkpoint_every=steps,
        keep_last=1,
        eval_batches=max(1, round(EVAL_TOKENS / (micro_batch * config.context))),
        sample_prompts=(),
        device=config.device,
        priority=config.priority,
    )
    return StudyRun(
        budget=budget,
        parameters=count_all(shape),
        tokens=tokens,
        flops=float(tokens * per_token),
        epochs=tokens / unique_tokens if unique_tokens else None,
        seconds=tokens * per_token / rate_at(speeds, per_token) if speeds else None,
        config=run,
    )


def format_budget(flops: float) -> str:
    """Format a budget: `1e12`, `3.2e12`."""
    mantissa, exponent = f"{flops:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _per_token(shape: ArchitectureConfig, config: StudyConfig) -> int:
    return count_flops(shape, context=config.context).training


def _power_of_two(sequences: float) -> int:
    """One micro-batch for all runs, so that all measure val_loss on the same windows; at most 32 sequences."""
    size = 1
    while 2 * size <= min(32.0, sequences):
        size *= 2
    return size


def _notes(
    config: StudyConfig, shapes: Sequence[tuple[float, list[ArchitectureConfig]]], runs: Sequence[StudyRun]
) -> list[str]:
    notes = []
    poor = [format_budget(budget) for budget, of in shapes if len(of) < MIN_SIZES]
    if poor:
        notes.append(
            f"At {' and '.join(poor)} FLOPs fewer than {MIN_SIZES} different models fit this vocabulary, so there"
            " is not a profile. Choose larger budgets, more sizes or a smaller vocabulary."
        )
    if len(config.budgets) < 3:
        notes.append("With fewer than three budgets the exponents are poorly determined.")
    elif max(config.budgets) / min(config.budgets) < 8:
        notes.append(
            "The budgets are close together: a factor of ten between first and last determines the exponents better."
        )
    most = max((run.epochs or 0.0 for run in runs), default=0.0)
    if most > 4:
        notes.append(
            f"The longest run takes {most:.3g} epochs. Past four epochs repeated data is worth less (Muennighoff et al."
            " 2023); the fit counts effective tokens, by a rule from other data. More text would make the study"
            " cleaner."
        )
    short = sum(run.config.max_steps < 100 for run in runs)
    if short:
        notes.append(f"{short} of the {len(runs)} runs have fewer than 100 steps, too short to be informative.")
    return notes
