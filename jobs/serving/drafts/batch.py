"""Steps of the batching engine that check drafts: a request's next token and its draft are computed together, and those
that the network would have chosen itself are kept.

Every position is chosen by `choose_tokens` from the network's own logits, in order, with the request's own state: a
draft changes how many positions a step computes, never what is chosen. The compiled library gives a row the same bits
whatever shares the step (0064).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from backend.domain.serving.drafts import MAX_REQUESTS
from jobs.serving.continuous_batching import BatchedRequest
from jobs.serving.drafts.network import Draft, DraftRequest
from jobs.serving.sampling import SamplingState, choose_tokens, forced_scores


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
