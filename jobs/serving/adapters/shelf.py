"""The adapters that a replica may load: checkpoints below the artifacts' folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.errors import InvalidInput
from jobs.serving.adapters.bank import AdapterBank
from jobs.serving.adapters.weights import LoadedAdapter


@dataclass(frozen=True)
class AdapterShelf:
    """Loads adapters by their folder relative to `root`."""

    root: Path
    bank: AdapterBank

    def load(self, folder: str) -> LoadedAdapter:
        """Return an adapter. Raises InvalidInput for a folder outside the artifacts, or one that is no adapter of this base."""
        return self.bank.load(self._path(folder))

    def unload(self, folder: str) -> bool:
        """Forget an adapter; return whether it was in memory."""
        return self.bank.unload(self._path(folder))

    def _path(self, folder: str) -> Path:
        path = (self.root / folder).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InvalidInput("An adapter lies below the artifacts.", field="adapter")
        return path
