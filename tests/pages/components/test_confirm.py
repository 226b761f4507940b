"""Buttons that ask: no page deletes or removes at a single click."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import PROJECT

PAGES = sorted((PROJECT / "pages").rglob("*.py"))
VERBS = ("delete_", "remove_", "revoke_")
ASKED = ("Remove this entry", "delete_yes_")
"""What failed has nothing that could be lost; the second is the question itself, below its consequence."""


def unasked(tree: ast.AST) -> Iterator[str]:
    """Yield the calls that delete right below a button: `if st.button(...): delete_x(...)` outside a popover or
    dialog.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and any("popover" in ast.unparse(item.context_expr) for item in node.items):
            for inner in ast.walk(node):
                inner.is_asked = True  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if not isinstance(node, ast.If) or ".button(" not in ast.unparse(node.test) or hasattr(node, "is_asked"):
            continue
        if any(part in ast.unparse(node.test) for part in ASKED):
            continue
        for inner in ast.walk(ast.Module(node.body, [])):
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id.startswith(VERBS):
                yield f"line {node.lineno}: {inner.func.id}"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.relative_to(PROJECT).as_posix())
def test_nothing_is_deleted_at_a_single_click(file: Path) -> None:
    """Adapters, presets, reports, exports, gates and evaluated endpoints were gone at the first click."""
    assert list(unasked(ast.parse(file.read_text()))) == []
