"""Write the generated pages from the code: `python docs/generate.py`. A test fails when they are out of date."""

from __future__ import annotations

import html
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel
from starlette.routing import Route

from backend.cli.main import NOUNS, VERBS, load_command
from backend.db.tables import Table
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.preferences import PreferenceRules
from backend.domain.battles.rating_table import RatingOptions
from backend.domain.data.import_options import ImportOptions
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.endpoints import EndpointConfig
from backend.domain.evaluation.gate_config import GateConfig
from backend.domain.evaluation.judges import JudgeConfig
from backend.domain.evaluation.tasks.definition import FewShot, TaskData, TaskDefinition
from backend.domain.fields import option_of, reference_rows
from backend.domain.scaling.plan import PlanConfig
from backend.domain.scaling.study import StudyConfig
from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.deployment import DeploymentOptions
from backend.domain.serving.key_limits import KeyLimits, KeyScopes
from backend.domain.serving.load import LoadConfig
from backend.domain.serving.request_log import RequestLogConfig
from backend.domain.serving.upstream import Upstream
from backend.domain.tokenizers.config import TokenizerConfig
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import SECTIONS
from backend.domain.training.sweep import SweepConfig
from backend.gateway import dialects
from backend.gateway.app import create_gateway
from backend.settings import PROJECT, Settings, variable_of

DOCS = Path(__file__).parent
ROOMS = ("Installation", "Pages", "Data", "Networks", "Training", "Evaluation", "Battles", "Serving")


def settings_page() -> str:
    """Return the table of settings."""
    lines = [
        "# Settings",
        "",
        "Read from the environment, or from a file `.env` (copy `.env.example`): in a clone beside `pyproject.toml`,",
        "else in `~/.roundhouse`, where an installed wheel keeps its database and its data too. All of them are in",
        "`backend/settings.py`; the page *Settings* shows those in force. This page is generated:",
        "`python docs/generate.py`.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={"home": PROJECT / ".roundhouse"})
        shown = "unset" if default is None else str(default).replace(str(PROJECT) + "/", "")
        lines.append(f"| `{variable_of(name)}` | `{shown}` | {field.description} |")
    return "\n".join(lines) + "\n"


def schema_page() -> str:
    """Return every table with its columns."""
    lines = [
        "# Schema",
        "",
        (
            "The tables of `models.db` (or of PostgreSQL), from `backend/db/tables.py`. Alembic migrations in"
            " `backend/db/migrations` make"
        ),
        (
            "them. Votes, metric points, samples, log lines and usage are append-only. This page is generated: `python"
            " docs/generate.py`."
        ),
    ]
    for mapper in sorted(Table.registry.mappers, key=lambda m: m.class_.__tablename__):
        table = mapper.local_table
        summary = (mapper.class_.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
        lines += ["", f"## {table.name}", "", summary, "", "| column | type | refers to |", "|---|---|---|"]
        for column in table.columns:
            marks = " (key)" if column.primary_key else ("" if column.nullable else " (required)")
            targets = ", ".join(sorted(f"`{key.target_fullname}`" for key in column.foreign_keys))
            lines.append(f"| `{column.name}`{marks} | {column.type!s} | {targets} |")
    return "\n".join(lines) + "\n"


def decisions_page() -> str:
    """Return the index of the decision records by room: number, link, title, date, and what happened to it later."""
    lines = [
        "# Decisions",
        "",
        "One subject each: what was considered, what was chosen, why, and what it costs. Under the title stand date,",
        "room and status. A decision that replaces an earlier one is written into it; its number is not used again.",
        "This page is generated: `python docs/generate.py`.",
    ]
    rooms: dict[str, list[str]] = {}
    for file in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        number, title = file.read_text().splitlines()[0].removeprefix("# ").split(": ", 1)
        date, room, status = file.read_text().splitlines()[2].split(" · ", 2)
        later = "" if status == "Accepted" else f"; {status.removeprefix('Accepted; ')}"
        rooms.setdefault(room, []).append(f"- [{number}]({file.name}) {title} ({date}{later})")
    for room in ROOMS:
        lines += ["", f"## {room}", "", *rooms.pop(room)]
    assert not rooms, f"no such room: {rooms}"
    return "\n".join(lines) + "\n"


CONFIGS: dict[str, tuple[type[BaseModel], str]] = {
    "Run": (RunConfig, ""),
    **{f"Run: `{name}`": (section, "") for name, section in SECTIONS.items()},
    "Evaluation": (EvaluationConfig, "eval run"),
    "Task": (TaskDefinition, ""),
    "Task: `data`": (TaskData, ""),
    "Task: `fewshot`": (FewShot, ""),
    "Judgement": (JudgeConfig, "eval judge"),
    "Gate": (GateConfig, "gate create"),
    "Evaluated endpoint": (EndpointConfig, "eval endpoint add"),
    "Campaign": (CampaignConfig, ""),
    "Rules for training on votes": (PreferenceRules, ""),
    "Sweep": (SweepConfig, ""),
    "Import": (ImportOptions, "data import"),
    "Tokenizer": (TokenizerConfig, "tokenizer train"),
    "Deployment": (DeploymentOptions, "endpoint deploy"),
    "Canary": (CanaryRules, "endpoint canary"),
    "Connected server": (Upstream, "endpoint connect"),
    "Load test": (LoadConfig, "endpoint bench"),
    "Request log": (RequestLogConfig, "endpoint log"),
    "Plan": (PlanConfig, "plan"),
    "Scaling study": (StudyConfig, ""),
    "Rating": (RatingOptions, "rating fit"),
    "Limits of a key": (KeyLimits, ""),
    "Scopes of a key": (KeyScopes, ""),
}
"""Configs of the reference, each with the command that has an option for every field."""


def fields_page() -> str:
    """Return a table of fields for each config: the form's labels, the YAML's names and the command's options."""
    lines = [
        "# Fields",
        "",
        "What can be set, from the schemas that forms, YAML files and commands share. This page is generated:",
        "`python docs/generate.py`.",
    ]
    for title, (model, command) in CONFIGS.items():
        lines += ["", f"## {title}", ""]
        lines += [f"Options of `roundhouse {command}`.", ""] if command else []
        lines += ["| field | label | values | default | meaning |", "|---|---|---|---|---|"]
        for name, label, values, default, meaning in reference_rows(model):
            if command and not label:
                continue
            shown = option_of(name, model.model_fields[name]) if command else name
            lines.append(f"| `{shown}` | {label} | {values} | {default} | {meaning} |".replace("\n", " "))
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return every command with its arguments and options."""
    lines = ["# Commands", "", "`roundhouse NOUN VERB`; `--json` prints one document, `--help` says this."]
    loaded = [each for name in (*VERBS, *NOUNS) for each in _commands(load_command(name), (name,))]
    for words, command in loaded:
        lines += ["", f"## roundhouse {' '.join(words)}", "", _cell(command.help or "")]
        if parameters := [each for each in command.params if each.name not in ("help", "as_json")]:
            lines += ["", "| | | meaning |", "|---|---|---|"]
        for each in parameters:
            name = (
                ", ".join(f"`{option}`" for option in each.opts)
                if each.param_type_name == "option"
                else f"`{each.name}`"
            )
            default = "required" if each.required else "" if each.default in (None, False, ()) else f"`{each.default}`"
            lines.append(f"| {name} | {default} | {_cell(getattr(each, 'help', None) or '')} |")
    return "\n".join(lines) + "\n"


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command with its words, or the commands of a group."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, each in command.commands.items():
        yield from _commands(each, (*words, name))


def routes_page() -> str:
    """Return the gateway's routes and the fields of the bodies that they take."""
    lines = [
        "# Routes",
        "",
        "What the gateway answers; [API](../api.md) explains it.",
        "",
        "| path | methods |",
        "|---|---|",
    ]
    for route in create_gateway(cast(Any, None)).routes:
        if isinstance(route, Route):
            methods = ", ".join(sorted((route.methods or set()) - {"HEAD"}))
            lines.append(f"| `{route.path}` | {methods} |")
    for module in pkgutil.iter_modules(dialects.__path__):
        found = importlib.import_module(f"{dialects.__name__}.{module.name}")
        for name, body in sorted(vars(found).items()):
            if name.endswith("Body") and isinstance(body, type) and body.__module__ == found.__name__:
                lines += _fields(body)
    return "\n".join(lines) + "\n"


def _fields(config: type[BaseModel], *, seen: set[type] | None = None) -> list[str]:
    """Return the table of a class's fields, followed by those of its sections."""
    seen = set() if seen is None else seen
    seen.add(config)
    summary = (config.__doc__ or "").strip().split("\n\n")[0]
    lines = [
        "",
        f"## {config.__name__}",
        "",
        _cell(summary),
        "",
        "| field | type | default | meaning |",
        "|---|---|---|---|",
    ]
    sections: list[type[BaseModel]] = []
    for name, field in config.model_fields.items():
        shown = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])|typing\.|<class '|'>", "", str(field.annotation))
        default = "required" if field.is_required() else field.get_default(call_default_factory=False)
        default = "" if default is None or isinstance(default, BaseModel) else f"`{_cell(str(default))}`"
        lines.append(f"| `{field.alias or name}` | {_cell(shown)} | {default} | {_cell(field.description or '')} |")
        sections += [part for part in (field.annotation, *get_args(field.annotation)) if _is_section(part, seen)]
    for section in dict.fromkeys(sections):
        if section not in seen:
            lines += _fields(section, seen=seen)
    return lines


def _is_section(part: Any, seen: set[type]) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel) and part not in seen


def _cell(text: str) -> str:
    """Return a text for a cell of a table: one line, without what Markdown or HTML would read."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("{", "&#123;")


def benchmarks_page() -> str:
    """Return the index of the measurements."""
    lines = [
        "# Benchmarks",
        "",
        "Measured, with the script and the machine that measured. Generated: `python docs/generate.py`.",
        "",
    ]
    for file in sorted((DOCS / "benchmarks").glob("*.md")):
        if file.name != "README.md":
            lines.append(f"- [{file.read_text().splitlines()[0].removeprefix('# ')}]({file.name})")
    return "\n".join(lines) + "\n"


PAGES = {
    "fields.md": fields_page,
    "settings.md": settings_page,
    "schema.md": schema_page,
    "decisions/README.md": decisions_page,
    "benchmarks/README.md": benchmarks_page,
}
REFERENCE = {"commands.md": commands_page, "routes.md": routes_page}


def write_reference() -> None:
    """Write the pages that only the site has: they follow the code with every build, and git ignores them."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    for file, page in REFERENCE.items():
        (folder / file).write_text(page())


if __name__ == "__main__":
    for file, page in PAGES.items():
        (DOCS / file).write_text(page())
