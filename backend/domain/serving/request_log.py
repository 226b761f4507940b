"""The request log of an endpoint: its settings, and a request's body on its way to the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.fields import OPTION_ONLY, setting
from backend.domain.json_values import JsonObject

LogMode = Literal["off", "metadata", "bodies"]
MAX_ANSWER_CHARS = 200_000
OPT_OUT = "x-roundhouse-log"
"""Header of a request that is not to be logged: `X-Roundhouse-Log: off`."""

JOB = "x-roundhouse-job"
"""Header with the id of a job of this installation that a request is made for, so that its cost is added to the job."""

SYNTHETIC = "x-roundhouse-load-test"
"""Header of a load test's requests. Logs, datasets, traffic and costs by key leave them out."""

LOAD_TEST = "load test"
"""The variant that requests of load tests are stored under, in place of stable or canary."""


class RequestLogConfig(BaseModel):
    """Mode of a request log (nothing; parameters, tokens and latencies; or bodies too, after redaction) and the days it
    keeps requests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: LogMode = "off"
    retention_days: int = setting(
        30, "Days kept", "Days after which logged requests are erased.", ge=1, le=3650, shown=OPTION_ONLY
    )
    redact: bool = setting(
        True,
        "Redact",
        "Replace API keys, e-mail addresses, IBANs, card numbers, IPv4 addresses, phone numbers.",
        shown=OPTION_ONLY,
    )
    patterns: tuple[str, ...] = Field(default=(), max_length=50, description="More regular expressions to replace.")

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if len(pattern) > 500:
                raise ValueError("a pattern has more than 500 characters")
            try:
                matches_nothing = regex.compile(pattern).search("") is not None
            except regex.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
            if matches_nothing:
                raise ValueError(f"{pattern!r} matches an empty text")
        return patterns


class TrafficRules(BaseModel):
    """Filter and sample of an endpoint's requests. `patterns` are scrubbed once more, beside what its log redacts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    days: float = setting(30, "Last days", "The last days.", gt=0, le=3650)
    rating: Literal["any", "up", "down", "rated"] = setting(
        "any",
        "Rating",
        "any, up, down or rated.",
        choices={"any": "Any", "up": "Thumbs up", "down": "Thumbs down", "rated": "Rated"},
    )
    source: Literal["any", "api", "playground"] = setting("any", "Source", "any, api or playground.", shown=OPTION_ONLY)
    min_answer_chars: int = Field(default=1, ge=0)
    sample: int | None = setting(
        None, "Sample at most", "At most this many requests, drawn at random.", ge=1, le=1_000_000, empty="All"
    )
    seed: int = setting(1, "Seed", "Seed of the draw.", shown=OPTION_ONLY)
    redact: bool = True
    patterns: tuple[str, ...] = ()
    exclude: tuple[str, ...] = Field(default=(), description="Ids of requests that a review left out.")
    only: tuple[str, ...] = Field(default=(), description="Ids of requests that a list was filtered to; none: all.")

    @field_validator("patterns")
    @classmethod
    def _check_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return RequestLogConfig(patterns=patterns).patterns


@dataclass
class LoggedBody:
    """A request on its way to the log. `messages` is None where its endpoint logs metadata alone."""

    kind: Literal["chat", "text"]
    params: dict[str, object]
    messages: list[JsonObject] | None
    parts: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, text: str) -> None:
        """Add text of the answer, up to a limit."""
        if self.messages is not None and self.size < MAX_ANSWER_CHARS:
            self.parts.append(text)
            self.size += len(text)

    @property
    def answer(self) -> str | None:
        """The answer so far."""
        return None if self.messages is None else "".join(self.parts)
