"""Build message trees from a table with one message per row, in any order and of any size. The messages are indexed in
a temporary SQLite file; each tree becomes one row of a block, as in a nested source.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from backend.domain.data.parsing.text_formats import NumberedRow
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.trees import TREE, read_message
from backend.domain.data.splits import Split
from backend.infra.files.local import Ignored, LocalListing
from jobs.data.parsing import rows_of, shown
from jobs.data.readers import TABLE_BYTES, Bytes, RowBlock, SourcePosition, SourceRows

MESSAGES_IN_BLOCK = 2000
MAX_DEPTH = 10_000
_SCHEMA = """
CREATE TABLE message (
  place INTEGER PRIMARY KEY, file TEXT, row INTEGER, id TEXT UNIQUE, parent TEXT, body TEXT, problem TEXT,
  is_reached INTEGER DEFAULT 0
);
"""
_TREE = """
WITH RECURSIVE tree(place, depth) AS (
  SELECT ?, 0 UNION ALL SELECT message.place, tree.depth + 1 FROM tree JOIN message AS above USING (place)
  JOIN message ON message.parent = above.id WHERE tree.depth < ?
) SELECT place, id, parent, body FROM tree JOIN message USING (place) ORDER BY place
"""


class MessageTrees:
    """The trees of a source in blocks, with the interface of other sources. Bad rows keep their position."""

    sides: tuple[Split, ...] | None = None

    def __init__(self, rows: SourceRows, mapping: Mapping[str, str], *, folder: Path) -> None:
        self._rows, self._mapping, self._folder = rows, mapping, folder
        self.listing: LocalListing = rows.listing
        self.name, self.size = rows.name, rows.size

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """Files that are left out."""
        return self._rows.ignored

    def reuse(self, data: Bytes) -> None:
        """Do nothing: the blocks hold no buffers."""

    def blocks(
        self, start: SourcePosition = SourcePosition(), *, columns: tuple[str, ...] = (), table_bytes: int = TABLE_BYTES
    ) -> Iterator[RowBlock]:
        """Yield an empty block for each indexed block of the table, then the trees from the `start.offset`-th on."""
        with (
            tempfile.TemporaryDirectory(prefix=".messages-", dir=self._folder) as place,
            closing(sqlite3.connect(Path(place) / "messages.db")) as db,
        ):
            db.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_SCHEMA}")
            for block in self._rows.blocks(columns=tuple(self._mapping)):
                self._index(db, block)
                self._rows.reuse(block.data)
                yield RowBlock("", ".tree", 1, start, block.position // 2, rows=())
            db.execute("CREATE INDEX of_parent ON message (parent, place)")
            yield from self._tree_blocks(db, start)

    def _index(self, db: sqlite3.Connection, block: RowBlock) -> None:
        for number, row in rows_of(block):
            try:
                if isinstance(row, RowProblem):
                    raise row
                id_, parent, message = read_message(row, mapping=self._mapping)
                self._add(db, (block.file, number, id_, parent, json.dumps(message, default=str), None))
            except sqlite3.IntegrityError:
                first = db.execute("SELECT row FROM message WHERE id = ?", (id_,)).fetchone()[0]
                self._add(
                    db,
                    (
                        block.file,
                        number,
                        None,
                        None,
                        shown(row),
                        f"the message id {id_!r} is also that of row {first:,}",
                    ),
                )
            except RowProblem as problem:
                self._add(db, (block.file, number, None, None, problem.raw or shown(row), problem.reason))

    def _add(self, db: sqlite3.Connection, values: tuple[Any, ...]) -> None:
        # a lone surrogate can't be stored; the JSON text keeps it escaped, and the row's check reports it
        clean = [value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in values]
        db.execute("INSERT INTO message (file, row, id, parent, body, problem) VALUES (?, ?, ?, ?, ?, ?)", clean)

    def _tree_blocks(self, db: sqlite3.Connection, start: SourcePosition) -> Iterator[RowBlock]:
        total = db.execute("SELECT count(*) FROM message").fetchone()[0]
        batch: list[NumberedRow] = []
        file, done, num_messages, waiting = "", 0, 0, 0
        for name, number, row, messages in self._units(db):
            done, num_messages = done + 1, num_messages + messages
            if done <= start.offset:
                continue
            if batch and (name != file or waiting >= MESSAGES_IN_BLOCK):
                yield self._block(file, batch, done - 1, self.size * (total + num_messages) // (2 * total))
                batch, waiting = [], 0
            file, waiting = name, waiting + messages
            batch.append((number, row))
        if batch:
            yield self._block(file, batch, done, self.size)

    def _block(self, file: str, batch: list[NumberedRow], done: int, position: int) -> RowBlock:
        return RowBlock(file, ".tree", batch[0][0], SourcePosition(0, done, done + 1), position, rows=tuple(batch))

    def _units(self, db: sqlite3.Connection) -> Iterator[tuple[str, int, dict[str, object] | RowProblem, int]]:
        """Yield (file, row, tree or problem, messages in it): trees and bad rows in order, then messages without."""
        query = "SELECT place, file, row, body, problem FROM message WHERE parent IS NULL ORDER BY place"
        for place, file, number, body, problem in db.execute(query):
            if problem is not None:
                yield file, number, RowProblem(problem, raw=body), 1
                continue
            root, count = self._tree(db, place)
            yield file, number, {TREE: root}, count
        orphans = """SELECT file, row, body, parent,
                            EXISTS (SELECT 1 FROM message AS above WHERE above.id = message.parent)
                     FROM message WHERE parent IS NOT NULL AND NOT is_reached ORDER BY place"""
        for file, number, body, parent, is_known in db.execute(orphans):
            reason = (
                f"its thread leads to no first message: a message above `{parent}` is missing or answers itself"
                if is_known
                else f"the message `{parent}` that it answers is not in the source"
            )
            yield file, number, RowProblem(reason, raw=body), 1

    def _tree(self, db: sqlite3.Connection, root: int) -> tuple[dict[str, object], int]:
        rows = db.execute(_TREE, (root, MAX_DEPTH)).fetchall()
        messages = {id_: json.loads(body) for _, id_, _, body in rows}
        name = next(id_ for place, id_, *_ in rows if place == root)
        for _, id_, parent, _ in rows:
            if parent in messages:
                messages[parent].setdefault("replies", []).append(messages[id_])
        db.executemany("UPDATE message SET is_reached = 1 WHERE place = ?", [(place,) for place, *_ in rows])
        return messages[name], len(rows)
