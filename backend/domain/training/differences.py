"""Settings in which runs differ, as text: for the names of copies, for legends and for comparisons. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.fields import shown_of
from backend.domain.json_values import FieldValues
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import (
    field_at,
    field_label,
    flatten,
    list_paths,
    traits_of,
    unmet_condition,
    value_at,
)
from backend.domain.training.config_sections import RewardRule
from backend.domain.training.objectives import OBJECTIVE_FACTS, Objective
from backend.domain.training.traits import Effect, FieldGroup
from backend.domain.wording import clean_text, format_number

MISSING = "–"
MAX_NAMED = 3
ASIDE = (FieldGroup.EVALUATION, FieldGroup.HARDWARE)
"""Groups of settings that a name states only where nothing else differs."""


@dataclass(frozen=True)
class SettingDifference:
    """A setting that is not the same in all runs, and its text in each: a dash in one that does not use it."""

    path: str
    texts: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its label on pages."""
        return field_label(self.path).replace("architecture.", "architecture ").replace("_", " ")

    @property
    def decides(self) -> bool:
        """Return whether it decides what is trained, and not how often it is measured or on what."""
        traits = traits_of(self.path)
        return Effect.RESULT in traits.affects and traits.group not in ASIDE

    def phrase(self, place: int) -> str:
        """Return its value in the run at a place in a few words on one line: `LR 1e-4`, `rank 8`, `60 steps`."""
        text, traits, label = clean_text(self.texts[place]), traits_of(self.path), self.label
        if traits.group is None and self.path in list_paths():  # a part of the run, such as its dataset
            return text
        plain = label if label[1:2].isupper() else label[:1].lower() + label[1:]
        return (traits.phrase or f"{plain} {{}}").format(text)


def list_differences(configs: Sequence[RunConfig | None]) -> list[SettingDifference]:
    """Return the settings that differ among the runs that use them, those that matter most first, without the name.
    None is a run without config.
    """
    flat = [flatten(config) if config is not None else None for config in configs]
    known = [values for values in flat if values is not None]
    paths = dict.fromkeys(path for values in known for path in values if path != "name")
    differing = [path for path in paths if len({_text_of(path, values) for values in known}) > 1]
    differences = []
    for path in sorted(differing, key=_rank):
        uses = [config is not None and _is_used(config, path) for config in configs]
        texts = [_text_of(path, values) if values and used else None for values, used in zip(flat, uses, strict=True)]
        if len({text for text in texts if text is not None}) > 1:
            differences.append(SettingDifference(path, tuple(MISSING if text is None else text for text in texts)))
    return differences


def state_difference(before: RunConfig, now: RunConfig) -> str:
    """Return in a few words what a run changes of another, as its name states it: `LR 1e-4, rank 8`; empty where they
    are the same.
    """
    return ", ".join(each.phrase(1) for each in _chief(list_differences([before, now])))


def label_runs(names: Sequence[str], configs: Sequence[RunConfig | None]) -> list[str]:
    """Return what each run of a comparison is called in a legend: by the settings that differ where those are few and
    tell all of them apart, else by its name.
    """
    differences = list_differences(configs)
    deciding = [each for each in differences if each.decides] or differences
    labels = [", ".join(each.phrase(place) for each in deciding) for place in range(len(names))]
    tells_apart = None not in configs and len(deciding) <= MAX_NAMED and len(set(labels)) == len(labels)
    return labels if tells_apart else list(names)


def write_value(path: str, value: Any) -> str:
    """Return a setting's value as pages show it."""
    if value is None or value == "" or value == []:
        return MISSING
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return format_number(value)
    if path == "grpo.rewards":
        return "; ".join(write_reward(RewardRule.model_validate(rule)) for rule in value)
    if isinstance(value, list):
        return ", ".join(write_value("", part) for part in value)
    if isinstance(value, Mapping):
        return " ".join(write_value("", part) for part in value.values())
    if path == "objective":
        return OBJECTIVE_FACTS[Objective(value)].name
    return str(shown_of(field_at(path)).choices.get(value, value) if path in list_paths() else value)


def write_reward(rule: RewardRule) -> str:
    """Return a rule of `grpo.rewards` as text, with the settings that it reads."""
    read = {"regex": f" “{rule.pattern}”", "length": f" {rule.target:,} tokens"}.get(rule.kind, "")
    return f"{rule.kind}{read}" + ("" if rule.weight == 1 else f" × {format_number(rule.weight)}")


def _chief(differences: Sequence[SettingDifference]) -> Sequence[SettingDifference]:
    return ([each for each in differences if each.decides] or differences)[:MAX_NAMED]


def _text_of(path: str, values: FieldValues) -> str:
    return write_value(path, values.get(path))


def _is_used(config: RunConfig, path: str) -> bool:
    return path not in list_paths() or unmet_condition(path, lambda other: value_at(config, other)) is None


def _rank(path: str) -> int:
    group = traits_of(path).group
    return -1 if group is None else list(FieldGroup).index(group)
