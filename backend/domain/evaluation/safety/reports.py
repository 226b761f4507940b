"""Reports that a safety evaluation keeps beside its scores: of the probe's rules, and of a classifier of toxicity."""

from __future__ import annotations

from pydantic import Field

from backend.domain.validation import StoredRecord


class GroupScore(StoredRecord):
    """A metric over the items of one group, with its 95 % interval."""

    group: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int


class SafetyReport(StoredRecord):
    """A probe's scorer, items without a verdict (`unclear`), items that lack each metric, and scores by group."""

    probe: str = ""
    scorer: str = ""
    items: int = 0
    unclear: int = 0
    missing: dict[str, int] = Field(default_factory=dict)
    groups: dict[str, tuple[GroupScore, ...]] = Field(default_factory=dict)

    def missing_of(self, metric: str) -> int:
        """Return how many items lack a metric; of a disambiguated bias score unknown answers are none."""
        return 0 if metric == "bias_disambiguated" else self.missing.get(metric, 0)


class ToxicityReport(StoredRecord):
    """A classifier of answers, those that it could not read, and its audit: harmless sentences called toxic."""

    classifier: str = ""
    label: str = ""
    threshold: float = 0.5
    missing: int = 0
    problem: str = ""
    audit: tuple[GroupScore, ...] = ()
