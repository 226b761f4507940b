"""Scripts of the browser components: ES modules, each in a scope of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend.domain.jobs.states import STATUS_LABELS
from pages.components.browser.modules import join_modules

BROWSER = Path(__file__).parents[4] / "pages" / "components" / "browser"
ENTRIES = (
    "ballot/ballot.js",
    "link_table/table.js",
    "live_chart/chart.js",
    "run_list/list.js",
    "run_table/table.js",
    "text_field/field.js",
    "token_strip/strip.js",
)


def test_each_module_is_in_the_script_once_behind_those_it_imports(tmp_path: Path) -> None:
    (tmp_path / "dom.js").write_text("const secret = 1\nexport function one() { return secret }\n")
    (tmp_path / "a.js").write_text(
        'import { one } from "./dom.js"\nconst secret = 2\nexport const two = one() + secret\n'
    )
    (tmp_path / "b.js").write_text(
        'import { one } from "./dom.js"\nimport { two } from "./a.js"\nexport default function () { return one() +'
        " two }\n"
    )
    script = join_modules(tmp_path / "b.js")
    assert script.count("const secret = 1") == 1
    assert (
        script.index("const secret = 1") < script.index("const secret = 2") < script.index("const default_ = function")
    )
    assert script.rstrip().endswith("export default module_2.default;")
    assert not re.search(r"^(import|export (?!default module_))", script, re.MULTILINE)


def test_an_unsupported_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text('import * as dom from "./dom.js"\n')
    with pytest.raises(ValueError, match="import \\* as dom"):
        join_modules(tmp_path / "a.js")


def test_modules_that_import_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text('import { b } from "./b.js"\nexport const a = 1\n')
    (tmp_path / "b.js").write_text('import { a } from "./a.js"\nexport const b = 1\n')
    with pytest.raises(ValueError, match="imports itself"):
        join_modules(tmp_path / "a.js")


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_components_are_joined(entry: str) -> None:
    assert "export default" in join_modules(BROWSER / entry)


def test_helpers_and_labels_are_written_once() -> None:
    scripts = {file: file.read_text() for file in BROWSER.rglob("*.js")}
    assert [file.name for file, text in scripts.items() if "function element(" in text] == ["dom.js"]
    words = [file.name for file, text in scripts.items() for word in STATUS_LABELS.values() if f'"{word}"' in text]
    assert not words, "the words of a status come from backend.domain.jobs.states"


def test_no_component_takes_markup_from_text() -> None:
    """A network's text becomes text nodes; whatever parses markup is one mistake from running it."""
    doors = (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "srcdoc",
        "createContextualFragment",
    )
    assert [
        f"{file.name}: {door}" for file in BROWSER.rglob("*.js") for door in doors if door in file.read_text()
    ] == []
