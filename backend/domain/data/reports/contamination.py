"""Find benchmark items in rows by 13-gram overlap of words (as GPT-3, arXiv 2005.14165, appendix C), or by a whole
short question.

Words are compared without case and punctuation: "don't" is "dont", as there; "well-known" is two words. In scripts
written without spaces every character is a word. An item's text is its question followed by its right answer (the
answer alone without a question), and any 13 consecutive words of it count. 13-grams that more than 10 items of a
benchmark share are left out. A question of 3 to 12 words counts as a whole: anywhere from 6 words on; with fewer, where
it is a turn of its own or its right answer follows within 12 words. Questions of one or two words are ignored.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

RUN = 13
MIN_QUESTION_WORDS = 3
ALONE = 6
NEAR = 12
COMMON = 10
SHOWN_WORDS = 60
_UNSPACED = "\u2e80-\u2fff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_APOSTROPHES = dict.fromkeys(map(ord, "'\u2019\u02bc"))
_RANDOM = np.random.default_rng(13)
_POWERS = _RANDOM.integers(1, 2**63, RUN, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

Ids = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint64]


def words_of(text: str) -> list[str]:
    """Return the words of a text without case and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES))


@dataclass(frozen=True)
class BenchmarkItem:
    """A benchmark's item: which, its question, its right answers."""

    benchmark: str
    number: int
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """An item found in a row (by its place in the batch). `kind`: `run` (13 words or more in a row) or `question` (a
    short one whole).

    `text` is the common text, without case and punctuation; `share` the part of the item's question that it covers, 0
    to 1.
    """

    row: int
    benchmark: str
    item: int
    kind: str
    text: str
    words: int
    share: float


def item_of(benchmark: str, number: int, row: Mapping[str, Any]) -> BenchmarkItem:
    """Return a canonical benchmark row as an item."""
    right = [row["choices"][row["answer"]]] if row.get("choices") else row.get("answers") or []
    return BenchmarkItem(benchmark, number, str(row.get("question") or ""), tuple(str(answer) for answer in right))


@dataclass(frozen=True)
class _Passage:
    ids: Ids  # question and right answer
    question_words: int
    answers: tuple[tuple[int, ...], ...]


class BenchmarkIndex:
    """Searchable index of the items of all benchmarks. Memory: about 25 bytes a word."""

    def __init__(self, items: Sequence[BenchmarkItem]) -> None:
        self._items = list(items)
        self._words: dict[str, int] = {}
        self._passages = [self._passage(item) for item in self._items]
        self._texts = list(self._words)  # id 1 is the first
        self._code = np.concatenate([np.zeros(1, dtype=np.uint64), _random_codes(len(self._texts))])
        self._keys, self._owners = self._runs()
        self._short = self._short_questions()
        self._short_keys = np.array(
            [
                _run_keys(self._code[list(question[:MIN_QUESTION_WORDS])], MIN_QUESTION_WORDS)[0]
                for question in self._short
            ],
            dtype=np.uint64,
        )

    def _passage(self, item: BenchmarkItem) -> _Passage:
        question = self._learn(item.question)
        answers = tuple(self._learn(answer) for answer in item.answers)
        if not question and answers:
            question, answers = answers[0], ()
        words = (*question, *answers[0]) if answers else question
        return _Passage(np.array(words, dtype=np.int64), len(question), answers)

    def _learn(self, text: str) -> tuple[int, ...]:
        known = self._words
        return tuple(known.setdefault(word, len(known) + 1) for word in words_of(text))

    def _runs(self) -> tuple[npt.NDArray[np.uint64], Ids]:
        """Return the sorted keys of all 13-grams with the item of each, without those shared by too many items."""
        keys, owners = [], []
        for place, passage in enumerate(self._passages):
            mine = np.unique(_run_keys(self._code[passage.ids], RUN))
            keys.append(mine)
            owners.append(np.full(len(mine), place, dtype=np.int64))
        if not keys:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        key, owner = np.concatenate(keys), np.concatenate(owners)
        benchmarks = {name: index for index, name in enumerate(dict.fromkeys(item.benchmark for item in self._items))}
        of_item = np.array([benchmarks[item.benchmark] for item in self._items], dtype=np.uint64)
        order = np.argsort(key, kind="stable")
        key, owner = key[order], owner[order]
        with_benchmark = key * np.uint64(0x9E3779B97F4A7C15) + of_item[owner]
        _, group, counts = np.unique(with_benchmark, return_inverse=True, return_counts=True)
        is_rare = counts[group] <= COMMON
        return key[is_rare], owner[is_rare]

    def _short_questions(self) -> dict[tuple[int, ...], list[int]]:
        """Return the questions that are shorter than a run, with their items."""
        owners: dict[tuple[int, ...], list[int]] = {}
        for place, passage in enumerate(self._passages):
            if MIN_QUESTION_WORDS <= passage.question_words < RUN:
                owners.setdefault(tuple(passage.ids[: passage.question_words].tolist()), []).append(place)
        return owners

    def search(self, rows: Sequence[Sequence[str]]) -> list[Overlap]:
        """Return the items found in rows, each a list of its parts (turns, fields): the longest overlap of each."""
        if not self._items or not rows:
            return []
        lines = [_Line(self._words, parts) for parts in rows]
        gap = np.zeros(RUN, dtype=np.int64)  # a separator, so that no run spans two rows
        flat = np.concatenate([part for line in lines for part in (line.ids, gap)])
        starts = np.cumsum([0, *(len(line.ids) + RUN for line in lines)])
        code = self._code[flat]
        overlaps: dict[tuple[int, int], Overlap] = {}
        for overlap, place in [
            *self._search_runs(lines, flat, code, starts),
            *self._search_questions(lines, flat, code, starts),
        ]:
            known = overlaps.get((overlap.row, place))
            if known is None or overlap.words > known.words:
                overlaps[overlap.row, place] = overlap
        return [overlaps[key] for key in sorted(overlaps)]

    def _search_runs(self, lines: list[_Line], flat: Ids, code: Codes, starts: Ids) -> Iterator[tuple[Overlap, int]]:
        keys = _run_keys(code, RUN)
        low, high = np.searchsorted(self._keys, keys, "left"), np.searchsorted(self._keys, keys, "right")
        known = _all_known(flat, RUN)
        reached: dict[tuple[int, int], int] = {}
        for place in np.flatnonzero(known & (high > low)).tolist():
            row = int(np.searchsorted(starts, place, "right")) - 1
            at = place - int(starts[row])
            for owner in self._owners[low[place] : high[place]].tolist():
                if at < reached.get((row, owner), -1):
                    continue  # inside a run that is known
                begin, end = self._extend(lines[row].ids, at, owner)
                if end - begin < RUN:
                    continue  # two different runs with one key
                reached[row, owner] = end - RUN + 1
                yield self._overlap(row, owner, "run", lines[row].ids[begin:end]), owner

    def _search_questions(
        self, lines: list[_Line], flat: Ids, code: Codes, starts: Ids
    ) -> Iterator[tuple[Overlap, int]]:
        begins = _all_known(flat, MIN_QUESTION_WORDS) & np.isin(_run_keys(code, MIN_QUESTION_WORDS), self._short_keys)
        for place in np.flatnonzero(begins).tolist():
            row = int(np.searchsorted(starts, place, "right")) - 1
            at = place - int(starts[row])
            line = lines[row]
            for size in range(MIN_QUESTION_WORDS, min(RUN, len(line.ids) - at + 1)):
                for owner in self._short.get(tuple(line.ids[at : at + size].tolist()), []):
                    if self._counts(line, at, size, owner):
                        yield self._overlap(row, owner, "question", line.ids[at : at + size]), owner

    def _extend(self, ids: Ids, at: int, owner: int) -> tuple[int, int]:
        """Return the longest run around row position `at` that is in the item, too; empty if its 13 words are not."""
        passage = self._passages[owner].ids
        windows = np.lib.stride_tricks.sliding_window_view(passage, RUN)
        matches = np.flatnonzero((windows == ids[at : at + RUN]).all(axis=1))
        if not len(matches):
            return at, at
        position = int(matches[0])
        begin, end = at, at + RUN
        while begin > 0 and position > 0 and ids[begin - 1] == passage[position - 1]:
            begin, position = begin - 1, position - 1
        after = position + end - begin
        while end < len(ids) and after < len(passage) and ids[end] == passage[after]:
            end, after = end + 1, after + 1
        return begin, end

    def _counts(self, line: _Line, at: int, size: int, owner: int) -> bool:
        """Return whether a short question at a position is an item and not a common phrase."""
        if size >= ALONE or (at, at + size) in line.parts:
            return True
        behind = line.ids[at + size : at + size + NEAR].tolist()
        return any(
            answer == tuple(behind[place : place + len(answer)])
            for answer in self._passages[owner].answers
            if answer
            for place in range(len(behind))
        )

    def _overlap(self, row: int, owner: int, kind: str, ids: Ids) -> Overlap:
        item, passage = self._items[owner], self._passages[owner]
        text = " ".join(self._texts[index - 1] for index in ids[:SHOWN_WORDS]) + (
            " …" if len(ids) > SHOWN_WORDS else ""
        )
        share = min(1.0, len(ids) / max(1, passage.question_words or len(passage.ids)))
        return Overlap(row, item.benchmark, item.number, kind, text, len(ids), share)


class _Line:
    """A row as word ids (0: a word of no item), with the bounds of its parts."""

    def __init__(self, words: dict[str, int], parts: Sequence[str]) -> None:
        ids: list[int] = []
        self.parts: set[tuple[int, int]] = set()
        for part in parts:
            start = len(ids)
            ids += [words.get(word, 0) for word in words_of(part)]
            self.parts.add((start, len(ids)))
        self.ids: Ids = np.array(ids, dtype=np.int64)


def _random_codes(count: int) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(14).integers(0, 2**64, count, dtype=np.uint64)


def _all_known(ids: Ids, size: int) -> npt.NDArray[np.bool_]:
    """Return for every run of `size` words whether items have all of them."""
    unknown = np.concatenate([[0], np.cumsum(ids == 0)])
    return np.asarray(unknown[size:] == unknown[:-size])


def _run_keys(code: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.uint64]:
    """Return the key of every run of `size` words."""
    last = len(code) - size + 1
    if last <= 0:
        return np.empty(0, dtype=np.uint64)
    keys = np.zeros(last, dtype=np.uint64)
    for step in range(size):
        keys += code[step : step + last] * _POWERS[step]
    return keys
