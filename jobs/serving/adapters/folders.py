"""The adapters that a replica may load: checkpoints below the artifacts' folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import InvalidInput
from jobs.modeling.chat.render import turn_end
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.serving.adapters.bank import AdapterBank
from jobs.serving.adapters.weights import LoadedAdapter


@dataclass(frozen=True)
class AdapterFolders:
    """Loads adapters by their folder relative to `root`."""

    root: Path
    bank: AdapterBank
    tokenizer: Any

    def load(self, folder: str) -> LoadedAdapter:
        """Return an adapter, with its own tokenizer where its folder has one: the same tokens, maybe another chat
        template.

        Raises InvalidInput for a folder outside the artifacts, or one that is not an adapter of this base.
        """
        path = self._path(folder)
        if (adapter := self.bank.find(path)) is not None:
            return adapter
        if not (path / "tokenizer_config.json").is_file():
            return self.bank.load(path)
        tokenizer = load_tokenizer(path)
        if tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise InvalidInput(
                f"{path.name} has other tokens than its base.", remedy="Deploy it by itself.", field="adapter"
            )
        end = turn_end(tokenizer)
        return self.bank.load(path, tokenizer=tokenizer, end_ids=frozenset() if end is None else frozenset({end}))

    def unload(self, folder: str) -> bool:
        """Forget an adapter; return whether it was in memory."""
        return self.bank.unload(self._path(folder))

    def _path(self, folder: str) -> Path:
        path = (self.root / folder).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InvalidInput("An adapter lies below the artifacts.", field="adapter")
        return path
