"""MinHash and its buckets against exact sets, on pairs of known similarity."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.data.reports.near_duplicates import (
    NUM_BANDS,
    NUM_HASHES,
    SHINGLE,
    Clusters,
    band_key,
    bucket_pairs,
    detection_probability,
    estimate_similarity,
    jaccard,
    minhash,
    normalise_words,
    shingle,
    unique_sets,
)


def sets_by_hand(text: str) -> set[str]:
    text = text if not text else text.ljust(SHINGLE, "\0")
    return {text[at : at + SHINGLE] for at in range(len(text) - SHINGLE + 1)}


@given(st.lists(st.text("abc é🙂中", max_size=30), min_size=2, max_size=6))
def test_hashed_sequences_have_the_similarity_of_the_sequences_themselves(texts: list[str]) -> None:
    hashes, offsets = shingle(texts)
    sets = unique_sets(hashes, offsets, range(len(texts)))
    for one, other in itertools.combinations(range(len(texts)), 2):
        left, right = sets_by_hand(texts[one]), sets_by_hand(texts[other])
        expected = len(left & right) / len(left | right) if left and right else 0.0
        assert jaccard(sets[one], sets[other]) == pytest.approx(expected)


def pairs_of_similarity(similarity: float, count: int, *, size: int = 200) -> tuple[np.ndarray, np.ndarray, float]:
    """Sets of random hashes, two by two: each pair shares what gives the nominal similarity."""
    draw = np.random.default_rng(5)
    shared = round(2 * size * similarity / (1 + similarity))
    rows = []
    for _ in range(count):
        one = draw.integers(0, 2**64, size, dtype=np.uint64)
        other = np.concatenate([one[:shared], draw.integers(0, 2**64, size - shared, dtype=np.uint64)])
        rows += [one, draw.permutation(other)]
    return np.concatenate(rows), np.arange(0, (2 * count + 1) * size, size), shared / (2 * size - shared)


@pytest.mark.parametrize("nominal", [0.3, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_pair_is_found_with_the_probability_that_its_similarity_gives(nominal: float) -> None:
    count = 1500
    hashes, offsets, similarity = pairs_of_similarity(nominal, count)
    signatures = minhash(hashes, offsets)
    evens = np.arange(0, 2 * count, 2)
    estimates = estimate_similarity(signatures[evens], signatures[evens + 1])
    error = np.sqrt(similarity * (1 - similarity) / NUM_HASHES)
    assert abs(estimates.mean() - similarity) < 4 * error / np.sqrt(count)
    assert estimates.std() < 1.1 * error
    shared = np.zeros(count, dtype=bool)
    for band in range(NUM_BANDS):
        keys = band_key(signatures, band)
        shared |= keys[0::2] == keys[1::2]
    expected = detection_probability(similarity)
    assert abs(shared.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / count) + 0.01


def test_buckets_compare_each_row_with_its_neighbours_its_first_and_the_last_row_that_is_trained_on() -> None:
    keys = np.array([7, 9, 7, 7, 7, 7, 9, 7], dtype=np.uint64)
    left, right = bucket_pairs(keys, np.arange(8), first_held_out=5, reach=1)
    near_pairs = set(zip(left.tolist(), right.tolist(), strict=True))
    assert near_pairs == {(0, 2), (2, 3), (3, 4), (4, 5), (5, 7), (0, 3), (0, 4), (0, 5), (0, 7), (4, 7), (1, 6)}


@given(st.lists(st.integers(0, 3), max_size=7), st.integers(0, 8))
def test_small_buckets_are_compared_completely(keys: list[int], held: int) -> None:
    left, right = bucket_pairs(np.array(keys, dtype=np.uint64), np.arange(len(keys)), first_held_out=held)
    expected = {(i, j) for i, j in itertools.combinations(range(len(keys)), 2) if keys[i] == keys[j]}
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected


def test_case_punctuation_and_spacing_are_ignored() -> None:
    assert normalise_words("  Hello,\n\tWORLD -- ﬁne_day! ") == normalise_words("hello world fine day")
    assert normalise_words("!!! ...") == ""
    assert normalise_words("你好，世界") == "你好 世界"


def test_a_word_changed_in_twenty_is_a_near_duplicate_and_another_text_is_not() -> None:
    text = "The old miller walked down to the river every morning to look at the wheel and to count his geese there"
    texts = [
        normalise_words(one)
        for one in (text, text.replace("miller", "baker"), "Nobody in the village had seen the comet but the owl.")
    ]
    hashes, offsets = shingle(texts)
    sets = unique_sets(hashes, offsets, range(3))
    assert jaccard(sets[0], sets[1]) > 0.8
    assert jaccard(sets[0], sets[2]) < 0.1


@given(st.integers(0, 1000))
def test_clusters_are_the_connected_parts_whatever_the_order(seed: int) -> None:
    draw = random.Random(seed)
    pairs = [(draw.randrange(12), draw.randrange(12)) for _ in range(8)]
    pairs = [(a, b) for a, b in pairs if a != b]
    clusters = Clusters()
    for one, other in pairs:
        clusters.join(one, other)
    whole = {row: {row} for row in range(12)}
    for one, other in pairs:
        union = whole[one] | whole[other]
        for row in union:
            whole[row] = union
    assert clusters.representatives(12).tolist() == [min(whole[row]) for row in range(12)]
