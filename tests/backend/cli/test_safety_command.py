"""`roundhouse safety` prints scores with what their intervals are."""

from __future__ import annotations

from typer.testing import CliRunner

from backend.cli.main import app
from backend.services.context import Context
from tests.support.safety_world import NO, YES, add_fine_tune, answered


def test_a_score_is_printed_with_the_method_of_its_interval(command_line: Context) -> None:
    """The page said “Wilson 95 %, 5 clusters”, the command line the number of items alone."""
    add_fine_tune(command_line)
    answered(command_line, "base", [NO] * 60 + [YES] * 20)
    said = CliRunner().invoke(app, ["eval", "safety", "run", "--checkpoint", "base", "--probe", "xs"])
    assert "n = 60, Wilson 95 %" in said.output, said.output
