"""Choices: one of a few, and by identity, where a box whose labels change between two clicks keeps what was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st

from backend.domain.wording import cut_label

T = TypeVar("T", bound=object)
Words = Callable[[T], str]
MIN_ID = 4
MAX_LABEL = 42
"""Characters of a label that a box shows, also on a phone."""


def by_identity(key: str, options: Iterable[T], label: Callable[[T], str]) -> Callable[[T], str]:
    """Return the `format_func` of the select box or multiselect of this key, whose labels may change. Call it just
    before the widget.

    Browsers send back a label, and Streamlit compares it with today's labels: of one that has changed meanwhile (a
    time, a number of rows, a name) the choice would be lost, and a callback would get the text. So the labels that were
    shown are kept, and lead to their option. Equal labels of two options get the beginning of their ids, or the second
    would be chosen for the first; a long name is cut in its middle, since boxes cut ends off, unless two labels would
    then be equal. `options` are hashable.
    """
    uncut = {option: label(option) for option in options}
    cut = {option: cut_label(text, MAX_LABEL) for option, text in uncut.items()}
    counts = Counter(cut.values())
    labels = _distinct({option: text if counts[text] == 1 else uncut[option] for option, text in cut.items()})
    last: dict[Any, str]
    known: dict[str, object]
    last, known = st.session_state.get(f"{key}.labels", ({}, {}))
    if key in st.session_state:
        value = st.session_state[key]
        chosen = value if isinstance(value, list) else [value]
        meant = [one if one in labels else known.get(one, one) for one in chosen]
        if meant != chosen or any(one in last and last[one] != labels.get(one) for one in meant):
            # tells the browser the new label, too
            st.session_state[key] = meant if isinstance(value, list) else meant[0]
    known = {text: option for text, option in known.items() if option in labels}
    st.session_state[f"{key}.labels"] = (labels, known | {text: option for option, text in labels.items()})
    return lambda option: labels[option]


def choose_one(
    label: str,
    options: Mapping[T, str] | Sequence[T],
    *,
    key: str,
    default: T | None = None,
    format_func: Callable[[T], str] = str,
    is_bare: bool = False,
    place: Any = st,
    **more: Any,
) -> T:
    """Draw a choice of one of a few options side by side, and return it: at first the default, or the first option.

    A mapping has the words of each option; `is_bare` hides the label from eyes, not from screen readers.
    """
    listed = list(options)
    chosen: T = place.segmented_control(
        label,
        listed,
        default=listed[0] if default is None else default,
        required=True,
        format_func=options.__getitem__ if isinstance(options, Mapping) else format_func,
        key=key,
        label_visibility="collapsed" if is_bare else "visible",
        **more,
    )
    return chosen


def choose_from(
    label: str,
    options: Collection[T],
    *,
    key: str,
    value: Any = ...,
    words: Words[T] | None = None,
    place: Any = st,
    **more: Any,
) -> Any:
    """Draw a box to choose one of many options by identity, and return it: at first the value, nothing for None, else
    the first. `words` say what an option is called; without them a mapping does.
    """
    listed = list(options)
    if words is None:
        words = options.__getitem__ if isinstance(options, Mapping) else str
    return place.selectbox(
        label,
        listed,
        index=None if value is None else listed.index(value) if value in listed else 0,
        format_func=by_identity(key, listed, words),
        key=key,
        **more,
    )


def drop_gone(key: str, options: Container[object]) -> list[str]:
    """Take what no longer exists out of the choice of the multiselect of this key, and return its labels, so that the
    page can say it. Call it before `by_identity`.
    """
    last: dict[Any, str]
    last, known = st.session_state.get(f"{key}.labels", ({}, {}))
    chosen = st.session_state.get(key, [])
    gone = [one for one in chosen if (option := known.get(one, one)) not in options and option in last]
    if gone:
        st.session_state[key] = [one for one in chosen if one not in gone]
    return [last[known.get(one, one)] for one in gone]


def _distinct(labels: dict[T, str]) -> dict[T, str]:
    """Add to equal labels the first characters of their options that tell all labels apart."""
    counts = Counter(labels.values())
    told_apart = labels
    for length in range(MIN_ID, max((len(str(option)) for option in labels), default=0) + MIN_ID):
        if len(set(told_apart.values())) == len(labels):
            break
        told_apart = {
            option: f"{text} · {str(option)[:length]}" if counts[text] > 1 else text for option, text in labels.items()
        }
    return told_apart
