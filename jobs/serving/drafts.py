"""Speculative decoding: a smaller network proposes the next tokens of requests, with keys and values of its own for a
few of them, and steps of the batching engine check them: a request's next token and its draft are computed together,
and those that the network would have chosen itself are kept.

Every position is chosen by `choose_tokens` from the network's own logits, in order, with the request's own state: a
draft changes how many positions a step computes, never what is chosen. The compiled library gives a row the same bits
whatever shares the step (0064).
"""

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
from jobs.serving.continuous_batching import BatchedRequest
from jobs.serving.fused_layers import FusedLayer, SequencePart, SlotPages
from jobs.serving.sampling import SamplingState, choose_tokens, forced_scores

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


@dataclass
class Checked:
    """A request of a step, its draft, and the tokens that were chosen."""

    request: BatchedRequest
    draft: list[int]
    tokens: list[int] = field(default_factory=list)

    def goes_on(self, token: int) -> bool:
        """Note a chosen token; return whether the row behind it was computed for the right token."""
        position = len(self.tokens)
        self.tokens.append(token)
        is_right = position < len(self.draft) and token == self.draft[position]
        return is_right and not self.request.is_ended_by(token)


class Speculation:
    """Drafts for the requests of a batching engine. Hooks run on the library's thread; counts may be read from any."""

    def __init__(self, draft: Draft, *, vocab_size: int, pace: Pace | None = None) -> None:
        self._draft, self._vocab_size, self.pace = draft, vocab_size, pace or Pace()
        self._step: list[Checked] = []
        self._length: int | None = None  # None: the step is not compared
        self._is_whole = True  # whether all its requests have drafts of that length
        self._began = 0.0
        self.drafted = self.accepted = 0

    @property
    def has_drafts(self) -> bool:
        """Return whether the present step checks drafts."""
        return bool(self._step)

    def begin(self) -> None:
        """Note that a step begins."""
        self._began = time.thread_time()

    def forget(self) -> None:
        """Drop what a failed step left behind."""
        self._step, self._length = [], None

    def choose(self, rows: torch.Tensor, draws: Sequence[SamplingState]) -> torch.Tensor:
        """Choose the tokens of a step with drafts from all its rows [rows, vocabulary]; return scores whose first
        argmaxes are the requests' last tokens."""
        firsts = list(itertools.accumulate((1 + len(checked.draft) for checked in self._step), initial=0))
        open_ = list(range(len(self._step)))
        for position in itertools.count():
            chosen = choose_tokens(
                rows[[firsts[number] + position for number in open_]], [draws[number] for number in open_]
            )
            open_ = [number for number, token in zip(open_, chosen, strict=True) if self._step[number].goes_on(token)]
            if not open_:
                break
        last = [checked.tokens[-1] for checked in self._step]
        return forced_scores(rows, [*last, *(0 for _ in range(len(rows) - len(last)))])

    def extend(self, requests: Sequence[BatchedRequest], cache: Any) -> int:
        """Add drafts to a step's requests where all of them generate; return how many tokens were added."""
        self._step, self._length = [], None
        if not 0 < len(requests) <= MAX_REQUESTS or not all(request.is_decoding for request in requests):
            return 0
        self._length, self._is_whole = self.pace.choose(len(requests)), True
        if not self._length:
            return 0
        token_s = self.pace.token_s(len(requests))
        asks = [
            DraftRequest(request.request_id, request.tokens, request.generation.draw, token_s * request.num_generated)
            for request in requests
        ]
        drafts = self._draft.propose(asks, self._length, vocab_size=self._vocab_size)
        step = [
            Checked(request, draft[: max(0, request.num_left - 1)])
            for request, draft in zip(requests, drafts, strict=True)
        ]
        for checked in step:
            if not checked.request.add_draft(checked.draft, cache):
                checked.draft = []
        added = sum(len(checked.draft) for checked in step)
        self._is_whole = added == self._length * len(step)
        self._step = step if added else []
        return added

    def keep_right(self, cache: Any) -> None:
        """Keep the drafted tokens that were right."""
        for checked in self._step:
            checked.request.keep(checked.tokens, cache)

    def note(self, num_requests: int) -> None:
        """Count a step that has ended."""
        right = sum(len(checked.tokens) - 1 for checked in self._step)
        self.drafted += sum(len(checked.draft) for checked in self._step)
        self.accepted += right
        if self._length is not None:
            wrong = sum(len(checked.tokens) <= len(checked.draft) for checked in self._step)
            seconds = time.thread_time() - self._began  # processor time: other processes do not count
            self.pace.note(
                num_requests, self._length, right=right, wrong=wrong, seconds=seconds if self._is_whole else None
            )
        self._step = []


LENGTHS = (0, 2, 4, 6)
TRIAL_STEPS = 4
# steps between trials of the lengths that promise less; they double while nothing changes
FIRST_WAIT, LAST_WAIT = 64, 1024
MEMORY = 0.9  # weight of what was measured before a step


@dataclass
class Acceptance:
    """Share of drafted tokens that were right, of those whose predecessors were; the latest count most."""

    right: float = 0.0
    checked: float = 0.0

    def add(self, right: int, wrong: int) -> None:
        """Count a step's drafts: their right tokens, and those that had a wrong one behind them."""
        self.right, self.checked = MEMORY * self.right + right, MEMORY * self.checked + right + wrong

    def tokens(self, length: int) -> float:
        """Return the expected tokens of a step with a draft of `length`: one, and each drafted one if all before it are
        right (Leviathan, Kalman and Matias, 2023, equation 1).
        """
        share = self.right / self.checked if self.checked else 0.0
        return sum(share**position for position in range(length + 1))


@dataclass
class _Times:
    """Seconds of steps by length, at one number of requests, and which lengths are to be tried."""

    seconds: dict[int, float] = field(default_factory=dict)
    trials: list[int] = field(default_factory=lambda: list(LENGTHS))
    left: int = TRIAL_STEPS
    wait: int = FIRST_WAIT
    until_trial: int = FIRST_WAIT
    before: int = -1

    def add(self, length: int, seconds: float) -> None:
        """Count a step."""
        known = self.seconds.get(length, seconds)
        # a pause of the machine counts little
        self.seconds[length] = MEMORY * known + (1 - MEMORY) * min(seconds, 1.5 * known)


class Pace:
    """Chooses a step's length for each number of requests: at first each is tried, later the slower ones again at
    growing distances.
    """

    def __init__(self) -> None:
        self._acceptance = Acceptance()
        self._times: dict[int, _Times] = {}

    def choose(self, num_requests: int) -> int:
        """Return how many tokens to draft for each request of the next step."""
        times = self._times.setdefault(num_requests, _Times())
        return times.trials[0] if times.trials else self._best(times)

    def token_s(self, num_requests: int) -> float:
        """Return the seconds of a step without drafts; 0 before the first."""
        times = self._times.get(num_requests)
        return times.seconds.get(0, 0.0) if times else 0.0

    def note(self, num_requests: int, length: int, *, right: int, wrong: int, seconds: float | None) -> None:
        """Count a step: the drafted tokens that were accepted, the drafts that were not accepted to their end, and its
        time; None where not all requests had a draft of that length.
        """
        times = self._times.setdefault(num_requests, _Times())
        if right or wrong:
            self._acceptance.add(right, wrong)
        if seconds is None:
            return
        times.add(length, seconds)
        if times.trials:
            self._end_trial(times, length)
            return
        times.until_trial -= 1
        if times.until_trial <= 0:
            times.before, times.left = self._best(times), TRIAL_STEPS
            times.trials = [length for length in LENGTHS if length != times.before]

    def _best(self, times: _Times) -> int:
        return max(times.seconds, key=lambda length: (self._acceptance.tokens(length) / times.seconds[length], -length))

    def _end_trial(self, times: _Times, length: int) -> None:
        times.left -= length == times.trials[0]
        if times.left > 0:
            return
        times.trials.pop(0)
        times.left = TRIAL_STEPS
        if not times.trials:
            times.wait = min(2 * times.wait, LAST_WAIT) if times.before == self._best(times) else FIRST_WAIT
            times.until_trial = times.wait
