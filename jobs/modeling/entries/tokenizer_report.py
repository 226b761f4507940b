"""The job that measures tokenizers: tokens per word, bytes per token and unknown tokens by dataset and language."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from backend.domain.data.languages import OTHER
from backend.domain.jobs.reports import TokenizerReportPayload
from backend.domain.jobs.results import LanguageShare, MeasuredDataset, MeasuredTokenizer, TokenizerReportResult
from backend.domain.tokenizers.counts import TokenCounts, count_words, small_languages
from backend.domain.tokenizers.pieces import PieceForm, unknown_token
from backend.errors import InvalidInput, JobFailed, NotFound
from jobs.modeling.dataset_files import TextSample
from jobs.modeling.languages import LanguageGuesser
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.reporter import JobSpec, Reporter

MAX_ROWS, MAX_BYTES = 20_000, 20_000_000
"""Sample per dataset, spread evenly: three digits. A row of a million characters counts as several."""
SMALL_LANGUAGE, MAX_LANGUAGES = 0.005, 12
BATCH_ROWS, BATCH_BYTES = 256, 2_000_000


def run(spec: JobSpec[TokenizerReportPayload], reporter: Reporter) -> TokenizerReportResult:
    """Measure every tokenizer of the payload on every dataset of it.

    Payload: `tokenizers` and `datasets`, each a list of {"name", "folder"}. Returns `tokenizers` (name, vocab_size,
    unknown_token, ...), `datasets` (name, rows and bytes read, total_rows, languages with their share of the bytes) and
    `measures`, one for each tokenizer, dataset and language (None: all): `TokenCounts.measures` and, for all languages,
    `used_entries` of the vocabulary. Raises InvalidInput for a tokenizer that can't read the text, JobFailed when asked
    to stop.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    subjects = [TokenizerUnderTest.load(entry.name, spec.path(entry.folder)) for entry in spec.payload.tokenizers]
    guesser = LanguageGuesser()
    datasets, measures = [], []
    for place, entry in enumerate(spec.payload.datasets):
        file = spec.path(entry.folder) / "train.parquet"
        if not file.is_file():
            raise NotFound(f"The dataset {entry.name} has no train.parquet.", remedy="Import the dataset again.")
        reporter.log(f"Reading {entry.name}.")
        survey = Survey(subjects, guesser)
        sample = TextSample(file, max_bytes=MAX_BYTES, max_rows=MAX_ROWS)
        for texts in _batches(sample):
            _check_stop(reporter)
            survey.add(texts)
            share = min(1.0, sample.rows * sample.every / max(1, sample.total_rows))
            reporter.progress(
                place + share, len(spec.payload.datasets), unit="dataset", message=f"Measuring on {entry.name}"
            )
        if sample.rows == 0:
            raise InvalidInput(
                f"The rows of {entry.name} hold no text.", remedy="Choose another dataset.", field="datasets"
            )
        datasets.append(
            MeasuredDataset(
                name=entry.name,
                rows=sample.rows,
                bytes=sample.bytes,
                total_rows=sample.total_rows,
                languages=tuple(survey.languages()),
            )
        )
        measures += [{**measure, "dataset": place} for measure in survey.measures()]
    described = tuple(subject.describe() for subject in subjects)
    return TokenizerReportResult(tokenizers=described, datasets=tuple(datasets), measures=tuple(measures))


def _batches(texts: TextSample) -> Iterator[list[str]]:
    batch: list[str] = []
    taken = 0
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH_ROWS or texts.bytes - taken >= BATCH_BYTES:
            yield batch
            batch, taken = [], texts.bytes
    if batch:
        yield batch


def _check_stop(reporter: Reporter) -> None:
    if reporter.should_stop() is not None:
        raise JobFailed("The report was stopped on request.", remedy="Run it again to retry.")


@dataclass
class TokenizerUnderTest:
    """A tokenizer under measurement. Masks have the shape (vocabulary,)."""

    name: str
    tokenizer: Tokenizer
    unknown: tuple[int, str] | None
    raw_bytes: npt.NDArray[np.bool_]
    single_bytes: npt.NDArray[np.bool_]
    vocab_size: int
    kind: str

    @staticmethod
    def load(name: str, folder: Path) -> TokenizerUnderTest:
        """Load a tokenizer as in training. Raises NotFound or InvalidInput if it can't be loaded."""
        wrapped = load_tokenizer(folder)
        if not wrapped.is_fast:
            raise InvalidInput(
                f"The tokenizer of {name} has no fast form (tokenizer.json).",
                remedy="Save it with AutoTokenizer first.",
            )
        tokenizer: Tokenizer = wrapped.backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # text that spells a special token is text
        state = json.loads(tokenizer.to_str())
        form = PieceForm.of_decoder(json.dumps(state.get("decoder") or ""))
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        size = max(vocabulary.values(), default=-1) + 1
        raw, single = np.zeros(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_)
        special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        for piece, index in vocabulary.items():
            if index not in special:
                raw[index], single[index] = form.is_raw_byte(piece), len(form.bytes_of(piece)) == 1
        return TokenizerUnderTest(
            name, tokenizer, unknown_token(state), raw, single, len(vocabulary), str(state["model"].get("type") or "")
        )

    def describe(self) -> MeasuredTokenizer:
        """Describe the tokenizer."""
        unknown = self.unknown[1] if self.unknown else None
        return MeasuredTokenizer(name=self.name, vocab_size=self.vocab_size, model=self.kind, unknown_token=unknown)

    def encode(self, texts: list[str]) -> list[Any]:
        """Encode texts without special tokens. Raises InvalidInput, naming the tokenizer, if it can't."""
        try:
            return list(self.tokenizer.encode_batch(texts, add_special_tokens=False))
        except BaseException as error:  # a panic of the library is not an Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise InvalidInput(
                f"The tokenizer of {self.name} can't read the text: {error}", field="tokenizers"
            ) from error

    def count(self, encoding: Any, text: str) -> tuple[TokenCounts, npt.NDArray[np.int64]]:
        """Count one text's tokens, without the counts that depend on the text alone; return them with the ids."""
        ids = np.asarray(encoding.ids, dtype=np.int64)
        counts = TokenCounts(
            tokens=len(ids), raw_bytes=int(self.raw_bytes[ids].sum()), single_bytes=int(self.single_bytes[ids].sum())
        )
        if self.unknown is not None and (places := np.flatnonzero(ids == self.unknown[0])).size:
            offsets = encoding.offsets  # some tokenizers encode unknown text as a space, and spaces are known
            counts.unknown = sum(text[slice(*offsets[place])] != self.unknown[1] for place in places)
        return counts, ids


class Survey:
    """Counts of all subjects on one dataset, by language."""

    def __init__(self, subjects: list[TokenizerUnderTest], guesser: LanguageGuesser) -> None:
        self._subjects, self._guesser = subjects, guesser
        self._counts: list[dict[str, TokenCounts]] = [{} for _ in subjects]
        self._used = [np.zeros(len(subject.raw_bytes), dtype=np.bool_) for subject in subjects]
        self._bytes: dict[str, int] = {}

    def add(self, texts: list[str]) -> None:
        """Count some texts."""
        languages = [self._guesser.guess(text) for text in texts]
        shared = [
            TokenCounts(rows=1, bytes=len(text.encode()), characters=len(text), words=count_words(text))
            for text in texts
        ]
        for language, own in zip(languages, shared, strict=True):
            self._bytes[language] = self._bytes.get(language, 0) + own.bytes
        for subject, by_language, used in zip(self._subjects, self._counts, self._used, strict=True):
            encodings = subject.encode(texts)
            decoded = subject.tokenizer.decode_batch(
                [encoding.ids for encoding in encodings], skip_special_tokens=False
            )
            for text, back, language, own, encoding in zip(texts, decoded, languages, shared, encodings, strict=True):
                counts, ids = subject.count(encoding, text)
                used[ids] = True
                counts.changed = int(back != text)
                counts.add(own)
                by_language.setdefault(language, TokenCounts()).add(counts)

    def languages(self) -> list[LanguageShare]:
        """Return the languages with rows and share of bytes, the largest first; small ones together as "other"."""
        total, small = sum(self._bytes.values()), self._small()
        sizes: dict[str, int] = {}
        for code, size in self._bytes.items():
            sizes[OTHER if code in small else code] = sizes.get(OTHER if code in small else code, 0) + size
        return [
            LanguageShare(code=code, bytes=size, share=size / total)
            for code, size in sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0]))
        ]

    def measures(self) -> list[dict[str, object]]:
        """Return the measures of every subject: over all languages (None), then by language as in `languages`."""
        small, order = self._small(), [entry.code for entry in self.languages()]
        rows: list[dict[str, object]] = []
        for place, (language_counts, used) in enumerate(zip(self._counts, self._used, strict=True)):
            total, by_language = TokenCounts(), {code: TokenCounts() for code in order}
            for code, counts in language_counts.items():
                total.add(counts)
                by_language[OTHER if code in small else code].add(counts)
            rows.append({"tokenizer": place, "language": None, "used_entries": int(used.sum()), **total.measures()})
            rows += [
                {"tokenizer": place, "language": code, **counts.measures()} for code, counts in by_language.items()
            ]
        return rows

    def _small(self) -> set[str]:
        small = small_languages(self._bytes, share=SMALL_LANGUAGE, most=MAX_LANGUAGES)
        return small if len(small) > 1 else set()  # a single one keeps its name
