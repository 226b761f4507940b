"""Options of a command, made of a config's fields: name, type, default, bounds and help stand once, in the schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import BaseModel

from backend.domain.fields import bounds_of, default_of, field_kind, fields_of, option_of, read_list, write_list

R = TypeVar("R")
GIVEN = "options"
"""Name of the parameter in place of which the options stand, and which gets their values."""


def model_options(
    model: type[BaseModel],
    *,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    partial: bool = False,
    names: Mapping[str, str] = MappingProxyType({}),
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command an option for each titled field of a model, in place of its parameter `options`: a dict of their
    values by field.

    `partial`: the options have no defaults, and the dict holds those that are given. `names` of options and `defaults`
    replace the schema's.
    """
    chosen = [name for name in fields_of(model) if name not in skip and (not only or name in only)]
    unstated = {  # where the command is called as a function
        name: None if partial else defaults.get(name, model.model_fields[name].get_default(call_default_factory=True))
        for name in chosen
    }

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> R:
            given = {name: kwargs.pop(name, unstated[name]) for name in chosen}
            values = {
                name: read_list(model.model_fields[name], value)
                if field_kind(model.model_fields[name]).many and value is not None
                else value
                for name, value in given.items()
                if value is not None or not partial
            }
            return function(*args, **{**kwargs, GIVEN: values})

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            if parameter.name == GIVEN:
                parameters += [_option(model, name, names.get(name), defaults, partial=partial) for name in chosen]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _option(
    model: type[BaseModel], name: str, written: str | None, defaults: Mapping[str, Any], *, partial: bool
) -> inspect.Parameter:
    """Return the parameter that typer makes an option of."""
    info = model.model_fields[name]
    kind, bounds = field_kind(info), bounds_of(info)
    default = defaults.get(name, default_of(info))
    default = write_list(default).replace(" ", "") if kind.many else default
    is_required = default is ... or (info.is_required() and name not in defaults and not partial)
    text = (info.description or "") + (f"  [default: {default}]" if partial and default not in (None, "") else "")
    base: Any = str if kind.many else Literal[kind.values] if kind.values and kind.base in (str, int) else kind.base
    limits: dict[str, Any] = {"min": bounds.least, "max": bounds.most} if base in (int, float) else {}
    option: Any = typer.Option(*(written or option_of(name, info)).split(), help=text, **limits)
    default = None if partial else default
    annotation: Any = Annotated[base if is_required or default is not None else base | None, option]
    default = inspect.Parameter.empty if is_required else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
