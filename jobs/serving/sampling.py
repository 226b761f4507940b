"""Choose the next token of each row of a batch by the row's own parameters. Independent of engines. Drawing uses the Gumbel-max trick
(Gumbel 1954; Maddison, Tarlow and Minka, NeurIPS 2014, section 2):
argmax(logits + Gumbel noise) is a draw from softmax(logits). So greedy and sampled rows share one argmax, and greedy rows keep the
network's exact logits.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Self

import torch

from backend.domain.serving.protocol import SamplingParams


@dataclass(frozen=True)
class Sampling:
    """The part of SamplingParams that changes logits. `seed` is always set, so a request is reproducible in any batch."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @classmethod
    def of(cls, params: SamplingParams) -> Self:
        """Return the sampling part of a request, drawing a seed if none is given."""
        return cls(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            seed=params.seed if params.seed is not None else secrets.randbits(62),
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
        )

    @property
    def is_greedy(self) -> bool:
        """Return whether the most likely token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True)
class Row:
    """One row of a batch: its sampling, its position in the sequence, and the tokens it generated so far."""

    sampling: Sampling
    position: int
    generated: list[int]


def prepare_scores(logits: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    """Return scores whose argmax is each row's next token. `logits`: float32 [rows, vocabulary]."""
    if all(row.sampling.is_greedy and not _has_penalty(row) for row in rows):
        return logits
    scores = logits.clone()
    for index, row in enumerate(rows):
        if _has_penalty(row):
            scores[index] = _penalise(scores[index], row)
        if not row.sampling.is_greedy:
            scores[index] = _draw_scores(scores[index], row)
    return scores


def _has_penalty(row: Row) -> bool:
    return bool(row.generated) and (row.sampling.presence_penalty != 0.0 or row.sampling.frequency_penalty != 0.0)


def _penalise(logits: torch.Tensor, row: Row) -> torch.Tensor:
    counts = Counter(row.generated)
    ids = torch.tensor(list(counts), device=logits.device)
    amounts = torch.tensor([row.sampling.presence_penalty + row.sampling.frequency_penalty * n for n in counts.values()])
    return logits.index_add(0, ids, -amounts.to(logits))


def _draw_scores(logits: torch.Tensor, row: Row) -> torch.Tensor:
    """Filter one row [vocabulary] by temperature, top-k and top-p, and add Gumbel noise fixed by seed and position."""
    sampling = row.sampling
    logits = logits / max(sampling.temperature, 1e-4)
    if 0 < sampling.top_k < logits.numel():
        threshold = torch.topk(logits, sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = torch.sort(logits, descending=True)
        probabilities = torch.softmax(ordered, dim=-1)
        beyond = probabilities.cumsum(-1) - probabilities >= sampling.top_p  # the token that crosses top_p stays
        logits = logits.masked_fill(beyond.scatter(0, order, beyond), -torch.inf)
    generator = torch.Generator().manual_seed((sampling.seed * 1_000_003 + row.position) % 2**63)
    noise = torch.empty(logits.numel()).exponential_(generator=generator).clamp_min_(1e-30).log_().neg_()
    return logits + noise.to(device=logits.device, dtype=logits.dtype)
