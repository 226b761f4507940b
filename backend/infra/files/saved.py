"""List the splits of folders written by `save_to_disk` of `datasets`, and of zips of them, without that library."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from backend.domain.data.versions.saved_splits import SavedChoice, choose_splits
from backend.errors import InvalidInput
from backend.infra.files.local import LocalListing, list_source, opened_zip

DICT_FILE, STATE_FILE, INFO_FILE = "dataset_dict.json", "state.json", "dataset_info.json"
MAX_RECORD_BYTES = 64 * 2**20
Place = Path | zipfile.Path


@dataclass(frozen=True)
class SavedSplit:
    """One split: the folder `path`, or the entries of the zip `path` whose names begin with `prefix`."""

    path: Path
    prefix: str | None = None

    def files(self) -> LocalListing:
        """Return its data files, named within the split. Raises what `list_source` raises."""
        listing = list_source(self.path)
        if self.prefix is None:
            return listing
        inside = [member for member in listing.members if member.entry.startswith(self.prefix)]
        return LocalListing(
            tuple(replace(member, name=member.name[len(self.prefix) :]) for member in inside), is_single=False
        )

    def unpack(self, folder: Path) -> None:
        """Write the files of a split in a zip to a folder. Raises InvalidInput where one is damaged."""
        assert self.prefix is not None
        with opened_zip(self.path) as archive:
            for entry in archive.infolist():
                name = entry.filename.removeprefix(self.prefix)
                if entry.filename.startswith(self.prefix) and name and "/" not in name:
                    with archive.open(entry) as packed, (folder / name).open("wb") as file:
                        shutil.copyfileobj(packed, file, 2**20)


def saved_splits(path: Path) -> dict[str, SavedSplit] | None:
    """Return split -> its place in a saved dataset, in the order of its record; None for any other path.

    Raises InvalidInput if the record can't be read, a split's folder or file is missing or outside the folder, or the
    zip is dangerous.
    """
    if path.is_dir():
        names = _split_names(path)
        return None if names is None else {name: SavedSplit(path / folder) for name, folder in names.items()}
    if path.suffix.lower() != ".zip" or not path.is_file():
        return None
    with opened_zip(path) as archive:
        place = _record_in(archive)
        if place is None:
            return None
        list_source(path)  # refuses what is dangerous before anything is unpacked
        names = _split_names(zipfile.Path(archive, at=place))
    return (
        None
        if names is None
        else {name: SavedSplit(path, f"{place}{folder}/" if folder else place) for name, folder in names.items()}
    )


def choose_saved(path: Path, split: str | None) -> tuple[SavedChoice, dict[str, SavedSplit]] | None:
    """Return the splits to import of a saved dataset, with their places; None for any other path. Raises InvalidInput,
    NotFound.
    """
    splits = saved_splits(path)
    return None if splits is None else (choose_splits(list(splits), split, name=path.name), splits)


def _record_in(archive: zipfile.ZipFile) -> str | None:
    """Return the folder in a zip that holds the one record of a saved dataset: "" or "name/"."""
    names = [PurePosixPath(name) for name in archive.namelist()]
    for record in (DICT_FILE, STATE_FILE):
        parents = [name.parent for name in names if name.name == record and len(name.parts) <= 2]
        if len(parents) == 1:
            return "" if parents[0] == PurePosixPath() else f"{parents[0]}/"
    return None


def _split_names(root: Place) -> dict[str, str] | None:
    """Return split -> its folder within `root` ("" is `root` itself); None where no record is."""
    if (root / DICT_FILE).is_file():
        names = _read(root, DICT_FILE).get("splits")
        if not isinstance(names, list) or not names:
            raise _broken(root, DICT_FILE, "it lists no splits")
        for name in map(str, names):
            if not _is_inside(root, name):  # `datasets` would follow any path
                raise _broken(root, DICT_FILE, f"its split {name!r} is not a folder in it")
            _check_files(root / name)
        return {str(name): str(name) for name in names}
    if (root / STATE_FILE).is_file() and (root / INFO_FILE).is_file():
        _check_files(root)
        return {str(_read(root, STATE_FILE).get("_split") or "train"): ""}
    return None


def _check_files(folder: Place) -> None:
    files = _read(folder, STATE_FILE).get("_data_files")
    names = (
        [str(entry.get("filename", "")) for entry in files if isinstance(entry, dict)]
        if isinstance(files, list)
        else []
    )
    for name in names:
        if not _is_inside(folder, name) or not (folder / name).is_file():
            raise _broken(folder, STATE_FILE, f"its file {name!r} is missing")


def _is_inside(folder: Place, name: str) -> bool:
    """Return whether a name out of a record stands for an entry right in the folder, links on disk followed."""
    if PurePosixPath(name).name != name or "\0" in name:
        return False
    return not isinstance(folder, Path) or (folder / name).resolve().parent == folder.resolve()


def _read(folder: Place, name: str) -> dict[str, object]:
    try:
        with (folder / name).open("rb") as file:
            text = file.read(MAX_RECORD_BYTES + 1)
        if len(text) > MAX_RECORD_BYTES:
            raise _broken(folder, name, f"it has more than {MAX_RECORD_BYTES:,} bytes")
        value = json.loads(text.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(folder, name, str(error)[:100]) from None
    if not isinstance(value, dict):
        raise _broken(folder, name, "it holds no object")
    return value


def _broken(folder: Place, file: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"The saved dataset {folder.name!r} can't be read: {file}: {why}.",
        remedy="Save it again with save_to_disk.",
        field="source",
    )
