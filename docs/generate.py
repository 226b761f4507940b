"""Write the generated pages from the code: `python docs/generate.py`. A test fails when they are out of date."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from backend.db.tables import Table
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.options import RatingOptions
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.endpoints import EndpointConfig
from backend.domain.evaluation.gates import GateConfig
from backend.domain.evaluation.judges.config import JudgeConfig
from backend.domain.evaluation.tasks.definition import FewShot, TaskData, TaskDefinition
from backend.domain.fields import option_of, reference_rows
from backend.domain.scaling.plan import PlanConfig
from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.key_limits import KeyLimits, KeyScopes
from backend.domain.serving.load import LoadConfig
from backend.domain.serving.options import DeploymentOptions
from backend.domain.serving.request_log import RequestLogConfig
from backend.domain.serving.upstream import Upstream
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import SECTIONS
from backend.settings import PROJECT, Settings

DOCS = Path(__file__).parent


def settings_page() -> str:
    """Return the table of settings."""
    lines = [
        "# Settings",
        "",
        (
            "Read from the environment, or from a file `.env` beside `pyproject.toml` (copy `.env.example`). All of"
            " them are in"
        ),
        "`backend/settings.py`. This page is generated: `python docs/generate.py`.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias or f"ROUNDHOUSE_{name.upper()}")
        default = field.default if field.default is not PydanticUndefined else ""
        shown = "unset" if default is None else str(default).replace(str(PROJECT) + "/", "")
        lines.append(f"| `{variable}` | `{shown}` | {field.description} |")
    return "\n".join(lines) + "\n"


def schema_page() -> str:
    """Return every table with its columns."""
    lines = [
        "# Schema",
        "",
        (
            "The tables of `models.db` (or of PostgreSQL), from `backend/db/tables_*.py`. Alembic migrations in"
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
    """Return the index of the decision records: number, title, link."""
    lines = [
        "# Decisions",
        "",
        (
            "One subject each: what was considered, what was chosen, why, and what it costs. Generated: `python"
            " docs/generate.py`."
        ),
        "",
    ]
    for file in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        number, title = file.read_text().splitlines()[0].removeprefix("# ").split(": ", 1)
        lines.append(f"- [{number}]({file.name}) {title}")
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
    "Deployment": (DeploymentOptions, "endpoint deploy"),
    "Canary": (CanaryRules, "endpoint canary"),
    "Connected server": (Upstream, "endpoint connect"),
    "Load test": (LoadConfig, "endpoint bench"),
    "Request log": (RequestLogConfig, "endpoint log"),
    "Plan": (PlanConfig, "plan"),
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


PAGES = {
    "fields.md": fields_page,
    "settings.md": settings_page,
    "schema.md": schema_page,
    "decisions/README.md": decisions_page,
}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (DOCS / file).write_text(page())
