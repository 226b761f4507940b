"""Run the command line in this process and read its JSON."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from backend.cli.main import app


def roundhouse(*arguments: str, status: int = 0) -> dict:  # type: ignore[type-arg]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]
