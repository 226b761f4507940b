"""Validate names, and suggest near matches of a mistyped one."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

from backend.errors import InvalidInput, NotFound


def clean_name(text: str, *, what: str, limit: int = 120) -> str:
    """Strip a name and validate it. Raises InvalidInput if it is empty, too long, or holds `@` or control characters.

    `@` is reserved for versions: `stories@3`.
    """
    name = " ".join(text.split())
    if not name:
        raise InvalidInput(f"{what} needs a name.", field="name")
    if len(name) > limit:
        raise InvalidInput(f"The name has {len(name)} characters.", remedy=f"Use at most {limit}.", field="name")
    if "@" in name or not name.isprintable():
        raise InvalidInput(
            f"The name {name!r} holds a character that names can't have.", remedy="Leave out `@`.", field="name"
        )
    return name


def name_key(name: str) -> str:
    """Return what names have in common that a reader takes for one: `Rita`, `rita` and `Ｒｉｔａ` are the same.

    Example:
        >>> name_key(" Ｒｉｔａ ")
        'rita'
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", " ".join(name.split())).casefold())


LETTERS = str.maketrans(
    {
        "ä": "ae",
        "ö": "oe",
        "ü": "ue",
        "ß": "ss",
        "æ": "ae",
        "œ": "oe",
        "ø": "o",
        "å": "aa",
        "ł": "l",
        "đ": "d",
        "þ": "th",
    }
    | {
        "Ä": "Ae",
        "Ö": "Oe",
        "Ü": "Ue",
        "ẞ": "SS",
        "Æ": "Ae",
        "Œ": "Oe",
        "Ø": "O",
        "Å": "Aa",
        "Ł": "L",
        "Đ": "D",
        "Þ": "Th",
    }
)


def as_ascii(text: str) -> str:
    """Write the Latin letters of a text without marks, umlauts as German does. What is not ASCII then is of another
    script, or no letter.

    Example:
        >>> as_ascii("Märchen für Zoë")
        'Maerchen fuer Zoe'
    """
    letters = unicodedata.normalize("NFC", text).translate(LETTERS)
    return "".join(char for char in unicodedata.normalize("NFKD", letters) if not unicodedata.combining(char))


def require_length(text: str, *, what: str, limit: int, field: str) -> str:
    """Return a name that is not too long. Raises InvalidInput with its beginning: cut, it might be another's."""
    if len(text) > limit:
        raise InvalidInput(
            f"{what} “{text[:60]}…” has {len(text)} characters.", remedy=f"Use at most {limit}.", field=field
        )
    return text


def not_found(what: str, name: str, known: Iterable[str], *, remedy: str = "") -> NotFound:
    """Return the NotFound error of an unknown name, with similar names."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near += [other for other in names if other not in near and name.lower() in other.lower()]
    if near:
        remedy = "Did you mean " + ", ".join(f"“{other}”" for other in near[:3]) + "?"
    return NotFound(f"There is no {what} “{name}”.", remedy=remedy, field=what)


def nearest_name(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name closest to a mistyped one, or None where none shares this much with it.

    Example:
        >>> nearest("max_stepz", ["max_steps", "seed"])
        'max_steps'
    """
    names = list(known)
    inside = next((other for other in names if other.endswith(f".{name}")), None)  # `rank` for `lora.rank`
    return inside or next(iter(difflib.get_close_matches(name.lower(), names, n=1, cutoff=cutoff)), None)
