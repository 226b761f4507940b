"""Keys for /v1: scopes, limits and budgets."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from backend.domain.fields import Shown, setting
from backend.domain.validation import read_values
from backend.errors import InvalidInput

ApiEndpoint = Literal["chat", "completions", "embeddings", "score", "tokenize", "feedback", "models"]
API_ENDPOINTS: tuple[ApiEndpoint, ...] = get_args(ApiEndpoint)
Period = Literal["day", "month"]
Count = Annotated[int, Field(ge=1, le=10**12)]
Money = Annotated[float, Field(gt=0, le=10**9, allow_inf_nan=False)]


LIMIT, BUDGET = Shown(group="Limits", empty="No limit"), Shown(group="Budgets (UTC)", empty="No limit")


class KeyScopes(BaseModel):
    """Models and parts of the API for a key. Empty means all. `models` may hold patterns such as `support-*`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = setting(
        (), "Models", "Models that the key may use; * is a wildcard.", max_length=100, group=None, empty="All models"
    )
    endpoints: tuple[ApiEndpoint, ...] = setting(
        (), "Routes", "Routes of the API that it may call.", empty="All routes"
    )
    admin: bool = setting(
        False,
        "May read /metrics",
        "May read /metrics, which count the requests of every key.",
        option="--admin/--no-admin",
    )

    def allows_model(self, name: str) -> bool:
        """Return whether a request may name this model. An adapter `base:adapter` is allowed with its base."""
        names = {name, name.partition(":")[0]}
        return not self.models or any(fnmatchcase(candidate, pattern) for candidate in names for pattern in self.models)

    def allows_endpoint(self, endpoint: str) -> bool:
        """Return whether a request may call this part of the API. The list of models is always allowed."""
        return not self.endpoints or endpoint == "models" or endpoint in self.endpoints


class KeyLimits(BaseModel):
    """Requests and tokens in any 60 seconds, requests at once, and budgets of a UTC day or month. None is no limit.

    Tokens are those of prompt and completion together. A budget in dollars needs a price of a device-hour.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: Count | None = setting(None, "Requests per minute", "Requests in any 60 seconds.", shown=LIMIT)
    tokens: Count | None = setting(
        None, "Tokens per minute", "Tokens of prompt and completion in any 60 seconds.", shown=LIMIT
    )
    concurrency: Count | None = setting(None, "Requests at once", "Requests at once.", shown=LIMIT)
    tokens_per_day: Count | None = setting(None, "Tokens per day", "Tokens per UTC day.", shown=BUDGET)
    tokens_per_month: Count | None = setting(None, "Tokens per month", "Tokens per UTC month.", shown=BUDGET)
    usd_per_day: Money | None = setting(None, "US$ per day", "US dollars per UTC day.", shown=BUDGET)
    usd_per_month: Money | None = setting(None, "US$ per month", "US dollars per UTC month.", shown=BUDGET)

    @property
    def is_limited(self) -> bool:
        """Return whether any limit is set."""
        return bool(self.model_dump(exclude_none=True))

    @property
    def budgets(self) -> tuple[tuple[Literal["tokens", "usd"], Period, float], ...]:
        """Return the budgets that are set, as (unit, period, amount)."""
        rows: tuple[tuple[Literal["tokens", "usd"], Period, float | None], ...] = (
            ("tokens", "day", self.tokens_per_day),
            ("tokens", "month", self.tokens_per_month),
            ("usd", "day", self.usd_per_day),
            ("usd", "month", self.usd_per_month),
        )
        return tuple((unit, period, float(amount)) for unit, period, amount in rows if amount is not None)

    def describe(self) -> str:
        """Return the limits as `--limits` takes them; empty without limits."""
        limits = self.model_dump(exclude_none=True)
        return ",".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in limits.items()
        )


MANY_AT_ONCE = KeyLimits(concurrency=100_000)
"""Limits of keys that stand for many people or a load, which the installation's limit of requests at once would cut."""
PLAYGROUND_KEY = "Playground"


def parse_limits(text: str) -> KeyLimits:
    """Read `requests=60,tokens=100000,concurrency=4,usd_per_month=5`. Raises InvalidInput naming the fault."""
    values: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise InvalidInput(f"{part!r} is no limit.", remedy=_limits_remedy(), field="limits")
        if name not in KeyLimits.model_fields:
            raise InvalidInput(f"There is no limit {name!r}.", remedy=_limits_remedy(), field="limits")
        if name in values:
            raise InvalidInput(f"The limit {name!r} is given twice.", remedy="Give each limit once.", field="limits")
        values[name] = value.replace("_", "")
    return read_values(KeyLimits, values, remedy="Give a number above 0.")


def _limits_remedy() -> str:
    return f"Give NAME=NUMBER with commas between; names: {', '.join(KeyLimits.model_fields)}."


def parse_scopes(*, models: str = "", endpoints: str = "", admin: bool = False) -> KeyScopes:
    """Read lists separated by commas. Raises InvalidInput for an unknown part of the API."""
    names = tuple(filter(None, (name.strip() for name in models.split(","))))
    parts = tuple(filter(None, (name.strip() for name in endpoints.split(","))))
    for part in parts:
        if part not in API_ENDPOINTS:
            raise InvalidInput(
                f"The API has no part {part!r}.", remedy=f"Choose from {', '.join(API_ENDPOINTS)}.", field="endpoints"
            )
    return KeyScopes(models=names, endpoints=parts, admin=admin)


def parse_expiry(text: str, *, now: datetime) -> datetime | None:
    """Read `30d`, `12h`, a date (all that UTC day) or a timestamp; empty for never. Raises InvalidInput if past."""
    if not text.strip():
        return None
    if match := re.fullmatch(r"(\d{1,5})\s*([hdwy])", text.strip()):
        hours = {"h": 1, "d": 24, "w": 168, "y": 8760}[match[2]]
        moment = now + timedelta(hours=int(match[1]) * hours)
    else:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError as error:
            raise InvalidInput(
                f"{text!r} is not an expiry.",
                remedy="Give a duration such as 30d or 12h, or a date such as 2027-01-31.",
                field="expires",
            ) from error
        if re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text.strip()):
            moment += timedelta(days=1)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment <= now:
        raise InvalidInput(f"{text!r} is in the past.", remedy="Give a later date.", field="expires")
    return moment


def period_start(period: Period, *, now: datetime) -> datetime:
    """Return the first moment of the UTC day or month."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if period == "day" else day.replace(day=1)


def period_end(period: Period, *, now: datetime) -> datetime:
    """Return the first moment of the next UTC day or month."""
    start = period_start(period, now=now)
    if period == "day":
        return start + timedelta(days=1)
    return (start + timedelta(days=32)).replace(day=1)
