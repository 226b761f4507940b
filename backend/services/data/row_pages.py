"""Read some rows of a version, without its file where that is large and in a store."""

from __future__ import annotations

import pyarrow

from backend.domain.json_values import Row
from backend.errors import Unavailable
from backend.infra.files.parquet import read_some_rows
from backend.services.context import Context


def read_version_rows(ctx: Context, folder: str, *, split: str, offset: int = 0, limit: int = 20) -> list[Row]:
    """Return some rows of a split of the version in this folder; none if it has no such split. Of a large file in a
    store little more than these rows is fetched.

    Raises Unavailable.
    """
    try:
        with ctx.artifacts.opened(f"{folder}/{split}.parquet") as file:
            return read_some_rows(file, offset=offset, limit=limit)
    except FileNotFoundError:
        return []
    except pyarrow.ArrowException as error:
        raise Unavailable(f"The rows of {folder} can't be read: {error}.") from error
