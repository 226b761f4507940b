"""Count what makes the source long: untyped rows, copied fields, hand-written widgets and options, lines by area.

`python tests/benchmarks/simplicity.py [FOLDER]` prints a table in Markdown, for this checkout or for another one in
FOLDER (an older commit's worktree). The figures of docs/benchmarks/simplicity.md come from here. No model, no database:
the source is read, not run, but for the tables, which are imported in a process of their own. `--copies` lists the
calls and dicts that copy fields, each with the number of fields, in place of the table.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

AREAS = ("backend", "jobs", "pages", "app.py")
COLUMNS_WANTED = 120
ODD_LIMIT = re.compile(r"_?(MOST|LARGEST|LONGEST|HIGHEST|FEWEST|SMALLEST|LEAST|SHORTEST|LOWEST|ENOUGH)(_|$)")
OPEN_SHAPE = re.compile(r"\b(JsonObject|Row|RowMapping|FieldValues)\b")
MIGRATIONS = "backend/db/migrations/versions/"
WIDGETS = frozenset(
    {
        "button",
        "checkbox",
        "color_picker",
        "data_editor",
        "date_input",
        "datetime_input",
        "feedback",
        "file_uploader",
        "multiselect",
        "number_input",
        "pills",
        "radio",
        "segmented_control",
        "select_slider",
        "selectbox",
        "slider",
        "text_area",
        "text_input",
        "time_input",
        "toggle",
    }
)
COPIED = 4
"""Fields that a call or a dict takes from one object under their own names before it counts as a copy."""

COLUMNS = """
import json
from sqlalchemy import JSON
from backend.db.tables import Table
columns = [column.type for table in Table.metadata.tables.values() for column in table.columns]
stored = [one for one in columns if isinstance(one, JSON) or isinstance(getattr(one, "impl", None), JSON)]
print(json.dumps([len(stored), sum(not isinstance(one, JSON) for one in stored)]))
"""


def source_files(root: Path) -> list[Path]:
    """Return the Python files of the product, migrations aside."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [
        root / name
        for name in listed
        if name.split("/")[0] in AREAS and not name.startswith(MIGRATIONS) and (root / name).is_file()
    ]


def json_columns(root: Path) -> tuple[int, int]:
    """Return how many JSON columns the tables have, and how many of them hold a model."""
    env = {**os.environ, "PYTHONPATH": str(root)}
    printed = subprocess.run(
        [sys.executable, "-c", COLUMNS], cwd=root, env=env, capture_output=True, text=True, check=True
    ).stdout
    total, typed = json.loads(printed)
    return total, typed


def _copied_fields(node: ast.AST) -> int:
    """Return how many fields a call or a dict copies, under their own names, from the object it copies most from."""
    if isinstance(node, ast.Call):
        pairs: list[tuple[str | None, ast.expr]] = [(keyword.arg, keyword.value) for keyword in node.keywords]
    elif isinstance(node, ast.Dict):
        pairs = [
            (str(key.value), value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        ]
    else:
        return 0
    sources = Counter(
        ast.unparse(value.value) for name, value in pairs if isinstance(value, ast.Attribute) and value.attr == name
    )
    return max(sources.values(), default=0)


def _calls(trees: dict[Path, ast.Module], fits: Callable[[Path, ast.Call], bool]) -> int:
    return sum(
        isinstance(node, ast.Call) and fits(path, node) for path, tree in trees.items() for node in ast.walk(tree)
    )


def _shared_names(trees: dict[Path, ast.Module], root: Path) -> int:
    """Return how many public classes and functions more than one module defines. A command's function is named by its
    verb, and a job's entry `run` and a page's or process' `main` by what they are: they do not count.
    """
    names: Counter[str] = Counter()
    for path, tree in trees.items():
        is_cli, defined = path.is_relative_to(root / "backend/cli"), set[str]()
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
                "_"
            ):
                decorators = " ".join(map(ast.unparse, node.decorator_list))
                if node.name not in {"run", "main"} and not (is_cli and re.search("command|callback", decorators)):
                    defined.add(node.name)
        names.update(defined)
    return sum(count > 1 for count in names.values())


def _odd_limits(trees: dict[Path, ast.Module]) -> int:
    """Return how many constants call a limit otherwise than `MAX_` or `MIN_`."""
    return sum(
        isinstance(name, ast.Name) and bool(ODD_LIMIT.match(name.id))
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        for name in ast.walk(target)
    )


def copies(trees: dict[Path, ast.Module]) -> Iterator[tuple[Path, int, int]]:
    """Yield file, line and number of fields of each call and dict that copies fields of one object."""
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if (count := _copied_fields(node)) >= COPIED and isinstance(node, ast.expr):
                yield path, node.lineno, count


def _is_choice(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in {"choose_one", "choose_from"}


def measure(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and value of every figure."""
    texts = {path: path.read_text(encoding="utf-8") for path in source_files(root)}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    columns, typed = json_columns(root)
    yield "JSON columns", columns
    yield "JSON columns without a model", columns - typed
    yield (
        "lines with `dict[str, Any]`",
        sum("dict[str, Any]" in line for text in texts.values() for line in text.splitlines()),
    )
    yield (
        "lines with a named open shape (`JsonObject`, `Row`, `RowMapping`, `FieldValues`), imports aside",
        sum(
            bool(OPEN_SHAPE.search(line)) and not line.startswith("from ")
            for text in texts.values()
            for line in text.splitlines()
        ),
    )
    yield f"calls and dicts that copy {COPIED} fields or more of one object", sum(1 for _ in copies(trees))
    yield (
        "widgets written by hand",
        _calls(
            trees,
            lambda path, call: (
                path.is_relative_to(root / "pages")
                and (call.func.attr in WIDGETS if isinstance(call.func, ast.Attribute) else _is_choice(call))
            ),
        ),
    )
    yield "number fields drawn by hand", _calls(trees, lambda _, call: ast.unparse(call.func) == "draw_number")
    yield (
        "options and arguments of the command line written by hand",
        _calls(trees, lambda path, call: bool(re.fullmatch(r"typer\.(Option|Argument)", ast.unparse(call.func)))),
    )
    yield "public classes and functions that several modules define", _shared_names(trees, root)
    yield "limits named otherwise than MAX_ and MIN_", _odd_limits(trees)
    yield (
        f"lines over {COLUMNS_WANTED} columns",
        sum(len(line) > COLUMNS_WANTED for text in texts.values() for line in text.splitlines()),
    )
    for area in AREAS:
        yield (
            f"lines of {area}",
            sum(len(text.splitlines()) for path, text in texts.items() if path.relative_to(root).parts[0] == area),
        )
    folders: Counter[str] = Counter()
    for path, text in texts.items():
        parts = path.relative_to(root).parts
        if parts[0] != "app.py":
            folders["/".join(parts[:2]) if len(parts) > 2 else parts[0]] += len(text.splitlines())
    for folder, count in sorted(folders.items()):
        yield f"lines of {folder}/", count
    yield "lines of the product", sum(len(text.splitlines()) for text in texts.values())


def main() -> None:
    """Print the table, or the copies."""
    folders = [argument for argument in sys.argv[1:] if argument != "--copies"]
    root = Path(folders[0] if folders else ".").resolve()
    if "--copies" in sys.argv:
        for path, line, count in copies(
            {path: ast.parse(path.read_text(encoding="utf-8")) for path in source_files(root)}
        ):
            print(f"{path.relative_to(root)}:{line}: {count} fields")
        return
    print("| Figure | Value |\n|---|---:|")
    for name, value in measure(root):
        print(f"| {name} | {value:,} |")


if __name__ == "__main__":
    main()
