"""Read the numbers of a text: signs, thousands separators, decimals, exponents, currencies, percent signs and
fractions.

Points and commas are read as people of either habit write them: `1,234.5` and `1.234,5`, `3.14` and `3,14`. Where both
readings are possible, as of `1,234` and `1.234`, the English one holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}"), r" \1/\2"),
    (re.compile(r"\{,\}|\\,(?=\d{3})"), ","),
)
_NUMBER = re.compile(
    r"""
    # 3/4 or 1 3/4, but no date
    (?<![A-Za-z_\d/])(?<!\d\.)(?:(?P<whole>\d{1,3})[ ])?(?P<top>\d+)/(?P<bottom>0*[1-9]\d*)(?!\d|/|\.\d)
    | (?<![A-Za-z_\d])(?<!\d[.,])(?:
        (?P<pointed>\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,})   # 1.234,56
        # 1 234,56 with a space that breaks no line, 1'234.56
      | (?P<spaced>\d{1,3}(?:['’\u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?)
      | (?!(?<=[(\[{])\d+,\d+[)\]}])(?P<comma>0,\d+|[1-9]\d*,(?:\d{1,2}|\d{4,})|[1-9]\d{3,},\d{3})   # 3,14
      | (?P<lakhs>\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?)   # 12,34,567
      )(?![.,]?\d)
      # no H2O, no 3.11.7
    | (?<![A-Za-z_\d])(?<!\d\.)(?P<plain>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+(?!\w))?)(?!\.?\d)
    | (?<![\w.])(?P<point>\.\d+)(?!\.?\d)
    """,
    re.VERBOSE,
)
_CURRENCIES, _MINUS, _PERCENT = "$€£¥", "-−", "%"
_NO_SIGN_AFTER = ")]}.%" + _MINUS
"""A minus after these, a letter or a digit is a hyphen, a dash or a difference: 1939-1945, 5-3, (2)-1, word--5."""


def read_numbers(text: str) -> list[float]:
    """Return the numbers of a text in order.

    A minus is a sign unless it joins two things (`1939-1945`). `1,000` is a thousand, `12%` is 12, `$1,234.50` is
    1234.5, `3/4` is 0.75. A comma before other than three digits, or after 0, is a decimal comma (`3,14`), unless it
    lies in a list (`5,6,7`) or a point (`(3,14)`). Digits inside a word (`H2O`), a version (`3.11.7`) or an address
    (`192.168.100.200`) are not a number.
    """
    return [value for _, _, value in _scan(_plain(text))]


def last_number(text: str) -> float | None:
    """Return the last number of a text, or None without one."""
    numbers = read_numbers(text)
    return numbers[-1] if numbers else None


def read_number(text: str) -> float | None:
    """Return the number that a text consists of, or None. Spaces and a closing point or percent sign are ignored."""
    plain = _plain(text).strip().removesuffix(".").removesuffix(_PERCENT).rstrip()
    numbers = list(_scan(plain))
    return numbers[0][2] if len(numbers) == 1 and numbers[0][:2] == (0, len(plain)) else None


def numeric_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the last number of the prediction is the last number of a reference, else 0."""
    number = last_number(prediction)
    targets = [last_number(reference) for reference in references]
    return float(
        number is not None
        and any(target is not None and math.isclose(number, target, rel_tol=1e-9) for target in targets)
    )


def _plain(text: str) -> str:
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def _scan(text: str) -> Iterator[tuple[int, int, float]]:
    """Yield (start, end, value) of each number; the start is that of its sign or currency."""
    for match in _NUMBER.finditer(text):
        start, negative = _read_sign(text, match.start())
        if match["top"]:
            units, top, bottom = (float(match[name] or 0) for name in ("whole", "top", "bottom"))
            if match["whole"] and top >= bottom:  # `2020 3/2` is a number beside a fraction
                yield match.start(), match.end("whole"), -units if negative else units
                start, negative, units = match.start("top"), False, 0.0
            value = units + top / bottom if math.isfinite(top) else math.inf
        else:
            value = _read_digits(match)
        if not math.isfinite(value):
            continue  # thousands of digits
        yield start, match.end(), -value if negative else value


def _read_digits(match: re.Match[str]) -> float:
    kind = str(match.lastgroup)
    digits = match[kind]
    if kind == "pointed" and digits.count(".") == 3 and all(int(part) < 256 for part in re.split("[.,]", digits)):
        return math.nan  # an address
    if kind in ("pointed", "comma"):
        return float(digits.replace(".", "").replace(",", "."))
    if kind == "spaced":
        return float(re.sub(r"[^\d.]", "", digits.replace(",", ".")))
    return float(digits.replace(",", ""))


def _read_sign(text: str, start: int) -> tuple[int, bool]:
    """Return where the number that has its first digit at `start` begins, and whether it is negative: `-5`, `-$5`,
    `$-5`.
    """
    at = start
    currency = at > 0 and text[at - 1] in _CURRENCIES
    at -= currency
    if at and text[at - 1] in _MINUS and not (at > 1 and (text[at - 2].isalnum() or text[at - 2] in _NO_SIGN_AFTER)):
        at -= 1
        at -= not currency and at > 0 and text[at - 1] in _CURRENCIES
        return at, True
    return at, False
