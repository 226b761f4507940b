"""Guides for contributors are followed to the letter, each in a copy of the clone as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.settings import PROJECT
from tests.support.walkthrough import copy_project, follow

GUIDES = sorted((PROJECT / "docs" / "extend").glob("add-*.md"))


def test_there_is_a_guide_for_each_extension() -> None:
    names = {"add-a-metric", "add-an-objective", "add-a-dataset-format", "add-an-engine", "add-a-page"}
    assert {guide.stem for guide in GUIDES} == names
    text = (PROJECT / "CONTRIBUTING.md").read_text()
    assert all(f"docs/extend/{name}.md" in text for name in names)


@pytest.fixture(scope="module")
def only_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy that guides share."""
    return copy_project(tmp_path_factory.mktemp("copy") / "clone")


@pytest.fixture
def clone(only_copy: Path) -> Iterator[Path]:
    """A copy without a change, whose compiled modules are kept from guide to guide."""
    yield only_copy
    for arguments in (["checkout", "--quiet", "--", "."], ["clean", "--quiet", "--force", "-d"]):
        subprocess.run(["git", *arguments], cwd=only_copy, check=True)


def changed_modules(clone: Path) -> list[str]:
    """Return the Python files that were written since the copy was made."""
    command = ["git", "ls-files", "--modified", "--others", "--exclude-standard", "*.py"]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("guide", GUIDES, ids=[guide.stem for guide in GUIDES])
def test_a_guide_can_be_followed_to_the_letter(guide: Path, clone: Path, tmp_path: Path) -> None:
    environment = {
        "PYTHONPATH": str(clone),
        "ROUNDHOUSE_HOME": str(tmp_path / "home"),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'models.db'}",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "ROUNDHOUSE_KEEP_FREE_MB": "16",
    }
    assert follow(guide, clone, environment) >= 1
    changed = changed_modules(clone)
    assert changed
    for command in (("check",), ("format", "--check")):  # what `make check` runs, on the files of the guide
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", *changed]
        result = subprocess.run(ruff, cwd=clone, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_a_step_that_can_not_be_done_fails(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\n")
    page = tmp_path / "page.md"
    for text, told in (
        ("In `code.py`, after the line `b = 1`:\n\n```python\nc = 2\n```\n", "0 times"),
        ("In `code.py`, change `b` to `c`.\n", "0 times"),
        ("New file `code.py`:\n\n```python\nc = 2\n```\n", "is there already"),
        ("```console\n$ echo one\ntwo\n```\n", "does not say 'two'"),
        ("```console\n$ false\n```\n", "false"),
    ):
        page.write_text(text)
        with pytest.raises(AssertionError, match=told):
            follow(page, tmp_path, {})
