"""Milliseconds to choose the next tokens of a batch, by vocabulary, rows and parameters: the fastest of some
repetitions.

OMP_NUM_THREADS=1 python -m tests.benchmarks.serving.bench_sampler
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from backend.domain.serving.protocol import SamplingParams
from jobs.serving.sampling import SamplingState, choose_tokens, forced_scores

REPEATS = 15
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature 1": {},
    "top_k 40": {"top_k": 40},
    "top_p 0.9": {"top_p": 0.9},
    "top_k 40, top_p 0.9": {"top_k": 40, "top_p": 0.9},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "logprobs 5": {"logprobs": 5},
}


def measure(logits: torch.Tensor, params: SamplingParams) -> float:
    """Return the milliseconds of one step."""
    draws = [SamplingState.of(params) for _ in range(len(logits))]
    fastest = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        forced_scores(logits, choose_tokens(logits, draws)).argmax(-1)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest * 1000


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for vocabulary in (32_000, 151_936):
        for rows in (1, 8):
            # as a language model's: a few likely tokens above a long tail
            logits = torch.randn(rows, vocabulary) * 2
            logits[:, :: vocabulary // 20] += 8
            for name, case in CASES.items():
                sys.stdout.write(
                    f"{vocabulary:>7} {rows} {name:<22} {measure(logits, SamplingParams(seed=3, **case)):8.2f} ms\n"
                )
