"""The layout holds: the same nouns in each layer, no import circle, one address for each name."""

from __future__ import annotations

import ast
import re

import pytest

from backend.settings import PROJECT
from tests.support import slow_tests
from tests.support.source_tree import (
    PACKAGES,
    find_circles,
    import_graph,
    list_files,
    list_modules,
    module_name,
    parse,
)

NOUNS = frozenset(
    [
        "architectures",
        "data",
        "tokenizers",
        "checkpoints",
        "training",
        "estimates",
        "metrics",
        "scaling",
        "evaluation",
        "battles",
        "serving",
        "people",
        "jobs",
    ]
)
ROOMS = frozenset(["modeling", "batches", "data", "training", "evaluation", "serving", "tracking"])


def folders_below(folder: str) -> set[str]:
    return {
        path.removeprefix(f"{folder}/").split("/")[0]
        for path in list_files()
        if path.startswith(f"{folder}/") and path.count("/") > folder.count("/") + 1
    }


@pytest.mark.parametrize(
    ("layer", "others"),
    [
        ("backend/domain", {"starter", "statistics"}),
        ("backend/services", set()),
        ("pages/components", {"charts", "browser"}),
        ("tests/backend/domain", {"starter", "statistics"}),
        ("tests/backend/services", set()),
        ("backend/infra", {"compute", "files", "hub", "openai_api", "store"}),
        ("backend/cli", set()),
    ],
)
def test_the_folders_of_a_layer_are_the_nouns(layer: str, others: set[str]) -> None:
    assert folders_below(layer) <= NOUNS | others


def test_the_rooms_of_the_jobs_are_listed() -> None:
    assert folders_below("jobs") == ROOMS
    assert folders_below("tests/jobs") <= ROOMS


@pytest.mark.parametrize("root", ["backend", "jobs", "pages"])
def test_tests_mirror_the_tree(root: str) -> None:
    """A folder of tests has its folder of code."""
    tested = {
        path.rsplit("/", 1)[0].removeprefix("tests/") for path in list_files() if path.startswith(f"tests/{root}/")
    }
    code = {folder for path in list_files() if path.startswith(f"{root}/") for folder in [path.rsplit("/", 1)[0]]}
    parents = {"/".join(folder.split("/")[:n]) for folder in code for n in range(1, folder.count("/") + 2)}
    assert tested <= parents


def test_no_modules_import_each_other() -> None:
    assert find_circles(import_graph(*PACKAGES)) == []


def test_an_import_circle_is_detected() -> None:
    assert find_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_test_imports_a_test() -> None:
    imports = {
        f"{path} imports {target}"
        for path in list_modules("tests")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and node.module
        for target in [node.module]
        if target.startswith("tests.") and target.rsplit(".", 1)[-1].startswith(("test_", "conftest"))
    }
    assert imports == set()


def test_a_package_has_an_empty_init_so_that_a_name_has_one_address() -> None:
    """`recipes` is the one package that holds code of its own."""
    folders = {path.rsplit("/", 1)[0] for path in list_modules(*PACKAGES)} - {"backend/db/migrations"}
    assert {folder for folder in folders if not (PROJECT / folder / "__init__.py").is_file()} == set()
    filled = {folder for folder in folders if (PROJECT / folder / "__init__.py").read_text().strip()}
    assert filled <= {"backend/recipes"}
    again = [
        f"{path}: {alias.name}"
        for path in list_modules(*PACKAGES)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    ]
    assert again == []


def test_patches_end_with_their_block() -> None:
    """`undo` takes back those of fixtures, too: the rest of a test opened the database beside the code."""
    undoing = [path for path in list_modules("tests") if f"monkeypatch.{'undo'}()" in (PROJECT / path).read_text()]
    assert undoing == []


def test_formatting_is_never_switched_off() -> None:
    marks = ("# fmt: " + "skip", "# fmt: " + "off")
    assert [
        path
        for path in list_modules(*PACKAGES, "tests", "docs")
        if any(mark in (PROJECT / path).read_text() for mark in marks)
    ] == []


def test_parts_of_pages_that_rerun_by_themselves_show_their_errors() -> None:
    """A bare `st.fragment` shows Streamlit's trace where `live_part` shows cause and cure."""
    bare = [path for path in list_modules("pages") if "st.fragment" in (PROJECT / path).read_text()]
    assert bare == ["pages/components/frame.py"]


def test_figures_of_pages_are_drawn_by_one_component() -> None:
    """A run's figures were smaller than all others; bars under them are `bars`, since Streamlit's own charts warn in
    the browser's console at each drawing.
    """
    drawing = [path for path in list_modules("pages") if ".metric(" in (PROJECT / path).read_text()]
    assert drawing == ["pages/components/frame.py"]
    assert "chart_data" not in (PROJECT / drawing[0]).read_text()


def test_the_tree_of_the_architecture_is_there() -> None:
    """Each file or folder that the tree names exists. A line is `name/ name/   what it is`, indented below its
    folder.
    """
    tree = (PROJECT / "docs" / "architecture.md").read_text().split("## The tree")[1].split("```")[1]
    parents: list[str] = []
    missing = []
    for line in filter(str.strip, tree.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        parents = parents[:depth]
        missing += [
            path
            for name in names
            if not (PROJECT / (path := "/".join([*parents, name.rstrip("/")]))).exists() and name != "models.db"
        ]
        parents.append(names[-1].rstrip("/"))
    assert missing == []


def test_paths_in_the_documentation_exist() -> None:
    """Every path to code that a page of the docs or a docstring writes in backticks exists, or is made there."""
    pattern = re.compile(r"`((?:backend|jobs|pages|tests|docs|deploy)/[\w./*-]+?)`")
    pages = [path for path in list_files() if path.endswith(".md")] + list_modules(*PACKAGES, "tests")
    new_file = re.compile(r"^New file `([^`]+)`:", flags=re.MULTILINE)
    missing = [
        f"{page}: {target}"
        for page in pages
        for text in [(PROJECT / page).read_text()]
        for target in pattern.findall(text)
        if target not in new_file.findall(text) and not list(PROJECT.glob(target.rstrip("/")))
    ]
    assert missing == []


def test_dotted_names_in_prose_exist() -> None:
    """Every module of ours that a docstring or a page of the docs writes by its dotted name exists."""
    known = {module_name(path) for path in list_modules(*PACKAGES, "tests")}
    known |= {name.rsplit(".", n)[0] for name in known for n in range(1, name.count(".") + 1)}
    pattern = re.compile(r"(?<![\w./@\"'-])((?:backend|jobs|pages)(?:\.[a-z_]+)+)\b(?!\()")
    missing = []
    for path in [path for path in list_files() if path.endswith((".py", ".md"))]:
        if path.startswith(("backend/db/migrations/", "CHANGELOG")):
            continue
        for name in pattern.findall((PROJECT / path).read_text()):
            if name not in known and name.rsplit(".", 1)[0] not in known:
                missing.append(f"{path}: {name}")
    assert missing == []


INPUTS = {
    *("checkbox", "chat_input", "draw_number", "live_text", "multiselect", "number_input", "pills", "radio"),
    *("segmented_control", "selectbox", "slider", "text_area", "text_input", "toggle"),
}
"""Widgets whose label a screen reader reads as it was written."""


def test_labels_of_inputs_are_not_escaped() -> None:
    """`spoken` makes a label of a name; `plain` would have its backslashes read out."""
    escaped = [
        f"{path}:{call.lineno}"
        for path in list_modules("pages")
        for call in ast.walk(parse(path))
        if isinstance(call, ast.Call)
        and (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")) in INPUTS
        for label in call.args[:2]
        if any(isinstance(part, ast.Call) and getattr(part.func, "id", "") == "plain" for part in ast.walk(label))
    ]
    assert escaped == []


def test_who_leaves_a_page_says_with_which_address() -> None:
    """Streamlit clears an address that is not given, and refuses to where a widget is bound to part of it."""
    bare = [
        f"{path}:{call.lineno}"
        for path in list_modules("pages")
        for call in ast.walk(parse(path))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and (
            (call.func.attr == "switch_page" and "query_params" not in {word.arg for word in call.keywords})
            or ast.unparse(call.func) == "st.query_params.clear"
        )
    ]
    assert bare == []


def test_the_list_of_slow_tests_names_tests_that_exist() -> None:
    """A function that has another name would run with the quick ones, and its old line would stay for good."""
    lost = []
    for line in slow_tests.LIST.read_text().split():
        file, _, function = line.partition("::")
        source = PROJECT / file
        if not source.is_file() or (function and f"def {function}(" not in source.read_text()):
            lost.append(line)
    assert lost == []
