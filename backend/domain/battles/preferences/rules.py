"""Rules by which votes become preference pairs, as YAML. Pure, no I/O."""

from __future__ import annotations

from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from backend.domain.fields import setting
from backend.domain.validation import read_values
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput


class PreferenceRules(BaseModel):
    """The rules by which votes of a campaign become preference pairs. By default 60 % of its raters agree on each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_agreement: float = setting(
        0.6,
        "Smallest agreement",
        "Smallest share of a pair's votes that prefer the chosen answer; half is never enough.",
        ge=0.5,
        le=1.0,
        step=0.05,
    )
    min_raters: int = setting(1, "Raters per pair", "Raters that must have judged a pair (overlap).", ge=1, le=100)
    max_pairs_per_prompt: int | None = setting(
        None, "Max pairs per prompt", "Pairs with the most agreement are kept.", ge=1, empty="All"
    )
    ties: Literal["against", "ignore"] = setting(
        "against",
        "Ties",
        "Whether a tie counts in the share, as a vote for neither.",
        choices={"against": "Counts against a preference", "ignore": "Not counted"},
    )
    both_bad: Literal["against", "exclude", "ignore"] = setting(
        "against",
        "Both bad",
        "against: counts in the share, as a vote for neither. exclude: one such vote leaves the pair out. ignore: not"
        " counted.",
        choices={
            "against": "Counts against a preference",
            "exclude": "Leaves the pair out",
            "ignore": "Not counted",
        },
    )
    locked_share: float | None = setting(
        None,
        "Locked share of prompts",
        "Share of the prompts that no run trains on, so that a rematch can use them. Empty: as many as the dataset"
        " lacks.",
        ge=0.0,
        le=0.9,
        step=0.05,
        empty="As many as are lacking",
    )
    categories: tuple[str, ...] = setting((), "Categories", "Only prompts of these categories.", empty="All categories")
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
    return read_values(PreferenceRules, values, intro="These rules can't be used: ")
