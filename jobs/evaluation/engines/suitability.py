"""Decide whether a network can share prefixes, up to what length, and how many tokens a forward pass may take."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from jobs.evaluation.engines.shared_prefix import SharedPrefix
from jobs.evaluation.engines.trie import TokenTrie
from jobs.memory_limit import available_bytes
from jobs.modeling.devices import free_bytes
from jobs.modeling.loglikelihood import ScoredSequence, score_continuations
from jobs.modeling.memory_errors import is_out_of_memory
from jobs.modeling.unusable import UNUSABLE, one_line

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_TOLERANCE = 0.5
"""Largest difference in nats between two ways of computing a few tokens; a wrong mask or position gives several."""
MEMORY_SHARE = 0.25
LOGIT_COPIES, ACTIVATION_COPIES = 3, 30
CPU_ROW_TOKENS, GPU_ROW_TOKENS = (64, 512), (512, 4096)
"""Least and most tokens of a row. Attention within a row costs the square of them; a CPU computes no faster with
more.
"""
NO_LIMIT = 1 << 40


def reason_against_caching(network: PreTrainedModel) -> str:
    """Return why a network's keys and values can't be kept between forward passes of our own; empty if they can."""
    config = network.config.get_text_config()
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {str(part.get("rope_type")) for part in (scaling, *scaling.values()) if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        return "its rotary positions depend on the longest sequence of a batch"
    if getattr(network, "_is_stateful", False):
        return "its recurrent state can't be cut back to a shared prefix"
    if "position_ids" not in inspect.signature(type(network).forward).parameters:
        return "its attention takes no positions of our own"
    return ""


def reason_against_sharing(network: PreTrainedModel) -> str:
    """Return why a network can't share prefixes; empty if it can. Compares both ways on a few tokens of the
    vocabulary.
    """
    if reason := reason_against_caching(network):
        return reason
    try:
        difference = _difference(network)
    except UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        return f"its attention takes no mask of our own ({one_line(error)[:120]})"
    if not difference <= TOLERANCE.get(network.dtype, HALF_TOLERANCE):
        return f"shared prefixes change its numbers by {difference:.2g}"
    return ""


def _difference(network: PreTrainedModel) -> float:
    """Return the largest difference between shared and plain scores of sequences that fork after a cached prefix."""
    vocab = network.get_input_embeddings().num_embeddings
    draw = np.random.default_rng(0)
    prefix, *rest = (draw.integers(0, vocab, size).astype(np.int32) for size in (5, 3, 4, 2))
    sequences = [
        ScoredSequence(place, np.concatenate([prefix, tail]), len(tail) - 1) for place, tail in enumerate(rest)
    ]
    sequences.append(ScoredSequence(3, np.concatenate([prefix, rest[1][:2], rest[2]]), 2))
    trie = TokenTrie(sequences)
    row = next(trie.rows(1 << 20))
    plain = score_continuations(
        network,
        None,
        [(one.ids[: -one.scored].tolist(), one.ids[-one.scored :].tolist()) for one in trie.sequences],
    )
    worst = 0.0
    for base in (0, len(prefix)):
        shared = SharedPrefix(network, piece_tokens=64)
        shared.reach(trie.sequences[0].ids[:base])
        scores = shared.score(trie.pack(type(row)(row.first, row.last, base)), sequences=len(sequences))
        gaps = np.abs(scores.logprobs - np.array([one.sum_logprob for one in plain]))
        worst = max(worst, float(gaps.max())) if np.isfinite(gaps).all() else worst
    return worst


def longest_shared(network: PreTrainedModel) -> int:
    """Return the length in tokens beyond which a sequence is computed alone, because attention has a window."""
    config = network.config.get_text_config()
    windows: list[Any] = [getattr(config, "attention_chunk_size", None), getattr(config, "sliding_window", None)]
    if getattr(config, "use_sliding_window", True) is False:
        windows.pop()
    windows.append(getattr(config, "window_size", None))
    return min((window for window in windows if isinstance(window, int) and window > 0), default=NO_LIMIT)


def row_tokens(network: PreTrainedModel) -> int:
    """Return the tokens that one forward pass may take, by the memory that is free."""
    config = network.config.get_text_config()
    per_token = (
        4 * LOGIT_COPIES * int(config.vocab_size) + ACTIVATION_COPIES * int(config.hidden_size) * network.dtype.itemsize
    )
    on_gpu = free_bytes(network.device)
    free = available_bytes() if on_gpu is None else on_gpu
    least, most = CPU_ROW_TOKENS if on_gpu is None else GPU_ROW_TOKENS
    fitting: int = int(MEMORY_SHARE * free) // per_token
    return max(least, min(most, fitting))
