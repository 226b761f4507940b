"""Checkpoints made to harm: each is refused in words or takes bounded memory and time, and leaves no file behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.hostile_checkpoints import FOLDERS, GGUFS, LIMIT_S
from tests.support.installation import PROJECT

pytestmark = pytest.mark.timeout(900)
MEGABYTES = 900
"""Torch and transformers alone take 500."""

BOUNDED = {
    "config: a huge context",
    "config: numbers beyond all",
    "tokenizer: an added token of nothing",
    "tokenizer: a pattern of nested stars",
    "tokenizer: a pattern that counts",
    "tokenizer: a class of another kind",
    "template: a bomb",
    "template: the sandbox left",
    "template: 20 MB",
    "template: nested deeply",
    "card: YAML that grows",
    "card: YAML that runs code",
}
"""Cases that are added: what is wrong with them has no effect, or is stopped where it is used (templates: see
test_template_guard).
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Every case, added by a process of its own within limits."""
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile_checkpoints", str(folder)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    yield {record["name"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert not (PROJECT / "pwned").exists()


@pytest.mark.parametrize("name", ["good", "good gguf"])
def test_a_valid_checkpoint_is_added(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    assert outcomes[name]["ended"] == "added", outcomes[name]["words"]


@pytest.mark.parametrize("name", [*FOLDERS, *GGUFS])
def test_a_hostile_checkpoint_is_refused_or_bounded(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    outcome = outcomes[name]
    assert outcome["ended"] == ("added" if name in BOUNDED else "refused"), outcome
    assert outcome["processor_s"] < LIMIT_S
    assert outcome["megabytes"] < MEGABYTES
    assert outcome["left"] == []
    if outcome["ended"] == "refused":
        assert 20 < len(outcome["words"]) < 900
        assert "Traceback" not in outcome["words"]
        assert ".partial" not in outcome["words"], "the name of a folder that nobody knows"
