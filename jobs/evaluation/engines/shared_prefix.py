"""Arrange token sequences as a trie and run its rows through a network, so that a prefix which several share is
computed once and its keys and values serve all of them.

Sequences are sorted by their tokens. A row is a run of neighbours that one forward pass computes: every distinct token
of their trie once, each attending to its ancestors alone. Where a branch has more tokens than a row may hold, the
tokens before its first fork go into the cache of keys and values and serve all rows below. Few-shot examples, a passage
with several questions and the choices of a question are all prefixes of this kind; continuations of one token add
nothing to their context.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel

from jobs.modeling.loglikelihood import ScoredSequence

Ints = npt.NDArray[np.int64]
MIN_SAVED_TOKENS = 32
"""Tokens that a cached prefix has to save over all its rows; a forward pass of its own costs about as much."""


@dataclass(frozen=True)
class Row:
    """Sequences `first` to `last` (exclusive) in the trie's order; their first `base` tokens are in the cache."""

    first: int
    last: int
    base: int


@dataclass(frozen=True)
class PackedRow:
    """The tokens of a row in depth-first order.

    `ends[i]` is the last token of the branch that begins at token i; `scored` are the tokens with a prediction to
    score, and of every score its sequence, its place in `scored` and the token it is about.
    """

    ids: Ints
    positions: Ints
    ends: Ints
    scored: Ints
    owners: Ints
    places: Ints
    targets: Ints

    @property
    def is_chain(self) -> bool:
        """Return whether every token attends to all tokens before it."""
        return bool((self.ends == len(self.ids) - 1).all())


class TokenTrie:
    """Sequences in the order of their tokens."""

    def __init__(self, sequences: Sequence[ScoredSequence]) -> None:
        keys = [sequence.ids[:-1].astype(">u4").tobytes() for sequence in sequences]
        order = sorted(range(len(sequences)), key=keys.__getitem__)
        self.sequences = [sequences[index] for index in order]
        inputs = [sequence.ids[:-1] for sequence in self.sequences]
        self.lengths = np.array([len(ids) for ids in inputs], dtype=np.int64)
        self.first_scored = np.array(
            [len(sequence.ids) - 1 - sequence.scored for sequence in self.sequences], dtype=np.int64
        )
        self.shared = np.array([0, *(_common(a, b) for a, b in itertools.pairwise(inputs))], dtype=np.int64)
        self._new = np.concatenate([[0], np.cumsum(self.lengths - self.shared)])

    def tokens(self, first: int, last: int, base: int) -> int:
        """Return the distinct tokens of a run of sequences beyond a prefix of `base` tokens."""
        return int(self.lengths[first] - base + self._new[last] - self._new[first + 1])

    def rows(self, budget: int, *, most: int = 0) -> Iterator[Row]:
        """Yield rows of at most `budget` tokens and `most` sequences (0: any number), or of one; those with a common
        prefix follow each other.
        """
        waiting = [(0, len(self.sequences), 0)] if self.sequences else []
        while waiting:
            first, last, base = waiting.pop()
            if last - first == 1 or self._fits(first, last, base, budget, most):
                yield Row(first, last, base)
                continue
            fork = int(self.shared[first + 1 : last].min())
            base = self._cached(first, last, base, min(fork, int(self.first_scored[first:last].min())), budget)
            starts = [first, *(first + 1 + np.flatnonzero(self.shared[first + 1 : last] == fork)).tolist(), last]
            small, large = self._group(starts, base, budget, most)
            yield from (Row(start, end, base) for start, end in small)
            waiting += [(start, end, base) for start, end in reversed(large)]

    def _fits(self, first: int, last: int, base: int, budget: int, most: int) -> bool:
        return self.tokens(first, last, base) <= budget and (not most or last - first <= most)

    def _cached(self, first: int, last: int, base: int, depth: int, budget: int) -> int:
        """Return the length of the prefix to cache: to `depth`, if that saves more than it costs."""
        extension = max(0, depth - base)
        room = max(1, budget - extension)  # without the cache every row carries the extension
        rows = -(-(self.tokens(first, last, base) - extension) // room)
        return base + extension if extension * (rows - 1) >= MIN_SAVED_TOKENS else base

    def _group(
        self, starts: list[int], base: int, budget: int, most: int
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return (runs of small branches that fit one row, branches that do not fit)."""
        small: list[tuple[int, int]] = []
        large: list[tuple[int, int]] = []
        for start, end in itertools.pairwise(starts):
            if end - start > 1 and not self._fits(start, end, base, budget, most):
                large.append((start, end))
            elif small and small[-1][1] == start and self._fits(small[-1][0], end, base, budget, most):
                small[-1] = (small[-1][0], end)
            else:
                small.append((start, end))
        return small, large

    def pack(self, row: Row) -> PackedRow:
        """Return the tokens of a row."""
        tokens: list[npt.NDArray[np.int32]] = []
        positions: list[Ints] = []
        scores: list[Ints] = []
        ends = np.zeros(self.tokens(row.first, row.last, row.base), dtype=np.int64)
        path, depth, count = np.zeros(int(self.lengths[row.first : row.last].max()) - row.base, dtype=np.int64), 0, 0
        for place in range(row.first, row.last):
            ids, length = self.sequences[place].ids, int(self.lengths[place])
            fork = row.base if place == row.first else max(row.base, int(self.shared[place]))
            ends[path[fork - row.base : depth]] = count - 1
            depth = length - row.base
            path[fork - row.base : depth] = np.arange(count, count + length - fork)
            count += length - fork
            tokens.append(ids[fork:length])
            positions.append(np.arange(fork, length))
            scores.append(path[int(self.first_scored[place]) - row.base : depth].copy())
        ends[path[:depth]] = count - 1
        scored, places = np.unique(np.concatenate(scores), return_inverse=True)
        return PackedRow(
            ids=np.concatenate(tokens).astype(np.int64),
            positions=np.concatenate(positions),
            ends=ends,
            scored=scored,
            owners=np.repeat(np.arange(row.last - row.first), [len(part) for part in scores]),
            places=places,
            targets=np.concatenate(
                [self.sequences[place].ids[-self.sequences[place].scored :] for place in range(row.first, row.last)]
            ).astype(np.int64),
        )

    def prefix(self, row: Row) -> npt.NDArray[np.int32]:
        """Return the tokens that a row expects in the cache."""
        return self.sequences[row.first].ids[: row.base]


def _common(first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]) -> int:
    """Return the number of leading tokens that two sequences share."""
    length = min(len(first), len(second))
    unlike = first[:length] != second[:length]
    at = int(unlike.argmax()) if length else 0
    return at if length and unlike[at] else length


Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RowScores:
    """Log-probability of every sequence of a row, in nats, and whether greedy decoding generates it."""

    logprobs: Floats
    greedy: Flags


class SharedPrefix:
    """A network and the cache of one prefix. `piece_tokens` bounds a forward pass over a single long sequence."""

    def __init__(self, network: PreTrainedModel, *, piece_tokens: int) -> None:
        self._network, self.piece_tokens = network, piece_tokens
        self._cache_name = (
            "cache" if "cache" in inspect.signature(type(network).forward).parameters else "past_key_values"
        )
        self._prefix: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._cache: DynamicCache | None = None

    def forget(self) -> None:
        """Drop the cache."""
        self._prefix, self._cache = self._prefix[:0], None

    @torch.inference_mode()
    def reach(self, prefix: npt.NDArray[np.int32]) -> None:
        """Make the cache hold exactly these tokens."""
        length = min(len(prefix), len(self._prefix))
        unlike = np.flatnonzero(prefix[:length] != self._prefix[:length])
        common = int(unlike[0]) if len(unlike) else length
        if common == 0:
            self.forget()
        self._crop(common)
        self._prefix = prefix[:common]
        for at in range(common, len(prefix), self.piece_tokens):
            piece = prefix[at : at + self.piece_tokens]
            self._run(
                torch.from_numpy(piece.astype(np.int64)),
                torch.arange(at, at + len(piece)),
                scored=torch.tensor([len(piece) - 1]),
            )
            self._prefix = prefix[: at + len(piece)]

    @torch.inference_mode()
    def score(self, packed: PackedRow, *, sequences: int) -> RowScores:
        """Score a row after the prefix in the cache."""
        base, total = len(self._prefix), len(packed.ids)
        in_pieces = packed.is_chain and total > self.piece_tokens
        step = self.piece_tokens if in_pieces else total
        logprobs, misses = np.zeros(sequences), np.zeros(sequences, dtype=np.int64)
        for at in range(0, total, step):
            end = min(at + step, total)
            low, high = np.searchsorted(packed.scored, (at, end)).tolist()
            inside = (packed.places >= low) & (packed.places < high)
            logits = self._run(
                torch.from_numpy(packed.ids[at:end]),
                torch.from_numpy(packed.positions[at:end]),
                scored=torch.from_numpy(packed.scored[low:high] - at) if high > low else torch.tensor([end - at - 1]),
                mask=None if packed.is_chain else self._mask(packed, base),
                keeps=base > 0 or in_pieces,
            )
            values, right = _read_targets(logits, packed.places[inside] - low, packed.targets[inside])
            np.add.at(logprobs, packed.owners[inside], values)
            np.add.at(misses, packed.owners[inside], ~right)
        if base == 0:
            self.forget()
        else:
            self._crop(base)
        return RowScores(logprobs, misses == 0)

    def _mask(self, packed: PackedRow, base: int) -> torch.Tensor:
        """Return which token attends to which, [1, 1, tokens, base + tokens]: prefix, ancestors and itself."""
        places, ends = torch.arange(len(packed.ids)), torch.from_numpy(packed.ends)
        own = (places[:, None] >= places) & (places[:, None] <= ends)
        allowed = torch.cat([own.new_ones(len(places), base), own], dim=1)[None, None].to(self._network.device)
        if self._network.config._attn_implementation == "sdpa":
            return allowed
        least = torch.finfo(self._network.dtype).min
        return torch.zeros_like(allowed, dtype=self._network.dtype).masked_fill(~allowed, least)

    def _run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        *,
        scored: torch.Tensor,
        mask: torch.Tensor | None = None,
        keeps: bool = True,
    ) -> torch.Tensor:
        """Return the logits after `scored` tokens, [scored, vocabulary] in fp32. `keeps`: the cache takes them up."""
        device = self._network.device
        if keeps and self._cache is None:
            self._cache = DynamicCache()
        more: dict[str, object] = {self._cache_name: self._cache} if keeps else {}
        output = self._network(
            input_ids=ids[None].to(device),
            attention_mask=mask,
            position_ids=positions[None].to(device),
            use_cache=keeps,
            logits_to_keep=scored.to(device),
            **more,
        )
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def _crop(self, length: int) -> None:
        beyond = 0 if self._cache is None else self._cache.get_seq_length() - length
        if self._cache is not None and beyond > 0:
            self._cache.crop(-beyond)


def _read_targets(
    logits: torch.Tensor, places: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]
) -> tuple[Floats, Flags]:
    """Return the log-probability of every target and whether it is the likeliest token. Overwrites the logits."""
    where, what = torch.from_numpy(places).to(logits.device), torch.from_numpy(targets).to(logits.device)
    chosen = logits[where, what]
    top, likeliest = logits.max(-1)
    total = logits.sub_(top[:, None]).exp_().sum(-1).log_().add_(top)
    return (chosen - total[where]).double().cpu().numpy(), (likeliest[where] == what).cpu().numpy()
