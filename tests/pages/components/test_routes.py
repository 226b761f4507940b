"""Page paths are written once."""

from __future__ import annotations

import re
from pathlib import Path

from pages.components import routes

PAGES = Path(routes.__file__).parents[1]
ROUTES = {name: value for name, value in vars(routes).items() if name.isupper() and isinstance(value, str)}


def test_every_route_is_a_script_and_every_script_has_a_route() -> None:
    scripts = {
        str(file.relative_to(PAGES))
        for folder in ("home", "build", "evaluate", "serve", "admin")
        for file in (PAGES / folder).glob("*.py")
    }
    assert set(ROUTES.values()) == {script for script in scripts if not script.endswith("__init__.py")}
    assert {page.script for page in routes.listed_pages()} == set(ROUTES.values())


def test_no_page_path_is_spelled_out_elsewhere() -> None:
    path = re.compile(r"[\"'](?:\.\./)?(?:pages/)?(?:home|build|evaluate|serve|admin)/\w+\.py[\"']")
    spelled = [str(file) for file in PAGES.rglob("*.py") if file.name != "routes.py" and path.search(file.read_text())]
    assert not spelled
