"""Read a source in shards of consecutive files, each by a process of its own, and join their rows in order, as if one
process had read them.

`<folder>/shard-00003/` is a finished shard: `rows.parquet`, whose row groups are the source's blocks, `blocks.jsonl`
with what else is known of each block, and a folder for each split with what its rows are compared by. Imports no
datatrove, which jobs.data.shard_tasks does, and no transformers, for processes that watch shards.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from itertools import accumulate, takewhile
from pathlib import Path
from typing import ClassVar, Self

import pyarrow
from pyarrow import parquet

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.mapping import clean_row
from backend.domain.data.rows.problem import BadRow
from backend.domain.data.splits import SPLITS, Split
from backend.domain.jobs.records import FrozenRecord
from backend.errors import JobFailed
from backend.infra.files.local import Ignored, LocalListing
from jobs.data.checkpoint import import_key
from jobs.data.columns import plan_columns
from jobs.data.filters import RowFilters, add_rows
from jobs.data.parsing import Parsed, Parser
from jobs.data.readers import TABLE_BYTES, Bytes, RowBlock, SourcePosition, SourceRows
from jobs.data.refusals import bad_rows
from jobs.data.reports.duplicates import DuplicateFinder
from jobs.data.reports.rows import BATCH_ROWS
from jobs.data.row_keys import RowKeys
from jobs.data.schemas import SCHEMAS
from jobs.data.sources import open_source, read_head
from jobs.data.splitting import Splitter
from jobs.modeling.publishing import publish_once, publish_text


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


class ShardPlan(PlanInParts):
    """The settings that every shard is read by. Shard i reads the files `bounds[i]` to before `bounds[i + 1]` of the
    source, whose files are those of `files_key`; with `compares` it also writes what rows are compared by.
    """

    file = "shards.json"

    source: str
    files_key: str
    kind: DatasetKind
    mapping: dict[str, str]
    encoding: str | None
    val_fraction: float
    seed: int
    by_first_message: bool
    keep_good: bool
    filters: RowFilters
    compares: bool


def shard_bounds(sizes: Sequence[int], shards: int) -> tuple[int, ...]:
    """Divide files into at most this many runs of about equal bytes; return where each begins, and the end."""
    begins = list(accumulate(sizes, initial=0))
    number = [min(begin * shards // max(1, begins[-1]), shards - 1) for begin in begins[:-1]]
    first = [place for place in range(len(sizes)) if place == 0 or number[place] != number[place - 1]]
    return (*first, len(sizes))


def shard_folder(folder: Path, number: int) -> Path:
    """Return the folder of a finished shard."""
    return folder / f"shard-{number:05d}"


def read_shard(folder: Path, number: int) -> None:
    """Read one shard. Its folder appears whole or not at all; of two processes that read the same, one wins.

    Raises InvalidInput for bad rows that may not be skipped, JobFailed if the source has changed.
    """
    target = shard_folder(folder, number)
    if target.is_dir():
        return
    plan = ShardPlan.load(folder)
    rows = open_source(Path(plan.source), kind=plan.kind, split=None, encoding=plan.encoding)
    if import_key(rows.listing, {}) != plan.files_key:
        raise JobFailed("The source changed while it was read in shards.", remedy="Import it again.")
    parser = Parser(plan.kind, plan.mapping, plan_columns(read_head(rows)[0], kind=plan.kind, mapping=plan.mapping))
    splitter = Splitter(
        kind=plan.kind, val_fraction=plan.val_fraction, seed=plan.seed, by_first_message=plan.by_first_message
    )
    partial = folder / f".{target.name}-{uuid.uuid4().hex[:12]}"
    partial.mkdir()
    try:
        with _ShardWriter(partial, plan) as writer:
            for parsed in _parsed(rows, parser, plan, number):
                if parsed.bad and not plan.keep_good:
                    raise bad_rows(rows.name, parsed.bad)
                writer.add(parsed, splitter.divide(parsed.table, parsed.keys).sides)
        publish_once(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _parsed(rows: SourceRows, parser: Parser, plan: ShardPlan, number: int) -> Iterator[Parsed]:
    begin, end = plan.bounds[number : number + 2]
    columns = () if parser.keeps_records else tuple(parser.mapping)
    for block in takewhile(lambda block: block.after.member < end, rows.blocks(SourcePosition(begin), columns=columns)):
        parsed = plan.filters.apply(parser.parse(block))
        rows.reuse(block.data)
        yield parsed


class _ShardWriter:
    """Writes the files of a shard."""

    def __init__(self, folder: Path, plan: ShardPlan) -> None:
        self._open = ExitStack()
        self._rows = self._open.enter_context(
            parquet.ParquetWriter(
                folder / "rows.parquet",
                SCHEMAS[plan.kind],
                compression="none",
                use_dictionary=False,
                write_statistics=False,
            )
        )
        self._blocks = self._open.enter_context((folder / "blocks.jsonl").open("w", encoding="utf-8"))
        self._finders = {
            split: self._open.enter_context(closing(DuplicateFinder(folder / split)))
            for split in (SPLITS if plan.compares else ())
        }

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def add(self, parsed: Parsed, sides: Mapping[Split, pyarrow.Table]) -> None:
        """Add a block."""
        record = {
            "rows": parsed.table.num_rows,
            "position": parsed.block.position,
            "bad": [asdict(bad) for bad in parsed.bad],
            "dropped": dict(parsed.dropped),
        }
        self._blocks.write(json.dumps(record) + "\n")
        if not parsed.table.num_rows:
            return
        self._rows.write_table(parsed.table, row_group_size=parsed.table.num_rows)
        for split, table in sides.items() if self._finders else ():
            for at in range(0, table.num_rows, BATCH_ROWS):
                add_rows(self._finders[split], list(map(clean_row, table.slice(at, BATCH_ROWS).to_pylist())))


def add_shards(finder: DuplicateFinder, folder: Path, plan: ShardPlan) -> None:
    """Add the rows of all shards to a finder, those of the train split first."""
    for split in SPLITS:
        for number in range(plan.num_shards):
            finder.add_finder(shard_folder(folder, number) / split)


@dataclass(frozen=True)
class _ShardBlock(RowBlock):
    bad: tuple[BadRow, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


class ShardRows:
    """The rows of all shards, in the blocks in which their source was read."""

    sides: tuple[Split, ...] | None = None

    def __init__(self, folder: Path, plan: ShardPlan, source: SourceRows) -> None:
        self.listing: LocalListing = source.listing
        self.name, self.size = source.name, source.size
        self._folder, self._plan, self._ignored = folder, plan, source.ignored

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """Files that are left out."""
        return self._ignored

    def reuse(self, data: Bytes) -> None:
        """Do nothing: its blocks are tables."""

    def blocks(
        self, start: SourcePosition = SourcePosition(), *, columns: tuple[str, ...] = (), table_bytes: int = TABLE_BYTES
    ) -> Iterator[RowBlock]:
        """Yield blocks from a mark on: a shard, and its blocks before."""
        for number in range(start.member, self._plan.num_shards):
            skipped = start.offset if number == start.member else 0
            yield from self._blocks_of(number, skipped=skipped)

    def _blocks_of(self, number: int, *, skipped: int) -> Iterator[RowBlock]:
        shard = shard_folder(self._folder, number)
        group = 0
        with (
            parquet.ParquetFile(shard / "rows.parquet", pre_buffer=False) as stored,
            (shard / "blocks.jsonl").open(encoding="utf-8") as lines,
        ):
            for place, line in enumerate(lines):
                record = json.loads(line)
                has_rows = record["rows"] > 0
                if place >= skipped:
                    yield _ShardBlock(
                        file="",
                        suffix=".shard",
                        first=1,
                        after=SourcePosition(number, place + 1),
                        position=record["position"],
                        table=stored.read_row_group(group, use_threads=False)
                        if has_rows
                        else SCHEMAS[self._plan.kind].empty_table(),
                        bad=tuple(BadRow(**bad) for bad in record["bad"]),
                        dropped=record["dropped"],
                    )
                group += has_rows


@dataclass(frozen=True)
class ShardParser:
    """The parser of a shard's blocks, which are parsed already."""

    kind: DatasetKind
    mapping: Mapping[str, str]
    keeps_records: bool = False

    def parse(self, block: RowBlock) -> Parsed:
        """Return a block's rows."""
        assert isinstance(block, _ShardBlock)
        assert block.table is not None
        return Parsed(block, block.table, RowKeys(block.table), block.bad, block.dropped)
