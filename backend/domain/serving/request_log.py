"""The request log of an endpoint: its settings, a request's body on its way to the log, redaction of its texts by form
(keys, e-mail addresses, IBANs, card numbers, IPv4 addresses, phone numbers), and words for how requests end. Pure.

What is redacted can't be brought back, so a number stays where its form doesn't tell. A bare run of digits is a phone
number only after a word such as "phone", a card number only with an issuer's prefix and a valid check digit. Decimals,
amounts, dates, ranges, and ids that a letter or a dash joins to a word stay. A number of four parts, such as 1.2.3.4,
is an address unless a word or a sign says that it is a version.
"""

from __future__ import annotations

from collections.abc import Callable
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


PATTERN_TIMEOUT_S = 0.2

_DASH = r"\-\u2010\u2011"
_GAP = rf"[\ \u00a0\u202f.{_DASH}]"
_GAPS = rf"[\ \u00a0\u202f./(){_DASH}]{{0,2}}"
_LINE = r"[\ \u00a0\u202f]"
_BEFORE = rf"(?<![\w\#$€£¥₹])(?<!\d[.:])(?<!\w[/{_DASH}])"
_AFTER = rf"(?![\w%])(?![.:]\d)(?![/{_DASH}]\w)"
_ALONE_BEFORE = rf"{_BEFORE}(?<!\d{_LINE})"
_ALONE_AFTER = rf"{_AFTER}(?!{_LINE}\d)"


@dataclass(frozen=True)
class _Rule:
    name: str
    pattern: regex.Pattern[str]
    size: Callable[[str], int] = len
    """Characters of a match that are replaced, from its first one."""

    def replace(self, text: str) -> tuple[str, int]:
        count = 0

        def replaced(match: regex.Match[str]) -> str:
            nonlocal count
            match_text = str(match[0])
            size = self.size(match_text)
            count += size > 0
            return f"[{self.name}]{match_text[size:]}" if size else match_text

        return self.pattern.sub(replaced, text, timeout=PATTERN_TIMEOUT_S), count


_ISSUERS = regex.compile(
    r"""4\d{15}(?:\d{3})? | (?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720|220[0-4])\d{12}
    | 3[47]\d{13} | 3(?:0[0-5]|[689]\d)\d{11} | (?:60\d\d|64[4-9]\d|65\d\d|8[12]\d\d|508\d)\d{12}
    | (?:35(?:2[89]|[3-8]\d)|62\d\d)\d{12,15} | (?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}""",
    regex.VERBOSE,
)
"""Visa, Mastercard, Mir, American Express, Diners Club, Discover, RuPay, JCB, UnionPay, Maestro: prefixes, lengths."""


def _is_card(digits: str) -> bool:
    return _ISSUERS.fullmatch(digits) is not None and has_check_digit(digits)


def has_check_digit(digits: str) -> bool:
    """Return whether the last digit is the check digit (Luhn, ISO/IEC 7812-1 annex B) of those before it."""
    values = [int(digit) for digit in reversed(digits)]
    return (sum(values[::2]) + sum(sum(divmod(2 * value, 10)) for value in values[1::2])) % 10 == 0


def _is_iban(compact: str) -> bool:
    """Compute the remainder of ISO 13616, 1 of 97 for right check digits; letters count from 10."""
    digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return 15 <= len(compact) <= 34 and int(digits) % 97 == 1


def _size_of_longest(is_valid: Callable[[str], bool]) -> Callable[[str], int]:
    """Size of the longest valid part, up to a gap or the end: what follows a number may look like a group of it."""

    def size(text: str) -> int:
        ends = [match.start() for match in regex.finditer(rf"{_GAP}|$", text)]
        return next((end for end in reversed(ends) if is_valid(regex.sub(_GAP, "", text[:end]))), 0)

    return size


def _national_size(text: str) -> int:
    """Size of groups that begin with 0 if they have nine to twelve digits and aren't a US social security number."""
    sizes = [len(group) for group in regex.findall(r"\d+", text)]
    return len(text) if 9 <= sum(sizes) <= 12 and sizes != [3, 2, 4] else 0


def _compile(pattern: str) -> regex.Pattern[str]:
    return regex.compile(pattern, regex.VERBOSE)


_ABROAD = rf"""(?: 1 (?:{_GAPS}\(0\))? {_GAPS}[2-9] (?:{_GAPS}\d){{9}}  # North America
  | (?:7|44|52|9[01]) (?:{_GAPS}\(0\))? (?:{_GAPS}\d){{10}}  # ten digits: GB, IN, MX, RU, TR
  | (?:3[1-4]|4[158]|61|6[456]) (?:{_GAPS}\(0\))? (?:{_GAPS}\d){{8,9}}  # nine at most: FR, ES, CH, AU, ...
  | [2-9] (?:{_GAPS}\d){{7,12}} )"""
"""The number after + or 00. Where its length is known, no number that follows is taken into it."""

_CUE = r"""\b(?i: (?:tele)?phone | tel | mobile | fax | whatsapp | telefon | handy(?:nummer)? | t[ée]l[ée]phone
    | tel[eé]fono | celular | (?:call|text|ring|reach|phone)\ (?:me|us|him|her|them)(?:\ back)? | 电话 | 手机 | 電話 )
  (?: [^\w\n]{1,3} (?i: number | no | num | nr | nummer | is | at | on | ist ) ){0,2} [^\w\n+]{0,3}?"""
"""A word after which digits are a phone number."""

_RULES = (
    _Rule("KEY", _compile(r"\b(?:sk|rh|hf|ghp|xox[bp])[-_](?=[\w-]{0,40}[A-Za-z0-9]{12})[A-Za-z0-9_-]{12,}\b")),
    _Rule("EMAIL", _compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,253}\.[A-Za-z]{2,}\b")),
    _Rule(
        "IBAN", _compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?\b"), _size_of_longest(_is_iban)
    ),
    _Rule(
        "CARD",
        _compile(
            rf"""(?<!\w)(?<!\d[.,{_DASH}])
            (?=[2-68])
            (?: \d{{13,19}}
            | \d{{4}}([\ {_DASH}])\d{{4}}\1\d{{4}}\1\d{{1,4}}(?:\1\d{{1,3}})?
            | \d{{4}}([\ {_DASH}])\d{{6}}\2\d{{4,5}} )
            (?!\w)(?![.,{_DASH}]\d)"""
        ),
        _size_of_longest(_is_card),
    ),
    _Rule(
        "IP",
        _compile(
            r"""(?<![\w.])(?<![=<>~^!]=)(?<![\^~])(?<![A-Za-z][-/])
            (?<!(?i:\b(?:versions?|release|section|chapter|article|clause|v\.?)|§)\ ?)
            (?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)
            (?!\w)(?!\.\d)(?!-[A-Za-z])"""
        ),
    ),
    _Rule("PHONE", _compile(rf"(?<![\w+]) \+ (?!\d+\.\d{{5}}) {_ABROAD} {_AFTER}")),
    _Rule("PHONE", _compile(rf"{_BEFORE} 00 (?={_GAP}?\d{{1,3}}(?:{_GAP}|[/(])) {_GAP}? {_ABROAD} {_AFTER}")),
    _Rule(
        "PHONE",
        _compile(
            rf"""{_ALONE_BEFORE} (?: 0[1-9]\d{{0,4}} (?:[\ ]?[/{_DASH}][\ ]?|{_LINE}) | \(0[1-9]\d{{0,4}}\) {_LINE}? )
            \d{{2,9}} (?:(?:{_LINE}|[{_DASH}])\d{{2,5}}){{0,4}} {_ALONE_AFTER}"""
        ),
        _national_size,
    ),
    _Rule(
        "PHONE",
        _compile(
            rf"""(?=[\d(]) {_ALONE_BEFORE}
            (?: (?:[18]{_GAP}?)? \([2-9]\d\d\) {_GAP}? \d{{3}} {_GAP} (?:\d{{4}}|\d\d{_GAP}\d\d)  # US; Russia
            | \([1-9]\d\) {_LINE}? (?!(?:19|20)\d\d[{_DASH}](?:19|20)) [2-9]\d{{3,4}} {_GAP} \d{{4}}  # Brazil
            | (?:1{_GAP})? [2-9]\d\d ({_GAP}) [2-9]\d\d \1 \d{{4}}  # US
            | 0[1-9] \. \d\d \. \d\d \. \d\d \. \d\d  # France
            | 1[3-9]\d ({_GAP}) \d{{4}} \2 \d{{4}}  # China
            | [1-9]{{2}} {_LINE} 9\d{{4}} [{_DASH}] \d{{4}}  # Brazil
            | 8 ([\ {_DASH}]) 9\d\d \3 \d{{3}} [\ {_DASH}] \d\d [\ {_DASH}] \d\d  # Russia
            | [6-9]\d\d {_LINE} \d\d {_LINE} \d\d {_LINE} \d\d  # Spain
            | [1-9]\d {_LINE} \d{{3}} {_LINE} \d\d {_LINE} \d\d  # Poland, Spain
            | [6-9]\d{{4}} {_LINE} \d{{5}}  # India
            ) {_ALONE_AFTER}"""
        ),
    ),
    _Rule("PHONE", _compile(rf"{_CUE} \K \+? (?:\((?=\d{{1,5}}\)))? \d (?:{_GAPS}\d){{6,14}} {_AFTER}")),
)


def redact(text: str, config: RequestLogConfig) -> tuple[str, int]:
    """Return the text with matches replaced, and their number. A too slow pattern replaces the whole text."""
    total = 0
    try:
        for rule in _RULES if config.redact else ():
            text, count = rule.replace(text)
            total += count
        for pattern in config.patterns:
            text, count = regex.subn(pattern, "[REDACTED]", text, timeout=PATTERN_TIMEOUT_S)
            total += count
    except TimeoutError:
        return "[REDACTED]", total + 1
    return text, total


MAX_MODEL_NAME = 80
NO_ENDPOINT = "(no endpoint)"
"""In place of the endpoint of requests that named none that there is, or whose body was not read."""
KEY_PREFIXES = ("rh-", "sk-")

ENDS = {
    "answers_full": "too many open answers",
    "body_incomplete": "body incomplete",
    "body_too_large": "body too large",
    "context_length_exceeded": "prompt longer than the context",
    "database_unavailable": "database away",
    "endpoint_not_allowed": "not allowed to its key",
    "engine_failed": "engine failed on it",
    "insufficient_quota": "over the budget of its key",
    "invalid_api_key": "wrong key, or none",
    "invalid_value": "invalid value",
    "key_revoked": "key revoked meanwhile",
    "model_not_allowed": "model not allowed to its key",
    "model_not_found": "no such model",
    "no_replica": "no replica ready",
    "not_allowed": "not allowed to its key",
    "queue_full": "queue full",
    "rate_limit_exceeded": "over the rate limit of its key",
    "replica_lost": "replica lost",
    "unsupported_media_type": "body is not JSON",
    "upstream_failed": "server behind it failed",
}
"""Words for the codes of errors that clients get."""


def describe_end(code: str) -> str:
    """Return the words for a finish reason or the code of an error.

    >>> describe_end("model_not_found"), describe_end("length"), describe_end("new_code")
    ('no such model', 'length', 'new code')
    """
    return ENDS.get(code, code.replace("_", " "))


def clean_model_name(name: str) -> str:
    """Return a name that a client made up as it may be stored and shown: short, without what can't be seen, and without
    a key that stands in its place.

    >>> clean_model_name("gpt\u202e-4\0"), clean_model_name("sk-123")
    ('gpt\ufffd-4\ufffd', '(a key)')
    """
    if name.strip().lower().startswith(KEY_PREFIXES):
        return "(a key)"
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in name[:MAX_MODEL_NAME])
    return shown if len(name) <= MAX_MODEL_NAME else f"{shown[:-1]}…"
