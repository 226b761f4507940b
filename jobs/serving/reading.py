"""Values that a replica reads from a prompt without continuing it: probabilities of its tokens, its embedding, and a
reward model's scores of answers to it.

Runs the network's plain forward pass beside the engine's, one prompt at a time. Long prompts are scored in parts over
a key-value cache, so that the logits of a large vocabulary never fill the memory.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import DynamicCache

from backend.domain.serving.protocol import SamplingParams
from backend.errors import InvalidInput
from jobs.serving.adapters import AdapterBank, LoadedAdapter
from jobs.serving.engine import FIRST, Choice, EngineStats, Handle, OnEvent, TokenDecoder, read_limits
from jobs.serving.sampling import TokenLogprobs, token_logprobs

PART_TOKENS = 256


def twin_of(network: Any) -> Any:
    """Return a network with the same weights in memory, and modules and a configuration of its own.

    A forward pass of the library changes its configuration for a moment (whether attention is causal), which another
    thread must not see.
    """
    memo = {id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())}
    twin = copy.deepcopy(network, memo)
    if str(twin.config._attn_implementation).startswith("paged|"):
        twin.set_attn_implementation(twin.config._attn_implementation.removeprefix("paged|"))
    return twin


class PromptReader:
    """Reads prompts with a loaded network. Thread-safe; prompts wait for each other."""

    def __init__(self, network: Any) -> None:
        self.network = twin_of(network)
        self.bank: AdapterBank | None = None
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self.num_passes = 0  # since the start
        self.width = int(network.get_input_embeddings().weight.shape[-1])  # length of an embedding
        self._num_open = 0
        self._cache_name = (
            "cache" if "cache" in inspect.signature(type(network).forward).parameters else "past_key_values"
        )

    @torch.inference_mode()
    def score(
        self, ids: Sequence[int], *, top: int, adapter: LoadedAdapter | None = None
    ) -> list[TokenLogprobs | None]:
        """Return each token's natural-log probability given those before it, and the `top` likeliest; None at first."""
        records: list[TokenLogprobs | None] = [None]
        targets = torch.tensor(ids[1:], device=self.network.device)
        with self._using(adapter):
            start = 0
            for logits in self._logits(list(ids[:-1])):
                end = start + logits.shape[0]
                records += token_logprobs(logits, targets[start:end], [top] * (end - start))
                start = end
                self.num_passes += 1
        return records

    @property
    def is_busy(self) -> bool:
        """Return whether a prompt is being read, or waits for that."""
        return self._num_open > 0

    @torch.inference_mode()
    def judge(self, ids: Sequence[int]) -> float:
        """Return a reward model's score of a prompt and its answer."""
        with self._using(None):
            inputs = torch.tensor([list(ids)], device=self.network.device)
            score = float(self.network(input_ids=inputs, use_cache=False).logits[0, 0])
            self.num_passes += 1
        return score

    @contextmanager
    def _using(self, adapter: LoadedAdapter | None) -> Iterator[None]:
        """Read alone, with an adapter."""
        with self._counting:
            self._num_open += 1
        try:
            with self._lock, nullcontext() if self.bank is None else self.bank.use(adapter):
                yield
        finally:
            with self._counting:
                self._num_open -= 1

    def _logits(self, ids: list[int]) -> Any:
        """Yield float32 logits [tokens of a part, vocabulary] of all positions in order."""
        network = self.network
        if not ids:
            return
        inputs = torch.tensor([ids], device=network.device)
        if len(ids) <= PART_TOKENS or not network._supports_attention_backend:
            yield network(input_ids=inputs, use_cache=False).logits[0].float()
            return
        cache = DynamicCache(config=network.config)
        for start in range(0, len(ids), PART_TOKENS):
            more = {self._cache_name: cache}
            output = network(input_ids=inputs[:, start : start + PART_TOKENS], use_cache=True, **more)
            yield output.logits[0].float()

    @torch.inference_mode()
    def embed(self, ids: Sequence[int], *, adapter: LoadedAdapter | None = None) -> list[float]:
        """Return the mean of the last layer's hidden states over a prompt's tokens, of length 1 (Euclidean)."""
        with self._using(adapter):
            inputs = torch.tensor([list(ids)], device=self.network.device)
            output = self.network.base_model(input_ids=inputs, use_cache=False)
            self.num_passes += 1
        mean = output.last_hidden_state[0].float().mean(0)
        vector: list[float] = torch.nn.functional.normalize(mean, dim=0).tolist()
        return vector


class ScoringEngine:
    """Implements Engine for a network with a scoring head. Prompts are read by a PromptReader, beside it."""

    name = "scoring"

    def __init__(self, network: Any, tokenizer: TokenDecoder) -> None:
        self.limits = read_limits(network, tokenizer)
        self.context_length = self.limits.context_length
        self._is_closed = False

    def check_room(self, tenant: str = "") -> None:
        """Refuse nothing: prompts wait for each other."""

    def submit(
        self, ids: Sequence[int], params: SamplingParams, on_event: OnEvent, *, choice: Choice = FIRST
    ) -> Handle:
        """Raise InvalidInput."""
        raise writes_no_text()

    def is_waiting(self, handle: Handle) -> bool:
        """Return False: there is no queue."""
        return False

    def stats(self) -> EngineStats:
        """Return counters of nothing."""
        return EngineStats(
            running=0, waiting=0, tokens_per_second=0.0, steps=0, generated_tokens=0, last_token_age_s=None
        )

    def is_alive(self) -> bool:
        """Return False once closed."""
        return not self._is_closed

    def close(self) -> None:
        """End."""
        self._is_closed = True


def writes_no_text() -> InvalidInput:
    """Return the error of a request that a reward model can't answer."""
    return InvalidInput(
        "This endpoint serves a reward model, which scores answers and writes none.",
        remedy="Call /v1/score or /v1/rerank.",
        field="model",
    )


def scores_none() -> InvalidInput:
    """Return the error of a request that a network which writes text can't answer."""
    return InvalidInput(
        "This endpoint serves a model that writes text.",
        remedy="Deploy a checkpoint of a run with objective reward.",
        field="model",
    )
