"""The commands of the tutorials run, in their order, in one installation, and say what the tutorials show."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.services.data.datasets import list_datasets
from backend.settings import PROJECT
from tests.support.installation import Installation, wait_until
from tests.support.walkthrough import follow

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

TUTORIALS = ("first-network", "fine-tune-and-align", "ten-raters", "serve-an-application", "two-machines")


def test_every_tutorial_is_run() -> None:
    assert {file.stem for file in (PROJECT / "docs" / "tutorials").glob("*.md")} == set(TUTORIALS)


def test_the_tutorials_can_be_followed(installation: Installation, tmp_path: Path) -> None:
    ctx = installation.ctx
    wait_until(
        lambda: sum(dataset.versions[0].rows is not None for dataset in list_datasets(ctx)) >= 6,
        timeout_s=300,
        what="the starter content",
    )
    environment = {**installation.environment, "PYTHONPATH": str(PROJECT), "GATEWAY": installation.gateway_url}
    for name in TUTORIALS:
        assert follow(PROJECT / "docs" / "tutorials" / f"{name}.md", tmp_path, environment, timeout_s=900) >= 2
