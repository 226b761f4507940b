"""Reports of safety: what an evaluation keeps beside its scores, of the probe's rules and of a classifier of toxicity;
and the safety card: what was measured, by which scorer, with intervals, and what was not. Markdown. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from backend.domain.evaluation.safety.probes import METRICS, NEUTRAL, PROBE_LABEL, Probe
from backend.domain.validation import StoredRecord
from backend.domain.wording import plural


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


HEADING = "## Safety"
NONE_JUDGED = "none judged"
BIAS = frozenset({Probe.BBQ, Probe.PRONOUNS, Probe.STEREOTYPES})


@dataclass(frozen=True)
class CardScore:
    """One score on a card. `missing` items could not be judged: they count neither as safe nor as unsafe."""

    probe: Probe
    benchmark: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    missing: int
    method: str


@dataclass(frozen=True)
class Unjudged:
    """A metric whose items were all asked and none could be judged, so that it has no value."""

    probe: Probe
    benchmark: str
    metric: str
    missing: int

    @property
    def sentence(self) -> str:
        """Name the metric and how many of its items are missing."""
        return f"{self.benchmark}: {METRICS[self.metric].label}: none of {plural(self.missing, 'item')} could be judged"


def format_value(metric: str, value: float, low: float | None = None, high: float | None = None) -> str:
    """Format a value with its interval: `62.5 % [41.0, 80.1]`; a bias score or gap without percent."""
    scale, digits, unit = (100, 1, " %") if METRICS[metric].is_share and not metric.startswith("bias_") else (1, 2, "")
    text = f"{scale * value:.{digits}f}{unit}"
    return text if low is None or high is None else f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def direction(metric: str) -> str:
    """Return which side of a metric is safer."""
    safer = METRICS[metric].higher_is_safer
    if safer is None:
        neutral = NEUTRAL.get(metric, 0.0)
        return f"neutral at {100 * neutral:g} %" if metric == "stereotype" else f"neutral at {neutral:g}"
    return "higher is safer" if safer else "lower is safer"


def render_safety_card(
    scores: Sequence[CardScore],
    *,
    agreement: str,
    drift: Sequence[str] = (),
    base: str = "",
    verdict: str = "",
    unmeasured: Sequence[str] = (),
    notes: Sequence[str] = (),
    unjudged: Sequence[Unjudged] = (),
) -> str:
    """Return the card as Markdown. Names come from users: pipes and line breaks in them are dropped."""
    if not scores and not unjudged:
        return f"{HEADING}\n\n{' '.join(f'{_plain(note)}.' for note in notes) or 'Not measured.'}\n"
    lines = [
        HEADING,
        "",
        "| probe | benchmark | metric | value [95 % interval] | items | missing |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"{_row_head(s)} | {format_value(s.metric, s.value, s.low, s.high)} | {s.n} | {s.missing} |" for s in scores
    ]
    lines += [f"{_row_head(one)} | {NONE_JUDGED} | 0 | {one.missing} |" for one in unjudged]
    lines += [
        "",
        (
            f"Scorer of refusals: {_plain(agreement)}. Missing items could not be judged and count neither as safe nor"
            " as unsafe."
        ),
    ]
    lines += [f"{_plain(note)}." for note in notes]
    if any(score.probe in BIAS for score in scores):
        lines += [
            "Bias by likelihood: sentences or answers are compared by a causal model's log-likelihood, not by a"
            " masked model's."
        ]
    if base:
        lines += ["", f"Change from `{_plain(base)}` on the same items: **{verdict}**."]
        lines += [f"- {_plain(sentence)}" for sentence in drift] or [
            "- No change towards unsafe is shown by an interval."
        ]
    if unmeasured:
        lines += [f"Not measured on both: {', '.join(map(_plain, unmeasured))}."]
    return "\n".join(lines) + "\n"


def join_card(readme: str, card: str) -> str:
    """Return a README with the card in it, in place of an earlier one."""
    start = readme.find(HEADING + "\n")
    if start < 0:
        return f"{readme.rstrip()}\n\n{card}" if readme.strip() else card
    following = readme.find("\n## ", start + len(HEADING))
    rest = readme[following + 1 :] if following >= 0 else ""
    return readme[:start] + card + (f"\n{rest}" if rest else "")


def _row_head(score: CardScore | Unjudged) -> str:
    metric = f"{METRICS[score.metric].label} ({direction(score.metric)})"
    return f"| {PROBE_LABEL[score.probe]} | {_plain(score.benchmark)} | {metric}"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
