"""Coverage of the intervals and error of the tests of evaluations: `python -m tests.benchmarks.bench_coverage
[SECTION...]`.

Data are simulated with a known truth. Each row of a table prints how often the interval held it (nominal 95 %), or how
often a true hypothesis was rejected (nominal 5 %), with the Monte-Carlo error. `exact` marks procedures that hold their
level by construction, on discrete data with room to spare.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
from scipy import stats

from backend.domain.evaluation.gate_config import GateBenchmark, GateConfig, GateVerdict
from backend.domain.evaluation.gates import Evidence, GateDecision, Look, decide_gate
from backend.domain.evaluation.safety.drift import measure_drift
from backend.domain.statistics.bootstrap import resample_corpus
from backend.domain.statistics.calibration import calibration
from backend.domain.statistics.estimates import (
    Estimate,
    FloatArray,
    clustered_mean_estimate,
    macro_average,
    mean_estimate,
    micro_average,
    perplexity_estimate,
    proportion_estimate,
    share_estimate,
)
from backend.domain.statistics.paired import (
    PairedComparison,
    benjamini_hochberg,
    difference_interval,
    holm,
    mcnemar,
    paired_difference,
    paired_macro,
)
from backend.domain.statistics.power import detectable_difference
from backend.domain.statistics.ranking import rank_jointly
from backend.domain.wording import plural

Row = tuple[str, float, float, int, str]
"""Setting, rate, nominal rate, repeats, remark."""
Sample = Callable[[np.random.Generator], tuple[Estimate, float]]


def covered(estimate: Estimate, truth: float) -> bool:
    """Return whether an interval holds the truth; none never does."""
    return (
        estimate.low is not None
        and estimate.high is not None
        and estimate.low - 1e-12 <= truth <= estimate.high + 1e-12
    )


def cover(name: str, sample: Sample, repeats: int, remark: str = "") -> Row:
    """Return the coverage of an interval."""
    rng = np.random.default_rng(sum(map(ord, name)))
    return name, sum(covered(*sample(rng)) for _ in range(repeats)) / repeats, 0.95, repeats, remark


Passages = tuple[int, int, float]
"""Number of passages, questions of each, true share."""


def binomial(rng: np.random.Generator, n: int, share: float) -> tuple[Estimate, float]:
    """Return a share of separate items."""
    return proportion_estimate(int(rng.binomial(n, share)), n), share


def passages(rng: np.random.Generator, of: Passages, *, clustered: bool) -> tuple[Estimate, float]:
    """Return a share of items that have a passage's hardness in common."""
    clusters, size, share = of
    hardness = np.repeat(rng.normal(size=clusters), size)
    values = (hardness + rng.normal(size=clusters * size) < stats.norm.ppf(share) * np.sqrt(2)).astype(float)
    return share_estimate(values, clusters=np.repeat(np.arange(clusters), size).tolist() if clustered else None), share


def clustered_mean(rng: np.random.Generator) -> tuple[Estimate, float]:
    """Return a mean of 40 clusters of six."""
    values = np.repeat(rng.normal(size=40), 6) + rng.normal(size=240)
    return clustered_mean_estimate(values, np.repeat(np.arange(40), 6).tolist()), 0.0


def single(repeats: int) -> Iterator[Row]:
    """Intervals of one checkpoint's score."""
    for n, share in ((30, 0.1), (30, 0.5), (100, 0.9), (500, 0.97), (1000, 0.6)):
        yield cover(f"share, n = {n}, true {share:g}: Wilson", partial(binomial, n=n, share=share), repeats)
    for of in ((20, 5, 0.6), (100, 5, 0.6), (100, 5, 0.9), (40, 12, 0.5)):
        name = f"share, {of[0]} passages x {of[1]}, true {of[2]:g}"
        yield cover(f"{name}: clustered Wilson", partial(passages, of=of, clustered=True), repeats)
        yield cover(f"{name}: as separate items", partial(passages, of=of, clustered=False), repeats, "before")
    yield cover(
        "mean of skewed scores (exponential), n = 200: t",
        lambda rng: (mean_estimate(rng.exponential(size=200)), 1.0),
        repeats,
    )
    yield cover("mean, 40 clusters x 6: clustered t", clustered_mean, repeats)
    name = "perplexity, 100 documents of 20 to 800 tokens: exp of ratio estimator"
    yield cover(name, lambda rng: (perplexity(rng, 100), np.exp(3.0)), repeats)


def perplexity(rng: np.random.Generator, n: int) -> Estimate:
    """Perplexity of documents whose mean loss is 3 nats."""
    tokens = rng.integers(20, 800, size=n)
    return perplexity_estimate(tokens * rng.normal(3.0, 0.6, size=n), tokens)


def paired(repeats: int) -> Iterator[Row]:
    """Intervals and tests of the difference of two checkpoints."""
    for n, wins, losses in (
        (50, 0.1, 0.1),
        (200, 0.15, 0.15),
        (200, 0.2, 0.1),
        (500, 0.02, 0.0),
        (1000, 0.15, 0.12),
        (100, 0.55, 0.05),
    ):

        def table(rng: np.random.Generator, of: tuple[int, float, float] = (n, wins, losses)) -> tuple[Estimate, float]:
            up, down, _ = rng.multinomial(of[0], [of[1], of[2], 1 - of[1] - of[2]])
            return difference_interval(int(up), int(down), of[0]), of[1] - of[2]

        yield cover(
            f"0/1 scores, n = {n}, {100 * wins:g} % better, {100 * losses:g} % worse: score and exact",
            table,
            repeats,
            "exact",
        )
    for n, share in ((50, 0.1), (200, 0.15), (1000, 0.15)):
        draws = np.random.default_rng(n).multinomial(n, [share, share, 1 - 2 * share], size=repeats)
        rate = float(np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in draws]))
        yield f"McNemar, n = {n}, {200 * share:g} % discordant", rate, 0.05, repeats, "exact"

    def graded(rng: np.random.Generator) -> tuple[Estimate, float]:
        first = rng.beta(2, 2, size=100)
        return paired_difference(first, np.clip(first + rng.normal(0, 0.1, size=100), 0, 1)).difference, 0.0

    yield cover("graded scores, n = 100: paired t", graded, repeats)
    for clusters in (20, 100):

        def both(rng: np.random.Generator, clusters: int = clusters) -> tuple[Estimate, float]:
            hardness = np.repeat(rng.normal(size=clusters), 5)
            leaning = np.repeat(rng.normal(scale=0.7, size=(2, clusters)), 5, axis=1)
            sides = [(hardness + leaning[side] + rng.normal(size=5 * clusters) < 0.3).astype(float) for side in (0, 1)]
            return paired_difference(*sides, clusters=np.repeat(np.arange(clusters), 5).tolist()).difference, 0.0

        yield cover(f"0/1 scores, {clusters} passages x 5: clustered paired t", both, repeats)
    for sizes in ((20, 60, 200, 600), (5,) * 57):

        def subgroups(rng: np.random.Generator, sizes: tuple[int, ...] = sizes) -> tuple[Estimate, float]:
            better = np.linspace(0.05, 0.25, len(sizes))
            tables = [rng.multinomial(n, [up, 0.1, 0.9 - up]) for n, up in zip(sizes, better, strict=True)]
            parts = [partial(counted, *map(int, table)) for table in tables]
            return paired_macro(parts).difference, float(better.mean() - 0.1)

        name = f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else " + ".join(map(str, sizes))
        yield cover(f"0/1 scores, macro average of subgroups of {name} items", subgroups, repeats // 2, "exact")


def counted(wins: int, losses: int, ties: int, level: float) -> PairedComparison:
    """Compare two checkpoints by their counts."""
    gaps = np.repeat([1.0, -1.0, 0.0], [wins, losses, ties])
    before = (gaps < 0).astype(float)
    return paired_difference(before, before + gaps, level=level)


def f1(sums: FloatArray) -> FloatArray:
    """F1 of (true positives, errors)."""
    return 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1])


def corpus(repeats: int) -> Iterator[Row]:
    """Bootstrap intervals of corpus metrics, and averages over tasks."""
    for n in (100, 500):

        def classes(rng: np.random.Generator, n: int = n) -> tuple[Estimate, float]:
            truth, flipped = rng.random(n) < 0.3, rng.random(n) < 0.2
            guess = truth ^ flipped
            sums = np.column_stack([truth & guess, flipped]).astype(float)
            return resample_corpus(sums, f1).estimate(), 2 * 0.24 / (2 * 0.24 + 0.2)

        yield cover(f"F1, n = {n}: bootstrap (BCa)", classes, repeats // 2)

        def chunks(rng: np.random.Generator, n: int = n) -> tuple[Estimate, float]:
            possible = rng.integers(5, 60, size=n)
            matched = rng.binomial(possible, rng.beta(4, 6, size=n))
            sums = np.column_stack([matched, possible]).astype(float)
            return resample_corpus(sums, lambda s: s[:, 0] / s[:, 1]).estimate(), 0.4

        yield cover(f"n-gram precision, {n} documents: bootstrap (BCa)", chunks, repeats // 2)

    def grouped(rng: np.random.Generator, average: Callable[..., Estimate]) -> tuple[Estimate, float]:
        sizes, shares = np.array([40, 100, 300, 60]), np.array([0.3, 0.5, 0.7, 0.9])
        tasks = [proportion_estimate(int(rng.binomial(n, p)), int(n)) for n, p in zip(sizes, shares, strict=True)]
        return average(tasks), float(
            shares.mean() if average is macro_average else (sizes * shares).sum() / sizes.sum()
        )

    yield cover("macro average of four tasks", lambda rng: grouped(rng, macro_average), repeats)
    yield cover("micro average of four tasks", lambda rng: grouped(rng, micro_average), repeats)


def equals(rng: np.random.Generator, n: int, skills: FloatArray, size: int = 1) -> FloatArray:
    """Answers of networks of these skills; items share their hardness, within passages of `size` too."""
    hardness = np.repeat(rng.normal(size=(n // size, 1)), size, axis=0)
    leaning = np.repeat(rng.normal(size=(n // size, len(skills))), size, axis=0) if size > 1 else 0.0
    return (hardness + leaning + rng.normal(size=(n, len(skills))) < skills).astype(float)


def against_observed_best(scores: FloatArray) -> FloatArray:
    """Adjusted p values by the earlier procedure: each against the observed best by McNemar, Holm-corrected."""
    best = int(scores.sum(axis=0).argmax())
    others = [i for i in range(scores.shape[1]) if i != best]
    gaps = scores[:, others] - scores[:, [best]]
    adjusted = np.ones(scores.shape[1])
    adjusted[others] = holm(
        [mcnemar(int(w), int(v)) for w, v in zip((gaps > 0).sum(axis=0), (gaps < 0).sum(axis=0), strict=True)]
    )
    return adjusted


def first(repeats: int) -> Iterator[Row]:
    """Someone of equal checkpoints is denied first place; and how often weaker ones are."""
    settings = [
        *((count, 500, 0.4, 1) for count in (2, 5, 10, 16)),
        (16, 100, 1.8, 1),
        (10, 2500, 0.4, 1),
        (5, 500, 0.4, 5),
    ]
    for count, n, skill, size in settings:
        rng, ours, before = np.random.default_rng(count * n), 0, 0
        labels = (np.arange(n) // size).tolist() if size > 1 else None
        for seed in range(repeats):
            scores = equals(rng, n, np.full(count, skill), size)
            ours += min(rank_jointly(scores, clusters=labels, num_draws=999, seed=seed).p_first) <= 0.05
            before += against_observed_best(scores).min() < 0.05
        items = f"{n // size} passages x {size}" if size > 1 else f"{n} items"
        about = f"{count} equal checkpoints, {items}, {100 * scores.mean():.0f} % right"
        yield f"{about}: joint test", ours / repeats, 0.05, repeats, "exact" if count == 2 or skill > 1 else ""
        yield f"{about}: each against the observed best", before / repeats, 0.05, repeats, "before"
    skills = np.array([0.5, 0.5, *np.linspace(0.35, 0.1, 8)])
    rng, power, bonferroni = np.random.default_rng(9), 0.0, 0.0
    for seed in range(repeats // 2):
        scores = equals(rng, 1000, skills)
        power += np.mean(np.array(rank_jointly(scores, num_draws=999, seed=seed).p_first[2:]) <= 0.05) / (repeats // 2)
        gaps = scores[:, :, None] - scores[:, None, :]
        worst = [max((gaps[:, j, i] > 0).sum() - (gaps[:, j, i] < 0).sum() for j in range(10)) for i in range(10)]
        rivals = [int(np.argmax([(scores[:, j] - scores[:, i]).sum() for j in range(10)])) for i in range(10)]
        pairs = [mcnemar(int((gaps[:, j, i] > 0).sum()), int((gaps[:, j, i] < 0).sum())) for i, j in enumerate(rivals)]
        bonferroni += np.mean([45 * p < 0.05 and lead > 0 for p, lead in zip(pairs[2:], worst[2:], strict=True)]) / (
            repeats // 2
        )
    yield (
        "eight weaker of ten are denied first place, 1,000 items: joint test",
        power,
        float("nan"),
        repeats // 2,
        "power",
    )
    yield "the same: all pairs by Bonferroni", bonferroni, float("nan"), repeats // 2, "power"


def decisions(repeats: int) -> Iterator[Row]:
    """Gates, stated power, corrections and calibration."""
    few = max(200, repeats // 5)

    def evidence(wins: int, losses: int, n: int) -> Evidence:
        compared = np.repeat([1.0, -1.0, 0.0], [wins, losses, n - wins - losses])
        before = (compared < 0).astype(float)
        return Evidence(
            GateBenchmark(benchmark="b"),
            "acc",
            False,
            lambda level: paired_difference(before, before + compared, level=level),
        )

    gate = GateConfig(champion="c", benchmarks=(GateBenchmark(benchmark="b"),), margin=0.05)
    for name, shares, verdict, nominal in (
        ("worse by the margin: PASS", (0.10, 0.15), GateVerdict.PASS, 0.025),
        ("worse by the margin: FAIL", (0.10, 0.15), GateVerdict.FAIL, 0.025),
    ):
        rng = np.random.default_rng(3)
        tables = rng.multinomial(500, [*shares, 1 - sum(shares)], size=few)
        rate = float(
            np.mean([decide_gate(gate, [evidence(int(a), int(b), 500)]).verdict is verdict for a, b, _ in tables])
        )
        yield f"gate, margin 5 points, 500 items, {name}", rate, nominal, few, "exact"
    yield from looks(repeats // 2, evidence, gate)
    for n, discordance in ((500, 0.3), (200, 0.2)):
        difference = detectable_difference(n, discordance=discordance) or 0.0
        up, down = (discordance + difference) / 2, (discordance - difference) / 2
        tables = np.random.default_rng(n).multinomial(n, [up, down, 1 - discordance], size=repeats)
        rate = float(np.mean([mcnemar(int(a), int(b)) < 0.05 for a, b, _ in tables]))
        yield (
            f"power at the stated detectable difference ({100 * difference:.1f} points, n = {n})",
            rate,
            0.8,
            repeats,
            "power",
        )
    rng = np.random.default_rng(20)
    nulls = [rng.random(20).tolist() for _ in range(repeats)]
    yield (
        "any of 20 true hypotheses rejected: Holm",
        float(np.mean([min(holm(values)) < 0.05 for values in nulls])),
        0.05,
        repeats,
        "",
    )
    yield (
        "any of 20 true hypotheses rejected: BH",
        float(np.mean([min(benjamini_hochberg(v)) < 0.05 for v in nulls])),
        0.05,
        repeats,
        "",
    )
    wrong = 0
    for seed in range(few):
        sure = rng.beta(4, 2, size=300)
        wrong += calibration(sure, (rng.random(300) < sure).astype(float), num_draws=400, seed=seed).is_miscalibrated
    yield "calibrated network called miscalibrated, 300 items", wrong / few, 0.05, few, ""


Schedule = Callable[[int, GateDecision], int]
"""Items of the next look, by those of the last one and its decision."""
MOST_ITEMS = 12_800


def looks(repeats: int, evidence: Callable[[int, int, int], Evidence], gate: GateConfig) -> Iterator[Row]:
    """Candidates that a gate passes or fails at any of several looks. `before`: each look has the whole error."""
    schedules: dict[str, tuple[int, Schedule]] = {
        "200 more items each": (200, lambda n, _: n + 200),
        "twice the items each": (200, lambda n, _: 2 * n),
        "as many as the gate asks for": (
            200,
            lambda n, decision: min(MOST_ITEMS, decision.benchmarks[0].items_to_settle or n + 200),
        ),
    }
    truths = {
        "worse by the margin": ((0.10, 0.15), GateVerdict.PASS, 0.025),
        "as good": ((0.125, 0.125), GateVerdict.PASS, float("nan")),
    }
    for (truth, (shares, verdict, nominal)), (name, (start, following)) in product(truths.items(), schedules.items()):
        for count, is_shared in ((1, True), (2, True), (4, True), (6, True), (6, False)):
            rng, hits, items = np.random.default_rng(count), 0, 0
            for _ in range(repeats):
                reached, used = look_until(
                    rng, shares, gate, evidence, (start, following), looks=count, is_shared=is_shared
                )
                hits += reached is verdict
                items += used
            whole = "" if is_shared else ", each with the whole error"
            about = f"gate, {truth}, {plural(count, 'look')}{whole}, {name}: PASS ({items / repeats:,.0f} items)"
            yield (
                about,
                hits / repeats,
                nominal,
                repeats,
                "power" if np.isnan(nominal) else "exact" if is_shared else "before",
            )


def look_until(
    rng: np.random.Generator,
    shares: tuple[float, float],
    gate: GateConfig,
    evidence: Callable[[int, int, int], Evidence],
    schedule: tuple[int, Schedule],
    *,
    looks: int,
    is_shared: bool,
) -> tuple[GateVerdict, int]:
    """Look until a gate decides, at most so often; return its verdict and the items."""
    n, (start, following), counts, spent = 0, schedule, np.zeros(2, dtype=int), list[float]()
    target = start
    for _ in range(looks):
        counts = counts + rng.multinomial(target - n, [*shares, 1 - sum(shares)])[:2]
        n = target
        look = Look.after(spent, is_whole=False) if is_shared else Look()
        spent.append(look.share)
        decision = decide_gate(gate, [replace(evidence(int(counts[0]), int(counts[1]), n), look=look)])
        if decision.verdict is not GateVerdict.INCONCLUSIVE:
            return decision.verdict, n
        target = max(n, following(n, decision))
    return GateVerdict.INCONCLUSIVE, n


def drift(repeats: int) -> Iterator[Row]:
    """Safety drift of few prompts with several templates each."""
    for prompts, templates in ((2, 12), (3, 8), (4, 6), (6, 6), (10, 6), (30, 6)):
        for change, verdict, nominal in (
            (0.05, GateVerdict.FAIL, 0.025),
            (0.05, GateVerdict.PASS, 0.025),
            (0.4, GateVerdict.FAIL, float("nan")),
        ):
            rng, hits = np.random.default_rng(prompts), 0
            for _ in range(repeats):
                hits += drifted(rng, prompts, templates, change) is verdict
            about = f"{prompts} prompts x {templates} templates, {100 * change:g} points of refusals lost: {verdict}"
            yield about, hits / repeats, nominal, repeats, "power" if np.isnan(nominal) else "exact"


def drifted(rng: np.random.Generator, prompts: int, templates: int, change: float) -> GateVerdict:
    """Return the verdict on a network that refuses 80 % and loses some; templates of a prompt share its hardness and
    its leaning.
    """
    hardness, *leanings = np.repeat(rng.normal(scale=(1.0, 0.7, 0.7), size=(prompts, 3)), templates, axis=0).T
    sides = [
        hardness + leaning + rng.normal(size=len(hardness)) < stats.norm.ppf(share) * np.sqrt(2.49)
        for leaning, share in zip(leanings, (0.8, 0.8 - change), strict=True)
    ]
    before, after = ([{"refusal": float(value)} for value in side] for side in sides)
    labels = np.repeat(np.arange(prompts), templates).tolist()
    return measure_drift(before, after, probe="p", metric="refusal", clusters=labels, margin=0.05).verdict


SECTIONS: dict[str, Callable[[int], Iterator[Row]]] = {
    "single": single,
    "paired": paired,
    "corpus": corpus,
    "first": first,
    "decisions": decisions,
    "drift": drift,
}


def judge(rate: float, nominal: float, repeats: int, remark: str) -> str:
    """Say whether a rate is within three Monte-Carlo errors of nominal."""
    if remark in ("before", "power"):
        return remark
    error = 3 * np.sqrt(nominal * (1 - nominal) / repeats)
    if abs(rate - nominal) <= error:
        return "within"
    careful = rate > nominal if nominal > 0.5 else rate < nominal
    return "careful" if careful else "OUTSIDE"


def main() -> None:
    """Print a table for each section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which tables; all by default")
    parser.add_argument("--repeats", type=int, default=2000)
    options = parser.parse_args()
    for name in options.sections or SECTIONS:
        started = time.perf_counter()
        print(f"\n## {(SECTIONS[name].__doc__ or '').splitlines()[0].rstrip('.')} (`{name}`)\n")
        print("| setting | rate | nominal | Monte-Carlo error | |\n|---|---|---|---|---|")
        for setting, rate, nominal, repeats, remark in SECTIONS[name](options.repeats):
            error = np.sqrt(rate * (1 - rate) / repeats)
            expected = "" if np.isnan(nominal) else f"{100 * nominal:.1f} %"
            verdict = judge(rate, nominal, repeats, remark)
            print(f"| {setting} | {100 * rate:.1f} % | {expected} | {100 * error:.1f} | {verdict} |", flush=True)
        print(f"\n{time.perf_counter() - started:.0f} seconds, {options.repeats} repeats.")


if __name__ == "__main__":
    main()
