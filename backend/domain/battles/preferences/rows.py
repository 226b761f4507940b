"""Dataset rows from votes: preference pairs, answers by raters (chat), and answers labelled good or bad (kto). Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from backend.domain.battles.campaign import Messages
from backend.domain.battles.preferences.pairs import CastVote
from backend.domain.json_values import Row

GOOD_RATING, BAD_RATING = 3.5, 2.5
"""Mean ratings from and to which an answer is good or bad; those between say nothing."""


def preference_row(prompt: Messages, *, chosen: str, rejected: str) -> Row:
    """Return a row of kind `preference`."""
    return {"prompt": prompt, "chosen": _answer(chosen), "rejected": _answer(rejected)}


def rewrite_row(prompt: Messages, *, rewrite: str) -> Row:
    """Return a row of kind `chat` that ends with a rater's better answer."""
    return {"messages": [*prompt, *_answer(rewrite)]}


def label_row(prompt: Messages, *, completion: str, is_good: bool) -> Row:
    """Return a row of kind `kto`."""
    return {"prompt": prompt, "completion": _answer(completion), "label": is_good}


def label_answers(ratings: Mapping[str, Sequence[int]], votes: Iterable[CastVote]) -> dict[str, bool]:
    """Return which answers are good or bad: by their mean rating (1 to 5), else bad where most votes on a pair call
    both bad.

    An answer with a rating between good and bad has no label, whatever the votes say.
    """
    labels = {}
    for answer, values in ratings.items():
        mean = sum(values) / len(values)
        if mean >= GOOD_RATING or mean <= BAD_RATING:
            labels[answer] = mean >= GOOD_RATING
    cast: dict[tuple[str, ...], list[CastVote]] = defaultdict(list)
    for vote in votes:
        cast[tuple(sorted(vote.answers))].append(vote)
    for pair, on_pair in cast.items():
        if 2 * sum(vote.label == "BOTH_BAD" for vote in on_pair) > len(on_pair):
            for answer in pair:
                if answer not in ratings:
                    labels.setdefault(answer, False)
    return labels


def _answer(text: str) -> Messages:
    return [{"role": "assistant", "content": text}]
