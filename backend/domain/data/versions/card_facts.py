"""Card fields that people edit."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class CardFacts(BaseModel):
    """Card fields that people edit: licence, languages (ISO 639 codes) and notes in Markdown."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    licence: str = ""
    languages: tuple[str, ...] = ()
    notes: str = ""
