"""Forms made of a config's fields: a widget for each, as the schema says, with the error below it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import streamlit as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from backend.domain.fields import (
    bounds_of,
    default_of,
    field_kind,
    field_problem,
    fields_of,
    is_used,
    label_with_unit,
    read_list,
    shown_of,
    write_list,
)
from backend.domain.json_values import FieldValues
from backend.domain.validation import validation_message
from backend.errors import RoundhouseError
from pages.components.choices import by_identity
from pages.components.frame import errors_shown, show_problem
from pages.components.numbers import (
    describe_problem,
    draw_problem,
    enter_number,
    mark_wrong,
    nearest_valid,
    wrong_numbers,
)

M = TypeVar("M", bound=BaseModel)
Choices = Mapping[Any, str]


def draw_fields(
    model: type[BaseModel],
    *,
    key: str,
    group: str = "",
    only: Sequence[str] = (),
    skip: Collection[str] = (),
    values: Mapping[str, Any] | BaseModel | None = None,
    choices: Mapping[str, Choices] | None = None,
    disabled: Mapping[str, str] | None = None,
    empty: Mapping[str, str] = MappingProxyType({}),
    columns: int = 3,
    place: Any = None,
    address: Mapping[str, str] | None = None,
) -> FieldValues:
    """Draw the fields of a group in a `number_form`, or those of `only` in that order; return their values.

    `values`: what they hold at first, in place of the schema's defaults; those of other fields decide which are used.
    `choices`: the values of a field that the schema leaves open, with labels. `disabled`: reasons by field. `empty`:
    what an empty field means here. `address`: names of the fields in the page's address, which then keeps what they
    hold; by default their own. A wrong value is named below its field and blocks the form's button; the nearest
    that can be used is returned for it.
    """
    held = dict(values.__dict__) if isinstance(values, BaseModel) else dict(values or {})
    grid = st.grid(columns, min_column_width=180) if place is None else place
    drawn: dict[str, object] = {}
    for name in only or [name for name in fields_of(model, group=group) if name not in skip]:
        info = model.model_fields[name]
        if not is_used(model, name, held | drawn):
            _forget_refused(name, key=key)
            continue
        reason = (disabled or {}).get(name, "")
        options = {"placeholder": empty[name]} if name in empty else {}
        options |= {"bind": "query-params"} if address is not None else {}
        cell = grid.cell(column_span=columns) if shown_of(info).lines > 1 and place is None else grid
        bottom = field_kind(info).base is bool
        with cell.container(gap="small", height="stretch", vertical_alignment="bottom" if bottom else "top"):
            value = draw_widget(
                info,
                key=f"{key}_{name}" if address is None else address.get(name, name),
                value=held.get(name, default_of(info)),
                choices=(choices or {}).get(name),
                disabled=bool(reason),
                help=reason or info.description,
                **options,
            )
            drawn[name] = value if reason else _checked(model, name, value)
            _draw_refused(name, drawn[name], key=key)
    return drawn


def read_form(model: type[M], values: Mapping[str, Any]) -> M | None:
    """Return the config of a form's values; None, with what is wrong, if it can't be used. The button is then off."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        if not wrong_numbers():
            mark_wrong(model.__name__, f"{validation_message(error, model)}.")
        return None


@dataclass(frozen=True)
class _Refusal:
    field: str
    value: Any
    error: RoundhouseError


@contextmanager
def refusals_marked(values: Mapping[str, Any], *, key: str) -> Iterator[None]:
    """Show errors raised inside, as what a form's button does. One that names a field of the form stands below that
    field, too, and its group is open (`group_expander`), until the value changes.
    """
    st.session_state.pop(_refusal_key(key), None)
    with errors_shown():
        try:
            yield
        except RoundhouseError as error:
            if error.field is None or error.field not in values:
                raise
            st.session_state[_refusal_key(key)] = _Refusal(error.field, values[error.field], error)
            st.rerun()


def group_expander(
    model: type[BaseModel], group: str, label: str, *, name: str, key: str, icon: str | None = None
) -> Any:
    """Draw the expander `name` of a group of fields; one that holds a field that was refused is open. It is another
    element then, since a browser keeps what a person folded.
    """
    refusal = _refusal_of(key)
    is_open = refusal is not None and refusal.field in fields_of(model, group=group)
    return st.expander(label, icon=icon, key=f"{name}_refused" if is_open else name, expanded=is_open)


def draw_refusal(model: type[BaseModel], *, key: str) -> None:
    """Draw beside the form's button what was refused of which field."""
    if (refusal := _refusal_of(key)) is not None:
        label = label_with_unit(model.model_fields[refusal.field])
        show_problem(f"{label}: {refusal.error.message}", refusal.error.remedy)


def _refusal_key(key: str) -> str:
    return f"{key}.refusal"


def _refusal_of(key: str) -> _Refusal | None:
    refusal: _Refusal | None = st.session_state.get(_refusal_key(key))
    return refusal


def _draw_refused(name: str, value: Any, *, key: str) -> None:
    refusal = _refusal_of(key)
    if refusal is None or refusal.field != name:
        return
    if refusal.value == value:
        draw_problem(str(refusal.error))
    else:
        _forget_refused(name, key=key)


def _forget_refused(name: str, *, key: str) -> None:
    refusal = _refusal_of(key)
    if refusal is not None and refusal.field == name:
        del st.session_state[_refusal_key(key)]


def _checked(model: type[BaseModel], name: str, entered: Any) -> Any:
    """Return a value, or the nearest that can be used after drawing what is wrong with it, which blocks the button."""
    info = model.model_fields[name]
    kind, bounds, scale = field_kind(info), bounds_of(info), shown_of(info).scale
    is_number = kind.base in (int, float) and not kind.many and not kind.values
    if is_number and entered is None and not kind.optional:
        mark_wrong(label_with_unit(info), "Enter a number.")
        return default_of(info)
    if entered in (None, "", ()):  # a required text that is missing is said by the button
        return entered
    if is_number:
        least, most, above, below = (
            None if bound is None else bound * scale
            for bound in (bounds.least, bounds.most, bounds.above, bounds.below)
        )
        is_whole = kind.base is int
        problem = describe_problem(entered, least, most, above=above, below=below, is_whole=is_whole)
        entered = nearest_valid(entered, least, most, is_whole=is_whole)
        value = entered if scale == 1 else round(entered / scale, 12)
    else:
        problem, value = field_problem(model, name, entered), entered
    if problem:
        mark_wrong(label_with_unit(info), problem)
    return value


def draw_widget(info: FieldInfo, *, key: str, value: Any = ..., choices: Choices | None = None, **options: Any) -> Any:
    """Draw the widget of a field and return what was entered. Without `value` it holds that of the session state."""
    kind, shown, label = field_kind(info), shown_of(info), label_with_unit(info)
    first: FieldValues = {} if value is ... else {"value": value}
    options["key"] = key
    if kind.base is bool:
        return st.toggle(label, **options, **first)
    options.setdefault("placeholder", shown.empty or None)
    if kind.base in (int, float) and not kind.values and not kind.many:
        value = round(value * shown.scale, 12) if isinstance(value, int | float) else value
        return enter_number(label, value, is_whole=kind.base is int, step=shown.step, **options)
    if kind.values and choices is None:
        choices = {one: shown.choices.get(one, str(one)) for one in kind.values}
    if choices is not None:
        listed = list(choices)
        options["format_func"] = by_identity(key, listed, choices.__getitem__)
        if kind.many:
            first = first and {"default": [one for one in value or () if one in choices]}
            return tuple(st.multiselect(label, listed, **options, **first))
        first = first and {"index": listed.index(value) if value in choices else None if kind.optional else 0}
        return st.selectbox(label, listed, **options, **first)
    options |= first and {"value": write_list(value) if kind.many else value or ""}
    if shown.lines > 1:
        return st.text_area(label, height=28 * shown.lines + 16, **options) or ""  # spaces may matter in a template
    text = st.text_input(label, **options)
    return read_list(info, text or "") if kind.many else (text or "").strip() or (None if kind.optional else "")
