"""SuiteConfig: a named list of benchmarks with their settings. One schema for page, YAML and row.

name: core
members:
  - facts
  - {benchmark: questions, shots: 5, limit: 200}
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from backend.domain.evaluation.config import EvaluationConfig, describe_way
from backend.domain.validation import is_stored, read_values
from backend.domain.wording import plural
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

MAX_MEMBERS = 200


class Moment(StrEnum):
    """Moments at which a run's suite is evaluated."""

    END = "end"
    CHECKPOINT = "checkpoint"


class SuiteMember(BaseModel):
    """A benchmark (`name`, or `name@version` to hold on to one version) and its settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: str = Field(min_length=1, max_length=160)
    config: EvaluationConfig = EvaluationConfig()

    @property
    def label(self) -> str:
        """Return the benchmark with what scores it, if that is said, and how much of it: `blimp by BLiMP, 30 items`."""
        config = self.config
        way = f" by {describe_way(config)}" if config.task or config.kind != "auto" else ""
        shots = config.task.fewshot.count if config.task else config.shots
        parts = [
            f"{self.benchmark}{way}",
            *([f"{shots}-shot"] if shots else []),
            *([plural(config.limit, "item")] if config.limit else []),
        ]
        return ", ".join(parts)

    @model_validator(mode="before")
    @classmethod
    def _read_short(cls, data: Any) -> Any:
        """A name alone, or settings beside the name, as people write them in YAML."""
        if isinstance(data, str):
            return {"benchmark": data}
        if isinstance(data, dict) and "config" not in data:
            return {
                "benchmark": data.get("benchmark"),
                "config": {key: value for key, value in data.items() if key != "benchmark"},
            }
        return data


class MemberOutcome(BaseModel):
    """Outcome of a member at a launch: the id of its evaluation, or why there is none."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    evaluation: str | None = None
    error: str | None = None

    def dump(self) -> dict[str, str]:
        """Return the stored form: the field that is set."""
        return self.model_dump(exclude_none=True)


class SuiteConfig(BaseModel):
    """A suite as it is stored and written as YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = Field(default="", max_length=2000)
    members: tuple[SuiteMember, ...] = Field(min_length=1, max_length=MAX_MEMBERS)
    centred: bool = Field(default=False, description="Also average what exceeds chance, as the CORE metric does.")

    @field_validator("members")
    @classmethod
    def _no_member_twice(cls, members: tuple[SuiteMember, ...], info: ValidationInfo) -> tuple[SuiteMember, ...]:
        for place, member in enumerate(members):
            if member in members[:place] and not is_stored(info):
                raise ValueError(f"{member.benchmark} is listed twice with the same settings")
        return members

    def to_yaml(self) -> str:
        """Write the suite as YAML, leaving defaults out."""
        members = [
            {"benchmark": one.benchmark, **one.config.model_dump(mode="json", exclude_defaults=True)}
            for one in self.members
        ]
        head = {"name": self.name, **({"description": self.description} if self.description else {})}
        short = [member["benchmark"] if len(member) == 1 else member for member in members]
        centred = {"centred": True} if self.centred else {}
        return yaml.safe_dump({**head, **centred, "members": short}, sort_keys=False, allow_unicode=True)


def parse_suite(values: Any) -> SuiteConfig:
    """Return a suite from a form's values. Raises InvalidInput naming field and value."""
    return read_values(SuiteConfig, values, intro="This suite can't be used: ")


def read_suite(text: str) -> SuiteConfig:
    """Read a suite's YAML. Raises InvalidInput with the line or the field at fault."""
    values = parse_yaml(text, what="The suite")
    if not isinstance(values, dict):
        raise InvalidInput(
            "A suite is a mapping with `name` and `members`.", remedy="Write `name: …` and a list `members:`."
        )
    return parse_suite(values)
