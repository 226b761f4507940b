"""Compare two networks on one text: check for a common vocabulary, and align losses where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from backend.errors import InvalidInput
from jobs.evaluation.inspection.passage import Passage


@dataclass(frozen=True)
class TextSpan:
    """A span of text between two positions where both tokenizers end a token, with each network's loss in nats."""

    start: int
    end: int
    first: float
    other: float


def why_not_same_vocabulary(first: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """Return the reason why two tokenizers' tokens can't be matched; empty if their vocabularies are equal."""
    left, right = first.get_vocab(), other.get_vocab()
    if left == right:
        return ""
    if len(left) != len(right):
        return f"the vocabularies differ: {len(left):,} tokens and {len(right):,}"
    unlike = sum(1 for token, index in left.items() if right.get(token) != index)
    return f"the vocabularies differ: {unlike:,} of {len(left):,} tokens are not the same"


def align_losses(
    first: Passage, other: Passage, first_nats: Sequence[float], other_nats: Sequence[float], *, num_characters: int
) -> list[TextSpan]:
    """Split a text where both passages end a token, and sum each one's token losses (nats; NaN if not scored) per span.

    Covers only text that both score. Raises InvalidInput if there is none, or if a tokenizer has no character offsets.
    """
    places = [_places(first, num_characters), _places(other, num_characters)]
    # a passage's first token is not scored, so its own end is the earliest place from which it can be counted
    start = max(next(iter(places[0]), num_characters), next(iter(places[1]), num_characters))
    shared = sorted(place for place in places[0].keys() & places[1].keys() if place >= start)
    if len(shared) < 2:
        raise InvalidInput(
            "The two tokenizers never end a token at the same position, so their losses can't be compared.",
            remedy="Give a longer text, or compare models that share a tokenizer.",
            field="text",
        )
    sums = [_running(first_nats), _running(other_nats)]
    return [
        TextSpan(
            left,
            right,
            *(total[place[right] + 1] - total[place[left] + 1] for total, place in zip(sums, places, strict=True)),
        )
        for left, right in pairwise(shared)
    ]


def _places(passage: Passage, num_characters: int) -> dict[int, int]:
    """Map each place in the text where a token ends to the last token that ends there, from the first token on."""
    places: dict[int, int] = {}
    for index, end in enumerate(passage.ends):
        if end is not None and end <= num_characters:
            places[end] = index
    return places


def _running(nats: Sequence[float]) -> list[float]:
    """Return sums of the first k losses, k = 0, 1, ...; what is not scored counts nothing."""
    total, sums = 0.0, [0.0]
    for value in nats:
        total += value if value == value else 0.0  # NaN differs from itself
        sums.append(total)
    return sums
