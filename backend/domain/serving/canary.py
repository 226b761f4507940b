"""Rules of a canary, and the verdict on it from its requests alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from backend.domain.fields import OPTION_ONLY, setting, when
from backend.domain.validation import read_values
from backend.domain.wording import percent, plural

STEPS = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0)
MIN_FAILURES = 2
"""A single lost request never ends a canary."""
CRITICAL = 1.0
"""The error rate counts as too high where one standard error below it still is."""
MAX_STARTS = 3


class CanaryRules(BaseModel):
    """Traffic of a canary and the conditions under which it grows or ends."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    percent: float = setting(10.0, "Percent of requests", "Share of the requests.", gt=0, le=100)
    step_up: bool = setting(False, "Step up", "Grow by 1, 5, 10, 25, 50, 100 %, then promote.")
    step_minutes: float = setting(
        5.0, "Minutes of a step", "Least duration of a step.", gt=0, le=10_080, used=(when("step_up", True),)
    )
    min_requests: int = setting(
        20, "Requests of a step", "Requests that a step needs.", ge=1, le=1_000_000, used=(when("step_up", True),)
    )
    abort_error_rate: float | None = setting(
        0.05,
        "Abort above error rate",
        "Share of lost requests that ends it; without it, or at 0, no share does.",
        gt=0,
        lt=1,
        unit="%",
        scale=100,
    )
    abort_p95_s: float | None = setting(
        None,
        "Abort above p95",
        "p95 of the first token, in seconds, that ends it.",
        gt=0,
        shown=OPTION_ONLY,
        unit="s",
        option="--abort-p95",
    )
    vote_alpha: float | None = setting(
        0.05,
        "Vote alpha",
        "Chance of a wrong decision by thumbs; 0 switches the rule off.",
        gt=0,
        lt=1,
        shown=OPTION_ONLY,
    )
    step_on_votes: bool = setting(
        False,
        "Step up only on votes",
        "Grow only once thumbs show its answers to be better. Thumbs that show them to be worse always end it.",
        used=(when("step_up", True),),
    )

    @staticmethod
    def read(traffic: Mapping[str, Any]) -> CanaryRules:
        """Read stored or given rules. Raises InvalidInput that names the field."""
        return read_values(CanaryRules, traffic)


@dataclass(frozen=True)
class Votes:
    """Thumbs on the answers of a canary and of the stable revision since the canary began. `wins` and `losses` count
    the pairs, in order of arrival, in which only the canary's or only the stable answer was liked; `e_value` is their
    evidence against equal shares of likes. `voter_e_value` is the evidence over voters, for `voter_side` (1 the canary,
    -1 the stable revision): people differ in how much they like, and each gives many thumbs to one side. A voter is an
    account, or a key without one; thumbs of neither (`anonymous`) count as one voter each.
    """

    up: int = 0
    total: int = 0
    stable_up: int = 0
    stable_total: int = 0
    wins: int = 0
    losses: int = 0
    e_value: float = 1.0
    voter_e_value: float = 1.0
    voter_side: int = 0
    voters: int = 0
    anonymous: int = 0

    def decision(self, alpha: float | None) -> Literal["better", "worse", "undecided"]:
        """Return what the thumbs show, where those of all and those by voter show it; at every moment wrong with a
        chance of at most `alpha`, however often it is asked.
        """
        side = (self.wins > self.losses) - (self.wins < self.losses)
        if alpha is None or min(self.e_value, self.voter_e_value) < 1 / alpha or side != self.voter_side or not side:
            return "undecided"
        return "better" if side > 0 else "worse"

    def describe(self) -> str:
        """Say how many answers were liked, and by how many."""
        likes = (
            f"thumbs up on {self.up} of {self.total} answers, {self.stable_up} of {self.stable_total} of the stable"
            " revision"
        )
        known = plural(self.voters, "voter") if self.voters or not self.anonymous else ""
        unknown = f"{self.anonymous} without an account" if self.anonymous else ""
        return f"{likes}, by {' and '.join(filter(None, (known, unknown)))}"

    @property
    def evidence(self) -> float:
        """Return the lesser of both e-values, which decides."""
        return min(self.e_value, self.voter_e_value)


def count_paired_votes(canary: Sequence[bool], stable: Sequence[bool]) -> tuple[int, int]:
    """Return (wins, losses) of a canary whose n-th vote meets the stable revision's n-th; equal votes are neither.

    With equal shares of likes both are equally likely, whatever came before, so their bets are a martingale.

    >>> count_paired_votes([True, True, False], [False, True])
    (1, 0)
    """
    pairs = list(zip(canary, stable, strict=False))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


@dataclass(frozen=True)
class Observed:
    """Requests of a canary since its present step began: how many it got, how many of them it lost, how fast it was;
    `starts` counts starts in a row that failed.
    """

    requests: int
    failures: int
    p95_s: float | None
    step_s: float
    starts: int = 0
    votes: Votes = Votes()


@dataclass(frozen=True)
class CanaryVerdict:
    """Next action on a canary and its reason; `percent` is the share from now on."""

    action: Literal["wait", "step", "promote", "abort"]
    reason: str
    percent: float


def larger_shares(percent: float) -> list[float]:
    """Return the shares by which a canary grows from a share, in percent."""
    return [step for step in STEPS if step > percent]


def describe_growth(rules: CanaryRules) -> str:
    """Say by which shares a canary grows from its present one, and what each step needs.

    >>> describe_growth(CanaryRules(percent=40, step_up=True))
    '40, 50, 100 %, then promoted; each step at least 5 min and 20 requests'
    """
    if not rules.step_up:
        return "constant share"
    shares = ", ".join(f"{share:g}" for share in (rules.percent, *larger_shares(rules.percent)))
    needs = f"{rules.step_minutes:g} min and {plural(rules.min_requests, 'request')}"
    votes = " and better by votes" if rules.step_on_votes else ""
    return f"{shares} %, then promoted; each step at least {needs}{votes}"


def judge_canary(rules: CanaryRules, observed: Observed) -> CanaryVerdict:
    """Return whether a canary is aborted, grows, is promoted or stays as it is.

    >>> judge_canary(CanaryRules(percent=10), Observed(requests=10, failures=4, p95_s=None, step_s=1)).reason
    'lost 4 of 10 requests (40 %), more than 5 %'
    """
    if observed.starts >= MAX_STARTS:
        return CanaryVerdict("abort", f"its replicas failed to start {observed.starts} times", rules.percent)
    limit = rules.abort_error_rate
    if limit is not None and observed.failures >= MIN_FAILURES:
        # imports scipy, which no command on endpoints needs
        from backend.domain.statistics.estimates import wilson_interval

        low, _ = wilson_interval(min(1.0, observed.failures / observed.requests), observed.requests, critical=CRITICAL)
        if low > limit:
            lost = (
                f"lost {observed.failures} of {observed.requests} requests"
                f" ({percent(observed.failures / observed.requests)})"
            )
            return CanaryVerdict("abort", f"{lost}, more than {100 * limit:g} %", rules.percent)
    votes = observed.votes.decision(rules.vote_alpha)
    if votes == "worse":
        return CanaryVerdict(
            "abort", f"{observed.votes.describe()} (e-value {observed.votes.evidence:.0f})", rules.percent
        )
    enough = observed.requests >= rules.min_requests
    if rules.abort_p95_s is not None and enough and observed.p95_s is not None and observed.p95_s > rules.abort_p95_s:
        return CanaryVerdict(
            "abort", f"p95 of the first token is {observed.p95_s:.2f} s, above {rules.abort_p95_s:g} s", rules.percent
        )
    if not rules.step_up or not enough or observed.step_s < 60 * rules.step_minutes:
        return CanaryVerdict("wait", "", rules.percent)
    if rules.step_on_votes and votes != "better":
        return CanaryVerdict("wait", "", rules.percent)
    larger = larger_shares(rules.percent)
    if not larger:
        return CanaryVerdict("promote", f"{observed.requests} requests at {rules.percent:g} %", 100.0)
    return CanaryVerdict("step", f"{observed.requests} requests at {rules.percent:g} %", larger[0])
