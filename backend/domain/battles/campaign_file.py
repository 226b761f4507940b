"""A campaign as a YAML file: its config, with a name, contestants and a dataset. Pure, no I/O."""

from __future__ import annotations

import re
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from backend.domain.battles.campaign import CampaignConfig
from backend.domain.names import nearest_name
from backend.domain.validation import describe_fault
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

KEY_ENV = re.compile(r"(?!ROUNDHOUSE_)[A-Z][A-Z0-9_]{0,80}_API_KEY|ROUNDHOUSE_JUDGE_KEY")
"""Names of environment variables that a contestant's key may come from: never a password of the installation."""


class ContestantSource(BaseModel):
    """Source of a contestant: exactly one of a checkpoint, an endpoint of this installation, the URL of an API, or a
    file of answers.

    The file holds JSON lines {prompt or messages, completion}; `column` names the completion's column where it is
    another one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str = Field(default="", description="Name or id of a checkpoint.")
    endpoint: str = Field(default="", description="Name of an endpoint of this installation.")
    url: str = Field(default="", max_length=300, description="Address of an OpenAI-compatible API, ending in /v1.")
    model: str = Field(default="", max_length=200, description="Model to ask at the URL.")
    key_env: str = Field(
        default="", description="Environment variable of the worker that holds the API's key, such as VENDOR_API_KEY."
    )
    file: str = Field(default="", description="File of completions, JSON lines.")
    column: str = Field(
        default="", max_length=120, description="Column of the file that holds this contestant's completions."
    )
    name: str = Field(default="", max_length=120, description="Name on the board; by default that of the source.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(map(bool, (self.checkpoint, self.endpoint, self.url, self.file))) != 1:
            raise ValueError("give one of checkpoint, endpoint, url and file")
        if self.url and not (self.url.startswith(("http://", "https://")) and self.model):
            raise ValueError("a url begins with https:// or http:// and needs a model")
        if self.key_env and not KEY_ENV.fullmatch(self.key_env):
            raise ValueError("key_env is a name in capitals that ends in _API_KEY")
        return self

    @property
    def label(self) -> str:
        """Name on the board; empty for a checkpoint, which has its own."""
        return self.name or self.endpoint or self.model or self.column or self.file.rsplit("/", 1)[-1].rsplit(".", 1)[0]


class CampaignFile(CampaignConfig):
    """All that a campaign is created from, as one YAML document."""

    name: str = Field(min_length=1, max_length=120, description="Name of the campaign, which raters may see.")
    dataset: str = Field(
        default="", description="Dataset of the prompts, as NAME or NAME@VERSION; empty: those of the first file."
    )
    contestants: tuple[ContestantSource, ...] = Field(min_length=1, max_length=20, description="Contestants.")

    @property
    def config(self) -> CampaignConfig:
        """The config alone, which the campaign's row stores."""
        return CampaignConfig.model_validate(self.model_dump(include=set(CampaignConfig.model_fields)))


def parse_campaign(text: str) -> CampaignFile:
    """Read a campaign from YAML. Raises InvalidInput naming the field at fault."""
    data = parse_yaml(text, what="The campaign")
    if not isinstance(data, dict):
        raise InvalidInput("The campaign is not a mapping.", remedy="Write one `name: value` a line.")
    try:
        return CampaignFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidInput(
            f"{field} is not a field of a campaign."
            if first["type"] == "extra_forbidden"
            else f"{field or 'The campaign'}: {describe_fault(first)}.",
            remedy=_remedy(first["type"], field),
            field=field or None,
        ) from error


def render_campaign(campaign: CampaignFile) -> str:
    """Return a campaign as YAML that `parse_campaign` reads: what differs from the defaults."""
    document: dict[str, object] = campaign.model_dump(mode="json", exclude_defaults=True)
    first = {key: document.pop(key) for key in ("name", "dataset", "contestants") if key in document}
    return yaml.safe_dump(first | document, sort_keys=False, allow_unicode=True)


def _remedy(kind: str, field: str) -> str:
    if kind == "extra_forbidden":
        if near := nearest_name(field, CampaignFile.model_fields):
            return f"Did you mean {near}?"
        return f"Fields are {', '.join(CampaignFile.model_fields)}."
    return "" if kind != "missing" else f"Add {field}."
