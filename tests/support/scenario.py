"""Rows of an installation in one line each, where a test needs no more than that they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from backend.db.tables import Dataset, DatasetVersion, Table
from backend.services.context import Context


def add_row(ctx: Context, row: Table) -> str:
    """Insert a row; return its id."""
    with ctx.db.write() as session:
        session.add(row)
        session.flush()
        key: str = row.__mapper__.primary_key_from_instance(row)[0]
        return key


def add_rows(ctx: Context, *rows: Table) -> None:
    """Insert rows, all or none."""
    with ctx.db.write() as session:
        session.add_all(rows)


def add_version(
    ctx: Context, name: str, *, kind: str, train: Sequence[Mapping[str, Any]], val: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Insert a dataset with one version, whose splits are real Parquet; return `name@1`."""
    folder = ctx.artifacts.folder("datasets", name)
    for split, rows in (("train", train), ("val", val)):
        if rows:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / f"{split}.parquet")
    add_row(
        ctx,
        DatasetVersion(
            dataset_id=add_row(ctx, Dataset(name=name, kind=kind)),
            number=1,
            folder=ctx.artifacts.relative(folder),
            content_hash=f"hash of {name}",
            rows=len(train) + len(val),
            train_rows=len(train),
            val_rows=len(val),
        ),
    )
    return f"{name}@1"
