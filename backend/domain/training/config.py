"""RunConfig: the one schema behind the launch form, the YAML recipe, the API body and the stored row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationInfo, model_validator

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.fields import setting
from backend.domain.training.config_sections import PRETRAINING, ConfigSection, GrpoConfig, LoraConfig, PreferenceConfig
from backend.domain.training.hyperparameters import Hyperparameters, count_warmup_steps
from backend.domain.training.objectives import Objective
from backend.domain.training.traits import NOTHING, RESULT_AND_COST, Traits
from backend.domain.validation import is_stored, read_values
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput


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
