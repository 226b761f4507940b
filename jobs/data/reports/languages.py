"""Guess the languages of a dataset on a sample of rows."""

from __future__ import annotations

from collections import Counter

from backend.domain.data.languages import language_name
from backend.domain.data.reports.report import Language
from jobs.modeling.languages import LanguageGuesser

LOOKED_AT = 10_000


class LanguageCounter:
    """Guesses the language of at most 10,000 evenly spaced rows."""

    def __init__(self, num_rows: int) -> None:
        self._every = max(1, -(-num_rows // LOOKED_AT))
        self._found: Counter[str] = Counter()
        self._guesser = LanguageGuesser()

    def add(self, number: int, text: str) -> None:
        """Process a row."""
        if number % self._every == 0:
            self._found[self._guesser.guess(text)] += 1

    def languages(self) -> tuple[list[Language], int]:
        """Return the languages, the most frequent first, and the number of sampled rows."""
        total = sum(self._found.values())
        return [
            Language(code=code, name=language_name(code), rows=count, share=count / total)
            for code, count in self._found.most_common()
        ], total
