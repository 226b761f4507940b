"""RunConfig: the one schema behind the launch form, the YAML recipe, the API body and the stored row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationInfo, model_validator

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.fields import setting, unless, when
from backend.domain.training.config_sections import (
    PRETRAINING,
    ConfigSection,
    DeviceConfig,
    GrpoConfig,
    LoraConfig,
    PreferenceConfig,
    Tracker,
    trains,
)
from backend.domain.training.objectives import Objective
from backend.domain.training.traits import COST, NOTHING, RESULT, RESULT_AND_COST, RESULT_AND_LENGTH, FieldGroup, Traits
from backend.domain.validation import is_stored, read_values
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

MAX_SEED = 2**32 - 1  # the largest that every random number generator takes


def count_warmup_steps(ratio: float, steps: int) -> int:
    """Return a share of the steps, rounded up.

    Example:
        >>> count_warmup_steps(0.1, 30)
        3
    """
    return math.ceil(round(ratio * steps, 6))  # 0.1 * 30 is a little more than 3


class Hyperparameters(ConfigSection):
    """The hyperparameters of a run."""

    max_steps: int = setting(
        300,
        "Steps",
        "Optimizer updates.",
        ge=1,
        le=100_000_000,
        shown=Traits(affects=RESULT_AND_LENGTH, group=FieldGroup.MAIN, phrase="{} steps"),
    )
    learning_rate: float = setting(
        3e-3,
        "Learning rate",
        "Step size at the schedule's peak.",
        gt=0,
        lt=10,
        shown=Traits(affects=RESULT, group=FieldGroup.MAIN, phrase="LR {}"),
    )
    micro_batch: int = setting(
        16,
        "Micro-batch",
        "Sequences in one forward pass. A CPU may take fewer at once; the loss is the same.",
        ge=1,
        le=65_536,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.MAIN, unit="sequences"),
    )
    context: int = setting(
        128,
        "Context",
        "Tokens per training sequence.",
        ge=8,
        le=1_048_576,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.MAIN, unit="tokens"),
    )

    optimizer: Literal["adamw", "muon", "lion", "adafactor", "adamw_8bit"] = setting(
        "adamw",
        "Optimizer",
        "AdamW is the usual choice; Muon often learns in fewer steps, Lion and Adafactor need less memory, 8-bit"
        " needs a GPU.",
        shown=Traits(
            choices={
                "adamw": "AdamW",
                "muon": "Muon",
                "lion": "Lion",
                "adafactor": "Adafactor",
                "adamw_8bit": "AdamW, 8-bit",
            },
            affects=RESULT_AND_COST,
            group=FieldGroup.OPTIMIZER,
        ),
    )
    grad_accum_steps: int = setting(
        1,
        "Gradient accumulation",
        "Micro-batches per optimizer update: a larger batch in the same memory.",
        ge=1,
        le=65_536,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.OPTIMIZER, measured_as=lambda steps: steps > 1),
    )
    weight_decay: float = setting(
        0.1,
        "Weight decay",
        "Decay of the weights towards zero.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.OPTIMIZER),
    )
    beta1: float = setting(
        0.9,
        "Beta 1",
        "Decay of the running mean of the gradient.",
        ge=0,
        lt=1,
        shown=Traits(affects=RESULT, group=FieldGroup.OPTIMIZER, used=(unless("optimizer", "adafactor"),)),
    )
    beta2: float = setting(
        0.95,
        "Beta 2",
        "Decay of the running mean of the squared gradient.",
        ge=0,
        lt=1,
        shown=Traits(affects=RESULT, group=FieldGroup.OPTIMIZER, used=(unless("optimizer", "adafactor"),)),
    )
    grad_clip: float = setting(
        1.0,
        "Gradient clip",
        "Largest gradient norm; 0 switches clipping off.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.OPTIMIZER),
    )
    seed: int = setting(
        1,
        "Seed",
        "The same seed, config and machine give the same run.",
        ge=0,
        le=MAX_SEED,
        shown=Traits(affects=RESULT, group=FieldGroup.OPTIMIZER, is_replicate=True),
    )

    schedule: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = setting(
        "cosine",
        "Schedule",
        "Course of the learning rate after the warm-up.",
        shown=Traits(
            choices={"wsd": "warmup-stable-decay", "inverse_sqrt": "inverse square root"},
            affects=RESULT,
            group=FieldGroup.SCHEDULE,
        ),
    )
    warmup_ratio: float = setting(
        0.05,
        "Warm-up ratio",
        "Share of the steps over which the learning rate rises to its peak.",
        ge=0,
        le=1,
        shown=Traits(affects=RESULT, group=FieldGroup.MAIN, used=(when("warmup_steps", None),)),
    )
    warmup_steps: int | None = setting(
        None,
        "Warm-up steps",
        "Steps over which the learning rate rises to its peak; overrides the ratio.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.SCHEDULE),
    )
    min_learning_rate: float = setting(
        0.0,
        "Final learning rate",
        "Learning rate at the end of the schedule.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.SCHEDULE, used=(unless("schedule", "constant"),)),
    )
    decay_steps: int = setting(
        0,
        "Decay steps",
        "WSD: steps of the final decay; 0: a fifth of the run.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.SCHEDULE, used=(when("schedule", "wsd"),)),
    )
    max_epochs: float = setting(
        0,
        "Max epochs",
        "Stop after this many epochs, if the steps allow; 0: no limit.",
        ge=0,
        shown=Traits(affects=RESULT_AND_LENGTH, group=FieldGroup.SCHEDULE),
    )
    patience: int = setting(
        0,
        "Patience",
        "Stop after this many evaluations without a better val_loss; 0: never.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.SCHEDULE, unit="evaluations"),
    )

    label_smoothing: float = setting(
        0.0,
        "Label smoothing",
        "Pretraining and SFT: share of each target spread over the vocabulary.",
        ge=0,
        lt=1,
        shown=Traits(affects=RESULT, group=FieldGroup.LOSS, used=(trains(lambda one: one.predicts_tokens),)),
    )
    z_loss: float = setting(
        0.0,
        "z-loss",
        "Pretraining and SFT: weight of the squared log-partition, which keeps logits small.",
        ge=0,
        shown=Traits(affects=RESULT, group=FieldGroup.LOSS, used=(trains(lambda one: one.predicts_tokens),)),
    )
    dropout: float = setting(
        0.0,
        "Dropout",
        "Share of activations dropped while training.",
        ge=0,
        lt=1,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.LOSS, measured_as=bool),
    )
    ema_decay: float = setting(
        0.0,
        "EMA decay",
        "Decay of an exponential moving average of the weights, which is saved instead of the weights; 0: none.",
        ge=0,
        lt=1,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.LOSS, measured_as=bool),
    )
    freeze_blocks: int = setting(
        0,
        "Frozen blocks",
        "Blocks, counted from the input, that are frozen, with the embeddings.",
        ge=0,
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.LOSS, used=(when("method", "full"),)),
    )
    packing: bool = setting(
        True,
        "Packing",
        "SFT: pack rows into sequences of `context` tokens without attention between rows. Off: one row per"
        " sequence, padded.",
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.LOSS, used=(trains(lambda one: one.packs),)),
    )

    eval_every: int = setting(
        50,
        "Evaluate every",
        "Steps between evaluations of val_loss.",
        ge=1,
        shown=Traits(affects=RESULT, group=FieldGroup.EVALUATION, unit="steps", sweep="allowed"),
    )
    eval_batches: int = setting(
        8,
        "Batches per evaluation",
        "Micro-batches per evaluation of val_loss.",
        ge=1,
        shown=Traits(affects=RESULT, group=FieldGroup.EVALUATION, sweep="allowed"),
    )
    checkpoint_every: int = setting(
        100,
        "Checkpoint every",
        "Steps between checkpoints. Each can be resumed from, evaluated and deployed.",
        ge=1,
        shown=Traits(affects=RESULT, group=FieldGroup.EVALUATION, unit="steps", sweep="allowed"),
    )
    keep_last: int = setting(
        2,
        "Checkpoints kept",
        "Newest checkpoints kept, besides the best and those in use: deployed, evaluated, named, in a campaign.",
        ge=1,
        shown=Traits(affects=NOTHING, group=FieldGroup.EVALUATION, sweep="allowed"),
    )
    sample_prompts: tuple[str, ...] = setting(
        ("Once upon a time",),
        "Sample prompts",
        "Prompts that the model completes at each evaluation.",
        max_length=8,
        shown=Traits(affects=NOTHING, used=(trains(lambda one: one.facts.writes),), sweep="never"),
    )
    sample_tokens: int = setting(
        48,
        "Sample length",
        "Tokens generated for each sample prompt.",
        ge=1,
        le=1024,
        shown=Traits(
            affects=NOTHING,
            group=FieldGroup.EVALUATION,
            unit="tokens",
            used=(trains(lambda one: one.facts.writes),),
            sweep="allowed",
        ),
    )

    device: Literal["auto", "cpu", "gpu"] = setting(
        "auto",
        "Device",
        "auto: a GPU where a worker has one, otherwise the CPU. gpu waits for a worker with one.",
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.HARDWARE, sweep="allowed"),
    )
    devices: DeviceConfig = DeviceConfig()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "Precision",
        "auto: bf16 on a GPU that has it, else fp16; fp32 on the CPU. fp32 on a GPU uses tf32.",
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.HARDWARE),
    )
    attention: Literal["auto", "sdpa", "eager", "flex", "flash"] = setting(
        "auto",
        "Attention",
        "Attention kernel. sdpa picks the fastest available one; packed rows always use it.",
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.HARDWARE),
    )
    compile: Literal["off", "auto", "on"] = setting(
        "auto",
        "torch.compile",
        "auto: for pretraining runs long enough that it pays off. If compilation fails, the run continues in eager"
        " mode.",
        shown=Traits(affects=RESULT_AND_COST, group=FieldGroup.HARDWARE),
    )
    recompute: bool = setting(
        False,
        "Activation recompute",
        "Recompute each block's activations in the backward pass: less memory, more time.",
        shown=Traits(affects=COST, group=FieldGroup.HARDWARE),
    )
    priority: int = setting(
        5,
        "Priority",
        "0 runs first.",
        ge=0,
        le=9,
        shown=Traits(affects=NOTHING, group=FieldGroup.HARDWARE, sweep="never"),
    )
    trackers: tuple[Tracker, ...] = setting(
        (),
        "Trackers",
        "Experiment trackers that the run also writes its metrics to: files on this machine, nothing is sent.",
        shown=Traits(
            choices={
                "tensorboard": "TensorBoard",
                "mlflow": "MLflow",
                "wandb": "Weights & Biases",
                "trackio": "Trackio",
            },
            empty="None",
            affects=NOTHING,
            group=FieldGroup.HARDWARE,
            sweep="never",
        ),
    )
    queue: Literal["train"] = setting("train", "Queue", shown=Traits(affects=NOTHING, sweep="never"))


class RunSubject(ConfigSection):
    """The subject of a run: objective, method, dataset, network.

    Names refer to rows: `dataset` is `name` or `name@version`; `architecture` is a stored name or the config itself;
    `tokenizer` and `base` are names.
    """

    name: str = setting(
        "",
        "Name",
        "If left empty, generated from objective, base and dataset, and what differs from the run of that name.",
        max_length=120,
        shown=Traits(affects=NOTHING, sweep="never"),
    )
    objective: Objective = setting(
        Objective.PRETRAIN, "Objective", shown=Traits(affects=RESULT_AND_COST, sweep="never")
    )
    dataset: str = Field(
        min_length=1,
        description="Dataset name, or name@version.",
        title="Dataset",
        json_schema_extra=Traits(affects=RESULT_AND_COST, sweep="allowed", names_row=True),
    )
    architecture: str | ArchitectureConfig | None = setting(
        None,
        "Architecture",
        "Pretraining from scratch: a stored architecture or its config.",
        shown=Traits(affects=RESULT_AND_COST, used=(PRETRAINING,), sweep="allowed", names_row=True),
    )
    tokenizer: str | None = setting(
        None,
        "Tokenizer",
        "Pretraining from scratch: the tokenizer's name.",
        shown=Traits(affects=RESULT_AND_COST, used=(PRETRAINING,), sweep="allowed", names_row=True),
    )
    base: str | None = setting(
        None,
        "Base",
        "The checkpoint to start from; with pretrain it takes the place of an architecture.",
        shown=Traits(affects=RESULT_AND_COST, sweep="allowed", names_row=True),
    )
    method: Literal["full", "lora", "qlora"] = setting(
        "full",
        "Method",
        "Train all weights, or low-rank adapters on the base (qlora: on a base of 4 or 8 bits).",
        shown=Traits(choices={"lora": "LoRA"}, affects=RESULT_AND_COST, sweep="allowed"),
    )
    lora: LoraConfig = LoraConfig()
    preference: PreferenceConfig = PreferenceConfig()
    grpo: GrpoConfig = GrpoConfig()


def context_problems(context: int, limit: int | None, *, owner: str = "architecture") -> list[str]:
    """Return what is wrong with a context, given the limit of an architecture or a base; empty if it fits."""
    if limit is None or context <= limit:
        return []
    return [f"a context of {context:,} tokens is longer than the {owner}'s limit of {limit:,}"]


class RunConfig(Hyperparameters, RunSubject):
    """Config of a run: everything that determines its outcome, and its devices.

    Batch arithmetic: tokens_per_step = micro_batch * grad_accum_steps * devices.count * context. That counts
    padding: without packing (sft) a sequence is one row, with packing as many rows as fit its context.
    """

    @model_validator(mode="after")
    def _check_parts(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        problems = [*_subject_problems(self), *_grpo_problems(self), *_method_problems(self), *_schedule_problems(self)]
        if isinstance(self.architecture, ArchitectureConfig):
            problems += context_problems(self.context, self.architecture.context)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def num_warmup_steps(self) -> int:
        """Steps of the warm-up: `warmup_steps`, or the share `warmup_ratio` of all steps, rounded up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return count_warmup_steps(self.warmup_ratio, self.max_steps)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimizer update sees."""
        return self.micro_batch * self.grad_accum_steps * self.devices.count * self.context

    def to_yaml(self) -> str:
        """Write the config as the YAML that `roundhouse run launch` reads, leaving defaults out."""
        data: dict[str, object] = self.model_dump(mode="json", exclude_defaults=True)
        if isinstance(self.architecture, ArchitectureConfig):  # complete: defaults depend on the family
            data["architecture"] = self.architecture.model_dump(mode="json", exclude_none=True)
        first = {"objective": self.objective.value}
        return yaml.safe_dump({**first, **data}, sort_keys=False, allow_unicode=True)


def parse_config(values: Mapping[str, object]) -> RunConfig:
    """Return a config from a form's values. Raises InvalidInput naming field, value and bound."""
    return read_values(RunConfig, values, intro="This run can't be launched: ")


def parse_run_config(text: str) -> RunConfig:
    """Read a YAML recipe.

    Raises InvalidInput with the line or the field at fault.
    """
    data = parse_yaml(text, what="The recipe")
    if isinstance(data, dict):
        data.pop("recipe", None)  # the head of a recipe file
    if not isinstance(data, dict):
        raise InvalidInput("The recipe must be a mapping of fields to values, such as `objective: pretrain`.")
    return read_values(RunConfig, data, intro="The recipe can't run: ")


def _subject_problems(config: RunConfig) -> Iterator[str]:
    if not config.objective.pretrains:
        if not config.base:
            yield f"{config.objective} needs a base"
    elif config.base is not None:
        if config.architecture is not None or config.tokenizer:
            yield "pretrain takes a base, or an architecture with its tokenizer, not both"
    else:
        if config.architecture is None:
            yield "pretrain needs an architecture (or a base to continue from)"
        if not config.tokenizer:
            yield "pretrain needs a tokenizer"
        if config.method != "full":
            yield f"method {config.method} needs a base to put adapters on"


def _grpo_problems(config: RunConfig) -> Iterator[str]:
    grpo = config.grpo
    if not config.objective.samples:
        return
    if not grpo.rewards:
        yield "grpo needs at least one reward under grpo.rewards"
    if config.micro_batch * config.grad_accum_steps % grpo.group_size:
        yield (
            f"micro_batch {config.micro_batch} times grad_accum_steps {config.grad_accum_steps} is not a multiple of "
            f"grpo.group_size {grpo.group_size}"
        )
    if grpo.max_new_tokens >= config.context:
        yield f"grpo.max_new_tokens {grpo.max_new_tokens} leaves no room for a prompt in a context of {config.context}"
    if grpo.kl_weight and config.method != "full" and config.lora.variant == "pissa":
        yield "grpo.kl_weight needs the unchanged base, and lora.variant pissa changes it: choose another variant, or 0"
    if config.devices.count > 1:
        yield f"grpo samples completions on one device, and devices.count is {config.devices.count}"


def _method_problems(config: RunConfig) -> Iterator[str]:
    if config.micro_batch < (least := config.objective.facts.min_micro_batch):
        yield (
            f"{config.objective} compares answers of a micro-batch, so micro_batch {config.micro_batch} is too small:"
            f" choose {least} or more"
        )
    if config.method == "qlora" and config.lora.variant == "pissa":
        yield "lora.variant pissa changes the base, which method qlora quantizes: choose another variant"
    if config.method == "qlora" and not config.objective.facts.writes:
        yield "method qlora can't train reward: choose lora"
    if config.freeze_blocks and config.method != "full":
        yield (
            f"freeze_blocks {config.freeze_blocks} has no meaning with method {config.method}, which freezes the whole"
            " base"
        )


def _schedule_problems(config: RunConfig) -> Iterator[str]:
    warmup, steps = config.num_warmup_steps, config.max_steps
    if config.schedule == "wsd" and config.decay_steps > steps - warmup:
        yield (
            f"decay_steps {config.decay_steps} does not fit between the warm-up of {warmup} steps and max_steps {steps}"
        )
    if warmup > steps:
        yield f"warmup_steps {warmup} is longer than the run of max_steps {steps}"
    if config.min_learning_rate > config.learning_rate:
        yield f"min_learning_rate {config.min_learning_rate} is above learning_rate {config.learning_rate}"
