"""One installation for the fault tests that can share one, with a small dataset and a byte tokenizer in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.services.context import LOCAL
from backend.services.data.datasets import resolve_version
from backend.services.data.imports import add_rows_dataset
from backend.services.tokenizers.tokenizers import get_tokenizer, train_tokenizer
from tests.support.installation import Installation, wait_until


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A running installation."""
    running = Installation(tmp_path_factory.mktemp("installation")).start()
    try:
        rows = [{"text": f"Row {n}: the {n % 7} engines stand in the roundhouse and wait for steam. " * 8} for n in range(60)]
        add_rows_dataset(running.ctx, name="lines", kind="text", rows=rows, provenance={}, person=LOCAL)
        train_tokenizer(running.ctx, name="bytes", dataset="lines", kind="byte", person=LOCAL)
        wait_until(lambda: resolve_version(running.ctx, "lines", ready=False).folder, what="the import")
        wait_until(lambda: get_tokenizer(running.ctx, "bytes").folder, what="the tokenizer")
        yield running
    finally:
        running.stop()
