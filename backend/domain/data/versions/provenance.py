"""Provenance of a dataset version: its rows come from votes, from traffic, from another version or from training rows.

Of an imported file it says nothing: the version's source and facts do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag
from typing_extensions import TypedDict

from backend.domain.validation import StoredRecord


class VotedRow(TypedDict, total=False):
    """The votes or ratings that a training row was made of, and its answers with their authors."""

    prompt_id: str
    answer_id: str
    chosen: str
    rejected: str
    chosen_id: str
    rejected_id: str
    votes: list[str]
    ratings: list[int]
    raters: int
    agreement: float


class TrafficRow(TypedDict):
    """The requests that a training row was made of, with their checkpoints and thumbs, and whether corrected."""

    requests: list[str]
    checkpoints: list[str | None]
    ratings: list[int | None]
    correction: bool


class Provenance(StoredRecord):
    """Provenance of a version: nothing for an imported file. What another version stated is kept."""

    model_config = ConfigDict(extra="allow", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    def dump(self) -> dict[str, object]:
        """Return the stored form."""
        return self.model_dump(mode="json", include=self.model_fields_set | {"from_"})


class VotesProvenance(Provenance):
    """Rows from a campaign's votes."""

    from_: Literal["votes"] = Field(default="votes", alias="from")
    objective: str = ""
    campaign_id: str = ""
    campaign: str = ""
    contestants: tuple[dict[str, str | None], ...] = ()
    rules: dict[str, JsonValue] = Field(default_factory=dict)
    pairs: int = 0
    mean_agreement: float | None = None
    left_out: dict[str, int] = Field(default_factory=dict)
    excluded_raters: tuple[str, ...] = ()
    excluded_votes: int = 0
    locked_prompts: tuple[str, ...] = ()
    rows: tuple[VotedRow, ...] = ()


class TrafficProvenance(Provenance):
    """Rows from an endpoint's logged requests."""

    from_: Literal["traffic"] = Field(default="traffic", alias="from")
    endpoint: str = ""
    objective: str = ""
    rules: dict[str, JsonValue] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    scrubbed: int = 0
    rows: tuple[TrafficRow, ...] = ()


class DerivedProvenance(Provenance):
    """A change of another version. Listed rows stay in the job's payload. `with_` is the version that was merged."""

    from_: Literal["version"] = Field(default="version", alias="from")
    version: str = ""
    version_id: str = ""
    with_: str | None = Field(default=None, alias="with")
    with_id: str | None = None
    change: dict[str, JsonValue] = Field(default_factory=dict)
    said: str = "derived"
    by: str = ""


class ProbeProvenance(Provenance):
    """A safety probe. `tokens`: those of an answer that repeats a training row."""

    from_: Literal["safety"] = Field(default="safety", alias="from")
    probe: str = ""
    source: str = ""
    tokens: int | None = None


class StarterProvenance(Provenance):
    """The starter content."""

    made_by: str = "Roundhouse"
    from_: Literal["the starter content"] = Field(default="the starter content", alias="from")


def _kind(value: Any) -> str:
    """Return what a stored provenance, or a built one, says that it is from."""
    made_from = value.get("from") if isinstance(value, dict) else getattr(value, "from_", None)
    return made_from if made_from in ("votes", "traffic", "version", "safety", "the starter content") else ""


AnyProvenance = Annotated[
    Annotated[VotesProvenance, Tag("votes")]
    | Annotated[TrafficProvenance, Tag("traffic")]
    | Annotated[DerivedProvenance, Tag("version")]
    | Annotated[ProbeProvenance, Tag("safety")]
    | Annotated[StarterProvenance, Tag("the starter content")]
    | Annotated[Provenance, Tag("")],
    Discriminator(_kind),
]
"""A provenance of any kind, by its `from`."""
