"""The job that trains a tokenizer on a dataset version."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from backend.errors import InvalidInput, NotFound
from jobs.modeling.checkpoints import publish
from jobs.modeling.tokenizers import byte_tokenizer, encode_texts, train_bpe
from jobs.reporter import JobSpec, Reporter

MEASURED_BYTES = 2_000_000


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Train on the train split of `dataset`; write to `out` in Hugging Face form.

    Payload: `dataset`, `kind` ("bpe" or "byte"), `vocab_size`, `out`. Returns `{"folder", "vocab_size", "bytes_per_token", "kind"}`;
    bytes_per_token is measured on at most 2 MB of the same text.
    """
    payload = spec.payload
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    file = spec.path(payload["dataset"]) / "train.parquet"
    if not file.is_file():
        raise NotFound(f"The dataset's folder {payload['dataset']} has no train.parquet.", remedy="Import the dataset again.")
    kind = payload.get("kind", "bpe")
    if kind not in ("bpe", "byte"):
        raise InvalidInput(f"There is no tokenizer kind {kind!r}.", remedy="Choose bpe or byte.", field="kind")
    total = pq.ParquetFile(file).metadata.num_rows
    tokenizer = byte_tokenizer() if kind == "byte" else train_bpe(_report(_texts(file), total, reporter), vocab_size=payload["vocab_size"])
    num_bytes, num_tokens = 0, 0
    for text in _texts(file):
        num_tokens += len(encode_texts(tokenizer, [text[:MEASURED_BYTES]])[0])
        num_bytes += len(text[:MEASURED_BYTES].encode())
        if num_bytes >= MEASURED_BYTES:
            break
    out = spec.path(payload["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        tokenizer.save_pretrained(partial)
        publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    rate = num_bytes / max(num_tokens, 1)
    reporter.log(f"The tokenizer has {len(tokenizer):,} entries and writes {rate:.2f} bytes of this text per token.")
    return {"folder": payload["out"], "vocab_size": len(tokenizer), "bytes_per_token": round(rate, 4), "kind": kind}


def _report(texts: Iterator[str], total: int, reporter: Reporter) -> Iterator[str]:
    every = max(1, total // 50)
    for index, text in enumerate(texts):
        if index % every == 0:
            reporter.progress(index, total, unit="row")
        yield text


def _texts(file: Path) -> Iterator[str]:
    """Yield all text of a split, whatever its kind: texts, prompts, completions, messages of every side."""
    for block in pq.ParquetFile(file).iter_batches(batch_size=512):
        for row in block.to_pylist():
            yield from _texts_of(row)


def _texts_of(value: Any) -> Iterator[str]:
    """Find the strings in a row; of a message the content alone."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, dict):
        parts = [value["content"]] if "content" in value and "role" in value else list(value.values())
        for part in parts:
            yield from _texts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts_of(part)
