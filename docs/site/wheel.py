"""Step of the wheel's build: take the built site along, if there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SiteHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts `build/docs` where an installed `backend.settings` looks for it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder to the files of the wheel."""
        site = Path(self.root) / "build" / "docs"
        if version == "standard" and (site / "index.html").is_file():
            build_data["force_include"][str(site)] = "pages/server/site"
