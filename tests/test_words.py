"""Code, pages and documentation use the glossary's words, and none of the words that it retires."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache

import pytest

from backend.db.tables import Table
from backend.domain.data.kinds import DatasetKind
from backend.domain.jobs.states import JobKind, Status
from backend.domain.training.objectives import Objective
from backend.settings import PROJECT
from tests.support.source_tree import PACKAGES, list_files, list_modules, parse

PLURALS = {"ies": "y", "s": ""}


@lru_cache(maxsize=1)
def glossary() -> tuple[frozenset[str], dict[str, str]]:
    """Return the words of the glossary, and the retired words, each with its replacement."""
    words, retired = (PROJECT / "docs" / "glossary.md").read_text().split("## Retired words")
    terms = {
        cell.strip().lower()
        for row in re.findall(r"^\| ([^|]+) \|", words, flags=re.MULTILINE)
        for cell in row.split(",")
    }
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", retired, flags=re.MULTILINE)
    return frozenset(terms), {word.strip(): new.strip() for word, new in rows if word.strip() not in {"word", "---"}}


def split_words(name: str) -> list[str]:
    """Return the words of a class name: `LoraConfig` is lora, config."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]


def is_term(word: str) -> bool:
    terms = glossary()[0]
    return word in terms or any(
        word.endswith(end) and word.removesuffix(end) + one in terms for end, one in PLURALS.items()
    )


def test_a_term_has_one_row() -> None:
    words = (PROJECT / "docs" / "glossary.md").read_text().split("## Retired words")[0]
    terms = re.findall(r"^\| ([^|]+) \|", words, flags=re.MULTILINE)
    assert sorted(set(terms)) == sorted(terms)


@pytest.mark.parametrize("name", sorted(mapper.class_.__name__ for mapper in Table.registry.mappers))
def test_a_table_is_a_term_of_the_glossary(name: str) -> None:
    words = split_words(name)
    assert is_term(" ".join(words)) or is_term(words[-1]), f"docs/glossary.md does not say what a {name} is"


@pytest.mark.parametrize(
    "page", sorted(path for path in list_modules("pages") if path.count("/") == 2 and not path.endswith("__init__.py"))
)
def test_a_page_is_named_by_a_term_of_the_glossary(page: str) -> None:
    if page.startswith("pages/components/"):
        pytest.skip("a component, not a page")
    assert is_term(page.rsplit("/", 1)[-1].removesuffix(".py").replace("_", " "))


@pytest.mark.parametrize("value", sorted({*Objective, *DatasetKind, *Status, *JobKind}))
def test_a_closed_set_is_spelled_out_in_the_glossary(value: str) -> None:
    """Objectives, kinds of datasets, states and kinds of jobs are each in the text of the glossary."""
    text = (PROJECT / "docs" / "glossary.md").read_text()
    assert re.search(rf"\b{re.escape(value).replace('_', '[ _]')}\b", text), value


def class_names() -> Iterator[tuple[str, str]]:
    for path in list_modules(*PACKAGES):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                yield path, node.name


def test_no_class_is_named_by_a_retired_word() -> None:
    retired = {word for word in glossary()[1] if word.istitle() and " " not in word}
    named = {f"{path}: {name}" for path, name in class_names() if retired & set(re.findall(r"[A-Z][a-z]+", name))}
    assert named == set()


def bound_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name


def test_variables_say_what_they_hold() -> None:
    """`found`, `wanted` and their like name how a value was come by."""
    retired = {word.strip("`") for word in glossary()[1] if word.startswith("`")}
    assert retired
    bound = [
        f"{path}:{line}: {name}"
        for path in list_modules(*PACKAGES)
        for line, name in bound_names(parse(path))
        if name in retired
        and (path, name) != ("backend/domain/data/reports/report.py", "found")  # a stored count of found items
    ]
    assert bound == []


def docstrings(path: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def test_docstrings_state_and_do_not_ask() -> None:
    """A docstring begins with a verb or the thing, not with What, How, Where, Whether, Who, Which or That."""
    opening = re.compile(r"(What|How|Where|Whether|Who|Which|That|When)\b")
    asking = [
        f"{path}:{line}: {text.splitlines()[0][:80]}"
        for path in list_modules(*PACKAGES)
        for line, text in docstrings(path)
        if opening.match(text)
    ]
    assert asking == []


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for path in list_modules(*PACKAGES):
        tree = parse(path)
        if tree.body and not ast.get_docstring(tree):
            missing.append(path)
        for node in tree.body:
            named = isinstance(
                node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                missing.append(f"{path}: {node.name}")
    assert missing == []


def prose() -> Iterator[tuple[str, int, str]]:
    """Yield path, line and text of every string and comment of the code, and every line of the documentation."""
    for path in list_modules(*PACKAGES):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.lineno, node.value
        for number, line in enumerate((PROJECT / path).read_text().splitlines(), 1):
            if "  # " in line or line.lstrip().startswith("# "):
                yield path, number, line.split("# ", 1)[1]
    for path in list_files():
        if (path.endswith(".md") and path != "docs/glossary.md") or (
            path.endswith(".js") and path.startswith("pages/")
        ):
            for number, line in enumerate((PROJECT / path).read_text().splitlines(), 1):
                yield path, number, line


def test_no_text_uses_a_retired_phrase() -> None:
    phrases = [word for word in glossary()[1] if word == word.lower() and not word.startswith("`")]
    pattern = re.compile(
        r"\b(" + "|".join(sorted(map(re.escape, phrases), key=len, reverse=True)) + r")\b", flags=re.IGNORECASE
    )
    used = [
        f"{path}:{line}: {match.group(0)}: {text[max(0, match.start() - 30) : match.end() + 30]!r}"
        for path, line, text in prose()
        for match in [pattern.search(text)]
        if match
    ]
    assert used == []


def test_percentages_are_written_by_one_function() -> None:
    """`5 %`, by `backend.domain.wording.percent`; a format of Python's writes `5%`. Positions in a style sheet are left
    as they are.
    """
    sheets = {"pages/components/charts/html.py"}
    texts = {path: (PROJECT / path).read_text() for path in list_modules(*PACKAGES) if path not in sheets}
    assert [path for path, text in texts.items() if re.search(r":[+,<>0-9]*[.][0-9]%[}]", text)] == []
