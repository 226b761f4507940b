"""Diagnose a run from its curves: symptom, likely cause, and suggested changes for the next run. Pure.

Every rule requires evidence well outside the noise of the curve itself, because a false alarm costs more than a late
one: it stops a healthy run. Noise is estimated from differences of neighbours, which a trend hardly affects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import Value
from backend.domain.training.defaults import Basis, suggest_learning_rate
from backend.domain.training.launch_warnings import usual_learning_rates
from backend.domain.training.metric_labels import curve_label
from backend.domain.training.objectives import Objective
from backend.domain.training.rewards import SAME_REWARDS
from backend.domain.wording import format_number, percent

Floats = npt.NDArray[np.float64]

MAX_POINTS = 4000
MEDIANS_AT_ONCE = 256
MAX_VOCABULARY = 2**18
"""Largest vocabulary in use, assumed for a run whose own is not known."""
WORSE_SHARE = 1.25
"""Worse than guessing: this multiple of the loss of a guess; a fresh model may begin a little above that loss."""
LOST_SHARE, LOST_POINTS = 3.0, 5
"""A run that trains is lost if the median of this many steps is above this multiple; a trend needs many more."""
MIN_POINTS = 60
"""Minimum number of points for a trend."""
MIN_STILL_POINTS = 5
"""Minimum number of points of a gradient norm that is always exactly 0; any number if the run has ended."""
SPIKE_SIGMAS, SPIKE_SHARE = 12.0, 0.15
"""A spike: 12 robust standard deviations and 15 % of the loss above the rolling median; small batches reach 6 to 8."""
DIVERGED_SHARE = 0.25
"""Diverged: the loss has lost a quarter of its gain."""
UNSTABLE_SHARE, UNSTABLE_SIGMAS = 0.5, 5.0
"""Unstable: the smoothed loss rose by half, and by five times its noise, and came back."""
FLAT_SHARE = 0.01
"""A plateau: with 95 % certainty less than 1 % better over the last two fifths of the steps, and no sign of a fall."""
OVER_FIT_SHARE, OVER_FIT_SIGMAS = 0.02, 5.0
"""val_loss has risen by 2 % and by five times its own noise above its lowest value, while train_loss fell on."""
DEAD_NORM = 1e-6
"""Gradient norms of a learning network are 1e-2 to 10; 1e-6 is rounding noise."""
EXPLODING_FACTOR = 10.0
"""Gradient norms drift by factors of 2 to 3 in long runs; a factor of ten precedes divergence."""
STARVING_SHARE = 0.2
"""Waiting for data a fifth of every step matters more than other optimizations."""
SLOW_SHARE = 0.08
"""From random weights the loss falls by more than 8 % within a hundred steps at any usual learning rate."""
NOT_A_NUMBER = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)


class Kind(StrEnum):
    """Kind of finding."""

    NOT_FINITE = "not_finite"
    DIVERGED = "diverged"
    EXPLODING = "exploding_gradients"
    STILL = "nothing_learned"
    DEAD = "dead_gradients"
    UNSTABLE = "unstable"
    SPIKES = "spikes"
    OVER_FIT = "over_fit"
    STARVING = "starving_loader"
    TOO_SLOW = "learning_rate_low"
    PLATEAU = "plateau"


SEVERITY: dict[Kind, str] = {
    Kind.NOT_FINITE: "error",
    Kind.DIVERGED: "error",
    Kind.EXPLODING: "error",
    Kind.STILL: "error",
    Kind.DEAD: "error",
    Kind.UNSTABLE: "warning",
    Kind.SPIKES: "warning",
    Kind.OVER_FIT: "warning",
    Kind.STARVING: "warning",
    Kind.TOO_SLOW: "warning",
    Kind.PLATEAU: "note",
}


@dataclass(frozen=True)
class Series:
    """One metric: steps and values of one length, ascending in step, all values finite."""

    steps: npt.NDArray[np.int64]
    values: Floats

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run besides its curves. `failure`: why the job failed. `not_finite`: by metric the first step that
    was not finite. `body`: the network's parameters without embeddings.
    """

    config: RunConfig | None = None
    has_ended: bool = True
    failure: str = ""
    not_finite: Mapping[str, int] = field(default_factory=dict)
    vocab_size: int | None = None
    body: int | None = None


@dataclass(frozen=True)
class Finding:
    """A problem: `sentence` is the symptom, `cause` the likely cause, `action` the label of the suggested run.

    `changes` are the config fields to change, none if the remedy is not in the config. `step` is where it shows.
    """

    kind: Kind
    sentence: str
    cause: str
    step: int | None = None
    action: str = ""
    changes: tuple[tuple[str, Value], ...] = ()

    @property
    def severity(self) -> str:
        """`error`, `warning` or `note`."""
        return SEVERITY[self.kind]


def breaking_finding(findings: Sequence[Finding]) -> Finding | None:
    """Return the finding after which a run's weights are of no use, if there is one."""
    return next((finding for finding in findings if finding.kind in (Kind.NOT_FINITE, Kind.DIVERGED)), None)


def idle_finding(findings: Sequence[Finding]) -> Finding | None:
    """Return the finding that a run has left its weights as they were, if there is one."""
    return next((finding for finding in findings if finding.kind is Kind.STILL), None)


def spoils(finding: Finding | None, step: int | None) -> bool:
    """Return whether a breaking finding makes the weights of a step useless; those from well before it may be good."""
    return finding is not None and (finding.step is None or step is None or step >= finding.step - 1)


def diagnose(series: Mapping[str, Series], facts: RunFacts) -> list[Finding]:
    """Return the findings of a run, most severe first; none for a healthy run or one too short to tell.

    Spikes are searched in all points, other findings in every n-th point of a long curve.
    """
    thin = {name: _thinned(one) for name, one in series.items()}
    findings = [*_not_finite(series, facts), *_spikes(series, facts)]
    findings += [*_gradients(thin, facts), *_course(thin, facts), *_loader(thin, facts)]
    if breaking_finding(findings) is None:
        findings += _worse_than_guessing(series, facts)
    kinds = {finding.kind for finding in findings}
    if kinds & {Kind.DIVERGED, Kind.NOT_FINITE}:  # its consequences are not reported again
        consequences = {Kind.UNSTABLE, Kind.PLATEAU, Kind.TOO_SLOW, Kind.OVER_FIT}
        findings = [finding for finding in findings if finding.kind not in consequences]
    elif Kind.UNSTABLE in kinds:
        findings = [finding for finding in findings if finding.kind not in (Kind.EXPLODING, Kind.SPIKES)]
    order = list(SEVERITY)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def _not_finite(series: Mapping[str, Series], facts: RunFacts) -> Iterator[Finding]:
    step, metric = min(((step, metric) for metric, step in facts.not_finite.items()), default=(None, ""))
    if step is None and not NOT_A_NUMBER.search(facts.failure):
        return
    train = series.get("train_loss")
    if step is None:
        step = int(train.steps[-1]) + 1 if train is not None and len(train) else None
    what = curve_label(metric) if metric else "The loss"
    sentence = f"{what} became NaN or infinite{f' at step {step:,}' if step is not None else ''}."
    step = _lost_since(train, facts, step)
    config = facts.config
    if config is not None and config.precision == "fp16":
        cause = "Half precision holds no number above 65,504, and something became larger."
        yield Finding(Kind.NOT_FINITE, sentence, cause, step, "Run again in full precision", (("precision", "fp32"),))
        return
    cause = "Usually the learning rate is too high; else a malformed row, or no gradient clipping."
    if (usual := _exceeded_rates(facts)) is not None and config is not None:
        low, high = (format_number(end, digits=1) for end in usual)
        cause = f"The learning rate of {format_number(config.learning_rate)} is above the usual {low} to {high}."
    yield Finding(Kind.NOT_FINITE, sentence, cause, step, *_calmer(facts))


def _gradients(series: Mapping[str, Series], facts: RunFacts) -> Iterator[Finding]:
    norms, config = series.get("grad_norm"), facts.config
    if norms is None:
        return
    has_ended = config is not None and facts.has_ended
    never_moved = len(norms) >= (1 if has_ended else MIN_STILL_POINTS) and not norms.values.any()
    if len(norms) < MIN_POINTS and not never_moved:
        return
    last = norms.values[-max(20, len(norms) // 10) :]
    if float(np.median(last)) < DEAD_NORM:
        since = (
            int(norms.steps[np.flatnonzero(norms.values >= DEAD_NORM)[-1]]) if (norms.values >= DEAD_NORM).any() else 0
        )
        why = _why_dead(config, since, series.get("completion_length"))
        if not never_moved:
            norm = float(np.median(last))
            yield Finding(
                Kind.DEAD, f"The gradients have vanished since step {since:,}: their norm is {norm:.2g}.", *why
            )
        elif config is not None and config.objective.samples:
            yield Finding(Kind.STILL, SAME_REWARDS, *why)
        else:
            yield Finding(Kind.STILL, "The gradients are 0 from the first step on: nothing was learned.", *why)
        return
    middle = norms.values[len(norms) // 5 : len(norms) // 2]
    factor = float(np.median(last)) / max(float(np.median(middle)), 1e-12)
    if factor >= EXPLODING_FACTOR and float(np.quantile(last, 0.25)) > float(np.quantile(middle, 0.9)):
        start = int(norms.steps[np.flatnonzero(norms.values <= 3 * np.median(middle))[-1]])
        cause = (
            "Each update makes the next gradient larger; a learning rate that suited the beginning can be too high"
            " later."
        )
        yield Finding(
            Kind.EXPLODING,
            f"The gradient norm has grown {factor:.0f} times since step {start:,}.",
            cause,
            start,
            *_calmer(facts),
        )


def _why_dead(
    config: RunConfig | None, since: int, lengths: Series | None
) -> tuple[str, int, str, tuple[tuple[str, Value], ...]]:
    if config is not None and config.objective.samples:
        if lengths is not None and len(lengths) and float(np.median(lengths.values)) >= config.grpo.max_new_tokens:
            return _why_truncated(config, since)
        cause = "The rewards are too hard or too easy for this model: completions of a prompt get the same reward."
        return (
            cause,
            since,
            "Run again with more varied answers",
            (("grpo.temperature", round(min(config.grpo.temperature * 1.5, 5.0), 2)),),
        )
    if config is not None and config.precision == "fp16":
        return (
            "Half precision rounds small gradients to zero.",
            since,
            "Run again in full precision",
            (("precision", "fp32"),),
        )
    if config is not None and config.objective is Objective.DPO:
        cause = (
            "The chosen answers are so much likelier than the rejected ones that the loss is near 0: the run overfits"
            " the pairs."
        )
        return cause, since, "Run again up to there", (("max_steps", max(since, 1)),)
    cause = "The loss has no gradient: every label is masked, every parameter is frozen, or the loss is zero already."
    return cause, since, "", ()


def _why_truncated(config: RunConfig, since: int) -> tuple[str, int, str, tuple[tuple[str, Value], ...]]:
    """Return the cause of equal rewards of completions that all end at the limit of new tokens, and its remedy."""
    limit = config.grpo.max_new_tokens
    targets = [rule.target for rule in config.grpo.rewards if rule.kind == "length"]
    more = 2 * max(limit, *targets, 0)
    cause = f"All completions end at max new tokens, {limit:,}: cut off there, they get one reward."
    if more >= config.context:
        return f"{cause} The context of {config.context:,} tokens has no room for longer ones.", since, "", ()
    return cause, since, f"Run again with up to {more:,} new tokens", (("grpo.max_new_tokens", more),)


def _course(series: Mapping[str, Series], facts: RunFacts) -> Iterator[Finding]:
    """Yield findings from the losses; GRPO's loss has no level to fall from."""
    train, config = series.get("train_loss"), facts.config
    if train is None or len(train) < MIN_POINTS or (config is not None and config.objective.samples):
        return
    skipped = int(np.searchsorted(train.steps, config.num_warmup_steps if config else 0))
    diverged = list(_diverged(train, facts, skipped))
    yield from diverged
    over_fit = list(_over_fit(series.get("val_loss"), train, facts))
    yield from over_fit
    unstable = [] if diverged else list(_unstable(train, facts))
    yield from unstable
    slow = [] if unstable else list(_too_slow(train, facts, skipped))
    yield from slow
    if not (diverged or over_fit or unstable or slow):
        yield from _plateau(train, facts, skipped)


def _spikes(series: Mapping[str, Series], facts: RunFacts) -> Iterator[Finding]:
    train, norms, config = series.get("train_loss"), series.get("grad_norm"), facts.config
    if train is None or len(train) < MIN_POINTS or (config is not None and config.objective.samples):
        return
    values = train.values
    level = _level(values, 25)
    above = values - level
    scale = 1.4826 * _level(np.abs(above), 101)
    is_high = (above > SPIKE_SIGMAS * np.maximum(scale, 1e-9)) & (above > SPIKE_SHARE * np.abs(level))
    is_high[: max(int(np.searchsorted(train.steps, config.num_warmup_steps if config else 0)), 25)] = False
    places = np.flatnonzero(is_high)
    if not len(places):
        return
    groups = np.split(places, np.flatnonzero(np.diff(places) > 10) + 1)
    worst = int(places[np.argmax(above[places])])
    step, number = int(train.steps[worst]), len(groups)
    if number < 2 and above[worst] < level[worst]:
        return  # one batch of odd text is part of most corpora
    evidence = f"The loss jumped {number} times" if number > 1 else "The loss jumped"
    cause = "Batches of odd text, or a learning rate at the edge of what is stable."
    if norms is not None and len(norms):
        at = int(np.clip(np.searchsorted(norms.steps, step), 0, len(norms) - 1))
        factor = norms.values[at] / max(float(np.median(norms.values)), 1e-12)
        if factor > 5:
            cause = (
                f"The gradient norm was {factor:.0f} times its usual value there: batches of odd text, or a learning"
                " rate at the edge."
            )
    yield Finding(
        Kind.SPIKES,
        f"{evidence}, the highest time by {above[worst]:.2f} to {values[worst]:.2f} at step {step:,}.",
        cause,
        step,
        *_calmer(facts),
    )


def _diverged(train: Series, facts: RunFacts, skipped: int) -> Iterator[Finding]:
    smooth = _rolling_median(train.values, max(9, len(train) // 25))
    start, end = float(np.median(train.values[:5])), float(np.median(train.values[-max(10, len(train) // 20) :]))
    lowest = int(np.argmin(smooth))
    low, noise = float(smooth[lowest]), _noise(train.values)
    rise = end - low
    if rise <= 8 * noise / math.sqrt(10) or lowest > 0.95 * len(train) or len(train) - skipped < MIN_POINTS:
        return
    gained = start - low
    if rise < DIVERGED_SHARE * max(gained, 0.0) or rise < 0.03 * abs(low):
        return
    never = " It never came below where it began." if gained < 2 * noise else ""
    if low > train.values[0]:  # it rose from the first step on, within the first window
        low, lowest = float(train.values[0]), 0
    step = int(train.steps[lowest])
    cause = "The learning rate is too high: updates overshoot."
    yield Finding(
        Kind.DIVERGED,
        f"The loss has risen from {low:.3f} at step {step:,} to {end:.3f}, and stays there.{never}",
        cause,
        step,
        *_calmer(facts),
    )


def _unstable(train: Series, facts: RunFacts) -> Iterator[Finding]:
    """Yield a finding if the loss rose far for many steps and came back, as it does when a learning rate that is too
    high decays.
    """
    smooth = _rolling_median(train.values, max(9, len(train) // 25))
    lowest = np.minimum.accumulate(smooth)
    top = int(np.argmax(smooth - lowest))
    begin = int(np.argmin(smooth[: top + 1]))
    # the first windows share a median: a rise from the first step on began at the first loss
    low, high, end = min(float(smooth[begin]), float(train.values[0])), float(smooth[top]), float(smooth[-1])
    rise, gained = high - low, float(np.median(train.values[:5])) - low
    # losses that fall to near 0, as those of pairs do, have noise in proportion: far more before than at the end
    noise = max(_noise(train.values), _noise(train.values[begin : top + len(train) // 25 + 1]))
    if rise < UNSTABLE_SHARE * max(abs(low), gained) or rise < UNSTABLE_SIGMAS * noise or high - end < rise / 2:
        return
    step, peak = int(train.steps[begin]), int(train.steps[top])
    schedule = facts.config.schedule if facts.config else "constant"
    decayed = " as the learning rate decayed" if schedule != "constant" else ""
    yield Finding(
        Kind.UNSTABLE,
        f"The loss rose from {low:.3f} at step {step:,} to {high:.3f} at step {peak:,} and came back to"
        f" {train.values[-1]:.3f}{decayed}.",
        "The peak learning rate is too high, or its warm-up too short: most of these steps taught nothing.",
        step,
        *_calmer(facts),
    )


def _worse_than_guessing(series: Mapping[str, Series], facts: RunFacts) -> Iterator[Finding]:
    """Yield a finding if a language model's run of any length ended above the loss of equally likely tokens, or trains
    far above it.
    """
    train, config = series.get("train_loss"), facts.config
    if train is None or len(train) < (1 if facts.has_ended else LOST_POINTS) or config is None:
        return
    guess = math.log(facts.vocab_size or MAX_VOCABULARY)
    level = float(np.median(train.values[-5:]))
    share = WORSE_SHARE if facts.has_ended else LOST_SHARE
    if config.objective.predicts_tokens and level > share * guess:
        start, end = float(train.values[0]), float(train.values[-1])
        rose = start <= WORSE_SHARE * guess
        course = f"rose from {start:.1f} to {end:,.1f}" if rose else f"is {end:,.1f}"
        yield Finding(
            Kind.DIVERGED,
            f"The training loss {course}. A model that takes all tokens for equally likely has {guess:.1f}"
            f"{'' if facts.vocab_size else ' at most'}.",
            f"The learning rate is too high{': updates overshoot.' if rose else ', or the run is too short.'}",
            None,
            *_calmer(facts),
        )


def _lost_since(train: Series | None, facts: RunFacts, step: int | None) -> int | None:
    """Return from which step on all losses were above that of a guess, if that is before the step of a number that was
    not finite.
    """
    if train is None or step is None or facts.config is None or not facts.config.objective.predicts_tokens:
        return step
    usable = np.flatnonzero(train.values <= WORSE_SHARE * math.log(facts.vocab_size or MAX_VOCABULARY))
    first = int(usable[-1]) + 1 if len(usable) else 0
    return min(step, int(train.steps[first])) if first < len(train) else step


def _over_fit(val: Series | None, train: Series, facts: RunFacts) -> Iterator[Finding]:
    if val is None or len(val) < 5:
        return
    lowest = int(np.argmin(val.values))
    after = val.values[lowest + 1 :]
    if len(after) < 3:
        return
    low = float(val.values[lowest])
    noise = float(1.4826 * np.median(np.abs(np.diff(val.values, 2)))) / math.sqrt(6)
    rise = float(np.median(after[-3:])) - low
    if rise < OVER_FIT_SHARE * abs(low) or rise < OVER_FIT_SIGMAS * noise:
        return
    step = int(val.steps[lowest])
    before = _median_about(train, step)
    now = float(np.median(train.values[-max(10, len(train) // 20) :]))
    if now >= before:
        return
    sentence = (
        f"The validation loss rose from {low:.3f} at step {step:,} to {low + rise:.3f}; the training loss fell from"
        f" {before:.3f} to {now:.3f}."
    )
    cause = "Overfitting: more epochs than the data supports."
    yield Finding(
        Kind.OVER_FIT,
        sentence,
        cause,
        step,
        f"Run again with {step:,} steps",
        (("max_steps", step), ("warmup_steps", _warmup(facts, step))),
    )


def _too_slow(train: Series, facts: RunFacts, skipped: int) -> Iterator[Finding]:
    """Yield a finding if the loss falls too slowly, from random weights only: a base may have little left to learn."""
    config = facts.config
    if (
        config is None
        or not config.objective.pretrains
        or config.base is not None
        or len(train) - skipped < 2 * MIN_POINTS
    ):
        return
    start, quarter = float(np.median(train.values[:5])), len(train) // 4
    end, third = float(np.mean(train.values[-quarter:])), float(np.mean(train.values[-2 * quarter : -quarter]))
    error = _noise(train.values) * math.sqrt(2 / quarter)
    if (start - end) / start < SLOW_SHARE and third - end > 3 * error:
        higher = _rounded(config.learning_rate * 5)
        fall = percent((start - end) / start, digits=1)
        sentence = f"The loss has fallen by only {fall} in {int(train.steps[-1]):,} steps, and still falls steadily."
        cause = f"The learning rate of {format_number(config.learning_rate)} is too low for this number of steps."
        yield Finding(
            Kind.TOO_SLOW,
            sentence,
            cause,
            None,
            f"Run again with a learning rate of {format_number(higher)}",
            (("learning_rate", higher),),
        )


def _plateau(train: Series, facts: RunFacts, skipped: int) -> Iterator[Finding]:
    config, done = facts.config, int(train.steps[-1])
    if config is not None and not facts.has_ended and done < 0.3 * config.max_steps:
        return
    begin = max(skipped, len(train) * 3 // 5)
    half = (len(train) - begin) // 2
    if half < MIN_POINTS // 2:
        return
    smooth, noise = _rolling_median(train.values, max(9, len(train) // 25)), _noise(train.values[begin:])
    window = np.minimum(train.values, smooth + 5 * noise)[begin:]  # spikes have a finding of their own
    first, second = float(np.mean(window[:half])), float(np.mean(window[-half:]))
    error = noise * math.sqrt(2 / half)
    better = first - second
    if better + 2 * error >= FLAT_SHARE * abs(second) or abs(better) > 3 * error:
        return
    above = np.flatnonzero(smooth > second * (1 + FLAT_SHARE) if second > 0 else smooth > second)
    since = int(train.steps[above[-1]]) if len(above) else int(train.steps[0])
    start = float(np.median(train.values[:5]))
    sentence = f"train_loss has not become 1 % better since step {since:,}; it lies at {second:.3f}."
    if start - second < 0.05 * abs(start):
        cause = "It has hardly learned: a wrong learning rate, frozen layers, or random labels."
        yield Finding(Kind.PLATEAU, sentence, cause, since)
    elif config is not None and config.schedule == "constant":
        cause = "A constant learning rate keeps the loss at its noise floor; a decaying one lowers it further."
        yield Finding(
            Kind.PLATEAU, sentence, cause, since, "Run again with a falling learning rate", (("schedule", "cosine"),)
        )
    else:
        cause = "The model has converged on this data. More parameters or other data help more than more steps."
        yield Finding(
            Kind.PLATEAU,
            sentence,
            cause,
            since,
            f"Run again with {since:,} steps",
            (("max_steps", since), ("warmup_steps", _warmup(facts, since))),
        )


def _loader(series: Mapping[str, Series], facts: RunFacts) -> Iterator[Finding]:
    waits = series.get("data_wait")
    if waits is None or len(waits) < MIN_POINTS or (facts.config is not None and facts.config.objective.samples):
        return
    share = float(np.median(waits.values[len(waits) // 2 :]))
    if share > STARVING_SHARE:
        cause = "The data comes from a slow disk, or other processes keep the cores busy. The device is idle meanwhile."
        yield Finding(Kind.STARVING, f"{percent(share)} of every step goes into loading data.", cause)


def _exceeded_rates(facts: RunFacts) -> tuple[float, float] | None:
    """Return the lowest and the highest usual learning rate if the run's is above them."""
    if facts.config is None or (usual := usual_learning_rates(facts.config, facts.body)) is None:
        return None
    return usual[:2] if facts.config.learning_rate > usual[1] else None


def _calmer(facts: RunFacts) -> tuple[str, tuple[tuple[str, Value], ...]]:
    """Return label and changes of a more stable run: clipped gradients unless the learning rate is above the usual
    ones, else a third of it, or the rate that the launch form suggests if that is lower.
    """
    config = facts.config
    if config is None:
        return "", ()
    if _exceeded_rates(facts) is None and (config.grad_clip == 0 or config.grad_clip > 1):
        return "Run again with gradients clipped at 1", (("grad_clip", 1.0),)
    lower = _rounded(config.learning_rate / 3)
    if usual_learning_rates(config, facts.body) is not None:  # else the suggestion is no guide
        basis = Basis(
            config.objective,
            config.method,
            has_base=config.base is not None,
            parameters=facts.body,
            chosen={"optimizer": config.optimizer},
        )
        lower = min(lower, suggest_learning_rate(basis, tokens=config.tokens_per_step * config.max_steps))
    changes: list[tuple[str, Value]] = [("learning_rate", lower)]
    if config.min_learning_rate > lower:
        changes.append(("min_learning_rate", lower))
    return f"Run again with a learning rate of {format_number(lower)}", tuple(changes)


def _warmup(facts: RunFacts, steps: int) -> int:
    return min(facts.config.num_warmup_steps, max(steps // 10, 1)) if facts.config else 0


def _noise(values: Floats) -> float:
    """Return the standard deviation of values about their trend, by the median difference of neighbours."""
    return float(1.4826 * np.median(np.abs(np.diff(values))) / math.sqrt(2)) if len(values) > 1 else 0.0


def _thinned(series: Series) -> Series:
    every = max(1, len(series) // MAX_POINTS)
    return series if every == 1 else Series(series.steps[::every], series.values[::every])


def _level(values: Floats, width: int) -> Floats:
    """Return medians of blocks of `width` values, interpolated linearly: a million values take 0.01 s."""
    width = min(width, len(values))
    blocks = values[: len(values) // width * width].reshape(-1, width)
    return np.interp(
        np.arange(len(values)), np.arange(len(blocks)) * width + (width - 1) / 2, np.median(blocks, axis=1)
    )


def _rolling_median(values: Floats, width: int) -> Floats:
    """Return the median of `width` (odd) values about each; at the borders, of the border's window."""
    width = min(width | 1, len(values) - (len(values) + 1) % 2)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    middle = np.concatenate(  # a part at a time: a median copies its windows, 20 MB of a long curve's
        [
            np.median(windows[start : start + MEDIANS_AT_ONCE], axis=1)
            for start in range(0, len(windows), MEDIANS_AT_ONCE)
        ]
    )
    return np.concatenate([np.full(width // 2, middle[0]), middle, np.full(width // 2, middle[-1])])


def _median_about(series: Series, step: int) -> float:
    at, reach = int(np.searchsorted(series.steps, step)), max(5, len(series) // 40)
    return float(np.median(series.values[max(0, at - reach) : at + reach]))


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
