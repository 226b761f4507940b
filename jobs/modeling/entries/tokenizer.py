"""The job that trains a tokenizer on a dataset version."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from backend.domain.jobs.payloads import TrainTokenizerPayload
from backend.domain.jobs.results import TrainTokenizerResult
from backend.errors import InvalidInput, JobFailed, NotFound
from jobs.modeling.dataset_files import TextSample
from jobs.modeling.publishing import publish_folder
from jobs.modeling.tokenizers import byte_tokenizer, encode_texts, largest_alphabet, train_bpe, train_unigram
from jobs.reporter import JobSpec, Reporter

SAMPLE_BYTES = {"bpe": 256_000_000, "unigram": 64_000_000, "byte": 0}
"""Largest training text. Pieces converge long before; memory and time grow with distinct words."""
MEASURED_BYTES = 2_000_000
MAX_RUN = 100
"""Longest run without a space (or of spaces alone) in training, whose time grows with the square of a word's length."""
POLL_S = 0.25
_LONG = re.compile(rf"(?:\S{{{MAX_RUN}}}|\s{{{MAX_RUN}}})")


def run(spec: JobSpec[TrainTokenizerPayload], reporter: Reporter) -> TrainTokenizerResult:
    """Train on the train split of `dataset`; save to `out` in Hugging Face format.

    Payload: `dataset`, `kind` ("bpe", "unigram" or "byte"), `vocab_size`, `out`. Returns `folder`, `kind`,
    `vocab_size`, `asked_vocab_size`, `bytes_per_token` (on at most 2 MB of the split `measured_on`: val, or train
    without one), and `sample_rows`, `sample_bytes` of `total_rows`: the training text. Raises InvalidInput if the text
    is too small for the vocabulary (it yields less than half of it), JobFailed when asked to stop.
    """
    payload = spec.payload
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    folder = spec.path(payload.dataset_folder)
    if not (folder / "train.parquet").is_file():
        raise NotFound(
            f"The dataset's folder {payload.dataset} has no train.parquet.", remedy="Import the dataset again."
        )
    kind = payload.kind
    sample = TextSample(folder / "train.parquet", max_bytes=SAMPLE_BYTES[kind] or 1)
    vocab_size = 262 if kind == "byte" else payload.vocab_size
    tokenizer = byte_tokenizer() if kind == "byte" else _train(kind, sample, vocab_size=vocab_size, reporter=reporter)
    _check_yield(len(tokenizer), vocab_size, sample)
    split = "val" if (folder / "val.parquet").is_file() else "train"
    rate = measure_bytes_per_token(tokenizer, folder / f"{split}.parquet")
    _write(tokenizer, spec.path(payload.out))
    reporter.log(f"The tokenizer has {len(tokenizer):,} entries" + (f", {rate:.2f} bytes per token." if rate else "."))
    return TrainTokenizerResult(
        folder=payload.out,
        kind=kind,
        vocab_size=len(tokenizer),
        asked_vocab_size=vocab_size,
        bytes_per_token=round(rate, 4) if rate else None,
        measured_on=split,
        sample_rows=sample.rows,
        sample_bytes=sample.bytes,
        total_rows=sample.total_rows,
    )


def _train(kind: str, sample: TextSample, *, vocab_size: int, reporter: Reporter) -> PreTrainedTokenizerFast:
    def read() -> Iterator[str]:
        for text in report_rows(sample, reporter, message="Reading text"):
            yield from short_runs(text)
        reporter.progress(1, 1, unit="part", message="Building the vocabulary")

    def work() -> PreTrainedTokenizerFast:
        if kind == "bpe":
            return train_bpe(read(), vocab_size=vocab_size)
        counted = report_rows(sample, reporter, message="Counting characters")
        return train_unigram(
            only_frequent(read(), choose_alphabet(counted, limit=largest_alphabet(vocab_size))), vocab_size=vocab_size
        )

    return run_watched(work, reporter)


def report_rows(sample: TextSample, reporter: Reporter, *, message: str) -> Iterator[str]:
    """Yield a sample's texts, reporting progress twice per second."""
    last = time.monotonic()
    expected = max(1, sample.total_rows // sample.every)
    for text in sample:
        if time.monotonic() - last > 0.5 or sample.rows == 1:
            last = time.monotonic()
            reporter.progress(min(sample.rows, expected), expected, unit="row", message=message)
        yield text


def run_watched(work: Callable[[], PreTrainedTokenizerFast], reporter: Reporter) -> PreTrainedTokenizerFast:
    """Run `work` in a thread, to heed stop requests while the library computes. Raises JobFailed on a stop request."""
    done: list[PreTrainedTokenizerFast] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            done.append(work())
        except BaseException as error:  # re-raised in the waiting thread; a panic of the library is not an Exception
            failed.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        if reporter.should_stop() is not None:
            raise JobFailed("The training was stopped on request.", remedy="No files were kept; train again to retry.")
    if failed:
        raise failed[0]
    return done[0]


def short_runs(text: str) -> Iterable[str]:
    """Split a text at runs of more than 100 characters without a space, or of spaces alone.

    To a trainer a megabyte of one letter is a single word, which would take days.
    """
    if not _LONG.search(text):
        return (text,)
    return (part for part in re.split(rf"((?:\S{{{MAX_RUN}}}|\s{{{MAX_RUN}}}))", text) if part)


def choose_alphabet(texts: Iterable[str], *, limit: int) -> frozenset[str] | None:
    """Return the `limit` most frequent characters of the texts; None if they have no more than that."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return frozenset(letter for letter, _ in counts.most_common(limit)) if len(counts) > limit else None


def only_frequent(texts: Iterable[str], alphabet: frozenset[str] | None) -> Iterator[str]:
    """Yield the texts with every character outside the alphabet replaced by a line break, which no piece spans."""
    if alphabet is None:
        yield from texts
        return
    table = _Only({ord(letter): letter for letter in alphabet})
    for text in texts:
        yield text.translate(table)


class _Only(dict[int, str]):
    def __missing__(self, code: int) -> str:
        self[code] = "\n"
        return "\n"


def measure_bytes_per_token(tokenizer: PreTrainedTokenizerFast, file: Path) -> float | None:
    """Return the bytes of text per token, on at most 2 MB of a split; None for a split without text."""
    sample = TextSample(file, max_bytes=MEASURED_BYTES)
    tokens = sum(len(encode_texts(tokenizer, [text])[0]) for text in sample)
    return sample.bytes / tokens if tokens else None


def _check_yield(made: int, requested: int, sample: TextSample) -> None:
    if sample.rows == 0 and sample.total_rows and made < requested:
        raise InvalidInput(
            "The dataset's rows hold no text to train on.", remedy="Choose another dataset.", field="dataset"
        )
    if made < requested / 2:
        raise InvalidInput(
            f"The text is too small for a vocabulary of {requested:,}: its {sample.bytes:,} bytes yield {made:,}"
            " entries.",
            remedy=f"Choose {made:,} or fewer, or a dataset with more text.",
            field="vocab_size",
        )


def _write(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        tokenizer.save_pretrained(partial)
        publish_folder(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
