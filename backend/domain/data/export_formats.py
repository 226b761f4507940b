"""Export formats of a dataset version, and their file names."""

from __future__ import annotations

DATASET_FORMATS: dict[str, str] = {
    "datasets": "A folder that `datasets.load_from_disk` opens, with its splits.",
    "parquet": "README.md and Parquet files, as the Hub lays out a dataset.",
    "jsonl": "README.md and JSON lines, one file a split.",
}
SPLIT_NAMES = {"train": "train", "val": "validation"}
"""Our splits by the names that the Hub and `datasets` use."""


def export_path(split: str, *, format: str) -> str:
    """Return the path of a split's file in an export as Parquet or JSON lines."""
    name = SPLIT_NAMES[split]
    return f"{name}.jsonl" if format == "jsonl" else f"data/{name}-00000-of-00001.parquet"
