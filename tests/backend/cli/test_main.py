"""The `roundhouse` script: what it lists, and what it imports to do so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.cli.main import NOUNS, VERBS, load_command
from backend.settings import Settings, variable_of
from tests.support.data.imports import HEAVY, imports_of
from tests.support.installation import PROJECT


def imports_of_command(*arguments: str, home: Path) -> set[str]:
    """Return the packages that a command had imported when it ended."""
    environment = {**os.environ, "ROUNDHOUSE_HOME": str(home), "DATABASE_URL": f"sqlite:///{home / 'models.db'}"}
    command = [sys.executable, "-X", "importtime", "-m", "backend.cli.main", *arguments]
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return imports_of(ended.stderr)


def test_help_lists_every_command_and_imports_neither_scipy_nor_pandas_nor_sqlalchemy(tmp_path: Path) -> None:
    imported = imports_of_command("--help", home=tmp_path)
    assert imported & (HEAVY | {"numpy", "sqlalchemy", "alembic", "pydantic", "celery", "redis", "psutil"}) == set()
    assert "typer" in imported, "the list of imports was read"


def test_endpoint_list_imports_what_a_query_needs_and_no_more(home: Path) -> None:
    imported = imports_of_command("endpoint", "list", home=home)
    assert imported & (HEAVY | {"alembic", "celery", "redis", "starlette", "numpy"}) == set()
    assert "sqlalchemy" in imported


@pytest.mark.parametrize("name", VERBS)
def test_the_summary_of_a_verb_is_the_beginning_of_its_help(name: str) -> None:
    summary = VERBS[name][1]
    assert load_command(name).help.startswith(summary)


def test_the_help_of_up_says_how_ports_and_folder_are_set() -> None:
    help_ = load_command("up").help
    for name in ("port", "gateway_port"):
        assert variable_of(name) in help_
        assert f"({Settings.model_fields[name].default})" in help_
    assert variable_of("home") in help_


@pytest.mark.parametrize("name", NOUNS)
def test_a_noun_leads_to_its_commands(name: str) -> None:
    assert load_command(name).commands
