"""`roundhouse endpoint logs` says why a replica did not start, also where it has written nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.jobs.records import JobFailure
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next, requeue
from backend.services.serving.deployments import deploy
from tests.support.scenario import Scenario
from tests.support.settings import name_installation


def test_a_replica_that_does_not_start_says_why(ctx: Context, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_installation(monkeypatch, home)
    deploy(ctx, checkpoint_id=Scenario(ctx).checkpoint(name="tiny"), name="tales", person=LOCAL)
    claim = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    with ctx.db.write() as session:
        failure = JobFailure(cause="The files were deleted.", remedy="Deploy another checkpoint.")
        requeue(session, ctx, claim, error=failure, lasted_s=1)
    printed = CliRunner().invoke(app, ["endpoint", "logs", "tales"]).stdout.splitlines()
    assert printed[1:] == ["It did not start: The files were deleted. Deploy another checkpoint."]
