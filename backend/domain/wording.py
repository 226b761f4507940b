"""Format bytes, durations, counts and nouns for pages, the command line and messages. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

MIDDLE_DOT = " · "
"""Between the parts of a label."""
WHOLE_PART = 24
"""Characters of a part of a label that is never cut: `step 1,200 (diverged)`."""
SHORTEST_PART = 12
"""Characters that a part of a label is cut to at the least."""


def format_bytes(num_bytes: float) -> str:
    """Format a number of bytes: `1.3 MB`."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def format_duration(seconds: float) -> str:
    """Format a duration: 8 s, 3 min 20 s, 2 h 5 min, 3 d 4 h.

    >>> format_duration(200)
    '3 min 20 s'
    """
    rounded = round(max(0.0, seconds))
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s" if rounded < 600 else f"{round(rounded / 60)} min"
    if rounded < 86_400:
        return f"{rounded // 3600} h {rounded % 3600 // 60} min"
    return f"{rounded // 86_400} d {rounded % 86_400 // 3600} h"


def format_count(number: float) -> str:
    """Format a large number in three figures with a word: `1.12 million`, `72.2 billion`."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if abs(number) >= size:
            return f"{number / size:.3g}{word}" if number / size < 999.5 else f"{number / size:,.0f}{word}"
    return f"{number:,.0f}"


def format_epochs(epochs: float) -> str:
    """Format a number of epochs: `4.14 epochs`, `6 % of one epoch`."""
    if epochs >= 1:
        return f"{f'{epochs:,.0f}' if epochs >= 100 else f'{epochs:.3g}'} epoch{'' if epochs == 1 else 's'}"
    return f"{100 * epochs:.2g} % of one epoch"


def format_factor(factor: float) -> str:
    """Format a factor: `3 times`, `40,000 times`."""
    return f"{factor:,.0f} times" if factor >= 9.5 else f"{factor:.1f} times"


def short(number: float, *, zeros: bool = False) -> str:
    """Format a large number in three figures, up to ten thousand in full: `2,048`, `1.12 M`; with `zeros` those at its
    end too: `3.00 M`.
    """
    value, figures = float(number), "#.3g" if zeros else ".3g"
    if abs(value) < 9_999.5:
        return f"{value:,.0f}"
    for unit in ("", " K", " M", " B"):
        if abs(value) < 999.5:
            return f"{value:.0f}" if not unit else f"{f'{value:{figures}}'.removesuffix('.')}{unit}"
        value /= 1000
    return f"{f'{value:{figures}}'.removesuffix('.')} T"


def format_number(number: float, *, digits: int = 6) -> str:
    """Format a setting's number in at most this many figures; below a thousandth as `5e-5`, not in zeros to count.

    >>> format_number(0.00005), format_number(0.003), format_number(2048)
    ('5e-5', '0.003', '2,048')
    """
    if 0 < abs(number) < 1e-3:
        mantissa, _, exponent = f"{number:.{digits - 1}e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{number:,.0f}" if float(number).is_integer() and abs(number) < 1e15 else f"{number:,.{digits}g}"


def about(number: int) -> str:
    """Format an estimated count in two figures, rounded up: `7`, `130`, `2,400`, `1.2 million`.

    >>> about(197_689)
    '200,000'
    """
    step = 10 ** max(0, len(str(number)) - 2)
    return format_count(math.ceil(number / step) * step)


def format_usd(usd: float, *, is_price: bool = False) -> str:
    """Format dollars in plain digits: `$12.30`, `under $0.01`. A price, of an hour or of one request, keeps four digits
    below a dollar.

    >>> format_usd(0.0000313), format_usd(0.0000313, is_price=True)
    ('under $0.01', '$0.0000313')
    """
    if is_price and 0 < usd < 0.99995:
        cents = format(Decimal(f"{usd:.4g}"), "f").partition(".")[2]
        return f"$0.{cents:0<2}"
    return "under $0.01" if 0 < usd < 0.005 else f"${usd:,.2f}"


def format_evidence(e_value: float) -> str:
    """Format an e-value without powers of ten: `0.4`, `31`, `2,300`, `over a million`."""
    if e_value > 1e6:
        return "over a million"
    if e_value < 0.01:
        return "under 0.01"
    return f"{e_value:.2g}" if e_value < 10 else f"{float(f'{e_value:.2g}'):,.0f}"


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: `1 row`, `2 rows`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def list_first(names: Sequence[str], most: int) -> str:
    """List names, of more than `most` the first: `Oak, Elm and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def shorten(text: str, limit: int) -> str:
    """Return the beginning of a text, at most `limit` characters; one that is cut ends with an ellipsis.

    >>> shorten("The old mill", 8)
    'The old…'
    """
    return text if len(text) <= limit else f"{text[: limit - 1].rstrip()}…"


def cut_middle(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters, cut in its middle: names often differ in their ends.

    >>> cut_middle("Fine-tune stories on village_chats_of_may · step 300", 40)
    'Fine-tune stories on villa…ay · step 300'
    """
    tail = limit // 3
    return text if len(text) <= limit else f"{text[: limit - tail - 1]}…{text[-tail:]}"


def cut_label(text: str, limit: int) -> str:
    """Return a label of parts between middle dots (`name · step 80`) of about at most `limit` characters: long parts
    are cut in their middle, the longest first; parts of at most WHOLE_PART characters stay whole.

    >>> cut_label("Fine-tune stories on village_chats_of_may · step 300 · 1.5 M parameters", 42)
    'Fine-tu…_may · step 300 · 1.5 M parameters'
    """
    parts = text.split(MIDDLE_DOT)
    for place in sorted(range(len(parts)), key=lambda place: -len(parts[place])):
        if len(parts[place]) > WHOLE_PART:
            room = limit - (len(MIDDLE_DOT.join(parts)) - len(parts[place]))
            parts[place] = cut_middle(parts[place], max(SHORTEST_PART, room))
    return MIDDLE_DOT.join(parts)


def clean_text(text: str) -> str:
    """Return a text from outside as a name: on one line, without surrogates, NULs and control characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable()).strip()


def visible(text: str) -> str:
    """Return a text, or what it is if nothing of it can be seen: `(nothing)`, `(5 line breaks)`, `(blanks)`."""
    if text.strip():
        return text
    breaks = text.count("\n")
    return f"({plural(breaks, 'line break')})" if breaks else "(blanks)" if text else "(nothing)"


def percent(share: float, *, digits: int | None = 0, signed: bool = False) -> str:
    """Format a share of 1 as percent: `5 %`, `12.5 %`, `+3 %`; with `digits` None as many digits as it needs.

    >>> percent(0.125, digits=1)
    '12.5 %'
    """
    sign, places = "+" if signed else "", "g" if digits is None else f".{digits}f"
    return f"{100 * share:{sign}{places}} %"
