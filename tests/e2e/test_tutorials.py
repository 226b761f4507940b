"""The commands of the tutorials exist; those of the first run in an installation and say what the tutorial shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.settings import PROJECT
from tests.support.installation import Installation
from tests.support.walkthrough import follow

TUTORIALS = PROJECT / "docs" / "tutorials"


def used_commands() -> list[tuple[str, str]]:
    """Return every command line of the tutorials with the name of its tutorial."""
    return [
        (file.stem, command)
        for file in sorted(TUTORIALS.glob("*.md"))
        for block in re.findall(r"^```console\n(.*?)^```", file.read_text(), flags=re.MULTILINE | re.DOTALL)
        for command in re.findall(r"^\$ roundhouse ([^>|\n]+)", block, flags=re.MULTILINE)
    ]


def test_every_command_and_option_of_the_tutorials_exists() -> None:
    assert len({name for name, _ in used_commands()}) == 5
    for name, line in used_commands():
        words = shlex.split(line)
        verb = [word for word in words[:2] if re.fullmatch("[a-z-]+", word) and not word.startswith("-")]
        shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        shown = shown if shown.exit_code == 0 else CliRunner().invoke(app, [verb[0], "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, f"{name}: {line}"
        assert [word for word in words if word.startswith("--") and word not in shown.output] == [], f"{name}: {line}"


@pytest.mark.timeout(1800)
def test_the_tutorials_on_one_machine_can_be_followed_one_after_the_other(
    installation: Installation, tmp_path: Path
) -> None:
    environment = {**installation.environment, "PYTHONPATH": str(PROJECT), "GATEWAY": installation.gateway_url}
    tutorials = {"first-network": 4, "fine-tune-and-align": 4, "serve-an-application": 4, "ten-raters": 5}
    for name, commands in tutorials.items():
        assert follow(TUTORIALS / f"{name}.md", tmp_path, environment, timeout_s=900) >= commands
