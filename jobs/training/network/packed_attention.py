"""Attention over packed rows: each row is attended by itself, so no row reads another and no mask is needed.

Every other layer of a network works on single positions, so rows are concatenated without padding. A mask over the
whole sequence would cost its length squared; here the cost is that of the rows. Registered with transformers as an
attention implementation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from jobs.modeling.devices import device_kind
from jobs.modeling.unusable import UNUSABLE

NAME = "rows"
ALONE_TOLERANCE, NEIGHBOUR_TOLERANCE = {"cpu": 1e-4, "gpu": 2e-2}, {"cpu": 2e-6, "gpu": 1e-4}
"""Tolerances on logits, relative to the largest: between a row alone and packed, where a GPU may round to tf32; and
between a row packed after one neighbour and after another, where only the summation order of experts differs.
"""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    row_ends: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attend each row of a sequence by itself; `row_ends` (on the CPU) are the ends of the rows. Without them, plain
    SDPA.

    Shapes: query (1, heads, tokens, size), key and value (1, key heads, tokens, size); returns (1, tokens, heads, size
    of a value).
    """
    if row_ends is None:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **more,
        )
        return output
    if more.get("softcap") is not None or more.get("s_aux") is not None or more.get("position_bias") is not None:
        raise NotImplementedError("packed rows support plain softmax attention only")
    groups = query.shape[1] // key.shape[1]
    lengths = np.diff(row_ends.numpy(), prepend=0).tolist()
    rows = []
    for q, k, v in zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True):
        mask = _window_mask(q.shape[2], sliding_window, q.device)
        grouped = groups > 1 and mask is None and k.shape[-1] == v.shape[-1]
        if groups > 1 and not grouped:
            k, v = repeat_kv(k, groups), repeat_kv(v, groups)
        read = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None, enable_gqa=grouped
        )
        rows.append(read.transpose(1, 2))
    return torch.cat(rows, dim=1), None


def _window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return the causal mask of a row longer than the sliding window; None for a row that fits."""
    if window is None or length <= window:
        return None
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return causal.triu(1 - window)


def _mask(*args: Any, allow_is_causal_skip: bool = True, **more: Any) -> torch.Tensor | None:
    """Return no mask for packed rows, which transformers detects by their positions; SDPA's mask otherwise."""
    return sdpa_mask(*args, allow_is_causal_skip=True, **more) if allow_is_causal_skip else None


ALL_ATTENTION_FUNCTIONS.register(NAME, row_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)


def attend_by_row(network: PreTrainedModel, model: torch.nn.Module | None = None) -> bool:
    """Switch a network to attention by row if packed rows then give the logits of the rows alone; return whether they
    do.

    Two rows are tried, which detects networks that mix positions otherwise (ALiBi, recurrence), whatever their family;
    they go through `model`, the network with its adapters, which all processes of a shared one call.
    The random state and the network's mode are preserved.
    """
    implementation, is_training = network.config._attn_implementation, network.training
    if not network._can_set_attn_implementation():
        return False
    try:
        network.set_attn_implementation(NAME)
        if _rows_stay_apart(network.eval(), model or network):
            return True
    except UNUSABLE:
        pass
    finally:
        network.train(is_training)
    network.set_attn_implementation(implementation)
    return False


@torch.no_grad()  # in inference mode a shared network would keep buffers that can't be trained on
def _rows_stay_apart(network: PreTrainedModel, model: torch.nn.Module) -> bool:
    device = network.get_input_embeddings().weight.device
    vocabulary = network.get_input_embeddings().num_embeddings
    first, other, second = (
        torch.arange(start, start + count, device=device) * 7 % vocabulary
        for start, count in ((1, 11), (50, 11), (3, 6))
    )
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))]).to(device)[None]
    ends = torch.tensor([len(first), len(first) + len(second)])

    def packed(*rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(
            input_ids=torch.cat(rows)[None], position_ids=positions, row_ends=ends, use_cache=False
        ).logits
        return logits

    together, beside = packed(first, second), packed(other, second)
    alone = torch.cat([model(input_ids=row[None], use_cache=False).logits for row in (first, second)], dim=1)
    largest, kind = float(alone.abs().max()), device_kind(device)
    leak = (together - beside)[:, len(first) :].abs().max()
    return bool(
        (together - alone).abs().max() <= ALONE_TOLERANCE[kind] * largest
        and leak <= NEIGHBOUR_TOLERANCE[kind] * largest
    )
