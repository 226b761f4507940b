"""Run rows of a trie through a network, keeping the keys and values of the prefix that rows have in common."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel

from jobs.evaluation.engines.trie import PackedRow

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
