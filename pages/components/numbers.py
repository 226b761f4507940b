"""Number fields that reach the server as they were typed: `1e5` is 100,000, and a value out of bounds is an error."""

from __future__ import annotations

from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.components.frame import plain

Number = int | float


def draw_number(
    place: DeltaGenerator | Any,
    label: str,
    least: Number | None,
    most: Number | None,
    value: Number | None = None,
    *,
    key: str,
    wrong: list[str],
    whole: bool = True,
    step: Number | None = None,
    **options: Any,
) -> Any:
    """Draw a number field and return its value; a value that can't be used is named below it and added to `wrong`, and the form's button
    is off while that holds any. Browsers cut a whole number at its first letter, and keep the last value silently for one out of bounds.
    """
    with place.container(gap="small"):
        entered = st.number_input(
            label,
            value=None if value is None else float(value),
            step=float(step) if step is not None else 1.0 if whole else None,
            format="%.0f" if whole else "%g",
            key=key,
            **options,
        )
        problem = describe_problem(entered, least, most, whole=whole)
        if problem and not options.get("disabled"):
            wrong.append(f"{label}: {problem}")
            st.markdown(f":small[:red[:material/error: {plain(problem)}]]")
    return as_number(entered, whole=whole)


def as_number(value: float | None, *, whole: bool) -> Any:
    """Return a whole value as an int, where it is one."""
    return int(value) if whole and value is not None and float(value).is_integer() else value


def describe_problem(value: float | None, least: Number | None, most: Number | None, *, whole: bool) -> str:
    """Return why a value can't be used, or ""."""
    if value is None:
        return ""
    if whole and not float(value).is_integer():
        return f"{value:g} is not a whole number."
    if least is not None and value < least:
        return f"{_written(value)} is less than {_written(least)}."
    if most is not None and value > most:
        return f"{_written(value)} is more than {_written(most)}."
    return ""


def _written(value: Number) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
