"""What is declared is used, what is used is declared, and the pins agree with both."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from backend.cli.doctor import REQUIRED_PACKAGES
from backend.settings import PROJECT
from tests.support.source_tree import PACKAGES, imported_names, list_modules, parse

BY_NAME = {
    "psycopg": ("backend/db/engine.py", "postgresql+psycopg"),
}
"""Dependencies that a library loads by name, with the file and the string that name them."""
LAZY = ("jobs/evaluation/engines/lm_eval.py", "jobs/data/shard_tasks.py")
"""Modules of one optional library, which are themselves imported where they are used."""
NOT_INSTALLED = {"mlflow": "mlflow-skinny"}
"""Distributions of optional modules that need not be installed here, where the two names differ."""


@lru_cache(maxsize=1)
def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return table


def names_of(requirements: object) -> set[str]:
    assert isinstance(requirements, list)
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def declared() -> set[str]:
    return names_of(project()["dependencies"])


def extras() -> dict[str, set[str]]:
    table = project()["optional-dependencies"]
    assert isinstance(table, dict)
    return {name: names_of(requirements) for name, requirements in table.items()}


def used_distributions(*roots: str) -> dict[str, str]:
    """Return the distributions that the code imports, each with one file that does."""
    owners = packages_distributions()
    used = {}
    for path in [*list_modules(*roots), *(["app.py"] if "pages" in roots else [])]:
        for module in imported_names(path):
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in {*PACKAGES, "tests"}:
                for distribution in owners.get(top, [NOT_INSTALLED.get(top, top)]):
                    used[canonicalize_name(distribution)] = path
    return used


def test_each_declared_dependency_is_used_by_the_product() -> None:
    assert declared() - set(used_distributions(*PACKAGES)) == set(BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_libraries_loaded_by_name_are_named_in_the_code(name: str) -> None:
    file, mention = BY_NAME[name]
    assert mention in (PROJECT / file).read_text()


def test_each_import_of_the_product_is_declared() -> None:
    optional = set().union(*(names for extra, names in extras().items() if extra != "dev"))
    used = used_distributions(*PACKAGES)
    assert {name: path for name, path in used.items() if name not in declared() | optional} == {}


def test_a_start_requires_no_package_but_the_core_dependencies() -> None:
    owners = packages_distributions()
    assert {name for name in REQUIRED_PACKAGES if canonicalize_name(owners[name][0]) not in declared()} == set()


def test_an_optional_dependency_is_imported_where_it_is_used_and_not_at_the_top() -> None:
    optional = set().union(*(names for extra, names in extras().items() if extra != "dev")) - declared()
    owners = packages_distributions()
    eager = [
        f"{path}: {top}"
        for path in list_modules(*PACKAGES)
        if path not in LAZY
        for node in parse(path).body
        for top in top_level_imports(node)
        if {canonicalize_name(name) for name in owners.get(top, [top])} & optional
    ]
    assert eager == []


def top_level_imports(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []


def test_each_dependency_is_pinned_and_each_pin_satisfies_what_is_declared() -> None:
    pins = {}
    for line in (PROJECT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            assert "+" not in specifier.version, f"{line}: a local version is on no index"
            pins[canonicalize_name(requirement.name)] = specifier.version
    table = project()["optional-dependencies"]
    assert isinstance(table, dict)
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    for text in [*dependencies, *table["dev"]]:
        requirement = Requirement(text)
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{text} has no pin: run `make constraints`"
        assert requirement.specifier.contains(version, prereleases=True), f"{text} and its pin {version} disagree"


def test_the_makefile_installs_by_the_pins() -> None:
    commands = re.findall(r"^.*pip install.*$", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
    assert commands
    assert all("-c constraints.txt" in command for command in commands if "-e ." in command or "-e '." in command)


@pytest.mark.timeout(900)
def test_the_dependencies_resolve_without_the_pins(tmp_path: Path) -> None:
    """A newer release of a library must not keep anybody from installing: pip finds a set of versions by the ranges
    alone.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        str(tmp_path / "report.json"),
    ]
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    result = subprocess.run([*command, *dependencies], capture_output=True, text=True, timeout=850, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert '"name": "streamlit"' in (tmp_path / "report.json").read_text()
