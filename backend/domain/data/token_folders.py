"""Folders of the tokens that runs share, below the artifacts: their name and manifest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

FOLDER = "tokens"
MANIFEST = "manifest.json"
LOCK = ".lock"
BLOCK_BYTES = 1 << 16
"""Bytes of `ids` that are checked, and read from a store, together."""
FILES = ("ids", "ends", "rows", "values", "sums")


@dataclass(frozen=True)
class Manifest:
    """The manifest of a folder. `identity` is everything that its content follows from; `bytes` are the valid lengths
    of its files.

    `pieces` are the parts of the split that are done, `crcs` the CRC-32 of the small files, `counts` rows by what
    became of them.
    """

    identity: dict[str, Any]
    dtype: str
    is_complete: bool = False
    pieces: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    crcs: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        return asdict(self)

    @staticmethod
    def read(text: str) -> Manifest:
        """Read a manifest's file. Raises ValueError for anything else."""
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("dtype") not in ("uint16", "uint32"):
            raise ValueError("not a manifest of tokens")
        try:
            manifest = Manifest(**values)
            sizes = all(
                isinstance(size, int) and size >= 0 for size in [*manifest.bytes.values(), *manifest.crcs.values()]
            )
        except (TypeError, AttributeError) as error:
            raise ValueError("not a manifest of tokens") from error
        if not sizes or not {*manifest.bytes} <= {*FILES}:
            raise ValueError("not a manifest of tokens")
        return manifest

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.bytes.values())
