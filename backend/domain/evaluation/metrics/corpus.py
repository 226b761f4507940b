"""Corpus metrics: statistics of each document, and the value of any selection of documents, as bootstraps draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FloatArray: TypeAlias = "NDArray[np.float64]"
References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Corpus:
    """Statistics of a corpus: `table` has one row per document, `statistic` is the metric of such rows.

    `signature` states the settings that determine the value, as the metric's library writes them.
    """

    table: FloatArray
    statistic: Callable[[FloatArray], float]
    signature: str
