"""The number of tokens to draft: as many as promise the most tokens per second, by what steps took and how many drafts
were right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LENGTHS = (0, 2, 4, 6)
TRIAL_STEPS = 4
FIRST_WAIT, LAST_WAIT = (
    64,
    1024,
)  # steps between trials of the lengths that promise less; they double while nothing changes
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
        self.seconds[length] = MEMORY * known + (1 - MEMORY) * min(
            seconds, 1.5 * known
        )  # a pause of the machine counts little


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
