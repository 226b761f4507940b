"""A smaller network that proposes the next tokens of requests, with keys and values of its own for a few of them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from backend.domain.serving.drafts import MAX_REQUESTS, draft_cache_tokens
from backend.domain.serving.protocol import SamplingParams
from backend.errors import InvalidInput
from jobs.modeling.kv_shape import read_kv_shape
from jobs.modeling.loglikelihood import longest_input
from jobs.serving.fused_layers import FusedLayer
from jobs.serving.paged_attention import SequencePart, SlotPages
from jobs.serving.sampling import SamplingState, choose_tokens

READ_ROWS = 128
"""Tokens of a request that are read in one step; a longer prompt takes several, and has no drafts meanwhile."""
NEAR = 16
"""Unread tokens that are read at once: those of a step or two without drafts."""


@dataclass(frozen=True)
class DraftRequest:
    """A request whose next tokens are wanted: its tokens so far, the state of its sampling, and the seconds that its
    answer took so far.
    """

    request_id: str
    tokens: list[int]
    draw: SamplingState
    spent_s: float = math.inf


@dataclass(eq=False)
class DraftSlot:
    """One request's place in the pages: the tokens whose keys they hold, the first `certain` of them its own."""

    index: int
    request_id: str = ""
    tokens: list[int] = field(default_factory=list)
    certain: int = 0
    params: SamplingParams = field(default_factory=SamplingParams)

    def reuse(self, ask: DraftRequest) -> int:
        """Return how many of a request's tokens the pages hold, and forget the others: drafts that were refused."""
        if self.request_id != ask.request_id:
            changes = {
                "logprobs": None,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "logit_bias": (),
                "constraint": None,
            }
            changes |= {"repetition_penalty": 1.0, "min_tokens": 0}
            self.request_id, self.certain = ask.request_id, 0
            self.params = ask.draw.params.model_copy(update=changes)
        count, last = self.certain, min(len(self.tokens), len(ask.tokens) - 1)
        while count < last and self.tokens[count] == ask.tokens[count]:
            count += 1
        self.certain = count = min(count, last)
        del self.tokens[count:]
        return count


class Draft:
    """Proposes tokens by a network with fused layers on a CPU. Raises InvalidInput for any other network, and for
    one whose attention has a window.
    """

    def __init__(self, network: Any) -> None:
        self._base, self._head, self._embed = (
            network.base_model,
            network.get_output_embeddings(),
            network.get_input_embeddings(),
        )
        if why := why_unfit(network):
            raise InvalidInput(
                f"This model can't draft: {why}.", remedy="Choose another draft, or none.", field="draft"
            )
        self.vocab_size = int(self._embed.weight.shape[0])
        token_bytes = read_kv_shape(network.config).token_bytes(4)
        self.longest = draft_cache_tokens(token_bytes, context=longest_input(network))
        self._pages = SlotPages(network.config, num_slots=MAX_REQUESTS, num_tokens=self.longest)
        self._read_s: float | None = None  # per token of a prompt
        self._slots = [DraftSlot(index) for index in range(MAX_REQUESTS)]

    @torch.inference_mode()
    def propose(self, asks: Sequence[DraftRequest], num_tokens: int, *, vocab_size: int) -> list[list[int]]:
        """Return up to `num_tokens` next tokens of each request (at most MAX_REQUESTS), below `vocab_size`.

        They are drawn by the request's own temperature and random numbers, so that a draft with the same distribution
        draws the same tokens. A request has none while its prompt is being read, where its context ends, and where it
        holds tokens that the draft does not know. A prompt is read only after its answer took as long as reading it
        will: short answers to long prompts would lose more time by it than drafts save.
        """
        drafts: list[list[int]] = [[] for _ in asks]
        parts: dict[int, tuple[DraftSlot, list[int]]] = {}
        for number, (ask, slot) in enumerate(zip(asks, self._assign(asks), strict=True)):
            unread = ask.tokens[slot.reuse(ask) :]
            if len(ask.tokens) + num_tokens > self.longest or max(unread) >= self.vocab_size:
                continue
            if len(unread) > NEAR and (self._read_s or 0.0) * len(unread) > ask.spent_s:
                continue
            if len(unread) > NEAR:
                self._read_prompt(slot, unread[: min(READ_ROWS, len(unread) - 1)])
            if (unread := ask.tokens[len(slot.tokens) :]) and len(unread) <= NEAR:
                parts[number] = slot, unread
        draws = [
            SamplingState(params=slot.params, seed=asks[number].draw.seed, drawn=asks[number].draw.drawn)
            for number, (slot, _) in parts.items()
        ]
        for _ in range(num_tokens if parts else 0):
            logits = self._read(list(parts.values()))[:, :vocab_size]
            tokens = choose_tokens(logits, draws)
            for (number, (slot, _)), token in zip(list(parts.items()), tokens, strict=True):
                drafts[number].append(token)
                parts[number] = slot, [token]
        return drafts

    def _assign(self, asks: Sequence[DraftRequest]) -> list[DraftSlot]:
        """Return each request's slot: its own, else the one that was used longest ago."""
        ids = {ask.request_id for ask in asks}
        own = {slot.request_id: slot for slot in self._slots if slot.request_id in ids}
        free = iter([slot for slot in self._slots if slot.request_id not in ids])
        chosen = [own.get(ask.request_id) or next(free) for ask in asks]
        self._slots.sort(key=lambda slot: slot in chosen)
        return chosen

    def _read_prompt(self, slot: DraftSlot, ids: list[int]) -> None:
        """Read tokens of a request, and measure how long that takes."""
        began = time.thread_time()
        self._read([(slot, ids)])
        slot.certain = len(slot.tokens)
        seconds = (time.thread_time() - began) / len(ids)
        self._read_s = seconds if self._read_s is None else 0.8 * self._read_s + 0.2 * seconds

    def _read(self, parts: Sequence[tuple[DraftSlot, list[int]]]) -> torch.Tensor:
        """Read tokens of slots; return the logits [slots, vocabulary] behind the last one of each."""
        places = [SequencePart(slot.index, len(slot.tokens), len(ids)) for slot, ids in parts]
        positions = [range(place.past, place.past + place.count) for place in places]
        hidden = self._embed(torch.tensor([list(itertools.chain.from_iterable(ids for _, ids in parts))]))
        rotation = self._base.rotary_emb(hidden, torch.tensor([list(itertools.chain.from_iterable(positions))]))
        batch = self._pages.batch(places)
        for layer in self._base.layers:
            hidden = layer(hidden, cache=self._pages, position_embeddings=rotation, **batch)
        for slot, ids in parts:
            slot.tokens += ids
        last = list(itertools.accumulate(place.count for place in places))
        logits: torch.Tensor = self._head(self._base.norm(hidden[0, [end - 1 for end in last]]))
        return logits.float()


def why_unfit(network: Any) -> str | None:
    """Return why a network can't draft or be drafted for, or None: its layers must be the compiled library's."""
    layers = getattr(network.base_model, "layers", ())
    if not layers or not all(isinstance(layer, FusedLayer) for layer in layers):
        return "it is not a Llama, Mistral, Qwen2 or Qwen3 on a CPU"
    types = getattr(network.config.get_text_config(), "layer_types", None) or ()
    if getattr(layers[0], "sliding_window", None) or any(name != "full_attention" for name in types):
        return "its attention has a window"
    return None
