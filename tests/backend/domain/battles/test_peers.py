"""Agreement with peers, corrected for chance, against the definitions for units; copied labels against a count one by
one.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from backend.domain.battles.agreement import judged_items
from backend.domain.battles.quality import NUM_LABELS, PRIOR_VOTES, chance_corrected, copy_checks
from backend.domain.battles.votes import VoteRecord, encode_votes
from backend.domain.statistics.agreement import Resampling, gwet_ac1, krippendorff_alpha, pooled_kappa

VALUES = Resampling(0)


def test_coefficients_of_a_table_are_those_of_its_pairs() -> None:
    table = np.random.default_rng(2).integers(1, 9, (NUM_LABELS, NUM_LABELS)).astype(float)
    pairs = [
        (one, other) for one in range(NUM_LABELS) for other in range(NUM_LABELS) for _ in range(int(table[one, other]))
    ]
    expected = [statistic(pairs, resampling=VALUES) for statistic in (krippendorff_alpha, gwet_ac1, pooled_kappa)]  # type: ignore[operator]
    assert chance_corrected(table) == pytest.approx([estimate.value for estimate in expected])
    assert chance_corrected(np.diag([5.0, 0.0, 0.0])) == (None, None, None)


def test_the_chance_of_copied_labels_is_that_of_counting_one_by_one() -> None:
    rng = np.random.default_rng(4)
    judged = [(f"p{prompt}", f"r{rater}") for prompt in range(40) for rater in range(7) if rng.random() < 0.7]
    columns = encode_votes([VoteRecord(*names, "x", "y", str(rng.choice(["A", "B", "TIE"]))) for names in judged])
    items = judged_items(columns)
    labels = [
        dict(zip(items.rater[items.item == item], items.label[items.item == item], strict=True))
        for item in range(items.num_items)
    ]
    alike = [
        one == other
        for votes in labels
        for rater, one in votes.items()
        for peer, other in votes.items()
        if rater < peer
    ]
    average = sum(alike) / len(alike)
    checks = copy_checks(items, columns)
    for rater in range(columns.num_raters):
        tails = []
        for partner in set(range(columns.num_raters)) - {rater}:
            shared = [votes for votes in labels if rater in votes and partner in votes]
            chances, by_taste = [], []
            for votes in shared:
                rest = Counter(votes.values())[votes[partner]] - 1 - (votes[rater] == votes[partner])
                chances.append((rest + PRIOR_VOTES * average) / (len(votes) - 2 + PRIOR_VOTES))
                usual = float((items.label == votes[partner]).mean())
                own = [other[rater] == votes[partner] for other in labels if rater in other and other is not votes]
                by_taste.append((sum(own) + PRIOR_VOTES * usual) / (len(own) + PRIOR_VOTES))
            equal = sum(votes[rater] == votes[partner] for votes in shared)
            tails.append(float(stats.binom.sf(equal - 1, len(shared), max(np.mean(chances), np.mean(by_taste)))))
        assert checks[rater].chance == pytest.approx(min(1.0, min(tails) * len(tails)))
