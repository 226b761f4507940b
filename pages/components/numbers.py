"""Number fields that reach the server as they were typed: `1e5` is 100,000, and a value out of bounds is an error that
blocks the form.

Browsers cut a whole number at its first letter, and silently keep the last value for one out of bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import wraps
from types import EllipsisType
from typing import Any, Literal, ParamSpec, TypeVar

import streamlit as st

from backend.errors import InvalidInput
from pages.components.frame import plain

P = ParamSpec("P")
T = TypeVar("T")
Number = int | float
ButtonType = Literal["primary", "secondary", "tertiary"]
SHORTEST, LONGEST = 1e-3, 1e9
"""Numbers from the one to the other are written without a power of ten."""
_WRONG: ContextVar[list[str]] = ContextVar("wrong_numbers")


def number_form(draw: Callable[P, T]) -> Callable[P, T]:
    """Return a function that draws numbers and their button; `wrong_numbers` tells the button what is wrong."""

    @wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        token = _WRONG.set([])
        try:
            return draw(*args, **kwargs)
        finally:
            _WRONG.reset(token)

    return run


def wrong_numbers() -> list[str]:
    """Return what is wrong with the numbers that this form has drawn so far; its button is off while anything is."""
    return _WRONG.get()


def form_button(
    label: str, missing: Mapping[str, bool], *, key: str, icon: str = "", type: ButtonType = "primary"
) -> bool:
    """Draw a form's button and return whether it was clicked. While something is `missing` (what to do -> whether it is
    still to do) or a field is wrong, the button is off and says so.
    """
    reasons = [what for what, is_missing in missing.items() if is_missing]
    wrong = len(_WRONG.get([]))
    if wrong and not reasons:
        reasons = ["correct the field first" if wrong == 1 else "correct the fields first"]
    said = join_steps(reasons)
    clicked: bool = st.button(
        f"{said[0].upper()}{said[1:]}" if said else label,
        type=type,
        key=key,
        icon=f":material/{icon}:" if icon and not said else None,
        disabled=bool(said),
    )
    return clicked


def join_steps(steps: Sequence[str]) -> str:
    """Join what is still to do into one phrase; steps of one verb share it.

    Example:
        >>> join_steps(["enter a name", "enter the address"]), join_steps(["enter a name", "choose a file"])
        ('enter a name and the address', 'enter a name and choose a file')
    """
    verbs = {step.partition(" ")[0] for step in steps}
    parts = [step.partition(" ")[2] if number and len(verbs) == 1 else step for number, step in enumerate(steps)]
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def refuse_wrong_numbers() -> None:
    """Raise InvalidInput where a number is wrong, for the button of a `st.form`, which learns it when pressed."""
    if wrong := wrong_numbers():
        raise InvalidInput(" ".join(wrong), remedy="Correct the fields.")


def draw_problem(problem: str) -> None:
    """Draw what is wrong with the field above."""
    st.markdown(f":small[:red[:material/error: {plain(problem)}]]")


def mark_wrong(label: str, problem: str) -> None:
    """Draw what is wrong with the field above, and keep it for the form's button."""
    wrong_numbers().append(f"{label}: {problem}")
    draw_problem(problem)


def mark_refused(label: str, check: Callable[[str], object], value: str) -> None:
    """Draw what a check refuses of the field above, if anything is typed, and keep it for the form's button."""
    if value:
        try:
            check(value)
        except InvalidInput as refusal:
            mark_wrong(label, f"{refusal.message} {refusal.remedy}")


def draw_number(
    place: Any,
    label: str,
    least: Number | None,
    most: Number | None,
    value: Number | EllipsisType | None = None,
    *,
    key: str,
    is_whole: bool = True,
    step: Number | None = None,
    **options: Any,
) -> Any:
    """Draw a number field of a `number_form` and return its value; with `...` it holds that of the session state.
    One that can't be used is named below the field, and the nearest that can be is returned, so that the rest of the
    form can be drawn.
    """
    with place.container(gap="small", **({"width": options.pop("width")} if "width" in options else {})):
        entered = enter_number(label, value, key=key, is_whole=is_whole, step=step, **options)
        problem = describe_problem(entered, least, most, is_whole=is_whole)
        if problem and not options.get("disabled"):
            mark_wrong(label, problem)
    return nearest_valid(entered, least, most, is_whole=is_whole)


def enter_number(
    label: str, value: Any, *, key: str, is_whole: bool, step: Number | None = None, **options: Any
) -> float | None:
    """Draw a number field without bounds; return what was typed. With `...` it holds the value of the session state."""
    if value is not ...:
        options["value"] = None if value is None else float(value)
    held = st.session_state.get(key, options.get("value"))
    options |= {
        "step": float(step) if step is not None else 1.0 if is_whole else None,
        "format": number_format(held, is_whole=is_whole),
    }
    entered: float | None = st.number_input(label, key=key, **options)
    return entered


def number_format(value: Number | None, *, is_whole: bool) -> str:
    """Return the format in which a field shows every digit of a number, and few zeros: 5e-5, 0.25, 1e+21."""
    if is_whole and (value is None or float(value).is_integer()):
        return "%.0f"
    return "%e" if value and not SHORTEST <= abs(value) < LONGEST else "%g"


def nearest_valid(value: float | None, least: Number | None, most: Number | None, *, is_whole: bool) -> Any:
    """Return the nearest value that can be used: an int where it is whole."""
    if value is None:
        return None
    whole_or_not = round(value) if is_whole else float(value)
    at_least = whole_or_not if least is None else max(whole_or_not, least)
    return at_least if most is None else min(at_least, most)


def describe_problem(
    value: float | None,
    least: Number | None,
    most: Number | None,
    *,
    is_whole: bool,
    above: Number | None = None,
    below: Number | None = None,
) -> str:
    """Return why a value can't be used, or ""."""
    if value is None:
        return ""
    if is_whole and not float(value).is_integer():
        return f"{_written(value)} is not a whole number."
    if least is not None and value < least:
        return f"{_written(value)} is less than {_written(least)}."
    if most is not None and value > most:
        return f"{_written(value)} is more than {_written(most)}."
    if above is not None and value <= above:
        return f"{_written(value)} is not more than {_written(above)}."
    if below is not None and value >= below:
        return f"{_written(value)} is not less than {_written(below)}."
    return ""


def _written(value: Number) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.10g}"
