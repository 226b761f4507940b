"""Layers of Llama-like decoders with fewer operators, and their attention over the pages of continuous batching: at
one token per step, calling an operator costs more than its arithmetic.

Query, key and value are one product, gate and up another; rotary embeddings are one product of complex numbers, for
which each head's channels are interleaved; residuals are added by the products. Results differ from those of the
library's layers in the last digits of float32.

The library's attention computes every row of a batch against the keys of all its requests and masks the others', so
that the cost of a step grows with the square of the number of users. Here each request reads its own pages.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from backend.domain.serving.memory import PAGE_TOKENS
from jobs.modeling.kv_shape import read_kv_shape
from jobs.serving.native.library import (
    STEP,
    AdapterPair,
    Batch,
    Change,
    FloatWeights,
    Layer,
    Library,
    is_native,
    matrix_of,
)

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


Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]
FUSIBLE = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
PROJECTIONS = tuple(f"self_attn.{name}_proj" for name in "qkvo") + tuple(
    f"mlp.{name}_proj" for name in ("gate", "up", "down")
)


def fuse_layers(network: Any, *, library: Library | None = None) -> int:
    """Replace the layers of a network on a CPU in place; return how many were. Others, and layers with adapters, stay
    as they are.

    With a compiled library, the steps of continuous batching run in it. On torch's meta device, the layers have no
    weights.
    """
    layers = getattr(network.base_model, "layers", None)
    if (
        network.device.type not in ("cpu", "meta")
        or not isinstance(layers, nn.ModuleList)
        or not all(map(_is_fusible, layers))
    ):
        return 0
    step = ForwardState(library)
    for index, layer in enumerate(layers):
        layers[index] = FusedLayer(layer, step)
    head = network.get_output_embeddings()
    if library is not None and head is not None and is_native(head):
        network.set_output_embeddings(FloatWeights(head, library))
    return len(layers)


def _is_fusible(layer: nn.Module) -> bool:
    if type(layer).__name__ not in FUSIBLE:
        return False
    mlp: Any = layer.get_submodule("mlp")
    return mlp.config.hidden_act == "silu" and all(type(layer.get_submodule(name)) is nn.Linear for name in PROJECTIONS)


class FusedLayer(nn.Module):
    """One decoder layer, with the arguments and results of the library's."""

    def __init__(self, layer: Any, step: ForwardState) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.config, self.layer_idx, self._step = attention.config, attention.layer_idx, step
        self.head_dim, self.num_key_value_groups = attention.head_dim, attention.num_key_value_groups
        self.scaling, self.is_causal = attention.scaling, True
        self.sliding_window = getattr(attention, "sliding_window", None)
        self.num_heads = attention.q_proj.out_features // self.head_dim
        self.num_key_value_heads = attention.k_proj.out_features // self.head_dim
        num_rotated = self.num_heads + self.num_key_value_heads
        queries_keys = _joined(attention.q_proj, attention.k_proj)
        self.qkv_proj = _joined(_interleaved(queries_keys, num_rotated), attention.v_proj)
        self.o_proj, self.down_proj = attention.o_proj, mlp.down_proj
        self.gate_up_proj = _joined(mlp.gate_proj, mlp.up_proj)
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.head_norm = None
        if getattr(attention, "q_norm", None) is not None:
            per_head = [attention.q_norm.weight] * self.num_heads + [attention.k_norm.weight] * self.num_key_value_heads
            weight = torch.stack([channels.detach() for channels in per_head])
            self.head_norm = nn.Parameter(_interleave(weight), requires_grad=False)
            self._head_eps = attention.q_norm.variance_epsilon

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Return the hidden states [batch, tokens, hidden] behind this layer."""
        if self.layer_idx == 0:
            self._step.has_all = False
        elif self._step.has_all:
            return hidden_states
        assert position_embeddings is not None
        batch, tokens, hidden = hidden_states.shape
        rows = hidden_states.view(batch * tokens, hidden)
        rotation = self._step.rotation(position_embeddings)
        if not has_plain_pages(cache):
            attend = partial(self._attend, mask=attention_mask, cache=cache, kwargs=kwargs, batch=batch)
            return self._compute(rows, rotation, attend).view(batch, tokens, hidden)
        step = self._step
        if self.layer_idx == 0:
            step.begin(cache, kwargs)
        computed = step.compute(
            rows,
            layer=self.layer_idx,
            num_layers=self.config.num_hidden_layers,
            describe=self._describe,
            changes=self._changes,
        )
        if computed is None:
            computed = self._compute(rows, rotation, partial(step.attend, layer=self.layer_idx, scale=self.scaling))
        return computed.view(batch, tokens, hidden)

    def _compute(self, rows: torch.Tensor, rotation: torch.Tensor, attend: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Return rows [rows, hidden] behind this layer by torch's operators."""
        norm = self.input_layernorm
        mixed = self.qkv_proj(_rms_norm(rows, norm.weight, norm.variance_epsilon))
        num_rotated = self.num_heads + self.num_key_value_heads
        width = num_rotated * self.head_dim
        rotated = mixed[:, :width].view(-1, num_rotated, self.head_dim)
        if self.head_norm is not None:
            rotated = _rms_norm(rotated, self.head_norm, self._head_eps)
        pairs = rotated.view(-1, rotation.shape[1], num_rotated, self.head_dim // 2, 2)
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * rotation)
        rotated = rotated.view(-1, num_rotated, self.head_dim)
        queries, keys = rotated[:, : self.num_heads], rotated[:, self.num_heads :]
        attended = attend(queries, keys, mixed[:, width:].view(-1, self.num_key_value_heads, self.head_dim))
        rows = _add_product(rows, attended, self.o_proj)
        norm = self.post_attention_layernorm
        gate, up = self.gate_up_proj(_rms_norm(rows, norm.weight, norm.variance_epsilon)).chunk(2, dim=-1)
        return _add_product(rows, silu(gate).mul_(up), self.down_proj)

    @property
    def is_compiled(self) -> bool:
        """Return whether the compiled library computes this network's steps; known once there was one."""
        return self._step.library is not None

    @property
    def _products(self) -> tuple[Any, ...]:
        modules = self._modules  # many times a token: attributes of a module are looked up slowly
        return modules["qkv_proj"], modules["o_proj"], modules["gate_up_proj"], modules["down_proj"]

    def part(self, name: str) -> FusedPart | None:
        """Return where one of the library's linear layers, such as "mlp.up_proj", is among this layer's."""
        queries, keys = (heads * self.head_dim for heads in (self.num_heads, self.num_key_value_heads))
        inner = self.gate_up_proj.out_features // 2
        parts = {
            "self_attn.q_proj": FusedPart("qkv_proj", 0, queries, num_heads=self.num_heads),
            "self_attn.k_proj": FusedPart("qkv_proj", queries, keys, num_heads=self.num_key_value_heads),
            "self_attn.v_proj": FusedPart("qkv_proj", queries + keys, keys),
            "self_attn.o_proj": FusedPart("o_proj", 0, self.o_proj.out_features),
            "mlp.gate_proj": FusedPart("gate_up_proj", 0, inner),
            "mlp.up_proj": FusedPart("gate_up_proj", inner, inner),
            "mlp.down_proj": FusedPart("down_proj", 0, self.down_proj.out_features),
        }
        return parts.get(name)

    def _describe(self) -> Layer | None:
        """Return this layer for the compiled library; None where a product of it can't be computed there."""
        products = [getattr(product, "base", product) for product in self._products]
        if not all(map(is_native, products)) or self.head_dim % STEP:
            return None
        norms = (self.input_layernorm.weight, self.post_attention_layernorm.weight)
        return Layer(
            *map(matrix_of, products),
            *(weight.data_ptr() for weight in norms),
            None if self.head_norm is None else self.head_norm.data_ptr(),
            self.input_layernorm.variance_epsilon,
            0.0 if self.head_norm is None else self._head_eps,
            self.scaling,
            self.num_heads,
            self.num_key_value_heads,
            self.head_dim,
            PAGE_TOKENS,
        )

    def _changes(self) -> list[Change]:
        """Return what adapters change in this batch, for the compiled library."""
        adapted = (product for product in self._products if hasattr(type(product), "active_groups"))
        groups = next((product.active_groups for product in adapted), ())
        return [
            Change(*rows, ctypes.addressof(self._addresses(group.adapter))) for group in groups for rows in group.ranges
        ]

    def _addresses(self, adapter: Any) -> ctypes.Array[AdapterPair]:
        addresses: dict[int, ctypes.Array[AdapterPair]] = adapter.addresses
        if self.layer_idx not in addresses:
            pairs = [product.pair_of(adapter) if hasattr(product, "pair_of") else None for product in self._products]
            addresses[self.layer_idx] = (AdapterPair * len(pairs))(*(_address_of(pair) for pair in pairs))
        return addresses[self.layer_idx]

    def _attend(
        self, queries: Any, keys: Any, values: Any, mask: Any, cache: Any, kwargs: Mapping[str, object], batch: int
    ) -> torch.Tensor:
        """Return the library's attention over its own caches, or none."""
        queries, keys, values = (
            states.view(batch, -1, *states.shape[1:]).transpose(1, 2) for states in (queries, keys, values)
        )
        if cache is not None:
            keys, values = cache.update(keys, values, self.layer_idx, kwargs=kwargs)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
        attended, _ = attend(
            self,
            queries,
            keys,
            values,
            mask,
            dropout=0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        rows: torch.Tensor = attended.reshape(-1, self.num_heads * self.head_dim)
        return rows


@dataclass(frozen=True)
class FusedPart:
    """The outputs of a fused product that were a layer of their own; `num_heads` where the channels of heads are
    interleaved.
    """

    product: str
    start: int
    size: int
    num_heads: int | None = None


def fused_shape(network: Any, name: str) -> tuple[int, int] | None:
    """Return (out, in) of a linear layer that is part of a fused one; None for others."""
    layer, part = _part_of(network, name)
    return None if layer is None or part is None else (part.size, getattr(layer, part.product).in_features)


def fuse_pairs(network: Any, pairs: Pairs) -> Pairs:
    """Return the pairs of an adapter (A [rank, in], B [out, rank]) by the layers of a fused network: those of one
    product side by side.
    """
    fused: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for name, (a, b) in pairs.items():
        layer, part = _part_of(network, name)
        if layer is None or part is None:
            fused[name] = [(a, b)]
            continue
        if part.num_heads is not None:
            b = _interleave(b.view(part.num_heads, -1, b.shape[1]).transpose(1, 2)).transpose(1, 2).reshape(b.shape)
        wide = b.new_zeros(getattr(layer, part.product).out_features, b.shape[1])
        wide[part.start : part.start + part.size] = b
        fused.setdefault(f"{name.rsplit('.', 2)[0]}.{part.product}", []).append((a, wide))
    return {name: _stacked(parts) for name, parts in fused.items()}


def _stacked(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pairs as one, its rank a multiple of STEP, which the compiled library needs."""
    a, b = torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], dim=1)
    missing = -len(a) % STEP
    return pad(a, (0, 0, 0, missing)), pad(b, (0, missing))


def _address_of(pair: tuple[torch.Tensor, torch.Tensor] | None) -> AdapterPair:
    if pair is None:
        return AdapterPair(None, None, 0)
    down, up = pair
    return AdapterPair(down.data_ptr(), up.data_ptr(), len(down))


def _part_of(network: Any, name: str) -> tuple[FusedLayer | None, FusedPart | None]:
    prefix, _, rest = name.rpartition(".")
    prefix, _, block = prefix.rpartition(".")
    try:
        layer = network.get_submodule(prefix)
    except AttributeError:
        return None, None
    return (layer, layer.part(f"{block}.{rest}")) if isinstance(layer, FusedLayer) else (None, None)


def _joined(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Return one layer whose outputs are those of two, one behind the other."""
    joined = nn.Linear(
        first.in_features, first.out_features + second.out_features, bias=first.bias is not None, device="meta"
    )
    joined.weight = nn.Parameter(torch.cat([first.weight.detach(), second.weight.detach()]), requires_grad=False)
    if first.bias is not None:
        joined.bias = nn.Parameter(torch.cat([first.bias.detach(), second.bias.detach()]), requires_grad=False)
    return joined


def _interleaved(layer: nn.Linear, num_heads: int) -> nn.Linear:
    """Return a layer whose heads have channel i of their first half followed by channel i of their second half."""
    changed = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    weight = layer.weight.detach().view(num_heads, -1, layer.in_features)
    changed.weight = nn.Parameter(
        _interleave(weight.transpose(1, 2)).transpose(1, 2).reshape(layer.weight.shape), requires_grad=False
    )
    if layer.bias is not None:
        changed.bias = nn.Parameter(_interleave(layer.bias.detach().view(num_heads, -1)).flatten(), requires_grad=False)
    return changed


def _interleave(heads: torch.Tensor) -> torch.Tensor:
    """Return [..., channels] with the channels' two halves interleaved."""
    return torch.stack(heads.chunk(2, dim=-1), dim=-1).flatten(-2)


def _rms_norm(inputs: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return `inputs` over their root mean square, times `weight`. Of torch's own, a CPU runs each step apart."""
    length: torch.Tensor = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
    scale = length.square_().mul_(1 / inputs.shape[-1]).add_(eps).rsqrt_()
    result: torch.Tensor = (inputs * scale).mul_(weight)
    return result


def _add_product(rows: torch.Tensor, inputs: torch.Tensor, layer: Any) -> torch.Tensor:
    """Return `rows` plus a layer's result."""
    if type(layer) is nn.Linear and layer.bias is None:
        return torch.addmm(rows, inputs, layer.weight.t())
    result: torch.Tensor = layer(inputs).add_(rows)
    return result
