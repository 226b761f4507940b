"""One installation for the fault tests that can share one, with a small dataset and a byte tokenizer in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import RunConfig
from backend.services.context import LOCAL
from backend.services.data.datasets import resolve_version
from backend.services.data.imports import add_rows_dataset
from backend.services.tokenizers.tokenizers import get_tokenizer, train_tokenizer
from tests.support.installation import Installation, wait_until

TINY = ArchitectureConfig(num_layers=2, width=32, num_heads=2, num_kv_heads=2, context=64, vocab_size=320, feed_forward=64)


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


def tiny_run(name: str, **values: object) -> RunConfig:
    """A run of a few seconds on the fixture's dataset."""
    defaults: dict[str, object] = {
        "name": name,
        "dataset": "lines",
        "architecture": TINY,
        "tokenizer": "bytes",
        "max_steps": 400,
        "micro_batch": 4,
        "context": 64,
        "warmup_steps": 5,
        "eval_every": 100,
        "eval_batches": 1,
        "checkpoint_every": 50,
        "sample_tokens": 8,
    }
    return RunConfig.model_validate({**defaults, **values})
