"""Widgets for the fields of a run's config, built from the schema: type, label, help, unit, and the error below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from backend.domain.json_values import FieldValues
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import (
    default_at,
    field_at,
    field_label,
    kind_of,
    list_paths,
    traits_of,
    value_at,
)
from pages.components.forms import draw_widget
from pages.components.frame import handled
from pages.components.numbers import draw_problem

PREFIX = "launch_"
ON_FORM = tuple(path for path in list_paths() if traits_of(path).group is not None)
"""Fields that the form draws from the schema; the others have widgets of their own."""
_LABELLED = sorted((*ON_FORM, "grpo.rewards"), key=len, reverse=True)
_NAMED = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, _LABELLED)) + r")(?![\w])")
_ERRORS, _TYPED, _VALUES, _DEFAULTS = "launch_errors", "launch_typed", "launch_values", "launch_defaults"
_CHOICES = "launch_choices"


def field_key(path: str) -> str:
    """Return the key of a field's widget."""
    return PREFIX + path.replace(".", "_")


def set_field(path: str, value: Any) -> None:
    """Set the value of a field. Only before it is drawn.

    The widget gets it when it is drawn: a key set for a widget that is not drawn keeps its first value.
    """
    number = kind_of(path) in (int, float) and value is not None
    _values()[path] = float(value) if number else list(value) if isinstance(value, tuple) else value
    st.session_state.pop(field_key(path), None)


def get_field(path: str) -> Any:
    """Return the value of a field, drawn or not: a widget that leaves the page loses its own."""
    value = st.session_state.get(field_key(path), _values().get(path, default_at(path)))
    return int(value) if kind_of(path) is int and isinstance(value, float) and value.is_integer() else value


def set_choice(name: str, value: str) -> None:
    """Set one of the form's choices that are drawn for some objectives alone. Only before it is drawn; the widget gets
    it then, as a field's does.
    """
    _choices()[name] = value
    st.session_state.pop(PREFIX + name, None)


def get_choice(name: str) -> str | None:
    """Return a choice, drawn or not."""
    chosen: str | None = st.session_state.get(PREFIX + name, _choices().get(name))
    return chosen


def draw_choice(name: str, label: str, options: Sequence[str], *, names: Mapping[str, str] | None = None) -> str:
    """Draw a choice, the first option unless it was set, and return it."""
    key = PREFIX + name
    st.session_state.setdefault(key, get_choice(name) or options[0])
    shown = names or {option: option for option in options}
    chosen = st.segmented_control(label, options, key=key, required=True, format_func=shown.__getitem__)
    _choices()[name] = chosen or options[0]
    return _choices()[name]


def _choices() -> dict[str, str]:
    choices: dict[str, str] = st.session_state.setdefault(_CHOICES, {})
    return choices


@handled
def mark_typed(path: str) -> None:
    """Mark a field as set by the visitor, so that new defaults do not overwrite it."""
    typed_fields().add(path)


def typed_fields() -> set[str]:
    """Return the fields that the visitor set."""
    typed: set[str] = st.session_state.setdefault(_TYPED, set())
    return typed


def forget_typed() -> None:
    """Reset the set of fields that the visitor typed."""
    st.session_state[_TYPED] = set()


def set_defaults(values: Mapping[str, Any]) -> None:
    """Set the defaults that the form's values are compared with, by path; other fields have the schema's."""
    st.session_state[_DEFAULTS] = dict(values)


def changed_labels(paths: Iterable[str], before: RunConfig | None = None) -> list[str]:
    """Return the labels of the fields that are not as in the config `before`, or else not at their default."""
    defaults = st.session_state.get(_DEFAULTS, {})

    def usual(path: str) -> Any:
        return defaults.get(path, default_at(path)) if before is None else value_at(before, path)

    return [field_label(path) for path in paths if _plain(get_field(path)) != _plain(usual(path))]


def field_errors() -> dict[str, str]:
    """Return the errors of the last check by field."""
    errors: dict[str, str] = st.session_state.get(_ERRORS, {})
    return errors


def set_field_errors(errors: Mapping[str, str]) -> None:
    """Keep errors by field; the page is drawn once more when they change, as fields are drawn before their check."""
    if dict(errors) != field_errors():
        st.session_state[_ERRORS] = dict(errors)
        st.rerun()


def draw_field(path: str) -> Any:
    """Draw one field and return its value. An error stands under the field, in red."""
    key, errors = field_key(path), field_errors()
    if key not in st.session_state:
        set_field(path, get_field(path))
        st.session_state[key] = _values()[path]
    kind = kind_of(path)
    with st.container(gap="small", height="stretch", vertical_alignment="bottom" if kind is bool else "top"):
        value = draw_widget(
            field_at(path), key=key, help=field_at(path).description, on_change=mark_typed, args=(path,)
        )
        if kind is int and value is not None and float(value).is_integer():
            value = int(value)
        if errors.get(path):
            draw_problem(errors[path])
    _values()[path] = value
    return value


def draw_run_fields(paths: Iterable[str], values: FieldValues) -> None:
    """Draw fields side by side, and put their values into those of a config, by section."""
    with st.grid(4, min_column_width=150):
        for path in paths:
            section, _, name = path.partition(".")
            if name:
                values.setdefault(section, {})[name] = draw_field(path)
            else:
                values[path] = draw_field(path)


def fields_in(message: str) -> tuple[str, ...]:
    """Return the fields of the form that an error names."""
    return tuple(path for path in dict.fromkeys(_NAMED.findall(message)) if path in ON_FORM)


def with_labels(message: str) -> str:
    """Replace the schema's field names in an error by the form's labels."""
    return _NAMED.sub(lambda match: f"“{field_label(match[0])}”", message)


def _values() -> FieldValues:
    values: dict[str, object] = st.session_state.setdefault(_VALUES, {})
    return values


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
