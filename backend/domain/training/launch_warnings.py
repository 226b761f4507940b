"""Warnings about a run that could be launched and is likely a mistake: each with its field, a sentence and a cure.
Pure.

An error refuses a launch; a warning asks for confirmation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import idle_fields, value_at
from backend.domain.training.held_out import FEW_ROWS
from backend.domain.training.objectives import Objective
from backend.domain.training.published_rules import batch_tokens_rule, learning_rate_rule
from backend.domain.wording import format_duration, format_number, percent, plural

PRETRAIN_FACTOR = 10.0
"""A learning rate this many times above or below the Step Law's is unusual: published runs of one size differ by
factors of 3 to 5.
"""

USEFUL_EPOCHS = 16.0
"""Epochs beyond which repeated text adds almost nothing (Muennighoff et al. 2023, arXiv 2305.16264, section 5)."""

USUAL_EPOCHS = {"full": 8.0, "adapter": 16.0, "preference": 4.0}
"""Epochs beyond which fine-tuning mostly memorizes: published recipes take 1 to 3 (full), 1 to 5 (adapters) and 1 to 2
(preferences; Rafailov et al. 2023 and Tunstall et al. 2023 take one to three). The limits are about three times that.
"""

LONG_S = 900.0
SLOW_FLOPS_PER_S = 3e10  # one core of a CPU in training
PADDED = 0.5
CUT = 0.1
SILENT = 0.01
TINY_BATCH = 16.0
MIN_CONTEXT = 8  # of a run
BATCH_EPOCHS = 1.5
"""Epochs per step above which the batch is too large for the data: with a little more than one, a last step is full."""


class Code(StrEnum):
    """Code of a warning."""

    LEARNING_RATE_HIGH = "learning_rate_high"
    LEARNING_RATE_LOW = "learning_rate_low"
    WARMUP_LONG = "warmup_long"
    NOT_MEASURED = "not_measured"
    NO_VALIDATION = "no_validation"
    NOTHING_SAVED = "nothing_saved"
    PATIENCE_IDLE = "patience_idle"
    PADDING = "padding"
    CUT_ROWS = "cut_rows"
    SILENT_ROWS = "silent_rows"
    OVER_FIT = "over_fit"
    BATCH_LARGE = "batch_large"
    FEW_ROWS = "few_rows"
    TEXT_SHORT = "text_short"
    BATCH_TINY = "batch_tiny"
    WITHOUT_EFFECT = "without_effect"
    DOES_NOT_FIT = "does_not_fit"
    REWARD_OUT_OF_REACH = "reward_out_of_reach"
    BASE_WITHOUT_CHAT = "base_without_chat"
    BASE_FORGETS_CHAT = "base_forgets_chat"
    TRAINS_ON_BENCHMARK = "trains_on_benchmark"


class LaunchWarning(BaseModel):
    """A likely mistake. `field` is a path of the config, `cure` what to do if it is one."""

    model_config = ConfigDict(frozen=True)

    code: Code
    field: str
    sentence: str
    cure: str = ""


@dataclass(frozen=True)
class LaunchFacts:
    """Facts about a run before it starts; None: unknown.

    `body` counts the network's parameters without embeddings, or all if its family is unknown. `epochs_at_least`: the
    epochs are a lower bound. `padding` and `cut_rows` are shares of positions and rows, by a data report;
    `cut_rows_at_least`: by a sample, a lower bound. `silent_rows` is the share of rows with nothing to train on.
    `packs`: the base keeps packed rows apart. `seconds` is the expected time of the steps. `fits` is that of a
    prediction. `base_chats`: the base has a chat template, so it was trained on conversations. `max_context` is the
    longest context that the network takes.
    """

    body: int | None = None
    epochs: float | None = None
    epochs_at_least: bool = False
    seconds: float | None = None
    train_rows: int | None = None
    val_rows: int | None = None
    padding: float | None = None
    packs: bool = True
    cut_rows: float | None = None
    cut_rows_at_least: bool = False
    silent_rows: float | None = None
    fits: str = "unknown"
    device: str = "the device"
    base_chats: bool | None = None
    dataset_kind: str = ""
    max_context: int | None = None


def warnings_of(config: RunConfig, facts: LaunchFacts) -> tuple[LaunchWarning, ...]:
    """Return the warnings about a run, most severe first."""
    warnings = [*_about_memory(config, facts), *_about_parts(config, facts)]
    warnings += [*_about_learning_rate(config, facts), *_about_course(config, facts)]
    return (*warnings, *_about_data(config, facts), *_about_batch(config, facts), *_about_idle_fields(config))


def most_epochs(objective: Objective, method: str) -> float:
    """Return the epochs beyond which a run is warned of."""
    if objective.pretrains:
        return USEFUL_EPOCHS
    return USUAL_EPOCHS["preference" if objective.learns_preferences else "full" if method == "full" else "adapter"]


def usual_learning_rates(config: RunConfig, body: int | None) -> tuple[float, float, str] | None:
    """Return (lowest, highest, source) of the usual peak learning rates for a network's size, an objective and a
    method.

    Pretraining: the Step Law for AdamW (arXiv 2503.04715) within a factor of ten. Fine-tuning is compared with the rate
    that would pretrain the network at 20 tokens per parameter (Hoffmann et al. 2022): full fine-tuning takes at most
    that and usually far less (2e-5 at 7 B, 1e-3 at 135 M), preferences a thirtieth (5e-7 to 5e-6 at 7 B; Tunstall et
    al. 2023, arXiv 2310.16944), adapters about ten times the rate of full fine-tuning (Schulman et al. 2025, "LoRA
    Without Regret"). Lion takes 3 to 10 times less than AdamW (arXiv 2302.06675). None where no rule is known: other
    optimizers, GRPO, and a network of unknown size.
    """
    if config.optimizer not in ("adamw", "adamw_8bit", "lion") or config.objective.samples or not body:
        return None
    less = 5.0 if config.optimizer == "lion" else 1.0
    by = " and a fifth of it for Lion" if config.optimizer == "lion" else ""
    if config.objective.pretrains:
        rule = learning_rate_rule(body, config.tokens_per_step * config.max_steps).value / less
        # continued pretraining often takes a tenth of the base's peak
        low = rule / PRETRAIN_FACTOR / (10.0 if config.base else 1.0)
        return (
            low,
            rule * PRETRAIN_FACTOR,
            f"the Step Law (Li et al. 2025) says {format_number(rule, digits=2)} for this size and these tokens{by}",
        )
    full_rate = learning_rate_rule(body, 20.0 * body).value / less
    adapters = config.method != "full"
    if config.objective.learns_preferences:
        top = full_rate / (10.0 if adapters or not config.objective.facts.writes else 30.0)
        return (
            top / 1000.0,
            top,
            f"preferences take far less than the {format_number(full_rate, digits=2)} that this size is pretrained"
            f" with{by}",
        )
    top = 2.0 * full_rate if adapters else full_rate
    expectation = "adapters take up to twice" if adapters else "fine-tuning takes at most"
    return (
        top / (300.0 if adapters else 1000.0),
        top,
        f"{expectation} the {format_number(full_rate, digits=2)} that this size is pretrained with{by}",
    )


def _about_memory(config: RunConfig, facts: LaunchFacts) -> Iterator[LaunchWarning]:
    if facts.fits == "no":
        yield LaunchWarning(
            code=Code.DOES_NOT_FIT,
            field="micro_batch",
            sentence=f"The estimated memory does not fit {facts.device}.",
            cure="Use a smaller micro-batch with more gradient accumulation, activation recompute, or adapters.",
        )


def _about_parts(config: RunConfig, facts: LaunchFacts) -> Iterator[LaunchWarning]:
    """Warn of a base that does not suit the objective, and of a benchmark's items in training."""
    if facts.base_chats is False and config.objective.facts.needs_answers:
        name = config.objective.facts.label
        yield LaunchWarning(
            code=Code.BASE_WITHOUT_CHAT,
            field="base",
            sentence=(
                f"“{config.base}” has no chat template: it has not been trained on conversations, and {name} chooses"
                " among the answers that a base already gives."
            ),
            cure="Fine-tune it first (SFT), and take that run's checkpoint as the base.",
        )
    if facts.base_chats and config.objective.pretrains:
        yield LaunchWarning(
            code=Code.BASE_FORGETS_CHAT,
            field="base",
            sentence=(
                f"“{config.base}” answers in chats, and pretraining on plain text makes it forget them: the checkpoint"
                " loses its chat template."
            ),
            cure="Continue from the base it was fine-tuned from, and fine-tune again afterwards.",
        )
    lengths = [rule.target for rule in config.grpo.rewards if rule.kind == "length"] if config.objective.samples else []
    if lengths and max(lengths) > config.grpo.max_new_tokens:
        yield LaunchWarning(
            code=Code.REWARD_OUT_OF_REACH,
            field="grpo.max_new_tokens",
            sentence=(
                f"A reward has a target of {max(lengths):,} tokens, and every answer is cut after"
                f" {config.grpo.max_new_tokens:,}: none reaches it."
            ),
            cure=f"Allow at least {max(lengths):,} new tokens, or lower the target.",
        )
    if facts.dataset_kind == "benchmark":
        yield LaunchWarning(
            code=Code.TRAINS_ON_BENCHMARK,
            field="dataset",
            sentence=(
                f"“{config.dataset}” is a benchmark: what is trained on its items scores high on them without being"
                " better."
            ),
            cure="Train on other questions, or never evaluate this run's checkpoints on it.",
        )


def _about_learning_rate(config: RunConfig, facts: LaunchFacts) -> Iterator[LaunchWarning]:
    usual = usual_learning_rates(config, facts.body)
    if usual is None or usual[0] <= config.learning_rate <= usual[1]:
        return
    low, high, source = usual
    above = config.learning_rate > high
    yield LaunchWarning(
        code=Code.LEARNING_RATE_HIGH if above else Code.LEARNING_RATE_LOW,
        field="learning_rate",
        sentence=(
            f"A learning rate of {format_number(config.learning_rate)} is {'above' if above else 'below'} the usual"
            f" {format_number(low, digits=1)} to {format_number(high, digits=1)}: {source}."
        ),
        cure=(
            f"A rate that is too high diverges{' or forgets the base' if config.base else ''}."
            if above
            else "A rate that is too low hardly changes the model."
        ),
    )


def _about_course(config: RunConfig, facts: LaunchFacts) -> Iterator[LaunchWarning]:
    """Warm-up, evaluations, checkpoints. The training loop evaluates at checkpoints, too; both at the last step."""
    steps = config.max_steps
    if config.num_warmup_steps > steps / 2 and steps > 1:
        yield LaunchWarning(
            code=Code.WARMUP_LONG,
            field="warmup_ratio" if config.warmup_steps is None else "warmup_steps",
            sentence=f"The warm-up of {config.num_warmup_steps:,} steps takes more than half of the {steps:,}.",
            cure="A twentieth of the run is usual.",
        )
    if facts.val_rows == 0 and not config.objective.samples:  # rewards are measured in training
        yield LaunchWarning(
            code=Code.NO_VALIDATION,
            field="dataset",
            sentence="The dataset has no validation rows, so there is no validation loss.",
            cure="Import it with a validation share.",
        )
    elif min(config.eval_every, config.checkpoint_every) >= steps and _takes_long(config, facts):
        yield LaunchWarning(
            code=Code.NOT_MEASURED,
            field="eval_every",
            sentence=(
                f"The validation loss is computed every {plural(config.eval_every, 'step')} and the run has {steps:,}:"
                " only its end is evaluated."
            ),
            cure=f"Evaluate every {plural(max(1, steps // 20), 'step')}.",
        )
    if config.checkpoint_every >= steps and _takes_long(config, facts):
        lasts = f" of about {format_duration(facts.seconds)}" if facts.seconds is not None else ""
        yield LaunchWarning(
            code=Code.NOTHING_SAVED,
            field="checkpoint_every",
            sentence=f"No checkpoint is saved before the end of this run{lasts}; after a crash it starts over.",
            cure=f"Save every {plural(max(1, steps // 10), 'step')}.",
        )
    if config.patience and config.patience * min(config.eval_every, config.checkpoint_every) >= steps:
        yield LaunchWarning(
            code=Code.PATIENCE_IDLE,
            field="patience",
            sentence=(
                f"{config.patience} evaluations without a better validation loss do not fit into"
                f" {plural(steps, 'step')}: the run never stops early."
            ),
            cure="Evaluate more often, or set patience to 0.",
        )


def _takes_long(config: RunConfig, facts: LaunchFacts) -> bool:
    """Return whether a run is long enough to warn of missing checkpoints; by FLOPs if its time is unknown."""
    if facts.seconds is not None:
        return facts.seconds >= LONG_S
    return (
        facts.body is None or 6.0 * facts.body * config.tokens_per_step * config.max_steps >= LONG_S * SLOW_FLOPS_PER_S
    )


def _about_data(config: RunConfig, facts: LaunchFacts) -> Iterator[LaunchWarning]:
    packs = config.packing and facts.packs
    has_longer = facts.max_context is None or config.context < facts.max_context
    if config.objective.packs and not packs and facts.padding is not None and facts.padding >= PADDED:
        why = "Without packing" if facts.packs else "This base can't keep packed rows apart, so they are padded:"
        yield LaunchWarning(
            code=Code.PADDING,
            field="packing",
            sentence=f"{why} {percent(facts.padding)} of what is computed is padding.",
            cure=(
                "Turn packing on: rows share a sequence and none attends to another."
                if facts.packs
                else "A smaller micro-batch with more accumulation pads less."
            ),
        )
    if not config.objective.pretrains and facts.cut_rows is not None and facts.cut_rows >= CUT:
        yield LaunchWarning(
            code=Code.CUT_ROWS,
            field="context",
            sentence=(
                f"{'At least ' if facts.cut_rows_at_least else ''}{percent(facts.cut_rows)} of the rows are longer than"
                f" {config.context:,} tokens and are cut."
            ),
            cure="Use a longer context, or drop the long rows."
            if has_longer
            else "Drop the long rows: this is the base's longest.",
        )
    if facts.silent_rows is not None and facts.silent_rows >= SILENT:
        yield LaunchWarning(
            code=Code.SILENT_ROWS,
            field="context",
            sentence=(
                f"At least {percent(facts.silent_rows)} of the rows have no target within {config.context:,} tokens and"
                " are skipped."
            ),
            cure=f"{'Use a longer context; the' if has_longer else 'The'} data report lists such rows, and drops them.",
        )
    if facts.train_rows and facts.train_rows < FEW_ROWS and not config.objective.pretrains:  # a book is one row of text
        yield LaunchWarning(
            code=Code.FEW_ROWS,
            field="dataset",
            sentence=f"“{config.dataset}” has only {plural(facts.train_rows, 'train row')}: so few are memorized.",
            cure="Add rows, or look at its import: what it left out is listed there.",
        )
    most = most_epochs(config.objective, config.method)
    if facts.epochs is None or config.objective.samples:
        return
    num_tokens = round(config.tokens_per_step * config.max_steps / facts.epochs)
    if config.objective.pretrains and num_tokens < fewest_tokens(config.context):
        yield LaunchWarning(
            code=Code.TEXT_SHORT,
            field="context",
            sentence=(
                f"The train split has about {plural(num_tokens, 'token')}, too few for a context of"
                f" {config.context:,}: the run would fail at its start."
            ),
            cure=short_text_cure(num_tokens),
        )
    elif facts.epochs > BATCH_EPOCHS * config.max_steps:
        yield _about_large_batch(config, facts.epochs / config.max_steps, is_lower_bound=facts.epochs_at_least)
    elif facts.epochs > most:
        yield _about_many_epochs(config, facts.epochs, most, is_lower_bound=facts.epochs_at_least)


def fewest_tokens(context: int) -> int:
    """Return the tokens that a train split of texts needs: two windows, whose boundaries can shift."""
    return 2 * context + 1


def most_context(num_tokens: int) -> int:
    """Return the longest context that a train split of this many tokens has enough of."""
    return (num_tokens - 1) // 2


def short_text_cure(num_tokens: int) -> str:
    """Return what to do about a train split of fewer tokens than its context needs."""
    longest = most_context(num_tokens)
    return f"Use a context of at most {longest:,}, or more text." if longest >= MIN_CONTEXT else "Use more text."


def _about_many_epochs(config: RunConfig, epochs: float, most: float, *, is_lower_bound: bool) -> LaunchWarning:
    bound = "at least " if is_lower_bound else ""
    steps = plural(max(1, int(config.max_steps * most / epochs)), "step")
    why = (
        "beyond sixteen, more add almost nothing (Muennighoff et al. 2023)."
        if config.objective.pretrains
        else "rows repeated so often are memorized."
    )
    return LaunchWarning(
        code=Code.OVER_FIT,
        field="max_steps",
        sentence=f"The run takes {bound}{epochs:.3g} epochs: {why}",
        cure=f"Take {steps} for {bound}{most:g} epochs; patience stops a run in time.",
    )


def _about_large_batch(config: RunConfig, epochs: float, *, is_lower_bound: bool) -> LaunchWarning:
    """Return the warning about a step that trains on the data `epochs` times: fewer steps are no remedy."""
    sequences = config.tokens_per_step // config.context
    in_data = max(1, round(sequences / epochs))
    most = in_data * config.micro_batch // sequences
    size = f"{sequences:,} {'sequences' if config.objective.packs or config.objective.pretrains else 'rows'}"
    return LaunchWarning(
        code=Code.BATCH_LARGE,
        field="micro_batch" if config.micro_batch > 1 else "grad_accum_steps",
        sentence=(
            f"A step of {size} takes {'at least ' if is_lower_bound else ''}{epochs:.3g} epochs: every update sees the"
            " same rows several times."
        ),
        cure=f"Use a micro-batch of at most {most:,}." if most else f"A step has room for at most {in_data:,}.",
    )


def _about_batch(config: RunConfig, facts: LaunchFacts) -> Iterator[LaunchWarning]:
    if not config.objective.pretrains:
        return
    rule = batch_tokens_rule(float(config.tokens_per_step) * config.max_steps)
    if config.tokens_per_step * TINY_BATCH < rule:
        yield LaunchWarning(
            code=Code.BATCH_TINY,
            field="micro_batch",
            sentence=(
                f"A step has {config.tokens_per_step:,} tokens; for this run the Step Law (Li et al. 2025) suggests"
                f" {rule:,.0f}."
            ),
            cure="Raise gradient accumulation: noisy gradients waste steps.",
        )


def _about_idle_fields(config: RunConfig) -> Iterator[LaunchWarning]:
    """Warn of fields that are set and have no effect in this run."""
    for path, unmet in idle_fields(config):
        value = value_at(config, path)
        shown = (
            f" {value:g}"
            if isinstance(value, float)
            else f" {str(value).lower()}"
            if isinstance(value, int | str)
            else ""
        )
        yield LaunchWarning(
            code=Code.WITHOUT_EFFECT,
            field=path,
            sentence=f"{path}{shown} has no effect with {unmet.field} {value_at(config, unmet.field)}.",
            cure="Reset it to its default.",
        )
