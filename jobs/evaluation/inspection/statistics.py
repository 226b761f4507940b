"""Compute the statistics of an inspection from logits and attention. Natural logarithms; sums in fp64. Pure: tensors
in, arrays out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.domain.checkpoints.inspection import NUM_ALTERNATIVES

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class TokenStatistics:
    """Prediction statistics at each of `T` tokens.

    `surprisal` [T] of each token in nats and its `rank` [T] in the vocabulary (1: most likely); the first token has
    none (NaN, 0). `entropy` [T] in nats, `top_ids` and `top_p` [T, K] are of the distribution after each token.
    """

    surprisal: Floats
    rank: Ints
    entropy: Floats
    top_ids: Ints
    top_p: Floats


@dataclass(frozen=True)
class LensStatistics:
    """The logit lens at each of `S` depths (before the first layer, after each) and `T` tokens.

    `top_ids` and `top_p` [S, T]: the token that the depth predicts, and its probability; `kl` [S, T]: KL(final ||
    depth) in nats; `next_p` [S, T]: the probability of the actual next token (NaN for the last). `error` is the largest
    difference between the last depth's logits and the network's own.
    """

    top_ids: Ints
    top_p: Floats
    kl: Floats
    next_p: Floats
    error: float


@dataclass(frozen=True)
class HeadStatistics:
    """Attention statistics of each head of `L` layers, over queries after the first token; all shaped [L, H].

    `distance`: mean number of tokens back; `entropy`: in nats, 0 for a head that attends to one token; `first`,
    `previous`, `self_share`: shares of attention on the first token, the one before and the query's own. `row_error`:
    the largest distance of a row's sum from 1.
    """

    distance: Floats
    entropy: Floats
    first: Floats
    previous: Floats
    self_share: Floats
    row_error: float


@dataclass(frozen=True)
class PairStatistics:
    """Differences of two networks' distributions after each of `T` tokens: both KL divergences in nats, and agreement
    of the top token.
    """

    kl_pq: Floats
    kl_qp: Floats
    agree: npt.NDArray[np.bool_]


def token_statistics(logits: Tensor, ids: list[int], *, count: int = NUM_ALTERNATIVES) -> TokenStatistics:
    """Score a passage. `logits` [T, vocabulary], the distribution after each token."""
    size = len(ids)
    surprisal, rank = np.full(size, np.nan, dtype=np.float32), np.zeros(size, dtype=np.int64)
    entropy = np.zeros(size, dtype=np.float32)
    top = [np.zeros((size, min(count, logits.shape[-1])), dtype=kind) for kind in (np.int64, np.float32)]
    for rows in _chunks(size, logits.shape[-1]):
        logp = logits[rows].double().log_softmax(-1)
        entropy[rows] = -(logp.exp() * logp).nan_to_num().sum(-1).numpy()  # 0 log 0 is 0
        best = logp.topk(top[0].shape[1], dim=-1)
        top[0][rows], top[1][rows] = best.indices.numpy(), best.values.exp().numpy()
        actual = torch.tensor(ids[rows.start + 1 : rows.stop + 1], dtype=torch.long).reshape(-1, 1)
        chosen, places = logp[: len(actual)].gather(-1, actual), slice(rows.start + 1, rows.start + 1 + len(actual))
        surprisal[places] = -chosen.squeeze(-1).numpy()
        rank[places] = (logp[: len(actual)] > chosen).sum(-1).numpy() + 1
    return TokenStatistics(surprisal, rank, entropy, top[0], top[1])


def lens_statistics(final: Tensor, depths: Iterable[Tensor], ids: list[int]) -> LensStatistics:
    """Compare each depth's logits with the final ones; all [T, vocabulary]. The last depth is the network's output."""
    parts, error = [], 0.0
    for logits in depths:
        error = float((logits - final).abs().max())
        parts.append(_one_depth(final, logits, ids))
    tops, probabilities, divergences, nexts = (np.stack(column) for column in zip(*parts, strict=True))
    return LensStatistics(tops, probabilities, divergences, nexts, error)


def _one_depth(final: Tensor, logits: Tensor, ids: list[int]) -> tuple[Ints, Floats, Floats, Floats]:
    size = len(ids)
    top = np.zeros(size, dtype=np.int64)
    probability, kl, following = (np.full(size, np.nan, dtype=np.float32) for _ in range(3))
    for rows in _chunks(size, final.shape[-1]):
        here = logits[rows].log_softmax(-1)
        best = here.max(-1)
        top[rows], probability[rows] = best.indices.numpy(), best.values.exp().numpy()
        kl[rows] = divergence(final[rows], logits[rows]).numpy()
        actual = torch.tensor(ids[rows.start + 1 : rows.stop + 1], dtype=torch.long).reshape(-1, 1)
        following[rows.start : rows.start + len(actual)] = (
            here[: len(actual)].gather(-1, actual).squeeze(-1).exp().numpy()
        )
    return top, probability, kl, following


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) in nats of logits over the last dimension; never below 0, and 0 for equal ones."""
    left, right = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (left.exp() * (left - right)).nan_to_num(posinf=float("inf")).sum(-1).clamp(min=0)


def head_statistics(attention: list[Tensor]) -> HeadStatistics:
    """Summarise attention maps, [H, T, T] per layer. Layers with fewer heads than others are padded with NaN."""
    heads = max(one.shape[0] for one in attention)
    tables = np.full((5, len(attention), heads), np.nan, dtype=np.float32)
    row_error = 0.0
    for layer, maps in enumerate(attention):
        weights = maps.double()
        row_error = max(row_error, float((weights.sum(-1) - 1).abs().max()))
        size = weights.shape[-1]
        looking = weights[:, 1:]  # the first token has only itself
        back = torch.arange(1, size).unsqueeze(-1) - torch.arange(size)
        entropy = -(looking * looking.clamp(min=1e-300).log()).sum(-1).mean(-1)
        values = (
            (looking * back).sum(-1).mean(-1),
            entropy,
            looking[..., 0].mean(-1),
            looking.diagonal(dim1=-2, dim2=-1).mean(-1),
            weights.diagonal(dim1=-2, dim2=-1)[:, 1:].mean(-1),
        )
        for table, value in zip(tables, values, strict=True):
            table[layer, : maps.shape[0]] = value.numpy()
    return HeadStatistics(tables[0], tables[1], tables[2], tables[3], tables[4], row_error)


def pair_statistics(p: Tensor, q: Tensor) -> PairStatistics:
    """Compare two networks' logits [T, vocabulary] after the same tokens, without the longer one's padding."""
    width = min(p.shape[-1], q.shape[-1])
    p, q = p[:, :width], q[:, :width]
    forward, backward = np.zeros(len(p), dtype=np.float32), np.zeros(len(p), dtype=np.float32)
    for rows in _chunks(len(p), width):
        forward[rows], backward[rows] = divergence(p[rows], q[rows]).numpy(), divergence(q[rows], p[rows]).numpy()
    return PairStatistics(forward, backward, (p.argmax(-1) == q.argmax(-1)).numpy())


def _chunks(rows: int, width: int) -> Iterator[slice]:
    """Yield row ranges of at most CHUNK_VALUES logits each."""
    step = max(1, CHUNK_VALUES // width)
    for at in range(0, rows, step):
        yield slice(at, min(at + step, rows))
