"""The plan by which the tokens of one split are made in shards. Imports no transformers, as the processes that watch
shards read it.
"""

from __future__ import annotations

from pathlib import Path

from backend.domain.data.splits import Split
from backend.domain.jobs.records import FrozenRecord
from jobs.modeling.publishing import publish_text

PLAN = "token-shards.json"


class TokenPlan(FrozenRecord):
    """Shard i makes the tokens of the pieces `bounds[i]` to before `bounds[i + 1]` of a split."""

    dataset: str
    tokenizer: str
    split: Split
    bounds: tuple[int, ...]

    @property
    def num_shards(self) -> int:
        """Shards that it has."""
        return len(self.bounds) - 1

    @classmethod
    def is_in(cls, folder: Path) -> bool:
        """Return whether a folder has such a plan."""
        return (folder / PLAN).is_file()

    @classmethod
    def load(cls, folder: Path) -> TokenPlan:
        """Read the plan of a folder."""
        return cls.model_validate_json((folder / PLAN).read_bytes())

    def save(self, folder: Path) -> None:
        """Write it to a folder."""
        publish_text(folder / PLAN, self.model_dump_json())
