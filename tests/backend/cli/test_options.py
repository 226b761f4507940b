"""The options of every command: a script that uses one finds it again, under its name, with its type and default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args

import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from backend.cli.main import NOUNS, VERBS, load_command
from backend.cli.options import model_options
from backend.domain.fields import setting

KNOWN = Path(__file__).with_name("options.txt")
"""A line for each option that scripts may use. One is taken out only with a note in CHANGELOG."""


def _describe(command: str, parameter: Any) -> str:
    names = "/".join([*parameter.opts, *parameter.secondary_opts])
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        kind = "|".join(str(one.value) for one in annotation)
    else:
        kind = annotation.__name__ if isinstance(annotation, type) else "|".join(map(str, get_args(annotation)))
    marks = [
        kind,
        *(["repeated"] if parameter.multiple or parameter.nargs == -1 else []),
        *(["required"] if parameter.required else []),
    ]
    default = getattr(parameter.default, "value", parameter.default)
    if not parameter.required and default not in (None, [], ()):
        marks.append(f"= {default!r}")
    return f"{command}: {names} {' '.join(marks)}"


def _options(name: str, command: Any) -> Iterator[str]:
    """Yield a line for each parameter of a command and of the commands below it."""
    yield from (_describe(name, parameter) for parameter in command.params if parameter.name != "help")
    for verb, inner in getattr(command, "commands", {}).items():
        yield from _options(f"{name} {verb}", inner)


def list_options() -> list[str]:
    """Return a line for each option of each command, in order."""
    return sorted(line for name in VERBS | NOUNS for line in _options(name, load_command(name)))


def test_every_option_is_there_with_its_type_and_default() -> None:
    known = KNOWN.read_text().splitlines()
    assert known == sorted(known)
    assert sorted(set(known) - set(list_options())) == [], "these options are gone or changed"


def test_no_help_text_loses_its_brackets() -> None:
    """Help is printed as markup, which takes `[text]` for a style."""
    texts = [text for name in VERBS | NOUNS for text in _helps(name, load_command(name))]
    assert [text for text in texts if re.search(r"\[(?!default|required)[a-z@/#]", text)] == []


def _helps(name: str, command: Any) -> Iterator[str]:
    yield from (f"{name}: {parameter.help}" for parameter in command.params if getattr(parameter, "help", None))
    for verb, inner in getattr(command, "commands", {}).items():
        yield from _helps(f"{name} {verb}", inner)


class Oven(BaseModel):
    """A config with settings of several kinds."""

    heat: float = setting(180.0, "Heat", "Degrees inside.", ge=50, le=300)
    mode: Literal["grill", "bake"] = setting("bake", "Mode")
    minutes: tuple[int, ...] = setting((5, 10), "Minutes")
    light: bool = setting(True, "Light")
    timer: int | None = setting(None, "Timer", option="--for")


def _oven(**options: Any) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @model_options(Oven, **options)
    def bake(dish: str, *, options: dict[str, Any], again: bool = False) -> None:
        typer.echo(repr((dish, options, again)))

    return app


def test_a_command_gets_an_option_for_each_setting() -> None:
    run = CliRunner().invoke
    assert run(_oven(), ["pie"]).output == (
        "('pie', {'heat': 180.0, 'mode': 'bake', 'minutes': (5, 10), 'light': True, 'timer': None}, False)\n"
    )
    given = run(_oven(), ["pie", "--heat", "90", "--minutes", "1,2", "--no-light", "--for", "3", "--again"]).output
    assert given == "('pie', {'heat': 90.0, 'mode': 'bake', 'minutes': (1, 2), 'light': False, 'timer': 3}, True)\n"
    refused = run(_oven(), ["pie", "--heat", "900"])
    assert refused.exit_code == 2
    assert "300" in refused.output
    assert run(_oven(), ["pie", "--mode", "boil"]).exit_code == 2


def test_partial_options_hold_what_was_given() -> None:
    run = CliRunner().invoke
    app = _oven(only=("heat", "minutes"), partial=True, names={"heat": "--hot"})
    assert run(app, ["pie"]).output == "('pie', {}, False)\n"
    assert run(app, ["pie", "--hot", "60"]).output == "('pie', {'heat': 60.0}, False)\n"
    helps = [parameter.help for parameter in typer.main.get_command(app).params if "--hot" in parameter.opts]
    assert helps == ["Degrees inside.  [default: 180.0]"]


def test_a_default_can_be_replaced_or_required() -> None:
    run = CliRunner().invoke
    assert "'mode': None" in run(_oven(defaults={"mode": None}), ["pie"]).output
    assert run(_oven(defaults={"heat": ...}), ["pie"]).exit_code == 2
