"""Attention over the pages of continuous batching, request by request.

The library computes every row of a batch against the keys of all its requests and masks the others', so that the cost
of a step grows with the square of the number of users. Here each request reads its own pages.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from backend.domain.serving.memory import PAGE_TOKENS
from jobs.modeling.kv_shape import read_kv_shape
from jobs.serving.native.library import Batch, Change, Layer, Library

FULL = "full_attention"
Views = dict[int, tuple[torch.Tensor, torch.Tensor]]
Changes = Callable[[], Sequence[Change]]


@dataclass(frozen=True)
class RequestSpan:
    """One request of a batch: its rows, the number of its keys, and their pages (None: the batch's own rows)."""

    begin: int
    end: int
    num_keys: int
    pages: torch.Tensor | None

    @cached_property
    def mask(self) -> torch.Tensor | None:
        """The keys that each row attends to [rows, keys]; None for a single row and for a prompt's first rows."""
        num_rows = self.end - self.begin
        if not 1 < num_rows < self.num_keys:
            return None
        return torch.ones(num_rows, self.num_keys, dtype=torch.bool).tril_(self.num_keys - num_rows)


@dataclass(frozen=True)
class SequencePart:
    """New tokens of one sequence in `SlotPages`: its slot, the tokens before them, and their number."""

    slot: int
    past: int
    count: int


class SlotPages:
    """Pages for a fixed number of sequences of at most `slot_tokens` tokens, in the form in which layers read those of
    the library.
    """

    tokens_per_page = PAGE_TOKENS

    def __init__(self, config: Any, *, num_slots: int, num_tokens: int) -> None:
        kv = read_kv_shape(config)
        self.slot_tokens = -(-num_tokens // PAGE_TOKENS) * PAGE_TOKENS
        shape = (num_slots * self.slot_tokens, kv.num_heads, kv.head_size)
        self._kv_token_views = {layer: (torch.zeros(shape), torch.zeros(shape)) for layer in range(kv.num_layers)}
        self._kv_page_views = {
            layer: (keys.view(-1, PAGE_TOKENS, *shape[1:]), values.view(-1, PAGE_TOKENS, *shape[1:]))
            for layer, (keys, values) in self._kv_token_views.items()
        }
        self.cache_allocators = {FULL: self}

    def batch(self, parts: Sequence[SequencePart]) -> dict[str, Any]:
        """Return the arguments by which a step's layers find its sequences' pages."""
        firsts = [part.slot * self.slot_tokens for part in parts]
        ends = [part.past + part.count for part in parts]
        read = [torch.arange(first, first + end) for first, end in zip(firsts, ends, strict=True)]
        write = [
            torch.arange(first + part.past, first + end) for first, end, part in zip(firsts, ends, parts, strict=True)
        ]
        return {
            "cu_seq_lens_q": torch.tensor([0, *itertools.accumulate(part.count for part in parts)]),
            "cu_seq_lens_k": {FULL: torch.tensor([0, *itertools.accumulate(ends)])},
            "read_index": [torch.cat(read)],
            "write_index": [torch.cat(write)],
        }


class ForwardState:
    """State that the layers of a network share during one forward pass."""

    def __init__(self, library: Library | None = None) -> None:
        self.library = library
        self._spans: list[RequestSpan] = []
        self._write = torch.empty(0)
        self._batch: Batch | None = None
        self._held: list[torch.Tensor] = []  # the tensors whose addresses the batch has
        self._layers: dict[int, tuple[Layer, Changes]] = {}  # layers that are computed already
        self.has_all = False
        """Whether the first layer's result is the last one's."""
        self._cosines: torch.Tensor | None = None
        self._rotation = torch.empty(0)
        self._tokens: Views = {}
        self._pages: Views = {}
        self._addresses: dict[int, tuple[int, int]] = {}  # of each layer's pages

    def __deepcopy__(self, memo: object) -> ForwardState:
        """Return a step of its own: a copy of the network may run on another thread."""
        return ForwardState(self.library)

    def rotation(self, embeddings: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return the rotary embeddings as complex numbers [batch or 1, tokens, 1, half a head], once per pass."""
        cosines, sines = embeddings
        if self._cosines is not cosines:
            half = cosines.shape[-1] // 2
            self._rotation = torch.complex(cosines[..., :half].float(), sines[..., :half].float()).unsqueeze(2)
            self._cosines = cosines
        return self._rotation

    def begin(self, cache: PagedAttentionCache | SlotPages, batch: dict[str, Any]) -> None:
        """Read the requests of a batch of the library: `cu_seq_lens_q`, `cu_seq_lens_k`, `read_index` and
        `write_index`.
        """
        allocator = cache.cache_allocators[FULL]
        if self._tokens is not allocator._kv_token_views:
            self._tokens, self._pages = allocator._kv_token_views, allocator._kv_page_views
            self._addresses = {
                layer: (keys.data_ptr(), values.data_ptr()) for layer, (keys, values) in self._tokens.items()
            }
        read, self._write = batch["read_index"][0], batch["write_index"][0]
        rows, keys = batch["cu_seq_lens_q"].tolist(), batch["cu_seq_lens_k"][FULL].tolist()
        size = allocator.tokens_per_page
        self._spans = [
            RequestSpan(begin, end, last - first, read[first:last:size] // size if read.numel() else None)
            for begin, end, first, last in zip(rows, rows[1:], keys, keys[1:], strict=False)
            if end > begin
        ]
        self._batch = None if self.library is None else self._native_batch(size)

    def _native_batch(self, page_tokens: int) -> Batch:
        write = self._write.contiguous()
        pages = [
            write[span.begin : span.end : page_tokens] // page_tokens if span.pages is None else span.pages
            for span in self._spans
        ]
        first_row = torch.tensor([*(span.begin for span in self._spans), self._spans[-1].end])
        first_page = torch.tensor(list(itertools.accumulate(map(len, pages), initial=0)))
        counts = torch.tensor([span.num_keys for span in self._spans])
        rotation = torch.view_as_real(self._rotation).contiguous()
        self._held = [rotation, write, first_row, torch.cat(pages), first_page, counts]
        return Batch(
            self._spans[-1].end,
            len(pages),
            *(tensor.data_ptr() for tensor in self._held),
            None,
            None,
            None,
            0,
            rotation.numel(),
        )

    def compute(
        self,
        rows: torch.Tensor,
        *,
        layer: int,
        num_layers: int,
        describe: Callable[[], Layer | None],
        changes: Changes,
    ) -> torch.Tensor | None:
        """Return the rows [rows, hidden] behind a layer by the compiled library; None where it doesn't apply.

        Once every layer was computed by it, the first one's rows are those behind the last (`has_all`): one call a
        step keeps the library's threads awake and Python out of the way.
        """
        if self._batch is None or self.library is None:
            return None
        if layer not in self._layers:
            described = describe()
            if described is None:
                self.library = None
                return None
            self._layers[layer] = described, changes
        self.has_all = len(self._layers) == num_layers and layer == 0
        numbers = range(num_layers) if self.has_all else (layer,)
        layers = (Layer * len(numbers))(*(self._layers[number][0] for number in numbers))
        batches = (Batch * len(numbers))(*itertools.repeat(self._batch, len(numbers)))
        held = []
        for number, batch in zip(numbers, batches, strict=True):
            batch.keys, batch.values = self._addresses[number]
            if changed := self._layers[number][1]():
                held.append((Change * len(changed))(*changed))
                batch.changes, batch.num_changes = ctypes.addressof(held[-1]), len(changed)
        return self.library.compute(layers, batches, rows)

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, layer: int, scale: float
    ) -> torch.Tensor:
        """Write a layer's new keys and values [rows, heads, channels] into its pages; return what the rows attend to
        [rows, channels].
        """
        for states, tokens in zip((keys, values), self._tokens[layer], strict=True):
            tokens.index_copy_(0, self._write, states)
        parts = []
        for span in self._spans:
            new = slice(span.begin, span.end)
            read = (
                [keys[new], values[new]] if span.pages is None else [_read(pages, span) for pages in self._pages[layer]]
            )
            parts.append(_attend(queries[new], *read, mask=span.mask, scale=scale))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def has_plain_pages(cache: Any) -> bool:
    """Return whether a cache is one of pages, and all its layers attend to every earlier token."""
    return isinstance(cache, PagedAttentionCache | SlotPages) and list(cache.cache_allocators) == [FULL]


def _read(pages: torch.Tensor, span: RequestSpan) -> torch.Tensor:
    """Return a request's keys or values [tokens, heads, channels]."""
    assert span.pages is not None
    return pages.index_select(0, span.pages).flatten(0, 1)[: span.num_keys]


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Return attention of one request's rows; query heads that share a key's head are its rows if there is one token,
    else its batch.
    """
    num_rows, num_heads, channels = queries.shape
    num_shared = num_heads // keys.shape[1]
    keys, values = keys.transpose(0, 1), values.transpose(0, 1)
    if num_rows == 1:
        grouped = queries.view(1, -1, num_shared, channels)
        return scaled_dot_product_attention(grouped, keys.unsqueeze(0), values.unsqueeze(0), scale=scale).reshape(1, -1)
    grouped = queries.transpose(0, 1).view(-1, num_shared, num_rows, channels)
    keys, values = (states.unsqueeze(1).expand(-1, num_shared, -1, -1) for states in (keys, values))
    is_causal = mask is None
    attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, is_causal=is_causal, scale=scale)
    return attended.flatten(0, 1).transpose(0, 1).reshape(num_rows, -1)
