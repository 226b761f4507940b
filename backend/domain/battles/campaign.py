"""Config of a campaign, its YAML file with name, contestants and dataset, and prompts from dataset rows. Pure rules, no
I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from backend.domain.fields import Shown, setting
from backend.domain.names import nearest_name
from backend.domain.validation import describe_fault, is_stored, read_values
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput

LONGEST_CATEGORY = 80
"""Characters of a prompt's category."""

Messages = list[dict[str, str]]


def prompt_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return a prompt as one text: that of its only message, or each with its role."""
    if len(messages) == 1:
        return str(messages[0].get("content", ""))
    return "\n\n".join(f"{message.get('role', 'user')}: {message.get('content', '')}" for message in messages)


class Dimension(BaseModel):
    """A part of the rubric, on which a rater compares the answers separately."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        min_length=1, max_length=40, pattern=r"^[^\s:]+$", description="Key of the dimension, such as `accuracy`."
    )
    question: str = Field(default="", max_length=200, description="Question shown to raters; the name when empty.")


class GoldPair(BaseModel):
    """A prompt with an answer that is known to be better and one that is known to be worse, to check raters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str | tuple[dict[str, str], ...] = Field(
        description="Text, or messages {role, content} that end with the user's turn."
    )
    better: str = Field(min_length=1, description="The better answer.")
    worse: str = Field(min_length=1, description="The worse answer.")

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if not is_stored(info) and text_hash(self.better) == text_hash(self.worse):
            raise ValueError("the better and the worse answer are equal")
        return self

    @property
    def messages(self) -> Messages:
        """The prompt as messages."""
        return (
            [{"role": "user", "content": self.prompt}]
            if isinstance(self.prompt, str)
            else [dict(turn) for turn in self.prompt]
        )


SAMPLING, PAIRING = Shown(group="Sampling, seed, ballot length"), Shown(group="Pairing, overlap, stopping rule")
BALLOT = Shown(group="Ballot: question, reasons, rubric")


class CampaignConfig(BaseModel):
    """Prompts, sampling, pairing, ballot and end of a campaign. One `seed` gives the same prompts and completions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_prompts: int = setting(
        30,
        "Number of prompts",
        "Prompts drawn from the dataset. More prompts are worth more than more votes per prompt.",
        ge=1,
        le=5000,
    )
    allow_train: bool = setting(
        False, "Allow training rows", "Also draw prompts that the contestants may have trained on."
    )
    category_column: str = setting(
        "",
        "Category column",
        "Column of the dataset, or of the first file, that holds each prompt's category.",
        max_length=80,
        group="System prompt, categories",
        empty="topic",
    )
    system: str = setting(
        "",
        "System prompt",
        "System prompt in front of every prompt that has none.",
        max_length=20_000,
        group="System prompt, categories",
        lines=3,
    )
    answers_per_prompt: int = Field(
        default=1, ge=1, le=8, description="Answers that each contestant gives to a prompt."
    )
    max_tokens: int = setting(96, "Max new tokens", "Longest completion, in tokens.", ge=1, le=4096, shown=SAMPLING)
    temperature: float = setting(
        0.8, "Temperature", "0 always takes the likeliest token.", ge=0.0, le=2.0, shown=SAMPLING, step=0.1
    )
    top_p: float = setting(
        0.95,
        "Top p",
        "Tokens are drawn from the likeliest ones with this share of the probability.",
        gt=0.0,
        le=1.0,
        shown=SAMPLING,
        step=0.05,
    )
    seed: int = setting(1, "Seed", "The same seed gives the same prompts and completions.", ge=0, shown=SAMPLING)
    pairing: Literal["information", "uniform"] = setting(
        "information",
        "Pairing",
        "Draw pairs whose rating difference is least certain more often, or all pairs alike.",
        shown=PAIRING,
        choices={"information": "Least certain pairs first", "uniform": "All pairs alike"},
    )
    overlap_share: float = setting(
        0.2,
        "Overlap share",
        "Share of prompts and pairs that go to several raters.",
        ge=0.0,
        le=1.0,
        shown=PAIRING,
        step=0.05,
    )
    overlap_raters: int = setting(
        3, "Raters of shared battles", "Raters of a shared prompt and pair.", ge=2, le=20, shown=PAIRING
    )
    repeat_share: float = setting(
        0.0,
        "Swapped repeats, share",
        "Share of battles repeated to the same rater with sides swapped.",
        ge=0.0,
        le=0.5,
        shown=PAIRING,
        step=0.05,
    )
    gold: tuple[GoldPair, ...] = Field(
        default=(), max_length=500, description="Pairs with a known better answer, to check raters."
    )
    gold_share: float = setting(
        0.1,
        "Share of gold battles",
        "Share of battles that are gold pairs.",
        ge=0.0,
        le=0.5,
        group="Gold pairs",
        step=0.05,
    )
    votes_per_rater: int = setting(
        60, "Max votes per rater", "A rater's ballot ends after this many votes.", ge=1, le=10_000, shown=SAMPLING
    )
    votes_per_minute: int = Field(default=60, ge=1, le=600, description="Votes that a rater may cast in a minute.")
    question: str = setting(
        "Which answer is better?", "Question", "Question above the answers.", min_length=1, max_length=200, shown=BALLOT
    )
    instructions: str = setting(
        "",
        "Instructions to raters",
        "What raters read before their first vote, and may open again. Plain text.",
        max_length=4000,
        shown=BALLOT,
        lines=3,
        empty="What counts, what to do with answers that break off, and so on.",
    )
    dimensions: tuple[Dimension, ...] = Field(
        default=(), max_length=8, description="Parts of the rubric, compared separately."
    )
    reasons: tuple[str, ...] = setting(
        (),
        "Reasons to tick",
        "Reasons that a rater can tick, separated by commas.",
        max_length=12,
        shown=BALLOT,
        empty="wrong fact, off topic, too long",
    )
    note: bool = setting(True, "Free note", "Offer a free note.", shown=BALLOT)
    rewrite: bool = setting(False, "Rewriting the better answer", "Offer to rewrite the better answer.", shown=BALLOT)
    rating: Literal["none", "thumbs", "stars"] = setting(
        "none",
        "Single answers",
        "Rate single answers by thumbs or by 1 to 5 stars, without comparing two.",
        shown=BALLOT,
        choices={"none": "Compare two answers", "thumbs": "Thumbs", "stars": "1 to 5 stars"},
    )
    break_after_min: int = Field(
        default=20, ge=0, le=240, description="Minutes after which a rater is reminded of a break; 0 never."
    )
    masked_words: tuple[str, ...] = Field(
        default=(), max_length=200, description="Names that answers must not reveal, besides the contestants'."
    )
    smallest_gap: float = setting(
        35.0,
        "Smallest relevant gap",
        "Smallest gap worth acting on, in rating points (35 is 55 wins in 100).",
        gt=0,
        le=800,
        shown=SAMPLING,
        step=5,
    )
    stop_votes: int | None = setting(
        None, "Stop after votes", "Close the campaign after this many votes.", ge=1, shown=PAIRING, empty="no limit"
    )
    stop_at: AwareDatetime | None = Field(default=None, description="Close the campaign at this time.")
    stop_on_verdict: bool = setting(
        False, "Stop at the verdict", "Close the campaign once every pair has a verdict.", shown=PAIRING
    )

    @classmethod
    def of(cls, **values: Any) -> CampaignConfig:
        """Build a config. Raises InvalidInput naming the field, the value and what it may be."""
        return read_values(cls, values, remedy="Change the setting.")

    @property
    def is_single(self) -> bool:
        """Return whether raters grade single answers and compare none."""
        return self.rating != "none"

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        names = [dimension.name for dimension in self.dimensions]
        if len(set(names)) < len(names):
            raise ValueError("two dimensions have the same name")
        if any(not reason.strip() or len(reason) > 60 for reason in self.reasons):
            raise ValueError("a reason needs 1 to 60 characters")
        return self


class CampaignRecord(BaseModel):
    """The row of a campaign: its config, and how it came about. `held_out`: whether a rematch uses only prompts
    that are not in its preference set; None for other campaigns. A standing campaign holds the votes of the playground.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    config: CampaignConfig = CampaignConfig()
    held_out: bool | None = None
    standing: bool = False
    imported: bool = False


def prompt_messages(row: Mapping[str, object]) -> Messages | None:
    """Return a row's prompt as messages that end with the user's turn; None if it has none.

    Reads `messages` (up to the last user turn), `prompt` (text or messages), `question`, or `instruction` with `input`.
    """
    for key in ("messages", "prompt"):
        value = row.get(key)
        if isinstance(value, list):
            return _until_last_user(value)
    text = row.get("prompt") or row.get("question") or row.get("instruction")
    if not isinstance(text, str) or not text.strip():
        return None
    extra = row.get("input")
    if not row.get("prompt") and isinstance(extra, str) and extra.strip():
        text = f"{text}\n\n{extra}"
    return [{"role": "user", "content": text}]


def _until_last_user(turns: Iterable[Any]) -> Messages | None:
    messages: Messages = []
    for turn in turns:
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            continue
        if turn["role"] == "tool" or turn.get("tool_calls"):
            break  # contestants get no tools, so the prompt ends before the first tool call
        messages.append({"role": str(turn["role"]), "content": str(turn["content"])})
    while messages and messages[-1]["role"] != "user":
        messages.pop()
    return messages or None


def with_system(messages: Messages, system: str) -> Messages:
    """Return a prompt with the system prompt in front, unless it has one of its own or the text is empty."""
    if not system.strip() or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": system}, *messages]


def content_hash(messages: Messages) -> str:
    """Return the identity of a prompt: equal for equal roles, and texts that differ only in space at the ends."""
    turns = [[message["role"], message["content"].strip()] for message in messages]
    return hashlib.sha256(json.dumps(turns, ensure_ascii=False).encode()).hexdigest()


def text_hash(text: str) -> str:
    """Return the identity of a completion: equal for texts that differ only in space at the ends."""
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()


def refuse_revealing_name(name: str, contestants: Iterable[str]) -> None:
    """Raise InvalidInput if a campaign's name, which raters may see, contains a contestant's name."""
    for contestant in contestants:
        if len(contestant) > 2 and contestant.lower() in name.lower():
            raise InvalidInput(
                f"The campaign's name tells raters that “{contestant}” is a contestant.",
                remedy="Choose a name without contestants in it.",
                field="name",
            )


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
