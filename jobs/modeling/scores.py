"""Pairs to score and their scores, apart from the network that computes them: engines that ask a server load none."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[str, str] | tuple[list[int], list[int]]
"""A context and its continuation: as texts, or as token ids."""


@dataclass(frozen=True)
class ContinuationScore:
    """Score of a continuation: its log-probability in nats, its tokens, and whether greedy decoding generates it.

    `cut` counts tokens dropped from the context's beginning because the network's context is too short.
    """

    sum_logprob: float
    tokens: int
    greedy: bool
    cut: int = 0


@dataclass(frozen=True)
class TextNll:
    """Negative log-likelihood of one text in nats, over `tokens` tokens and `bytes` bytes of UTF-8.

    `windows` are its parts in the order scored; their `bytes` are counted by token.
    """

    sum_nll: float
    tokens: int
    bytes: int
    windows: tuple[TextNll, ...] = ()
