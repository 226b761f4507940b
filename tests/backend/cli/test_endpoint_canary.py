"""`roundhouse endpoint canary` says what became of a canary that it promotes or ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.serving.canary import CanaryRules
from backend.services.context import LOCAL, Context
from backend.services.serving.canaries import start_canary
from tests.support.serving.serving_world import ServingWorld
from tests.support.settings import name_installation


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--promote", "elm is promoted: its replicas replace those of tales one by one."),
        ("--abort", "The canary elm has ended: oak gets all requests to tales."),
    ],
)
def test_a_canary_that_is_promoted_or_aborted_is_named(
    ctx: Context, home: Path, monkeypatch: pytest.MonkeyPatch, option: str, expected: str
) -> None:
    """Both ended with "tales has no canary.", as a refusal does."""
    name_installation(monkeypatch, home)
    world = ServingWorld(ctx)
    world.deploy()
    rules = CanaryRules(percent=10)
    start_canary(ctx, "tales", checkpoint_id=world.checkpoint("elm"), rules=rules, person=LOCAL)
    world.start_all()
    printed = CliRunner().invoke(app, ["endpoint", "canary", "tales", option])
    assert printed.exit_code == 0, printed.output
    assert printed.stdout.splitlines()[-1] == expected
