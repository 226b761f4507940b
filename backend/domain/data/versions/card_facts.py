"""Card fields that people edit."""

from __future__ import annotations

from backend.domain.validation import ReadRecord


class CardFacts(ReadRecord):
    """Card fields that people edit: licence, languages (ISO 639 codes) and notes in Markdown."""

    licence: str = ""
    languages: tuple[str, ...] = ()
    notes: str = ""
