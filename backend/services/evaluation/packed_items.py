"""Values of all items of an evaluation, packed into one row when it finishes: a board reads kilobytes, not items.

Hashes are cut to 8 bytes, so among 10,000 items two collide with a chance of 1 in 10^11.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from backend.db.tables import EvaluationItem, PackedItems
from backend.services.context import Context

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class ItemValues:
    """Values of an evaluation's items. `keys` are sorted; `table` has a row for each item, NaN where it lacks one."""

    keys: Keys
    metrics: tuple[str, ...]
    table: Floats

    def column(self, metric: str) -> Floats:
        """Return one metric's values, NaN where it is missing."""
        if metric not in self.metrics:
            return np.full(len(self.keys), np.nan)
        values: Floats = self.table[:, self.metrics.index(metric)]
        return values

    def rows(self) -> dict[int, dict[str, float]]:
        """Return each item's values by its key, without those it lacks."""
        return {
            int(key): {name: float(value) for name, value in zip(self.metrics, row, strict=True) if not np.isnan(value)}
            for key, row in zip(self.keys, self.table, strict=True)
        }


def pack_items(items: Mapping[str, Mapping[str, float]]) -> ItemValues:
    """Return the values of items given by hash."""
    metrics = tuple(dict.fromkeys(name for values in items.values() for name in values))
    keys = np.array([packed_key(item_hash) for item_hash in items], dtype=np.uint64)
    table = np.array([[values.get(name, np.nan) for name in metrics] for values in items.values()], dtype=np.float64)
    order = np.argsort(keys)
    return ItemValues(keys[order], metrics, table.reshape(len(keys), len(metrics))[order])


def packed_key(item_hash: str) -> int:
    """Return the packed key of an item's hash."""
    return int.from_bytes(hashlib.blake2b(item_hash.encode(), digest_size=8).digest(), "big")


def store_packed(session: Session, evaluation_id: str) -> None:
    """Pack an evaluation's items, in place of what was packed before."""
    values = pack_items(_read_items(session, evaluation_id))
    session.execute(delete(PackedItems).where(PackedItems.evaluation_id == evaluation_id))
    data = zlib.compress(values.keys.tobytes() + np.ascontiguousarray(values.table.T).tobytes(), level=1)
    session.add(PackedItems(evaluation_id=evaluation_id, metrics=list(values.metrics), data=data))


def read_item_values(ctx: Context, evaluation_ids: Sequence[str]) -> dict[str, ItemValues]:
    """Return the values of evaluations' items by evaluation; of one that has not finished they are read by item."""
    with ctx.db.read() as session:
        packed = {
            row.evaluation_id: _unpack(row)
            for row in session.scalars(select(PackedItems).where(PackedItems.evaluation_id.in_(evaluation_ids)))
        }
        return {one: packed.get(one) or pack_items(_read_items(session, one)) for one in evaluation_ids}


def common_items(first: ItemValues, second: ItemValues, metric: str) -> tuple[Floats, Floats]:
    """Return a metric's values on the items that both evaluations have, in the same order."""
    _, before, after = np.intersect1d(first.keys, second.keys, assume_unique=True, return_indices=True)
    return first.column(metric)[before], second.column(metric)[after]


def count_common(first: ItemValues, second: ItemValues) -> int:
    """Return how many items both evaluations have."""
    return len(np.intersect1d(first.keys, second.keys, assume_unique=True))


def _read_items(session: Session, evaluation_id: str) -> dict[str, dict[str, float]]:
    query = select(EvaluationItem.item_hash, EvaluationItem.values).where(EvaluationItem.evaluation_id == evaluation_id)
    return dict(session.execute(query).all())


def _unpack(row: PackedItems) -> ItemValues:
    data, width = zlib.decompress(row.data), 8 * (1 + len(row.metrics))
    count = len(data) // width
    keys = np.frombuffer(data, dtype=np.uint64, count=count)
    table = np.frombuffer(data, dtype=np.float64, offset=8 * count).reshape(len(row.metrics), count).T
    return ItemValues(keys, tuple(row.metrics), table)
