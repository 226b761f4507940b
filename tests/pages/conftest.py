"""What tests of pages start from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.scriptrunner.script_cache import ScriptCache

from backend.services.context import Context
from tests.support.scenario import Scenario
from tests.support.settings import named_installation


@pytest.fixture(scope="session", autouse=True)
def _components_are_searched_once() -> Iterator[None]:
    """Streamlit's test runner parses the metadata of every installed package at each `AppTest`: two thirds of a page
    test's CPU time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture(scope="session", autouse=True)
def _scripts_are_compiled_once() -> Iterator[None]:
    """Streamlit's test runner has a new cache of compiled scripts for each run, where a server keeps one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptCache, "get_bytecode", ScriptCache().get_bytecode)
        yield


@pytest.fixture
def site(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """An installation that pages find by the environment."""
    with named_installation(monkeypatch, home) as context:
        yield context


@pytest.fixture
def scenario(site: Context) -> Scenario:
    """A builder of what a test starts from, in that installation."""
    return Scenario(site)
