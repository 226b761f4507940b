"""The folders that machines exchange through a store of artifacts: which folder a path belongs to, and which folders a
job reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from pydantic import BaseModel

WHOLE = {
    "datasets": "a dataset",
    "tokenizers": "a tokenizer",
    "tokens": "tokens",
    "bases": "a base",
    "exports": "an export",
    "inspections": "an inspection",
    "readings": "an inspection",
    "reports": "a report",
    "uploads": "an uploaded file",
}
"""Folders of the artifacts whose subfolders are exchanged as they are, once written; the words for one of them."""
DOWNLOADS = "exports/downloads"
"""Archives made for a browser: each machine has its own."""
PATH_FIELDS = frozenset(
    [
        *("dataset", "tokenizer", "base", "checkpoint", "examples", "draft", "classifier", "folder", "other", "tokens"),
        *("source", "rows_file", "texts_file", "items_file", "verdicts_file", "file"),
    ]
)
"""Fields of payloads and results, at any depth, that hold a path below the artifacts."""


def folder_of(path: str) -> str | None:
    """Return the folder that is exchanged with a path below the artifacts; None for what stays on its machine.

    Example:
        >>> folder_of("runs/a/checkpoints/step-000100/config.json")
        'runs/a/checkpoints/step-000100'
        >>> folder_of("corpora/b") is None
        True
    """
    names = PurePosixPath(path).parts
    if len(names) < 2 or ".." in names or names[0] == "/":
        return None
    if names[0] in WHOLE:
        folder = "/".join(names[:2])
        return None if folder == DOWNLOADS else folder
    if names[0] == "runs" and len(names) > 3 and names[2] == "checkpoints":
        return None if names[3].startswith(".") else "/".join(names[:4])
    return "/".join(names[:2]) if is_working(path) else None


def folder_noun(folder: str) -> str:
    """Return the words for a folder that is exchanged: `a dataset`, `a checkpoint`."""
    if "/checkpoints/" in folder:
        return "a checkpoint"
    return WHOLE.get(folder.partition("/")[0], "what an earlier attempt left")


def is_working(path: str) -> bool:
    """Return whether a path is that of a job's or a run's own folder. Of these only the files are exchanged, without
    subfolders, and they change while the job works.
    """
    names = PurePosixPath(path).parts
    return len(names) >= 2 and names[0] in ("jobs", "runs") and not (len(names) > 3 and names[2] == "checkpoints")


def checkpoints_of(run_folder: str) -> str:
    """Return the folder of a run's checkpoints."""
    return f"{run_folder}/checkpoints"


def folders_in(record: BaseModel) -> list[str]:
    """Return the folders that a payload or a result names, in the order of its fields."""
    return list(dict.fromkeys(folder for path in _paths(record) if (folder := folder_of(path)) is not None))


def _paths(value: object, field: str = "") -> Iterator[str]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name), name)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _paths(each, field)
    elif isinstance(value, str) and field in PATH_FIELDS:
        yield value
