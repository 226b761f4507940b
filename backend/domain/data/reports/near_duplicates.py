"""Near-duplicate texts: shingles, MinHash signatures, LSH buckets, exact Jaccard of the candidates. Pure functions on
arrays.

Two texts are near duplicates when the sets of their 5-character sequences, case, punctuation and spacing aside, have a
Jaccard similarity of at least 0.8. Characters rather than words, so that one changed word in a row of twenty is still
found, and languages without spaces need no special case. Signatures are 128 MinHash values (Broder 1997; rensa's
variant of Fast Similarity Sketching, arXiv 1704.04370); buckets are 21 bands of 6 of them (Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, 3.4). Pairs that share a bucket are candidates, whose similarity is computed exactly
from the two sets.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import rensa

SHINGLE = 5
THRESHOLD = 0.8
NUM_HASHES = 128
BAND_ROWS = 6
NUM_BANDS = NUM_HASHES // BAND_ROWS
MAX_CHARACTERS = 1_000_000
"""Characters at the beginning of a text that are compared."""

SEED = 20
MARGIN = 0.12  # margin below the threshold for an estimate from signatures: over three standard errors
REACH = 7  # neighbours in a bucket that are compared, besides its first row
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_BREAK = re.compile(r"[\W_]+")
_ASCII_LETTERS = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}

Hashes = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.int64]


def detection_probability(jaccard: float) -> float:
    """Return the probability that a pair of this similarity shares a bucket: 1 - (1 - s^r)^b."""
    return float(1.0 - (1.0 - jaccard**BAND_ROWS) ** NUM_BANDS)


def normalise_words(text: str) -> str:
    """Return a text in lower case without punctuation, words separated by one space."""
    text = text[:MAX_CHARACTERS]
    if text.isascii():  # the same, in a quarter of the time
        return " ".join(text.translate(_ASCII_LETTERS).split())
    return _BREAK.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def shingle(texts: Sequence[str]) -> tuple[Hashes, Rows]:
    """Return the hashed 5-character sequences of normalised texts, one text after the other, and where each begins
    (with the end).

    A text of fewer than 5 characters is one sequence; an empty one has none. Sequences that repeat are kept.
    """
    padded = [text if not text else text.ljust(SHINGLE, "\0") for text in texts]
    sizes = np.array([len(text) for text in padded], dtype=np.int64)
    counts = np.where(sizes > 0, sizes - SHINGLE + 1, 0)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    letters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if offsets[-1] == 0:
        return np.empty(0, dtype=np.uint64), offsets
    last = len(letters) - SHINGLE + 1
    hashes = letters[:last].copy()
    for place in range(1, SHINGLE):
        hashes = hashes * _MULTIPLIER + letters[place : place + last]
    starts = np.cumsum(sizes) - sizes
    inside = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
    return _mix(hashes[inside]), offsets


def _mix(values: Hashes) -> Hashes:
    """Spread values over all 64 bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def minhash(hashes: Hashes, offsets: Rows) -> Signatures:
    """Return the MinHash signatures of texts as `shingle` wrote them, shape (texts, 128)."""
    if len(offsets) < 2:
        return np.empty((0, NUM_HASHES), dtype=np.uint32)
    rows = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), num_perm=NUM_HASHES, seed=SEED
    )
    return np.array(rows.to_rows(), dtype=np.uint32).reshape(len(offsets) - 1, NUM_HASHES)


def band_key(signatures: Signatures, band: int) -> Hashes:
    """Return the bucket of each text in one band."""
    part = signatures[:, band * BAND_ROWS : (band + 1) * BAND_ROWS].astype(np.uint64)
    key = part[:, 0].copy()
    for place in range(1, BAND_ROWS):
        key = _mix(key * _MULTIPLIER + part[:, place])
    return key


def bucket_pairs(keys: Hashes, rows: Rows, *, first_held_out: int, reach: int = REACH) -> tuple[Rows, Rows]:
    """Return the candidate pairs of one band, smaller row first: `rows[i]` is in bucket `keys[i]`; rows ascend.

    In a bucket each row is compared with its `reach` predecessors and with the bucket's first, so that a bucket of n
    costs n, not n². Rows from `first_held_out` on are held out; each is also compared with the last row of its bucket
    that is not.
    """
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    if len(keys) < 2:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    is_first = np.concatenate([[True], keys[1:] != keys[:-1]])
    group = np.cumsum(is_first) - 1
    starts = np.flatnonzero(is_first)
    left, right = [], []
    for step in range(1, min(reach, len(keys) - 1) + 1):
        same = np.flatnonzero(group[step:] == group[:-step])
        if not len(same):
            break
        left.append(rows[same])
        right.append(rows[same + step])
    places = np.arange(len(keys))
    far = np.flatnonzero(places - starts[group] > reach)
    left.append(rows[starts[group[far]]])
    right.append(rows[far])
    val_rows = np.flatnonzero(rows >= first_held_out)
    trained = np.bincount(group[rows < first_held_out], minlength=len(starts))
    val_rows = val_rows[trained[group[val_rows]] > 0]
    left.append(rows[starts[group[val_rows]] + trained[group[val_rows]] - 1])
    right.append(rows[val_rows])
    return np.concatenate(left), np.concatenate(right)


def estimate_similarity(one: Signatures, other: Signatures) -> npt.NDArray[np.float64]:
    """Estimate the similarity of pairs from their signatures: the share of equal values."""
    return np.asarray((one == other).mean(axis=1), dtype=np.float64)


def jaccard(one: Hashes, other: Hashes) -> float:
    """Return the exact similarity of two sets, each a sorted array without repeats; 0 where one is empty."""
    if not len(one) or not len(other):
        return 0.0
    both = np.concatenate([one, other])
    both.sort()
    shared = int((both[1:] == both[:-1]).sum())
    return shared / (len(one) + len(other) - shared)


class Clusters:
    """Rows joined by pairs (union-find), in 8 bytes a row. The smallest row of a cluster represents it."""

    def __init__(self) -> None:
        self._parent = array("q")

    def find(self, row: int) -> int:
        """Return the representative of a row's cluster."""
        parent, root = self._parent, row
        if row >= len(parent):
            return row
        while parent[root] != root:
            root = parent[root]
        while parent[row] != root:
            parent[row], row = root, parent[row]
        return root

    def join(self, one: int, other: int) -> None:
        """Merge the clusters of two rows."""
        self._parent.extend(range(len(self._parent), max(one, other) + 1))
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low

    def representatives(self, count: int) -> Rows:
        """Return the representative of each of the rows from 0 to `count - 1`."""
        roots = np.arange(count, dtype=np.int64)
        roots[: len(self._parent)] = np.array(self._parent, dtype=np.int64)[:count]
        while not np.array_equal(above := roots[roots], roots):
            roots = above
        return roots


def unique_sets(hashes: Hashes, offsets: Rows, rows: Iterable[int]) -> dict[int, Hashes]:
    """Return the sequences of some texts as sorted arrays without repeats."""
    return {text: np.unique(hashes[offsets[text] : offsets[text + 1]]) for text in rows}
