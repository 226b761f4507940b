"""Rules by which votes become preference pairs, as YAML. Pure, no I/O."""

from __future__ import annotations

from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend.domain.validation import field_at_fault, validation_message
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput


class PreferenceRules(BaseModel):
    """The rules by which votes of a campaign become preference pairs. The default keeps pairs that 60 % of their raters
    agree on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_agreement: float = Field(
        default=0.6,
        ge=0.5,
        le=1.0,
        description="Smallest share of a pair's votes that prefer the chosen answer; half is never enough.",
    )
    min_raters: int = Field(default=1, ge=1, le=100, description="Raters that must have judged a pair (overlap).")
    ties: Literal["against", "ignore"] = Field(
        default="against", description="Whether a tie counts in the share, as a vote for neither."
    )
    both_bad: Literal["against", "exclude", "ignore"] = Field(
        default="against",
        description=(
            "against: counts in the share, as a vote for neither. exclude: one such vote leaves the pair out. ignore:"
            " not counted."
        ),
    )
    categories: tuple[str, ...] = Field(default=(), description="Only prompts of these categories; empty: all.")
    max_pairs_per_prompt: int | None = Field(
        default=None, ge=1, description="Pairs with the most agreement are kept; empty: all."
    )
    locked_share: float | None = Field(
        default=None,
        ge=0.0,
        le=0.9,
        description=(
            "Share of the prompts that no run trains on, so that a rematch can use them. Empty: as many as the dataset"
            " lacks."
        ),
    )
    locked_prompts: tuple[str, ...] = Field(default=(), description="Ids of prompts that no run trains on.")
    seed: int = Field(default=1, ge=0, description="Decides which prompts are locked.")

    def to_yaml(self) -> str:
        """Return the rules as YAML, leaving defaults out."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else ""


def parse_rules(text: str) -> PreferenceRules:
    """Read rules from YAML; an empty text gives the default. Raises InvalidInput with the line or field at fault."""
    data = parse_yaml(text, what="The rules") if text.strip() else {}
    if not isinstance(data, dict):
        raise InvalidInput(
            "The rules must be a mapping of fields to values, such as `min_agreement: 0.7`.", field="rules"
        )
    return make_rules(data)


def make_rules(values: dict[str, object]) -> PreferenceRules:
    """Return rules from a form's values. Raises InvalidInput naming field, value and bound."""
    try:
        return PreferenceRules.model_validate(values)
    except ValidationError as error:
        message = validation_message(error, PreferenceRules)
        raise InvalidInput(f"These rules can't be used: {message}.", field=field_at_fault(error)) from error
