"""Plans of work in shards, kept in the folder of the work. Imports no transformers, for processes that watch shards."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from backend.domain.data.splits import Split
from backend.domain.jobs.records import FrozenRecord
from jobs.modeling.publishing import publish_text


class PlanInParts(FrozenRecord):
    """A plan whose shard i has the parts `bounds[i]` to before `bounds[i + 1]`. `file` is its name in a folder."""

    file: ClassVar[str]
    bounds: tuple[int, ...]

    @property
    def num_shards(self) -> int:
        """Shards that it has."""
        return len(self.bounds) - 1

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        """Return whether a folder has such a plan."""
        return (folder / cls.file).is_file()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the plan of a folder."""
        return cls.model_validate_json((folder / cls.file).read_bytes())

    def save(self, folder: Path) -> None:
        """Write it to a folder."""
        publish_text(folder / self.file, self.model_dump_json())


class TokenPlan(PlanInParts):
    """The plan by which the tokens of one split are made; its parts are pieces of the split."""

    file = "token-shards.json"

    dataset: str
    tokenizer: str
    split: Split
