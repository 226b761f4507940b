"""`roundhouse endpoint requests` lists what an endpoint was asked, and knows no other name; `scale` refuses options
that contradict.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.services.context import LOCAL, Context
from backend.services.serving.deployments import deploy
from backend.services.serving.usage import UsageRow, add_usage
from tests.support.command_line import roundhouse
from tests.support.serving.serving_world import ServingWorld
from tests.support.settings import name_installation


@pytest.fixture(autouse=True)
def _commands_know_the_endpoint(ctx: Context, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_installation(monkeypatch, home)
    deploy(ctx, checkpoint_id=ServingWorld(ctx).checkpoint("oak"), name="tales", person=LOCAL)


def test_a_name_without_requests_is_told_from_a_wrong_one(ctx: Context) -> None:
    assert roundhouse("endpoint", "requests", "tales")["requests"] == []
    add_usage(ctx, [UsageRow("r1", "tales", None, None, 3, 5, 5.0, 9.0, "finished", ctx.now())])
    assert [row["id"] for row in roundhouse("endpoint", "requests", "tales")["requests"]] == ["r1"]
    assert "Endpoints: tales" in str(roundhouse("endpoint", "requests", "tails", status=2))


@pytest.mark.parametrize("limit", [("--min", "1"), ("--max", "3"), ("--sleep-after-minutes", "9")])
def test_a_fixed_number_of_replicas_excludes_limits(limit: tuple[str, str]) -> None:
    assert "excludes limits" in str(roundhouse("endpoint", "scale", "tales", "--fixed", *limit, status=2))
