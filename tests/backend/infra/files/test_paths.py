"""Typed paths and file names that the system, the database or the browser can't hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.infra.files.paths import find_path, is_text


def test_a_path_is_found_with_its_home_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.txt").touch()
    assert find_path("~/rows.txt") == tmp_path / "rows.txt"
    assert find_path("~/other.txt") is None


@pytest.mark.parametrize("text", ["a\0b", "x" * 5000, "~no-such-user-here/x"])
def test_what_is_no_path_is_not_found(text: str) -> None:
    assert find_path(text) is None


def test_a_name_of_other_bytes_is_no_text() -> None:
    assert is_text("Größe.txt")
    assert not is_text(b"\xff.txt".decode("utf-8", "surrogateescape"))
