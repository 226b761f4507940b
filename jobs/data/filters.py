"""Filters of an import: rows are left out by language, length and faults before they are split and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pyarrow

from backend.domain.data.languages import language_name
from backend.domain.data.rows.display import row_text
from backend.domain.data.rows.mapping import clean_row
from jobs.data.parsing import Parsed
from jobs.data.row_keys import RowKeys


@cache
def _load_guesser() -> Callable[[str], str]:
    from jobs.modeling.languages import LanguageGuesser  # takes time to load: once a process, and only for a filter

    return LanguageGuesser().guess


@dataclass(frozen=True)
class RowFilters:
    """Rows that an import keeps: in these languages, if any are given, of this many characters, without faults."""

    languages: tuple[str, ...] = ()
    min_characters: int = 0
    drop_faulty: bool = False

    @property
    def has_any(self) -> bool:
        """Return whether there is a filter."""
        return self != RowFilters()

    @cached_property
    def _find_faults(self) -> Callable[[str], object]:
        from backend.domain.data.reports.text_faults import find_faults  # likewise

        return find_faults

    def apply(self, parsed: Parsed) -> Parsed:
        """Return the rows of a block that pass, with the number of the others by reason."""
        if not self.has_any or not parsed.table.num_rows:
            return parsed
        reasons = [self.reason(row_text(clean_row(row))) for row in parsed.table.to_pylist()]
        passes = np.array([reason == "" for reason in reasons])
        if passes.all():
            return parsed
        table = parsed.table.filter(pyarrow.array(passes)).combine_chunks()
        return replace(parsed, table=table, keys=RowKeys(table), dropped=Counter(filter(None, reasons)))

    def reason(self, text: str) -> str:
        """Return why a text is left out, the cheapest reason first; empty if it passes."""
        if len(text) < self.min_characters:
            return f"shorter than {self.min_characters:,} characters"
        if self.drop_faulty and self._find_faults(text):
            return "with faulty characters"
        if self.languages and _load_guesser()(text) not in self.languages:
            return f"not in {' or '.join(map(language_name, self.languages))}"
        return ""
