"""Filter expressions over named fields: `learning_rate < 0.01 and tags = "baseline"`. Pure.

    expression  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" expression ")" | condition
    condition   = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "contains" ) value
                | field "is" [ "not" ] "missing"
                | field [ "not" ] "in" "(" value { "," value } ")"

A value is a word or a quoted text; the field's kind says what it means: `7B`, `20min`, `2026-11-01`, `-7d` (seven days
ago), `yes`. Texts are compared without regard to case. A list, such as tags, equals a value that is in it. A missing
value equals nothing, so `!=` holds for it and `<` does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from itertools import chain
from typing import Any, TypeVar

from backend.domain.names import nearest_name
from backend.errors import InvalidInput

MAX_LENGTH = 2_000
MAX_DEPTH = 40
Value = float | str | bool | datetime | tuple[str, ...] | None
Row = TypeVar("Row")


class ValueKind(StrEnum):
    """Kind of a field's values; a duration is in seconds."""

    NUMBER = "number"
    TEXT = "text"
    LIST = "list"
    TIME = "time"
    DURATION = "duration"
    FLAG = "yes or no"


ORDERED = frozenset({ValueKind.NUMBER, ValueKind.TIME, ValueKind.DURATION})
TEXTUAL = frozenset({ValueKind.TEXT, ValueKind.LIST})
OPERATORS = ("<=", ">=", "!=", "=", "<", ">", "contains")
EXAMPLES = {
    ValueKind.NUMBER: "a number, such as 0.01, 3e-4 or 7B",
    ValueKind.TEXT: "a text",
    ValueKind.LIST: "a text",
    ValueKind.TIME: "a date, such as 2026-11-01, or a time ago, such as -7d",
    ValueKind.DURATION: "a duration, such as 90s, 20min, 3h or 2d",
    ValueKind.FLAG: "yes or no",
}


@dataclass(frozen=True)
class FilterField:
    """A field that expressions may name. `choices`: all values of a closed set; `synonyms`: other words for them."""

    name: str
    kind: ValueKind
    choices: tuple[str, ...] = ()
    synonyms: Mapping[str, str] = field(default_factory=dict)


class FilterError(InvalidInput):
    """An expression can't be read. `position` counts from 0, over `length` characters."""

    def __init__(self, message: str, *, remedy: str = "", position: int = 0, length: int = 1) -> None:
        super().__init__(f"At character {position + 1}: {message}", remedy=remedy, field="filter")
        self.position, self.length = position, max(1, length)


@dataclass(frozen=True)
class FieldTest:
    """A field beside a value."""

    field: str
    operator: str
    value: float | str | bool | datetime


@dataclass(frozen=True)
class Missing:
    """A field without a value."""

    field: str


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: Expression


@dataclass(frozen=True)
class All:
    """Every part."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Any_:
    """At least one part."""

    parts: tuple[Expression, ...]


Expression = FieldTest | Missing | Not | All | Any_


def parse_filter(
    text: str,
    fields: Mapping[str, FilterField],
    *,
    aliases: Mapping[str, str] | None = None,
    ambiguous: Mapping[str, str] | None = None,
    now: datetime | None = None,
    zone: tzinfo = UTC,
) -> Expression | None:
    """Return what a text says; None for an empty one.

    `aliases`: other names of fields. `ambiguous`: what to write instead, by names that could mean several fields.
    `now` and `zone`: what dates and times ago refer to. Raises FilterError with the position, and the nearest name of
    an unknown one.
    """
    if not text.strip():
        return None
    if len(text) > MAX_LENGTH:
        raise FilterError(
            f"the filter has {len(text):,} characters.", remedy=f"Use at most {MAX_LENGTH:,}.", position=MAX_LENGTH
        )
    try:
        return _Parser(
            _tokens(text), len(text), fields, aliases or {}, ambiguous or {}, now=now or datetime.now(UTC), zone=zone
        ).parse()
    except FilterError as error:
        if value := _unquoted(text, error.position, fields, aliases or {}):
            error.remedy += f" A value of several words or signs stands in quotes: {quote(value)}."
        raise


def fields_read_by(expression: Expression | None) -> frozenset[str]:
    """Return the names of the fields that an expression reads."""
    match expression:
        case FieldTest(name, _, _) | Missing(name):
            return frozenset({name})
        case Not(part):
            return fields_read_by(part)
        case All(parts) | Any_(parts):
            return frozenset().union(*map(fields_read_by, parts))
    return frozenset()


def tests_of(expression: Expression | None) -> tuple[FieldTest, ...]:
    """Return the comparisons of an expression, in order."""
    match expression:
        case FieldTest():
            return (expression,)
        case Not(part):
            return tests_of(part)
        case All(parts) | Any_(parts):
            return tuple(chain.from_iterable(map(tests_of, parts)))
    return ()


def matcher(expression: Expression | None, reader: Callable[[str], Callable[[Row], Value]]) -> Callable[[Row], bool]:
    """Return a test of rows. `reader` gives the function that reads a field of a row."""
    match expression:
        case None:
            return lambda row: True
        case FieldTest(name, operator, value):
            return _comparison(reader(name), operator, value)
        case Missing(name):
            read = reader(name)
            return lambda row: _is_missing(read(row))
        case Not(part):
            holds = matcher(part, reader)
            return lambda row: not holds(row)
        case All(parts):
            tests = [matcher(part, reader) for part in parts]
            return lambda row: all(test(row) for test in tests)
        case Any_(parts):
            tests = [matcher(part, reader) for part in parts]
            return lambda row: any(test(row) for test in tests)


def quote(text: str) -> str:
    """Return a text as a value of an expression, in quotes where it needs them."""
    if re.fullmatch(r"[\w.@/:+-]+", text) and text.lower() not in KEYWORDS:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unquoted(text: str, position: int, fields: Mapping[str, FilterField], aliases: Mapping[str, str]) -> str:
    """Return the words and signs around a position that may be meant as a text field's value; empty if none."""
    for match in SEVERAL.finditer(text):
        name = match[1].lower()
        known = fields.get(aliases.get(name, name))
        if known is not None and known.kind in TEXTUAL and match.start(2) < position < match.end(2):
            return match[2]
    return ""


def _is_missing(value: Value) -> bool:
    return value is None or value == "" or value == ()


def _comparison(read: Callable[[Row], Value], operator: str, value: Any) -> Callable[[Row], bool]:
    if isinstance(value, str):
        text = value.casefold()

        def texts(value_of_row: Value) -> list[str]:
            return (
                []
                if value_of_row is None
                else [
                    str(part).casefold()
                    for part in (value_of_row if isinstance(value_of_row, tuple) else (value_of_row,))
                ]
            )

        if operator == "contains":
            return lambda row: any(text in part for part in texts(read(row)))
        if operator == "!=":
            return lambda row: text not in texts(read(row))
        return lambda row: text in texts(read(row))
    if operator == "=":
        return lambda row: read(row) == value
    if operator == "!=":
        return lambda row: read(row) != value

    def compare(row: Row) -> bool:
        value_of_row: Any = read(row)
        if value_of_row is None or value_of_row != value_of_row:
            return False
        if operator == "<":
            return bool(value_of_row < value)
        if operator == "<=":
            return bool(value_of_row <= value)
        return bool(value_of_row > value if operator == ">" else value_of_row >= value)

    return compare


KEYWORDS = frozenset({"and", "or", "not", "in", "is", "missing", "contains"})
TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<sign><=|>=|!=|<>|==|[=<>(),])|(?P<word>[^\s<>=!(),"']+))"""
)
DIGITS = r"(?:\d+(?:\.\d*)?|\.\d+)"  # digits match in one way only: a long value that is none is refused at once
NUMBER = re.compile(rf"([+-]?{DIGITS}(?:e[+-]?\d+)?)\s*(%|[kKMBGT]?B?)", re.IGNORECASE)
SEVERAL = re.compile(
    r"([\w./]+)\s*(?:!?=|\bcontains\b)\s*([^\s\"'()=<>][^\"'()=<>]*?)\s*(?=\s(?:and|or)\s|\)|$)", re.IGNORECASE
)
"""A field, and what stands behind its operator up to the next condition."""
SCALES = {"": 1.0, "%": 0.01, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
DURATION = re.compile(rf"({DIGITS})\s*(days?|d|hours?|h|min|m|s)", re.IGNORECASE)
UNITS_S = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class _Token:
    """A word, a sign or a quoted text (`is_quoted`, without its quotes)."""

    text: str
    position: int
    length: int
    is_quoted: bool = False
    word: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "word", "" if self.is_quoted else self.text.lower())


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text) and text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            if text[at] in "\"'":
                raise FilterError(
                    "this quotation mark is not closed.", remedy=f"Add {text[at]} after the text.", position=at
                )
            raise FilterError(f"“{text[at]}” is not part of a filter.", remedy="Write != or not.", position=at)
        kind, start = str(match.lastgroup), match.start(str(match.lastgroup))
        token = match[kind]
        if kind == "text":
            tokens.append(_Token(re.sub(r"\\(.)", r"\1", token[1:-1]), start, len(token), is_quoted=True))
        else:
            tokens.append(_Token({"==": "=", "<>": "!="}.get(token, token), start, len(token)))
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent over tokens."""

    def __init__(
        self,
        tokens: list[_Token],
        end: int,
        fields: Mapping[str, FilterField],
        aliases: Mapping[str, str],
        ambiguous: Mapping[str, str],
        *,
        now: datetime,
        zone: tzinfo,
    ) -> None:
        self.tokens, self.end, self.at, self.depth = tokens, end, 0, 0
        self.fields, self.aliases, self.ambiguous = fields, aliases, ambiguous
        self.now, self.zone = now, zone

    def parse(self) -> Expression:
        expression = self.either()
        if (left := self.next) is not None:
            remedy = "Remove it." if left.text == ")" else "Join conditions with `and` or `or`."
            raise self.error(f"“{left.text}” is not expected here.", remedy, left)
        return expression

    @property
    def next(self) -> _Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, *words: str) -> bool:
        """Step over the next token if it is one of these."""
        if self.next is not None and self.next.word in words:
            self.at += 1
            return True
        return False

    def error(self, message: str, remedy: str, token: _Token | None) -> FilterError:
        position, length = (self.end, 1) if token is None else (token.position, token.length)
        return FilterError(message, remedy=remedy, position=position, length=length)

    def either(self) -> Expression:
        parts = [self.both()]
        while self.take("or"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else Any_(tuple(parts))

    def both(self) -> Expression:
        parts = [self.negation()]
        while self.take("and"):
            parts.append(self.negation())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def negation(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error("too many nested parentheses.", f"Use at most {MAX_DEPTH}.", self.next)
        opening = self.next
        if self.take("not"):
            expression: Expression = Not(self.negation())
        elif self.take("("):
            expression = self.either()
            if not self.take(")"):
                raise self.error("this parenthesis is not closed.", "Add `)`.", opening)
        else:
            expression = self.condition()
        self.depth -= 1
        return expression

    def condition(self) -> Expression:
        known = self.field()
        if self.take("is"):
            negated = self.take("not")
            if not self.take("missing"):
                raise self.error("only `missing` may follow `is`.", "Write `is missing`, or = and a value.", self.next)
            return Not(Missing(known.name)) if negated else Missing(known.name)
        negated = self.next is not None and self.next.word == "not" and self.take("not")
        if self.take("in"):
            chosen = self.one_of(known)
            return Not(chosen) if negated else chosen
        operator = self.next
        if negated or operator is None or operator.word not in OPERATORS:
            raise self.error(
                f"a comparison of {known.name} is expected here.",
                f"Write {_operators(known.kind)} and a value.",
                operator,
            )
        self.at += 1
        return self.compare(known, operator, self.next)

    def field(self) -> FilterField:
        token = self.next
        if token is None or token.is_quoted or token.word in KEYWORDS or token.text in (*OPERATORS, "(", ")", ","):
            raise self.error("the name of a field is expected here.", "Write a field, such as status.", token)
        name = self.aliases.get(token.word, token.text)
        known = self.fields.get(name) or self.fields.get(name.lower())
        if known is None:
            if (instead := self.ambiguous.get(name)) is not None:
                raise self.error(f"“{token.text}” could mean several fields.", instead, token)
            near = nearest_name(token.text.rpartition(".")[2], self.fields) or nearest_name(
                token.text, [*self.fields, *self.aliases]
            )
            remedy = f"Did you mean {near}?" if near else "See Fields beside the filter."
            raise self.error(f"there is no field “{token.text}”.", remedy, token)
        self.at += 1
        return known

    def one_of(self, known: FilterField) -> Expression:
        opening = self.next
        if not self.take("("):
            raise self.error("a list in parentheses is expected here.", "Write in (a, b).", opening)
        parts: list[Expression] = []
        while True:
            parts.append(self.compare(known, _Token("=", opening.position if opening else self.end, 1), self.next))
            if self.take(")"):
                return parts[0] if len(parts) == 1 else Any_(tuple(parts))
            if not self.take(","):
                raise self.error("a comma or `)` is expected here.", "Write in (a, b).", self.next)

    def compare(self, known: FilterField, operator: _Token, token: _Token | None) -> Expression:
        if token is None or (not token.is_quoted and token.text in (*OPERATORS, "(", ")", ",")):
            raise self.error(f"a value of {known.name} is expected here.", f"Write {EXAMPLES[known.kind]}.", token)
        sign = operator.word
        fits = sign in ("=", "!=") or (known.kind in (ORDERED if sign != "contains" else TEXTUAL))
        if not fits:
            kind = {ValueKind.LIST: "a list", ValueKind.TEXT: "text", ValueKind.FLAG: "yes or no"}.get(
                known.kind, f"a {known.kind}"
            )
            raise self.error(
                f"{known.name} is {kind}, so {sign} has no meaning.", f"Use {_operators(known.kind)}.", operator
            )
        self.at += 1
        if known.kind is ValueKind.TIME:
            return self.compare_time(known, sign, token)
        return FieldTest(known.name, sign, self.value(known, sign, token))

    def value(self, known: FilterField, sign: str, token: _Token) -> float | str | bool:
        text = token.text.strip()
        if known.kind in TEXTUAL:
            text = known.synonyms.get(text.lower(), text)
            if known.choices and sign != "contains" and text.casefold() not in map(str.casefold, known.choices):
                near = nearest_name(text, [*known.choices, *known.synonyms])
                remedy = (
                    f"Did you mean {quote(near)}?"
                    if near
                    else f"Use one of {', '.join(map(quote, known.choices[:12]))}."
                )
                raise self.error(f"{known.name} is never “{token.text}”.", remedy, token)
            return text if known.choices else token.text
        if known.kind is ValueKind.FLAG:
            if text.lower() in ("yes", "true", "no", "false"):
                return text.lower() in ("yes", "true")
        elif known.kind is ValueKind.NUMBER:
            if (number := _number(text)) is not None:
                return number
        elif (seconds := _seconds(text)) is not None:
            return seconds
        raise self.error(f"“{token.text}” is not a value of {known.name}.", f"Write {EXAMPLES[known.kind]}.", token)

    def compare_time(self, known: FilterField, sign: str, token: _Token) -> Expression:
        """A date stands for its whole day in the zone."""
        text = token.text.strip()
        if text.startswith("-") and (seconds := _seconds(text[1:])) is not None:
            first, after = (self.now - timedelta(seconds=seconds)).astimezone(UTC), None
        else:
            try:
                first = datetime.fromisoformat(text)
                is_day = len(text) <= len("2026-11-01")
                first = first if first.tzinfo else first.replace(tzinfo=self.zone)
                after = (first + timedelta(days=1)).astimezone(UTC) if is_day else None
                first = first.astimezone(UTC)
            except (ValueError, OverflowError):  # the first or the last day there is has no place in another zone
                raise self.error(
                    f"“{token.text}” is not a value of {known.name}.", f"Write {EXAMPLES[ValueKind.TIME]}.", token
                ) from None
        if after is None or sign in ("<", ">="):
            return FieldTest(known.name, sign, first)
        if sign == "<=":
            return FieldTest(known.name, "<", after)
        if sign == ">":
            return FieldTest(known.name, ">=", after)
        day = All((FieldTest(known.name, ">=", first), FieldTest(known.name, "<", after)))
        return day if sign == "=" else Not(day)


def _operators(kind: ValueKind) -> str:
    if kind in ORDERED:
        return "=, !=, <, <=, >, >= or `is missing`"
    return "=, !=, contains or `is missing`" if kind in TEXTUAL else "=, != or `is missing`"


def _number(text: str) -> float | None:
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    suffix = match[2].lower()
    number = float(match[1]) * SCALES[suffix[:1]]
    return number if math.isfinite(number) else None


def _seconds(text: str) -> float | None:
    if re.fullmatch(DIGITS, text):
        seconds = float(text)
    elif re.fullmatch(rf"{DURATION.pattern}(?:\s*{DURATION.pattern})*", text, re.IGNORECASE):
        seconds = sum(float(number) * UNITS_S[unit[:1].lower()] for number, unit in DURATION.findall(text))
    else:
        return None
    return seconds if seconds <= 1e10 else None
