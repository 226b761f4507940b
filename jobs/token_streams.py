"""Tokens that are larger than a run's machine: its supervisor, which alone has the store's keys, brings the folders
that the run asks for and the blocks that its next steps read.
"""

from __future__ import annotations

import logging
import shutil
import threading
from array import array
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from backend.domain.data.token_folders import BLOCK_BYTES, FOLDER
from backend.domain.jobs.artifact_folders import folder_of
from backend.domain.jobs.token_streams import (
    ANSWER,
    ASK,
    FAILURE,
    NEEDED,
    PROBLEM,
    FolderAnswer,
    FolderAsk,
    NeededBlocks,
)
from backend.errors import InvalidInput, RoundhouseError, Unavailable
from backend.infra.artifacts import Artifacts
from backend.infra.store.blocks import BlockCache, read_sums
from backend.infra.store.folders import ALL, FileSelection, FolderStore, UncopiedFile

log = logging.getLogger(__name__)

POLL_S, PAUSE_S = 0.05, 2.0
AHEAD_BYTES = 1 << 28
"""Bytes that are fetched before they are read, at most."""
IDS = "ids"


@dataclass
class _Stream:
    """A folder whose ids are read in the store."""

    file: UncopiedFile
    sums: array[int]


@dataclass
class _Reader:
    """The blocks that one process of the run needs."""

    mark: tuple[int, int] = (0, 0)
    folder: str = ""
    needed: tuple[int, ...] = ()
    missing: list[int] = field(default_factory=list)


class TokenStreams:
    """Answers one run, in a thread, until it is stopped. `datasets` are the folders that it may have brought."""

    def __init__(self, artifacts: Artifacts, store: FolderStore, folder: Path, *, datasets: list[str]) -> None:
        self._artifacts, self._store, self._folder, self._datasets = artifacts, store, folder, datasets
        self._cache = BlockCache(store.blocks, block_bytes=BLOCK_BYTES, limit_bytes=store.stream_bytes)
        self._streams: dict[str, _Stream] = {}
        self._readers: dict[str, _Reader] = {}
        self._pins = ExitStack()
        self._stopping = threading.Event()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._thread = threading.Thread(target=self._work, daemon=True, name="token-streams")

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more. What is under way ends by itself."""
        self._stopping.set()
        self._thread.join(timeout=5 * POLL_S)
        self._pins.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                has_worked = self._answer_asks()
                has_worked |= self._fetch_needed()
                (self._folder / PROBLEM).unlink(missing_ok=True)
            except (Unavailable, OSError) as error:  # a store that is down, a disk that is full: asked again
                if self._stopping.is_set():
                    return
                self._note_problem(str(error))
                self._stopping.wait(PAUSE_S)
                continue
            except RoundhouseError as error:
                _write(self._folder / FAILURE, _failed(error).model_dump_json())
                return
            except Exception as error:  # a run would wait for a thread that has ended
                log.exception("tokens are read no more")
                cause = f"The worker can't bring this run's tokens: {type(error).__name__}: {error}"[:300]
                answer = FolderAnswer(
                    state="failed", cause=cause, remedy="The worker's log says where; then resume it."
                )
                _write(self._folder / FAILURE, answer.model_dump_json())
                return
            if not has_worked:
                self._stopping.wait(POLL_S)

    def _note_problem(self, problem: str) -> None:
        log.warning("tokens wait for the store: %s", problem)
        try:
            _write(self._folder / PROBLEM, problem)
        except OSError:
            return  # the run sees that its blocks are not there

    def _answer_asks(self) -> bool:
        asks = sorted(self._folder.glob(f"*{ASK}"))
        for path in asks:
            try:
                ask = FolderAsk.model_validate_json(path.read_bytes())
                answer = self._answer(ask)
            except ValidationError as error:
                answer = FolderAnswer(state="failed", cause=f"A run asked for something unknown: {error}"[:300])
            except Unavailable:
                raise
            except RoundhouseError as error:
                answer = _failed(error)
            _write(path.with_suffix(ANSWER), answer.model_dump_json())
            path.unlink()
        return bool(asks)

    def _answer(self, ask: FolderAsk) -> FolderAnswer:
        is_tokens = folder_of(ask.folder) == ask.folder and ask.folder.startswith(f"{FOLDER}/")
        if not is_tokens and (ask.sends or ask.folder not in self._datasets):
            raise InvalidInput(f"A run may not have {ask.folder[:200]!r} brought.")
        if ask.sends:
            self._artifacts.send(ask.folder)
            return FolderAnswer(state="here")
        ids = (self._store.sizes(ask.folder) or {}).get(IDS, 0)
        streams = is_tokens and ask.streams and ids > self._store.stream_bytes
        if not self._store.bring(
            ask.folder, selection=FileSelection(without=IDS) if streams else ALL, check=self._check
        ):
            is_here = (self._store.root / ask.folder).is_dir() and not is_tokens
            return FolderAnswer(state="here" if is_here else "absent")
        if ask.folder not in self._streams:
            self._pins.enter_context(self._store.pinned([ask.folder]))
        if not streams:
            return FolderAnswer(state="here")
        file = self._store.remote_file(ask.folder, IDS)
        assert file is not None
        self._streams[ask.folder] = _Stream(file, read_sums(self._store.root / ask.folder / "sums"))
        ahead = min(AHEAD_BYTES // BLOCK_BYTES, self._cache.limit // 2)
        return FolderAnswer(state="streamed", blocks=str(self._cache.folder(_name(ask.folder))), num_ahead=ahead)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Unavailable("The run has ended.")

    def _fetch_needed(self) -> bool:
        """Fetch the next blocks of each process that waits for some."""
        has_worked = False
        for path in sorted(self._folder.glob(f"*{NEEDED}")):
            reader = self._look_up(path)
            stream = self._streams.get(reader.folder)
            if stream is None or not reader.missing:
                continue
            batch = self._cache.missing(_name(reader.folder), reader.missing[: self._cache.batch])
            if batch:
                self._cache.fetch(_name(reader.folder), stream.file, stream.sums, batch, protected=self._protected())
            del reader.missing[: self._cache.batch]
            has_worked = True
        return has_worked

    def _look_up(self, path: Path) -> _Reader:
        """Take up what a process needs now."""
        reader, status = self._readers.setdefault(path.name, _Reader()), path.stat()
        if (mark := (status.st_ino, status.st_mtime_ns)) != reader.mark:
            needed = NeededBlocks.model_validate_json(path.read_bytes())
            known = self._streams.get(needed.folder)
            reader.mark, reader.folder = mark, needed.folder
            reader.needed = tuple(block for block in needed.blocks if known and 0 <= block < len(known.sums))
            reader.missing = self._cache.missing(_name(needed.folder), reader.needed) if known else []
        return reader

    def _protected(self) -> set[Path]:
        return {
            self._cache.folder(_name(reader.folder)) / str(number)
            for reader in self._readers.values()
            for number in reader.needed
        }


def _failed(error: RoundhouseError) -> FolderAnswer:
    return FolderAnswer(state="failed", cause=error.message, remedy=error.remedy)


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
