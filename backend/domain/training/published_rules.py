"""Batch and learning rate for N parameters and D tokens, by published rules. Arithmetic; sources and ranges at each."""

from __future__ import annotations

import math
from dataclasses import dataclass

SOURCE = (
    "Step Law (Li et al. 2025, arXiv 2503.04715): batch 0.58 D^0.571 tokens, learning rate 1.79 N^-0.713 D^0.307, N"
    " without embeddings; fitted to AdamW with a cosine down to 1e-5, from 215 M to 1.07 B parameters and 4 B to 100 B"
    " tokens"
)
MAX_LEARNING_RATE = 3e-3
"""Within 0.03 nats of the best of a sweep at 27 K, 160 K and 640 K parameters (docs/benchmarks/scaling.md), and about
the most that Kaplan et al. 2020 (arXiv 2001.08361, appendix D.6: 0.003239 - 0.0001395 ln N, for networks from 768
parameters up) suggest at any size.
"""
MICRO_BATCH_TOKENS = 8192
MIN_STEPS = 50


@dataclass(frozen=True)
class LearningRate:
    """A learning rate with the rule it comes from and its adjustments."""

    value: float
    source: str


def batch_tokens_rule(tokens: float) -> float:
    """Return the tokens of a step for a run of D tokens: 0.58 D^0.571, at most so that the run has 50 steps."""
    return min(0.58 * math.pow(tokens, 0.571), max(1.0, tokens / MIN_STEPS))


def learning_rate_rule(parameters: float, tokens: float) -> LearningRate:
    """Return the peak learning rate for N parameters (without embeddings) and D tokens: 1.79 N^-0.713 D^0.307, at most
    0.003.

    The cap is ours. Far below the paper's sizes the rule gives several times the best rate; too high a rate costs
    tenths of a nat there, half the best rate almost nothing.
    """
    value = 1.79 * math.pow(parameters, -0.713) * math.pow(tokens, 0.307)
    if value > MAX_LEARNING_RATE:
        return LearningRate(MAX_LEARNING_RATE, f"{SOURCE}; {value:.2g} here, capped at {MAX_LEARNING_RATE:g}")
    return LearningRate(float(f"{value:.3g}"), SOURCE)


def split_batch(batch_tokens: float, *, context: int, micro_batch_tokens: int = MICRO_BATCH_TOKENS) -> tuple[int, int]:
    """Return (micro_batch, grad_accum_steps) that with the context come nearest to a batch; at least one sequence."""
    sequences = max(1, round(batch_tokens / context))
    most = max(1, micro_batch_tokens // context)
    if sequences <= most:
        return sequences, 1
    accumulate = -(-sequences // most)
    return max(1, round(sequences / accumulate)), accumulate
