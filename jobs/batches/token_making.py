"""Make a split's tokens, once for all runs that need the same: in a folder named by everything that they follow from.

One process makes a folder under its lock; others wait, or read what is there. A large split is made by a process of its
own while training already reads (`jobs.batches.token_maker`). Rows are taken in a fixed mixed order (`row_pieces`), so
that the beginning of a folder is like the whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from transformers import PreTrainedTokenizerBase

from backend.domain.data.rows.mapping import clean_row
from backend.domain.data.splits import SPLITS, Split
from backend.domain.data.token_folders import FOLDER, LOCK, MANIFEST
from backend.domain.jobs.token_streams import FolderAsk
from backend.domain.json_values import Row
from backend.domain.wording import format_duration
from backend.errors import InvalidInput, JobFailed
from backend.infra.files.hashes import hash_file
from backend.infra.files.locks import is_locked, try_lock
from backend.infra.files.parquet import count_rows
from jobs.batches.token_files import (
    POLL_S,
    Blocks,
    RowTokens,
    StoredTokens,
    Supervisor,
    TokenWriter,
    id_type,
    open_tokens,
    read_token_manifest,
)
from jobs.modeling.dataset_files import read_meta, split_file
from jobs.reporter import PROGRESS_EVERY_S, Reporter, StopRequested

FORMAT = 1
PIECE_ROWS = 256
MIXED_GROUPS, MIXED_BYTES = 32, 1 << 28
"""Row groups whose pieces are mixed, and their bytes, which are in memory together."""
OWN_PROCESS_BYTES = 32 << 20
"""Uncompressed bytes of a split from which a process of its own, which takes seconds to start, is worth while."""
MAX_DEATHS = 3
DATASETS = "datasets"
ROOT = Path(__file__).parents[2]
CODE = (
    "jobs/batches",
    "jobs/modeling/chat.py",
    "jobs/modeling/tokenizers.py",
    "backend/domain/data/rows",
    "backend/domain",
)
LIBRARIES = ("tokenizers", "transformers", "jinja2")

Encode = Callable[[PreTrainedTokenizerBase, list[Row]], list[RowTokens]]


@dataclass(frozen=True)
class TokenForm:
    """The form that rows take as tokens. `segments` are those of an item. The chat template matters if it `renders`;
    trained tokens are marked if it `has_marks`. A run reads it a step at a time if it `streams`.
    """

    name: str
    segments: int
    encode: Encode
    renders: bool = True
    has_marks: bool = False
    streams: bool = False


class Maker:
    """A process that makes a form's tokens of both splits: its command, and the file in which it leaves an error."""

    def __init__(self, command: list[str], error: Path) -> None:
        self._command, self._error = command, error
        self._child: subprocess.Popen[bytes] | None = None
        self._deaths = 0

    def keep(self, place: SplitFolder) -> None:
        """Start the process if none makes a folder. Raises its error; if it was killed, it has two more chances."""
        status = None if self._child is None else self._child.poll()
        if self._child is not None and status is None:
            return
        if status:
            self._child = None
            self._explain()
        manifest = read_token_manifest(place.path)
        if (manifest is None or not manifest.is_complete) and not is_locked(place.path / LOCK):
            self._child = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, cwd=ROOT)

    def _explain(self) -> None:
        if self._error.is_file():
            record = json.loads(self._error.read_text(encoding="utf-8"))
            error_class = InvalidInput if record["invalid"] else JobFailed
            raise error_class(record["cause"], remedy=record["remedy"], field=record["field"])
        self._deaths += 1
        if self._deaths == MAX_DEATHS:
            raise JobFailed(
                "The tokens could not be made: their process died three times.", remedy="The log has its last words."
            )


@dataclass(frozen=True)
class SplitFolder:
    """The folder of a split's tokens, named by its identity: all that they follow from."""

    form: TokenForm
    split: Split
    path: Path
    identity: dict[str, Any]

    def open(self, blocks: Blocks | None = None) -> StoredTokens | None:
        """Open the folder; None if nothing of this identity is there."""
        return open_tokens(self.path, segments=self.form.segments, identity=self.identity, blocks=blocks)

    @property
    def name(self) -> str:
        """The folder as the store knows it."""
        return f"{FOLDER}/{self.path.name}"


@dataclass(frozen=True)
class TokenSource:
    """A dataset version, and a tokenizer with the template of the training. Folders of tokens lie below `root`.

    With a supervisor, tokens are taken from the store where splits were left there.
    """

    dataset: Path
    tokenizer: PreTrainedTokenizerBase
    root: Path
    reporter: Reporter
    supervisor: Supervisor | None = None
    unsent: set[str] = field(default_factory=set)
    """Folders that the store was found to lack."""

    def open(self, form: TokenForm, split: Split, *, maker: Maker | None = None) -> StoredTokens | None:
        """Return a split's tokens; None if the split is missing. With a maker they may still be in the making.

        Raises InvalidInput for a tokenizer or rows that can't be encoded, JobFailed if the disk is full, StopRequested.
        """
        if (file := self._missing_file(split)) is None and split_file(self.dataset, split) is None:
            return None
        place = self.split_folder(form, split)
        tokens = place.open() if file is None else self._open_stored(place)
        if tokens is not None and tokens.is_complete:
            os.utime(place.path / MANIFEST)  # folders that no run has opened for long are deleted
            if tokens.blocks is not None:
                self.reporter.log(f"The tokens of the {split} split stay in the store: each step's come before it.")
            return tokens
        waiting = _Waiting(place, self.reporter, maker=maker)
        waiting.tell(0)
        if maker is not None:
            while tokens is None:
                waiting.keep()
                time.sleep(POLL_S)
                tokens = place.open()
            growing = tokens
            growing.keep_waiting, growing.progress = waiting.keep, waiting.note
            if growing.is_complete:
                self._finish(place, growing)
            growing.on_complete.append(lambda: self._finish(place, growing))
            return growing
        while tokens is None or not tokens.is_complete:
            if not make_tokens(self, place, tell=lambda writer: waiting.tell(writer.rows)):
                waiting.keep()
                time.sleep(POLL_S)
            tokens = place.open()
        self._finish(place, tokens)
        return tokens

    def bring_missing(self, form: TokenForm) -> None:
        """Have brought what a run reads of splits that were left in the store: tokens, or the rows to make them of."""
        for split in SPLITS:
            if self._missing_file(split) is not None:
                self._open_stored(self.split_folder(form, split))

    def _missing_file(self, split: Split) -> Path | None:
        """Return a split's file that was left in the store."""
        file = self.dataset / f"{split}.parquet"
        is_missing = self.supervisor is not None and not file.is_file() and read_meta(self.dataset)[f"{split}_rows"]
        return file if is_missing else None

    def _open_stored(self, place: SplitFolder) -> StoredTokens | None:
        """Open tokens that are here, or are in the store; if they are not, have the dataset brought."""
        assert self.supervisor is not None
        place.path.mkdir(parents=True, exist_ok=True)
        while True:
            if (tokens := place.open()) is not None and tokens.is_complete:
                return tokens
            with try_lock(place.path / LOCK) as is_free:
                if is_free:
                    break
            self.supervisor.wait(lambda: not is_locked(place.path / LOCK))
        answer = self.supervisor.ask(FolderAsk(folder=place.name, streams=place.form.streams))
        if answer.state == "absent":
            missing = [split for split in SPLITS if self._missing_file(split) is not None]
            self.unsent.update(self.split_folder(place.form, split).name for split in missing)
            self.supervisor.ask(FolderAsk(folder=f"{DATASETS}/{self.dataset.name}"))
        return place.open(Blocks(self.supervisor, place.name, answer) if answer.state == "streamed" else None)

    def _finish(self, place: SplitFolder, tokens: StoredTokens) -> None:
        self.reporter.log(f"Tokenised the {place.split} split: {tokens.num_tokens:,} tokens.")
        if place.name in self.unsent and self.supervisor is not None:
            self.unsent.discard(place.name)
            self.supervisor.ask(FolderAsk(folder=place.name, sends=True))

    def split_folder(self, form: TokenForm, split: Split) -> SplitFolder:
        """Return the folder of a split's tokens."""
        file = self.dataset / f"{split}.parquet"
        template = str(self.tokenizer.chat_template) if form.renders else ""
        identity = {
            "format": FORMAT,
            "form": form.name,
            "dataset": self._content or hash_file(file),
            "split": split,
            "rows": count_rows(file) if file.is_file() else read_meta(self.dataset)[f"{split}_rows"],
            "tokenizer": hashlib.sha256((self._tokenizer + template).encode()).hexdigest(),
            "code": code_hash(),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
        return SplitFolder(form, split, self.root / f"{form.name}-{split}-{key}", identity)

    @cached_property
    def _content(self) -> str:
        """The version's content hash; empty for a folder that no import wrote."""
        return str(read_meta(self.dataset).get("content_hash") or "") if (self.dataset / "meta.json").is_file() else ""

    @cached_property
    def _tokenizer(self) -> str:
        tokenizer = self.tokenizer
        if not tokenizer.is_fast:
            raise InvalidInput(
                "The tokenizer has no fast form (tokenizer.json), which training needs.", field="tokenizer"
            )
        added = sorted(
            (number, str(token.content), bool(token.special))
            for number, token in tokenizer.added_tokens_decoder.items()
        )
        ends = [tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)]
        return json.dumps([tokenizer.backend_tokenizer.to_str(), str(tokenizer.special_tokens_map), ends, added])


def code_hash() -> str:
    """Return a hash of the code and libraries of tokens: an upgrade never reads what older code encoded."""
    digest = hashlib.sha256(json.dumps([version(name) for name in LIBRARIES]).encode())
    for part in CODE:
        path = ROOT / part
        for source in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]


def count_pieces(file: Path) -> int:
    """Return the number of pieces of a file, from its footer."""
    footer = pyarrow.parquet.read_metadata(file)
    return sum(-(-footer.row_group(index).num_rows // PIECE_ROWS) for index in range(footer.num_row_groups))


def row_pieces(
    file: Path, *, mixed: bool, first: int = 0, last: int | None = None
) -> Iterator[tuple[list[int], list[Row]]]:
    """Yield a file's rows in pieces of up to 256 consecutive ones, with their numbers, in the order in which tokens are
    stored: the pieces from `first` to before `last`.

    With `mixed` the row groups come in an order that follows from their number alone, and the pieces of up to 32 of
    them are mixed. Texts that follow each other mostly stay together; a file that is sorted by topic does not give a
    run one topic after the other.
    """
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as source:
        groups = [source.metadata.row_group(index) for index in range(source.num_row_groups)]
        starts = np.cumsum([0, *(group.num_rows for group in groups)]).tolist()
        draw = np.random.default_rng(0)
        order = draw.permutation(len(groups)).tolist() if mixed else list(range(len(groups)))
        before = 0
        for block in _blocks(order, [group.total_byte_size for group in groups]):
            pieces = [(group, at) for group in block for at in range(0, groups[group].num_rows, PIECE_ROWS)]
            if mixed:
                pieces = [pieces[place] for place in draw.permutation(len(pieces))]
            end = len(pieces) if last is None else max(0, last - before)
            yield from _read_pieces(source, pieces[max(0, first - before) : end], starts)
            before += len(pieces)


def _blocks(order: list[int], sizes: list[int]) -> Iterator[list[int]]:
    block: list[int] = []
    for group in order:
        if block and (len(block) == MIXED_GROUPS or sum(sizes[each] for each in [*block, group]) > MIXED_BYTES):
            yield block
            block = []
        block.append(group)
    if block:
        yield block


def _read_pieces(
    source: pyarrow.parquet.ParquetFile, pieces: list[tuple[int, int]], starts: list[int]
) -> Iterator[tuple[list[int], list[Row]]]:
    tables = {
        group: source.read_row_group(group, use_threads=False) for group in sorted({group for group, _ in pieces})
    }
    for group, at in pieces:
        rows = [clean_row(row) for row in tables[group].slice(at, PIECE_ROWS).to_pylist()]
        first = starts[group] + at
        yield list(range(first, first + len(rows))), rows


def make_tokens(
    source: TokenSource, place: SplitFolder, *, tell: Callable[[TokenWriter], None] = lambda writer: None
) -> bool:
    """Make a split's tokens, continuing what an earlier maker left; return False if another process makes them.

    `tell` is called after each piece, and may raise to stop: what is done is kept. Raises what `TokenSource.open`
    raises.
    """
    place.path.mkdir(parents=True, exist_ok=True)
    with try_lock(place.path / LOCK) as is_free:
        if not is_free:
            return False
        known = place.open()
        if known is not None and known.is_complete:
            return True
        writer = TokenWriter(
            place.path, place.identity, dtype=id_type(len(source.tokenizer), has_marks=place.form.has_marks)
        )
        try:
            _write(source, place, writer, tell)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise JobFailed(
                    f"The disk is full: the tokens of the {place.split} split could not be written.",
                    remedy="Free space, then start the run again: they are continued.",
                ) from error
            raise
        finally:
            writer.close()
    return True


def _write(source: TokenSource, place: SplitFolder, writer: TokenWriter, tell: Callable[[TokenWriter], None]) -> None:
    if writer.pieces == 0:
        writer.flush()  # others see that it is being made
    file = source.dataset / f"{place.split}.parquet"
    for numbers, rows in row_pieces(file, mixed=place.split == "train", first=writer.pieces):
        writer.add(numbers, place.form.encode(source.tokenizer, rows))
        try:
            tell(writer)
        except BaseException:
            writer.flush()
            raise
    writer.flush(is_complete=True)


class _Waiting:
    """Waits for a folder: starts a maker if there is none, and reports progress."""

    def __init__(self, place: SplitFolder, reporter: Reporter, *, maker: Maker | None) -> None:
        self._place, self._reporter, self._maker = place, reporter, maker
        self._total = int(place.identity["rows"])
        self._first: tuple[float, int] | None = None
        self._told = 0.0

    def keep(self) -> None:
        """Start a maker if there is none, and report progress. Raises StopRequested, and the maker's error."""
        if self._maker is not None:
            self._maker.keep(self._place)
        self.tell(self._rows())

    def note(self) -> str:
        """Return the progress of the folder as text, and start a maker if there is none."""
        if self._maker is not None:
            self._maker.keep(self._place)
        rows, now = self._rows(), time.monotonic()
        self._first = self._first or (now, rows)
        done, lasted = rows - self._first[1], now - self._first[0]
        left = f", {format_duration((self._total - rows) * lasted / done)} left" if done and lasted > 0.5 else ""
        return f"tokens made of {rows:,} of {self._total:,} rows{left}"

    def _rows(self) -> int:
        manifest = read_token_manifest(self._place.path)
        return int(manifest.counts.get("rows", 0)) if manifest is not None else 0

    def tell(self, rows: int) -> None:
        """Report the rows that are done. Raises StopRequested."""
        now = time.monotonic()
        if self._told and now - self._told < PROGRESS_EVERY_S:
            return
        self._told = now
        self._first = self._first or (now, rows)
        lasted = now - self._first[0]
        rate = (rows - self._first[1]) / lasted if lasted > 0.5 else 0.0
        message = f"Making the tokens of the {'training' if self._place.split == 'train' else 'validation'} split"
        self._reporter.progress(rows, self._total, unit="row", rate=rate or None, message=message)
        if self._reporter.should_stop():
            raise StopRequested
