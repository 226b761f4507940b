"""Item values packed into one row: the same as the items', also for evaluations without that row."""

from __future__ import annotations

import numpy as np
from sqlalchemy import delete, select

from backend.db.tables import EvaluationItem, PackedItems
from backend.services.context import Context
from backend.services.evaluation.packed_items import ItemValues, common_items, pack_items, packed_key, read_item_values
from tests.support.scenario import Scenario


def test_packed_values_are_those_of_the_items(ctx: Context, scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1, 0, 0.5, 1])
    with ctx.db.read() as session:
        assert session.scalars(select(PackedItems.evaluation_id)).all() == [oak.id]
        query = select(EvaluationItem).where(EvaluationItem.evaluation_id == oak.id)
        stored = {packed_key(row.item_hash): row.values for row in session.scalars(query)}
    packed = read_item_values(ctx, [oak.id])[oak.id]
    assert packed.rows() == stored
    with ctx.db.write() as session:
        session.execute(delete(PackedItems))
    unpacked = read_item_values(ctx, [oak.id])[oak.id]
    assert unpacked.rows() == stored
    assert (unpacked.keys == packed.keys).all()


def test_common_items_are_paired_by_hash_and_a_missing_value_stays_missing() -> None:
    first = pack_items({"a": {"acc": 1.0}, "b": {"acc": 0.0}, "c": {}})
    second = pack_items({"c": {"acc": 1.0}, "b": {"acc": 0.25}, "d": {"acc": 1.0}})
    before, after = common_items(first, second, "acc")
    pairs = {(x, y) for x, y in zip(before.tolist(), after.tolist(), strict=True) if x == x}
    assert pairs == {(0.0, 0.25)}
    assert np.isnan(before).sum() == 1  # c, which the first did not score
    assert np.isnan(first.column("exact_match")).all()


def test_an_evaluation_without_items_is_empty() -> None:
    empty = pack_items({})
    assert isinstance(empty, ItemValues)
    assert len(empty.keys) == 0
    assert empty.rows() == {}
