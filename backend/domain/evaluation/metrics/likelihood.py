"""Perplexities and bits per byte of texts from the log-probabilities of their tokens."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.domain.statistics.estimates import Estimate

UNITS = {
    "word_perplexity": "perplexity per word",
    "byte_perplexity": "perplexity per byte",
    "bits_per_byte": "bits per byte",
}


def estimate_likelihood(
    logprobs: Sequence[Sequence[float]], texts: Sequence[str], *, unit: str, clusters: Sequence[Hashable] | None = None
) -> Estimate:
    """Return exp(-sum of log-probabilities / words or bytes) over all texts, or bits per byte.

    `logprobs` are in nats, one list a text. Words are counted as lm-evaluation-harness does: pieces between white
    space.
    """
    from backend.domain.statistics.estimates import ratio_estimate

    sizes = [len(re.split(r"\s+", text)) if unit == "word_perplexity" else len(text.encode()) for text in texts]
    nats_per_unit = 0.6931471805599453 if unit == "bits_per_byte" else 1.0
    losses = [-sum(values) / nats_per_unit for values in logprobs]
    return ratio_estimate(losses, sizes, clusters=clusters, scale="plain" if unit == "bits_per_byte" else "exp")
