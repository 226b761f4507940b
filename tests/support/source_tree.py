"""Read the project's own source: its files, imports, definitions and texts."""

from __future__ import annotations

import ast
import gc
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from backend.settings import PROJECT

PACKAGES = ("backend", "jobs", "pages")
GENERATED = "backend/db/migrations/versions/"
"""Migrations: history, which nobody edits."""


@lru_cache(maxsize=1)
def list_files() -> tuple[str, ...]:
    """Return the paths of the project's files, relative to its root: tracked ones, and new ones that git does not
    ignore.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(sorted({path for path in listed if (PROJECT / path).is_file()}))


def list_modules(*roots: str) -> list[str]:
    """Return the paths of the Python files below these folders, without migrations."""
    return [
        path
        for path in list_files()
        if path.endswith(".py") and path.split("/")[0] in roots and not path.startswith(GENERATED)
    ]


@lru_cache(maxsize=2048)
def parse(path: str) -> ast.Module:
    """Return the syntax tree of a file. Without garbage collection, a fifth of the time: the nodes stay."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse((PROJECT / path).read_text())
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def module_name(path: str) -> str:
    """Return the dotted name of a file: `backend/domain/names.py` is `backend.domain.names`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_names(path: str) -> Iterator[str]:
    """Yield every module that a file imports anywhere, lazy and `TYPE_CHECKING` imports included; `a.b.c` for `from a.b
    import c` too.
    """
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph(*roots: str) -> dict[str, set[str]]:
    """Return which modules each module imports, file by file."""
    names = {module_name(path): path for path in list_modules(*roots)}
    graph = {}
    for name, path in names.items():
        targets = set(imported_names(path))
        # `from a.b import c` names the package too; only an import of the package alone depends on its `__init__`
        packages = {target.rsplit(".", 1)[0] for target in targets if target in names}
        graph[name] = {target for target in targets if target in names and target != name and target not in packages}
    return graph


def find_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in stack:
                lowest[name] = min(lowest[name], index[target])
        if lowest[name] == index[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                circles.append(sorted(component))

    for name in graph:
        if name not in index:
            visit(name)
    return circles


def text_nodes(path: str) -> Iterator[tuple[int, str]]:
    """Yield line and value of every string of a file, docstrings and the constant parts of f-strings included."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def root_of(path: str) -> Path:
    """Return the absolute path of a project file."""
    return PROJECT / path
