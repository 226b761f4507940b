"""Settings of Sphinx for the site (`make docs`): nothing is loaded from other servers, and a broken link fails."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from generate import write_reference  # noqa: E402

from backend.web.help import NOT_SEARCHED  # noqa: E402

project = "Roundhouse"
extensions = ["myst_parser"]
exclude_patterns = ["site", "pictures/README.md"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
html_theme = "furo"
html_title = "Roundhouse"
html_favicon = str(ROOT / "pages" / "images" / "icon.png")
html_logo = str(ROOT / "pages" / "images" / "icon.png")
html_copy_source = False
html_show_sphinx = False
suppress_warnings = ["misc.highlighting_failure", "toc.not_included"]
smartquotes = False
TOP = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"}


def _keep_links_within_the_site(_app: Any, _name: str, source: list[str]) -> None:
    """Write links to files of the clone that are no pages of the site as their paths."""
    source[0] = re.sub(
        r"\[([^\]]+)\]\((?:\.\./)+((?:" + "|".join(TOP) + r"|backend|jobs|pages|tests)[^)]*)\)", r"\1 (`\2`)", source[0]
    )


def _leave_out_of_the_search(_app: Any, env: Any) -> None:
    for name in NOT_SEARCHED:
        env.metadata[name]["nosearch"] = "yes"


def setup(app: Any) -> None:
    """Generate the reference before the build; keep what is no help out of the search."""
    app.connect("builder-inited", lambda _app: write_reference())
    app.connect("source-read", _keep_links_within_the_site)
    app.connect("env-updated", _leave_out_of_the_search)
