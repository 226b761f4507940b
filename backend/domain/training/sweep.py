"""SweepConfig: a run launched many times with different values of some fields, to find the best. One schema for page,
YAML and row.

name: rate and rank
run: {objective: sft, dataset: talks, base: Village stories, method: lora}
vary:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
  lora.rank: [4, 8, 16]
method: bayesian
runs: 12
pruner: median
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from backend.domain.fields import setting, unless
from backend.domain.json_values import FieldValues
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import kind_of, traits_of, with_values
from backend.domain.training.metric_labels import METRIC_LABELS
from backend.domain.validation import is_stored, validation_message
from backend.errors import InvalidInput, RoundhouseError

Point = FieldValues
"""Values of one run of a sweep, by field path."""

MAX_RUNS = 500
MAX_FIELDS = 8
METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,59}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Values(_Section):
    """A list to choose from."""

    values: tuple[bool | int | float | str, ...] = Field(min_length=1, max_length=64)


class ParameterRange(_Section):
    """A range, both ends included. `log`: spaced on a log scale. `points`: values that a grid takes from it."""

    low: float
    high: float
    log: bool = False
    points: int = Field(default=4, ge=2, le=64)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale can't begin at {self.low:g}")
        return self


def _read_choice(value: Any) -> Any:
    if isinstance(value, Values | ParameterRange | dict):
        return value
    if not isinstance(value, list | tuple) or any(isinstance(one, list | dict) for one in value):
        raise ValueError("give a list of values, or a range with low and high")
    if not value:
        raise ValueError("give at least one value")
    return {"values": value}


def _form_of(value: Any) -> str:
    return "values" if isinstance(value, Values) or (isinstance(value, dict) and "values" in value) else "range"


Choice = Annotated[
    Annotated[Values, Tag("values")] | Annotated[ParameterRange, Tag("range")],
    Discriminator(_form_of),
    BeforeValidator(_read_choice),
]
_IN_VARY = re.compile(r"\bvary\.((?:lora\.|preference\.|grpo\.|devices\.)?\w+)(?:\.(?:values\.values|values|range)\b)?")
"""A field of `vary` in the path of an error, with the form that it was read in."""


class SweepConfig(_Section):
    """Config of a sweep. `run` is the base config that all runs vary."""

    name: str = Field(min_length=1, max_length=90, description="Name of the sweep.")
    run: RunConfig
    vary: dict[str, Choice] = Field(
        min_length=1, max_length=MAX_FIELDS, description="Field paths with a list of values or a range."
    )
    method: Literal["grid", "random", "bayesian"] = setting(
        "random",
        "Search",
        "grid: every combination. random: covers more values of each field than a grid with as many runs. bayesian:"
        " random at first, then near the best runs so far (TPE, by Optuna).",
        group=None,
        choices={"grid": "Grid", "random": "Random", "bayesian": "Bayesian"},
    )
    runs: int = setting(
        12, "Runs", "random and bayesian: number of runs.", ge=1, le=MAX_RUNS, used=(unless("method", "grid"),)
    )
    parallel: int = setting(
        2,
        "Parallel runs",
        "Runs that are queued or running at the same time. A bayesian search learns less from many.",
        ge=1,
        le=64,
    )
    pruner: Literal["none", "median", "hyperband"] = setting(
        "none",
        "Pruning",
        "Stops runs that do badly at a step, with a checkpoint: median of the others, or hyperband's halving. It needs"
        " runs that evaluate val_loss several times.",
        choices={"none": "None", "median": "Median", "hyperband": "Hyperband"},
    )
    metric: str = setting("val_loss", "Metric", "Runs are compared by their best value of it.")
    goal: Literal["lowest", "highest"] = setting(
        "lowest", "Goal", choices={"lowest": "Minimize", "highest": "Maximize"}
    )
    seed: int = setting(
        1, "Search seed", "Draws the values of the runs.", ge=0, le=2**31 - 1, used=(unless("method", "grid"),)
    )

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metric: str) -> str:
        if METRIC.fullmatch(metric) is None:
            raise ValueError(
                "this is not the name of a metric, such as val_loss, reward/mean or val_rewards/accuracies"
            )
        return metric

    @field_validator("vary", mode="before")
    @classmethod
    def _check_any(cls, vary: Any) -> Any:
        if vary == {}:
            raise ValueError("choose at least one field to vary")
        return vary

    @field_validator("vary")
    @classmethod
    def _read_numbers(cls, vary: dict[str, Values | ParameterRange]) -> dict[str, Values | ParameterRange]:
        """Parse numbers that YAML reads as strings, such as `1e-3`."""
        return {
            path: Values(values=tuple(_number(path, v) for v in c.values)) if isinstance(c, Values) else c
            for path, c in vary.items()
        }

    @model_validator(mode="after")
    def _check_fields(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        for path, choice in self.vary.items():
            try:
                kind, traits = kind_of(path), traits_of(path)
            except InvalidInput as error:
                raise ValueError(str(error)) from error
            if traits.sweep == "never":
                raise ValueError(f"{path} is the same in all runs of a sweep")
            unread = [v for v in choice.values if isinstance(v, str)] if isinstance(choice, Values) else []
            if unread and kind in (int, float):
                raise ValueError(
                    f"{path} can't be {unread[0]!r}; separate numbers by commas (0.002, 0.02), those with decimal"
                    " commas by semicolons (0,002; 0,02)"
                )
            if isinstance(choice, ParameterRange) and kind not in (int, float):
                raise ValueError(f"{path} is not a number; give a list of values instead of a range")
        return self

    @property
    def num_runs(self) -> int:
        """Number of runs."""
        if self.method == "grid":
            return self.num_combinations
        return min(self.runs, self.num_combinations) if self.is_listed else self.runs

    @property
    def is_listed(self) -> bool:
        """Return whether every field has a list, so that the combinations are finite."""
        return all(isinstance(choice, Values) for choice in self.vary.values())

    @property
    def num_combinations(self) -> int:
        """Number of runs of a grid."""
        return math.prod(len(_grid_values(path, choice)) for path, choice in self.vary.items())


def label_of_metric(metric: str) -> str:
    """Return a metric's label; another tool's is its own name."""
    return METRIC_LABELS.get(metric, metric)


def label_of_best(metric: str) -> str:
    """Return the label of the best value that a run reached of a metric."""
    label = label_of_metric(metric)
    return f"Best {label[:1].lower()}{label[1:]}" if metric in METRIC_LABELS else f"Best {label}"


def goal_of_metric(metric: str) -> Literal["lowest", "highest"]:
    """Return which value of a metric is the better one."""
    return "highest" if re.search(r"reward|accura|margin|tok_per_sec|mfu", metric) else "lowest"


def parse_sweep(values: Any) -> SweepConfig:
    """Return a config from a form's values or a YAML file's. Raises InvalidInput naming field, value and bound.

    Every run of a grid or of random draws is validated; of a bayesian sweep the corners of its search space.
    """
    if not isinstance(values, dict):
        raise InvalidInput("A sweep is a mapping with `run` and `vary`.")
    if isinstance(run := values.get("run"), dict):  # a recipe file, with its head
        values = {**values, "run": {key: value for key, value in run.items() if key != "recipe"}}
    try:
        config = SweepConfig.model_validate(values)
    except ValidationError as error:
        message = _IN_VARY.sub(r"\1", validation_message(error, SweepConfig)).rstrip(".")
        raise InvalidInput(
            f"This sweep can't be run: {message}{'' if message.endswith('?') else '.'}",
            field="vary" if "vary" in str(error) else None,
        ) from error
    for path, choice in config.vary.items():
        if (
            isinstance(choice, ParameterRange)
            and kind_of(path) is int
            and math.ceil(choice.low) > math.floor(choice.high)
        ):
            raise InvalidInput(
                f"{path} is a whole number, and none lies between {choice.low:g} and {choice.high:g}.", field="vary"
            )
    if config.num_runs > MAX_RUNS:
        raise InvalidInput(
            f"This grid has {config.num_runs:,} runs.",
            remedy=f"Take fewer values, at most {MAX_RUNS} runs, or draw at random.",
            field="vary",
        )
    for point in list_points(config):
        build_run(config, point, 0)
    return config


def list_points(config: SweepConfig) -> list[Point]:
    """Return the values of every run; of a bayesian sweep, whose values are not known in advance, the corners of its
    ranges and every listed value.
    """
    return (
        _corners(config)
        if config.method == "bayesian"
        else [point_at(config, number) for number in range(config.num_runs)]
    )


def build_run(config: SweepConfig, point: Point, number: int) -> RunConfig:
    """Return the config of a sweep's run, numbered from 0. Raises InvalidInput for values that don't fit together."""
    try:
        return with_values(config.run, {**point, "name": f"{config.name} {number + 1}"})
    except RoundhouseError as error:
        values = ", ".join(f"{path} {value}" for path, value in point.items())
        raise InvalidInput(
            f"A run with {values} can't be launched: {error.message}", remedy=error.remedy, field="vary"
        ) from error


def point_at(config: SweepConfig, number: int) -> Point:
    """Return the values of a grid's or a random sweep's run, as a function of config and number."""
    if config.method == "grid":
        return _combination(config, number)
    if config.is_listed:  # drawn without replacement
        return _combination(
            config, random.Random(config.seed).sample(range(config.num_combinations), config.num_runs)[number]
        )
    return {path: _draw(path, choice, _share(config, path, number)) for path, choice in config.vary.items()}


def untried(config: SweepConfig, tried: Sequence[Point]) -> Point | None:
    """Return a combination of listed values that was not tried; None if all were, or if there are infinitely many."""
    if not config.is_listed:
        return None
    enough = min(config.num_combinations, len(tried) + 1)  # one more than were tried: combinations differ
    every = (_combination(config, number) for number in range(enough))
    return next((point for point in every if point not in tried), None)


def sweep_yaml(config: SweepConfig) -> str:
    """Write a sweep as the YAML that `roundhouse run sweep` reads, leaving defaults out."""
    data = config.model_dump(mode="json", exclude_defaults=True)
    data["run"] = yaml.safe_load(config.run.to_yaml())
    data["vary"] = {path: choice.get("values", choice) for path, choice in data["vary"].items()}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _number(path: str, value: bool | int | float | str) -> bool | int | float | str:
    if not isinstance(value, str):
        return value
    try:
        kind = kind_of(path)
        return int(value) if kind is int else float(value) if kind is float else value
    except (InvalidInput, ValueError):  # refused by name in `_check_fields`
        return value


def _combination(config: SweepConfig, number: int) -> Point:
    """Return the n-th combination in mixed radix; the last field varies fastest."""
    point: Point = {}
    for path, choice in reversed(config.vary.items()):
        values = _grid_values(path, choice)
        number, place = divmod(number, len(values))
        point[path] = values[place]
    return {path: point[path] for path in config.vary}


def _grid_values(path: str, choice: Values | ParameterRange) -> list[Any]:
    if isinstance(choice, Values):
        return list(dict.fromkeys(choice.values))
    space = np.geomspace if choice.log else np.linspace
    return list(
        dict.fromkeys(as_field(path, choice, float(value)) for value in space(choice.low, choice.high, choice.points))
    )


def _share(config: SweepConfig, path: str, number: int) -> float:
    """Return where in a field's range a run draws: each run in a slice of its own, so that few runs cover it (Latin
    hypercube; McKay, Beckman and Conover 1979, doi 10.1080/00401706.1979.10489755).
    """
    place = _slices(config.seed, path, config.runs)[number % config.runs]
    return (place + random.Random(f"{config.seed}:{path}:{number}").random()) / config.runs


@lru_cache(maxsize=64)
def _slices(seed: int, path: str, count: int) -> list[int]:
    return random.Random(f"{seed}:{path}").sample(range(count), count)


def _draw(path: str, choice: Values | ParameterRange, share: float) -> Any:
    if isinstance(choice, Values):
        return choice.values[int(share * len(choice.values))]
    low, high = (math.log(choice.low), math.log(choice.high)) if choice.log else (choice.low, choice.high)
    value = low + share * (high - low)
    return as_field(path, choice, math.exp(value) if choice.log else value)


def as_field(path: str, span: ParameterRange, value: float) -> int | float:
    """Round to a whole number or four figures, as the field requires, within the range."""
    if kind_of(path) is int:
        return min(max(round(value), math.ceil(span.low)), math.floor(span.high))
    return min(max(float(f"{value:.4g}"), span.low), span.high)


def may_be(choice: Values | ParameterRange, value: Any) -> bool:
    """Return whether a value is inside a field's search space."""
    if isinstance(choice, Values):
        return value in choice.values
    return isinstance(value, int | float) and choice.low <= value <= choice.high


def _corners(config: SweepConfig) -> list[Point]:
    """Return the combinations of lowest and highest values, and of all listed ones one after the other."""
    ends = [
        (
            [choice.values[0], choice.values[-1]]
            if isinstance(choice, Values)
            else [as_field(path, choice, choice.low), as_field(path, choice, choice.high)]
        )
        for path, choice in config.vary.items()
    ]
    corners = [dict(zip(config.vary, values, strict=True)) for values in itertools.product(*ends)]
    first = corners[0]
    listed = [
        {**first, path: value}
        for path, choice in config.vary.items()
        if isinstance(choice, Values)
        for value in choice.values
    ]
    return [*corners, *listed]
