"""Scaling laws: expected loss of N parameters and D tokens, the compute-optimal allocation of C FLOPs, and the points
of finished runs (parameters, tokens, loss) that laws are fitted to.

    L(N, D) = E + A / N^alpha + B / D^beta        C = 6 N D

Losses are nats per token. N counts all parameters, embeddings included, as Hoffmann et al. do. Fitting is in `fit`,
plans are in `plan`. Sources: Hoffmann et al. 2022 (arXiv 2203.15556), "Chinchilla"; Besiroglu et al. 2024 (arXiv
2404.10102), its replication.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from backend.domain.attributes import attributes_of
from backend.domain.statistics.estimates import Estimate
from backend.domain.statistics.quantiles import LEVEL
from backend.domain.wording import percent
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]

FLOPS_PER_PARAMETER_TOKEN = 6.0  # two forward, four backward: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1
NUM_DRAWS = 500


@dataclass(frozen=True)
class Allocation:
    """An allocation of a budget: `parameters` N, `tokens` D and the expected `loss` in nats per token."""

    flops: float
    parameters: float
    tokens: float
    loss: float

    @property
    def tokens_per_parameter(self) -> float:
        """D / N."""
        return self.tokens / self.parameters


@dataclass(frozen=True)
class ScalingLaw:
    """The five constants of a law with their source and uncertainty.

    `draws` are bootstrap draws of (E, A, B, alpha, beta), one row each; None if nothing usable was published.
    Quantities computed from them are spread about the law's own value by the factor `stretch`, because resamples of few
    runs vary too little. `scatter` is how far a single run lies from the law: the standard deviation of its loss's
    logarithm. `flops_range` and `points` describe the runs it was fitted to. Only a law fitted to own runs (`is_own`)
    applies to own data.
    """

    key: str
    title: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str
    note: str = ""
    points: int | None = None
    flops_range: tuple[float, float] | None = None
    scatter: float = 0.0
    is_own: bool = False
    stretch: float = 1.0
    draws: FloatArray | None = field(default=None, repr=False, compare=False)

    @property
    def constants(self) -> dict[str, float]:
        """The constants by name."""
        return attributes_of(self, "E", "A", "B", "alpha", "beta")

    @property
    def parameter_exponent(self) -> float:
        """a of N ~ C^a at the optimum: beta / (alpha + beta). Tokens grow as C^(1 - a)."""
        return self.beta / (self.alpha + self.beta)

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the loss expected of N parameters trained on D tokens that are all different."""
        return float(law_losses(np.array([[*self.constants.values()]]), parameters, tokens)[0])

    def optimum(self, flops: float) -> Allocation:
        """Return the N and D of the lowest loss with C = 6 N D.

        N = G (C/6)^(beta/(alpha+beta)) with G = (alpha A / (beta B))^(1/(alpha+beta)): Hoffmann et al. 2022, equation
        4.

        Example:
            >>> round(PUBLISHED["besiroglu-2024"].optimum(5.76e23).parameters / 1e9)
            72
        """
        check_flops(flops)
        parameters = float(optimal_parameters(np.array([[*self.constants.values()]]), flops)[0])
        tokens = flops / FLOPS_PER_PARAMETER_TOKEN / parameters
        return Allocation(flops, parameters, tokens, self.loss(parameters, tokens))

    def with_ratio(self, flops: float, tokens_per_parameter: float) -> Allocation:
        """Return the N and D of a budget with a fixed D / N, such as 100 for networks that are cheap to serve."""
        check_flops(flops)
        parameters = math.sqrt(flops / FLOPS_PER_PARAMETER_TOKEN / tokens_per_parameter)
        tokens = parameters * tokens_per_parameter
        return Allocation(flops, parameters, tokens, self.loss(parameters, tokens))

    def loss_estimate(self, parameters: float, tokens: float) -> Estimate:
        """Return the expected loss with its interval: that of the law, and of one run about it."""
        value = self.loss(parameters, tokens)
        if self.draws is None:
            return _span_of_published(value, parameters, tokens)
        losses = stretch_draws(value, law_losses(self.draws, parameters, tokens), self.stretch)
        if self.scatter:
            losses = losses * np.exp(self.scatter * np.random.default_rng(0).standard_normal(len(losses)))
        return estimate_of(value, losses, method=f"bootstrap of {self.points} runs and their scatter")

    def parameters_estimate(self, flops: float) -> Estimate:
        """Return the optimal N with its interval; without draws the interval is missing."""
        value = self.optimum(flops).parameters
        if self.draws is None:
            return Estimate(value, None, None, None, self.points or 0, "no usable interval was published")
        sizes = stretch_draws(value, optimal_parameters(self.draws, flops), self.stretch)
        return estimate_of(value, sizes, method=f"bootstrap of {self.points} runs")

    def outside(self, flops: float) -> float:
        """Return the factor by which a budget lies outside the range of the fitted runs: 1 inside, 100 for a hundredth
        or a hundredfold.
        """
        if self.flops_range is None:
            return 1.0
        low, high = self.flops_range
        return max(1.0, low / flops, flops / high)


def law_losses(draws: FloatArray, parameters: float | FloatArray, tokens: float | FloatArray) -> FloatArray:
    """Return the loss of each row (E, A, B, alpha, beta) at N and D; both numbers, or arrays of one shape [points] ->
    [draws, points].
    """
    n, d = np.log(np.asarray(parameters, dtype=np.float64)), np.log(np.asarray(tokens, dtype=np.float64))
    columns = draws.T if n.ndim == 0 else draws.T[:, :, None]
    e, a, b, alpha, beta = columns
    with np.errstate(over="ignore"):
        return np.asarray(e + a * np.exp(-alpha * n) + b * np.exp(-beta * d), dtype=np.float64)


def optimal_parameters(draws: FloatArray, flops: float) -> FloatArray:
    """Return each row's optimal N for a budget; NaN without an optimum: an exponent or coefficient is not positive."""
    _, a, b, alpha, beta = draws.T
    sound = (a > 0) & (b > 0) & (alpha > 0) & (beta > 0)
    with np.errstate(all="ignore"):
        log_n = (np.log(alpha * a / (beta * b)) + beta * math.log(flops / FLOPS_PER_PARAMETER_TOKEN)) / (alpha + beta)
        return np.where(sound, np.exp(np.clip(log_n, 0.0, 80.0)), np.nan)


def stretch_draws(value: float | FloatArray, draws: FloatArray, factor: float) -> FloatArray:
    """Return draws of a positive quantity, their ratios to its value raised to a power: spread by that factor."""
    with np.errstate(all="ignore"):
        return np.asarray(value * (draws / value) ** factor, dtype=np.float64)


def estimate_of(value: float, draws: FloatArray, *, method: str) -> Estimate:
    """Return a value with the central interval of its draws; draws that are not finite count at both ends."""
    finite = draws[np.isfinite(draws)]
    if len(finite) < 0.9 * len(draws):
        return Estimate(value, None, None, None, len(draws), f"{method}: too uncertain for an interval")
    low, high = np.quantile(finite, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    with np.errstate(over="ignore"):
        stderr = float(np.std(finite))
    return Estimate(
        value,
        stderr,
        min(float(low), value),
        max(float(high), value),
        len(draws),
        f"{method}, {percent(LEVEL, digits=None)}",
    )


def check_flops(flops: float) -> None:
    """Raise InvalidInput for a budget that is not a positive number."""
    if not (math.isfinite(flops) and flops > 0):
        raise InvalidInput(
            f"A budget of {flops:g} FLOPs trains nothing.", remedy="Give a positive number such as 1e15.", field="flops"
        )


@lru_cache(maxsize=1)
def _besiroglu_draws() -> FloatArray:
    """Return draws of the corrected law's constants.

    From a bootstrap (4,000 resamples) of the 240 runs that Besiroglu et al. reconstructed from Hoffmann et al.'s figure
    4, fitted as in `fit`: mean and Cholesky factor of (log E, log A - alpha n, log B - beta d, alpha, beta) with n, d
    the means of log N, log D. Its standard errors agree with theirs: E 0.025 (0.03), alpha 0.015 (0.02), beta 0.020
    (0.02).
    """
    n, d = 20.559282582879277, 23.553231356058667
    factor = np.array(
        [
            [0.0138208, 0.0, 0.0, 0.0, 0.0],
            [-0.03109785, 0.04856901, 0.0, 0.0, 0.0],
            [-0.03774185, -0.05187422, 0.00563488, 0.0, 0.0],
            [0.00860704, -0.01195826, -0.00033975, 0.00225306, 0.0],
            [0.0123822, 0.01552883, -0.00305292, -0.0016871, 0.00250093],
        ]
    )
    centre = np.array([math.log(1.8172), math.log(482.01) - 0.3478 * n, math.log(2085.43) - 0.3658 * d, 0.3478, 0.3658])
    log_e, log_a, log_b, alpha, beta = (centre + np.random.default_rng(1).standard_normal((NUM_DRAWS, 5)) @ factor.T).T
    return np.column_stack([np.exp(log_e), np.exp(log_a + alpha * n), np.exp(log_b + beta * d), alpha, beta])


CHINCHILLA_RUNS = (1.4e18, 1.3e22)
OTHER_DATA = "Fitted to MassiveText with a vocabulary of 32,000: losses on other data and other tokenizers differ."

PUBLISHED: Mapping[str, ScalingLaw] = {
    law.key: law
    for law in (
        ScalingLaw(
            "besiroglu-2024",
            "Chinchilla, corrected (Besiroglu et al. 2024)",
            E=1.8172,
            A=482.01,
            B=2085.43,
            alpha=0.3478,
            beta=0.3658,
            source=(
                "Besiroglu, Erdil, Barnett and You 2024, arXiv 2404.10102: approach 3 fitted again to 240 reconstructed"
                " runs."
            ),
            note=OTHER_DATA,
            points=240,
            flops_range=CHINCHILLA_RUNS,
            scatter=0.0048,
            draws=_besiroglu_draws(),
        ),
        ScalingLaw(
            "hoffmann-2022",
            "Chinchilla as printed (Hoffmann et al. 2022)",
            E=1.69,
            A=406.4,
            B=410.7,
            alpha=0.34,
            beta=0.28,
            source="Hoffmann et al. 2022, arXiv 2203.15556, approach 3, equation 10.",
            note=f"The printed exponents are rounded, which moves the optimum by a fifth and more. {OTHER_DATA}",
            points=400,
            flops_range=CHINCHILLA_RUNS,
        ),
        ScalingLaw(
            "hoffmann-2022-unrounded",
            "Chinchilla, unrounded (Hoffmann et al. 2022)",
            E=1.6934,
            A=406.4,
            B=410.7,
            alpha=0.3392,
            beta=0.2849,
            source=(
                "The same fit with the digits of the paper's TeX source, as Besiroglu et al. 2024 found them: gives its"
                " table A3."
            ),
            note=OTHER_DATA,
            points=400,
            flops_range=CHINCHILLA_RUNS,
        ),
    )
}
DEFAULT_LAW = "besiroglu-2024"


def get_law(key: str) -> ScalingLaw:
    """Return a published law. Raises InvalidInput naming the known ones."""
    law = PUBLISHED.get(key)
    if law is None:
        raise InvalidInput(
            f"There is no scaling law {key!r}.", remedy=f"Choose one of {', '.join(PUBLISHED)}, or own.", field="law"
        )
    return law


def _span_of_published(value: float, parameters: float, tokens: float) -> Estimate:
    """Return the spread of the published laws as an interval, because Hoffmann et al.'s own intervals are implausibly
    narrow (Besiroglu et al., section 3).
    """
    surest = PUBLISHED[DEFAULT_LAW].loss_estimate(parameters, tokens)
    losses = [
        value,
        *(law.loss(parameters, tokens) for law in PUBLISHED.values()),
        surest.low or value,
        surest.high or value,
    ]
    return Estimate(
        value, None, min(losses), max(losses), 0, "span of the published laws and the corrected one's interval"
    )


REPEATS_HALF_LIFE = 15.387756
"""R*_D of Muennighoff et al. 2023: after this many repeats a token has given 1 - 1/e of the gain from repetition."""


def effective_tokens(tokens: float, unique_tokens: float) -> float:
    """Return the effective number of unique tokens of D tokens of which only U are unique: U + U R* (1 - exp(-(D/U - 1)
    / R*)).

    Muennighoff et al. 2023 (arXiv 2305.16264), equation 5: up to four epochs are nearly as good as new data, and beyond
    about sixteen there is almost no gain.

    Example:
        >>> round(effective_tokens(4e9, 1e9) / 1e9, 2)
        3.73
    """
    repeats = tokens / unique_tokens - 1.0
    if repeats <= 0:
        return tokens
    return unique_tokens * (1.0 + REPEATS_HALF_LIFE * -math.expm1(-repeats / REPEATS_HALF_LIFE))


BELIEVABLE = 0.9
"""Share of chance level above which a predicted loss is not an estimate: the law is extrapolated too far down, or the
data are repeated too often.
"""


MAX_CSV_POINTS = 10_000
POINT_COLUMNS: dict[str, tuple[str, ...]] = {
    "parameters": ("parameters", "params", "n", "num_parameters"),
    "tokens": ("tokens", "d", "num_tokens"),
    "loss": ("loss", "val_loss", "l"),
    "flops": ("flops", "c", "compute", "budget"),
}


@dataclass(frozen=True)
class ScalingPoint:
    """One finished run: `loss` in nats per token at its schedule's end. `flops` is its budget, by default 6 N D."""

    parameters: float
    tokens: float
    loss: float
    flops: float
    label: str = ""

    @classmethod
    def of(
        cls, parameters: float, tokens: float, loss: float, *, flops: float | None = None, label: str = ""
    ) -> ScalingPoint:
        """Return a point; `flops` defaults to 6 N D."""
        return cls(parameters, tokens, loss, flops or FLOPS_PER_PARAMETER_TOKEN * parameters * tokens, label)


def parse_points_csv(text: str) -> list[ScalingPoint]:
    """Read runs from CSV with a header: parameters, tokens and loss; flops may replace tokens, or be given too.

    Raises InvalidInput naming the line and the value at fault.
    """
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff")))
    header = next(reader, None)
    if not header:
        raise InvalidInput(
            "The file is empty.", remedy="Give a header such as parameters,tokens,loss and a run on each line."
        )
    places = _places(header)
    points: list[ScalingPoint] = []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        if len(points) == MAX_CSV_POINTS:
            raise InvalidInput(f"The file has more than {MAX_CSV_POINTS:,} runs.", remedy="Fit a sample of them.")
        points.append(_point(row, places, line=reader.line_num))
    return points


def _places(header: list[str]) -> dict[str, int]:
    names = [cell.strip().lower() for cell in header]
    places = {
        column: names.index(name)
        for column, known in POINT_COLUMNS.items()
        for name in reversed(known)
        if name in names
    }
    for column in ("parameters", "loss"):
        if column not in places:
            raise _missing(column, names)
    if "tokens" not in places and "flops" not in places:
        raise _missing("tokens", names)
    return places


def _missing(column: str, names: list[str]) -> InvalidInput:
    columns = ", ".join(name[:40] for name in names[:12])
    return InvalidInput(
        f"The column {column} is missing; found: {columns}.", remedy="A header such as parameters,tokens,loss is read."
    )


def _point(row: list[str], places: dict[str, int], *, line: int) -> ScalingPoint:
    values: dict[str, float] = {}
    for column, place in places.items():
        cell = row[place].strip() if place < len(row) else ""
        try:
            value = float(cell.replace("_", ""))
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            shown = f"“{cell[:40]}”" if cell else "nothing"
            raise InvalidInput(f"Line {line}: {column} is {shown}, and must be a positive number.", field=column)
        values[column] = value
    tokens = values.get("tokens") or values["flops"] / FLOPS_PER_PARAMETER_TOKEN / values["parameters"]
    return ScalingPoint.of(values["parameters"], tokens, values["loss"], flops=values.get("flops"))
