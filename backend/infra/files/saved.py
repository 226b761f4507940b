"""List the splits of folders written by `save_to_disk` of Hugging Face `datasets`, without that library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.domain.data.versions.saved_splits import SavedChoice, choose_splits
from backend.errors import InvalidInput

DICT_FILE, STATE_FILE, INFO_FILE = "dataset_dict.json", "state.json", "dataset_info.json"


def saved_splits(path: Path) -> dict[str, Path] | None:
    """Return split -> folder of a saved dataset, in the order of its record; None for any other path.

    Raises InvalidInput if the record can't be read, or a split's folder or file is missing or outside the folder.
    """
    if (path / DICT_FILE).is_file():
        names = _read(path / DICT_FILE).get("splits")
        if not isinstance(names, list) or not names:
            raise _broken(path / DICT_FILE, "it lists no splits")
        return {str(name): _checked(path / str(name), root=path) for name in names}
    if (path / STATE_FILE).is_file() and (path / INFO_FILE).is_file():
        return {str(_read(path / STATE_FILE).get("_split") or "train"): _checked(path, root=path)}
    return None


def choose_saved(path: Path, split: str | None) -> tuple[SavedChoice, dict[str, Path]] | None:
    """Return the splits to import of a saved dataset, with their folders; None for any other path. Raises InvalidInput, NotFound."""
    splits = saved_splits(path)
    return None if splits is None else (choose_splits(list(splits), split, name=path.name), splits)


def _checked(folder: Path, *, root: Path) -> Path:
    """Return a split's folder. Its record may name only files inside it: `datasets` would follow any path."""
    if folder != root and folder.resolve().parent != root.resolve():
        raise _broken(root / DICT_FILE, f"its split {folder.name!r} is not a folder in it")
    files = _read(folder / STATE_FILE).get("_data_files")
    names = [str(entry.get("filename", "")) for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []
    for name in names:
        file = folder / name
        if Path(name).name != name or not file.is_file() or file.resolve().parent != folder.resolve():
            raise _broken(folder / STATE_FILE, f"its file {name!r} is missing")
    return folder


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(file, str(error)[:100]) from None
    if not isinstance(value, dict):
        raise _broken(file, "it holds no object")
    return value


def _broken(file: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"The saved dataset {file.parent.name!r} can't be read: {file.name}: {why}.",
        remedy="Save it again with save_to_disk.",
        field="source",
    )
