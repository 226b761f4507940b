"""Coverage, speed and reference values of ratings: `python -m tests.benchmarks.battles.bench_ratings SECTION`.

    coverage [--repeats N]        intervals of differences in simulated campaigns with prompt and rater effects speed
    [--before FOLDER]       a million votes of 200 contestants, read and rated; FOLDER is an older checkout to measure
    beside it reference VOTES VALUES        ratings of a file of votes against a JSON file of values from other code

Data of the first two are simulated with seeds fixed. Times are CPU and wall; on a shared machine CPU is the one to
compare.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit

from backend.domain.battles.bradley_terry import LOSS, WIN, Cells, maximise, strong_components, sum_votes
from backend.domain.battles.clusters import ClusterBy, covariance, groupings, vote_scores
from backend.domain.battles.rating_table import ELO_PER_UNIT, RatingOptions
from backend.domain.battles.ratings import rank_ranges, rate
from backend.domain.battles.vote_files.tables import read_vote_file
from backend.domain.battles.votes import VoteColumns

STRENGTHS = np.array([0.5, 0.2, 0.0, -0.7])
NAMES = ("w", "x", "y", "z")
PAIRS = np.array(list(combinations(range(4), 2)))
TIES = 0.2
PAIRS_A_PROMPT = 3
"""Pairs that each rater judges on each prompt."""
SCENARIOS = {
    "prompts and raters": (0.6, 0.4),
    "prompts alone": (0.6, 0.0),
    "raters alone": (0.0, 0.6),
    "neither": (0.0, 0.0),
}
"""Standard deviations, natural units, with which a prompt and a rater shift each contestant's strength."""
READ = """
import sys, time, resource
begin = time.perf_counter(), time.process_time()
def clock(): return [time.perf_counter() - begin[0], time.process_time() - begin[1]]
"""
TODAY = (
    READ
    + """
from backend.domain.battles.vote_files.tables import read_votes
from backend.domain.battles.ratings import RatingOptions, rate
data = open(sys.argv[1], "rb").read()
begin = time.perf_counter(), time.process_time()
votes = read_votes(data); read = clock()
table = rate(votes, RatingOptions()); both = clock()
"""
)
BEFORE = (
    READ
    + """
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.battles.ratings import fit_bradley_terry
text = open(sys.argv[1], encoding="utf-8").read()
begin = time.perf_counter(), time.process_time()
votes = parse_votes(text); read = clock()
table = fit_bradley_terry(votes, cluster_by="two_way"); both = clock()
"""
)
PRINT = """
import json
print(json.dumps({"read": read, "rate": [b - a for a, b in zip(read, both)], "best": table.ratings[0].rating,
                  "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def simulate(rng: np.random.Generator, prompts: int, raters: int, deviations: tuple[float, float]) -> VoteColumns:
    """Every rater judges three of the six pairs on every prompt."""
    cells = prompts * raters
    pairs = np.argsort(rng.random((cells, len(PAIRS))), axis=1)[:, :PAIRS_A_PROMPT].ravel()
    prompt = np.repeat(np.repeat(np.arange(prompts), raters), PAIRS_A_PROMPT)
    rater = np.repeat(np.tile(np.arange(raters), prompts), PAIRS_A_PROMPT)
    a, b = PAIRS[pairs].T
    swap = rng.random(len(a)) < 0.5
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    of_prompt = rng.normal(0, 1, (prompts, 4)) * deviations[0]
    of_rater = rng.normal(0, 1, (raters, 4)) * deviations[1]
    gap = (
        STRENGTHS[a]
        - STRENGTHS[b]
        + of_prompt[prompt, a]
        - of_prompt[prompt, b]
        + of_rater[rater, a]
        - of_rater[rater, b]
    )
    label = np.where(rng.random(len(a)) < TIES, 2, np.where(rng.random(len(a)) < expit(gap), 0, 1))
    names = tuple(map(str, range(prompts))), tuple(map(str, range(raters)))
    return VoteColumns(NAMES, names[0], names[1], a, b, label, prompt, rater)


def true_strengths(deviations: tuple[float, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The strengths that the fit tends to with ever more prompts and raters: those of the expected shares, by
    quadrature.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    spread = math.sqrt(2 * (deviations[0] ** 2 + deviations[1] ** 2))
    gaps = STRENGTHS[PAIRS[:, 0]] - STRENGTHS[PAIRS[:, 1]]
    shares = TIES / 2 + (1 - TIES) * np.array([weights @ expit(gap + spread * nodes) for gap in gaps]) / weights.sum()
    sides, outcome = np.tile(PAIRS, (2, 1)).T, np.repeat([WIN, LOSS], len(PAIRS))
    cells = Cells(
        4, sides[0], sides[1], outcome, np.concatenate([shares, 1 - shares]), np.zeros((12, 0)), np.arange(12)
    )
    fit = maximise(cells)
    assert fit is not None
    return ELO_PER_UNIT * fit.theta


def coverage(repeats: int) -> None:
    """Print a table for each scenario: coverage by both ways, by prompt, and of independent votes; rank ranges; widths;
    a note.
    """
    for name, deviations in SCENARIOS.items():
        truth = true_strengths(deviations)
        print(f"\n### Effects of {name} (sd {deviations[0]} and {deviations[1]})\n")
        columns = (
            "prompts x raters",
            "two ways",
            "Monte-Carlo error",
            "by prompt",
            "independent",
            "all ranks in their ranges",
        )
        print(f"| {' | '.join(columns)} | half-width, Elo | noted |\n|{'---|' * 8}")
        for prompts in (8, 20, 80, 200):
            for raters in (3, 8, 20, 50):
                print(coverage_row(prompts, raters, deviations, truth, repeats), flush=True)


def coverage_row(
    prompts: int,
    raters: int,
    deviations: tuple[float, float],
    truth: np.ndarray[Any, np.dtype[np.float64]],
    repeats: int,
) -> str:
    """Simulate campaigns of one size."""
    rng = np.random.default_rng([prompts, raters, *(int(100 * value) for value in deviations)])
    options = RatingOptions(num_draws=400)
    gaps = truth[PAIRS[:, 0]] - truth[PAIRS[:, 1]]
    true_ranks = 1 + (truth[None, :] > truth[:, None]).sum(1)
    hits: dict[ClusterBy, list[float]] = {"two_way": [], "prompt": [], "none": []}
    ranks, widths = [], []
    while len(ranks) < repeats:
        votes = simulate(rng, prompts, raters, deviations)
        cells = sum_votes(votes)
        if strong_components(cells).max() > 0:
            continue  # rated with a prior, which the table says
        fit = maximise(cells)
        assert fit is not None
        scores = vote_scores(fit, cells, votes)
        errors = np.abs(ELO_PER_UNIT * (fit.theta[PAIRS[:, 0]] - fit.theta[PAIRS[:, 1]]) - gaps)
        for way, shares in hits.items():
            spread = covariance(fit, scores, groupings(votes, way))
            margins = ELO_PER_UNIT * stats.t.ppf(0.975, spread.gaps.df) * np.sqrt(spread.gaps.variance)
            shares.append(float((errors <= margins[PAIRS[:, 0], PAIRS[:, 1]]).mean()))
            if way == "two_way":
                ranges = rank_ranges(fit, spread, spread.gaps, options)
                ranks.append(bool(((ranges[:, 0] <= true_ranks) & (true_ranks <= ranges[:, 1])).all()))
                widths.append(float(margins[0, 3]))
    notes = rate(votes, options).notes
    coverages = {way: 100 * float(np.mean(values)) for way, values in hits.items()}
    error = 100 * float(np.std(hits["two_way"])) / math.sqrt(repeats)
    return (
        f"| {prompts} x {raters} | {coverages['two_way']:.1f} % | {error:.1f} | {coverages['prompt']:.1f} % |"
        f" {coverages['none']:.1f} % | {100 * np.mean(ranks):.1f} % | {np.median(widths):.0f} |"
        f" {'yes' if any('intervals are' in note for note in notes) else ''} |"
    )


def write_votes(
    path: Path, *, votes: int = 1_000_000, contestants: int = 200, prompts: int = 50_000, raters: int = 2_000
) -> None:
    """Write votes as CSV."""
    rng = np.random.default_rng(0)
    strengths = rng.normal(0, 0.8, contestants)
    a = rng.integers(0, contestants, votes)
    b = (a + rng.integers(1, contestants, votes)) % contestants
    decided = np.where(rng.random(votes) < expit(strengths[a] - strengths[b]), "A", "B")
    winner = np.where(rng.random(votes) < 0.25, "TIE", decided)
    rows = zip(rng.integers(0, prompts, votes), rng.integers(0, raters, votes), a, b, winner, strict=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("prompt,rater,a,b,winner\n")
        file.writelines(
            f"prompt-{row[0]},rater-{row[1]},model-{row[2]:03d},model-{row[3]:03d},{row[4]}\n" for row in rows
        )


def speed(before: Path | None, rounds: int) -> None:
    """Print CPU and wall seconds of reading and of rating, alternating with the older checkout."""
    folders = [("now", Path.cwd(), TODAY)] + ([("before", before, BEFORE)] if before else [])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "votes.csv"
        write_votes(path)
        print(f"{path.stat().st_size / 1e6:.0f} MB, threads of BLAS: {os.environ.get('OMP_NUM_THREADS', 'all')}")
        print("| | read: CPU s | wall s | rate: CPU s | wall s | peak MB | best |\n|---|---|---|---|---|---|---|")
        for _ in range(rounds):
            for name, checkout, script in folders:
                environment = {**os.environ, "PYTHONPATH": str(checkout)}
                command = [sys.executable, "-c", script + PRINT, str(path)]
                output = subprocess.run(
                    command, env=environment, cwd=checkout, capture_output=True, text=True, check=True
                ).stdout
                row = json.loads(output)
                cells = [row["read"][1], row["read"][0], row["rate"][1], row["rate"][0]]
                print(
                    f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} | {row['peak_mb']:.0f} |"
                    f" {row['best']:.4f} |",
                    flush=True,
                )


def reference(votes: Path, values: Path) -> None:
    """Print the largest difference from values of other code; see the keys below."""
    columns = read_vote_file(votes.read_bytes())
    expected = next(iter(json.loads(values.read_text()).values()))
    keys = {"bradley_terry": "bt_elo_mean1000", "davidson": "davidson_elo", "rao_kupper": "rao_kupper_elo"}
    for method, key in keys.items():
        table = rate(columns, RatingOptions.of(method=method, cluster_by="none"))
        gaps = [abs(row.rating - expected["models"][row.contestant][key]) for row in table.ratings]
        print(
            f"{method}: {max(gaps):.5f} Elo, log-likelihood {table.log_likelihood:.6f}, tie parameter"
            f" {table.tie_parameter}"
        )
        if method == "bradley_terry":
            errors = [abs(row.stderr - expected["models"][row.contestant]["se_hc0"]) for row in table.ratings]
            print(f"  standard errors {max(errors):.5f}")
    print({key: value for key, value in expected.items() if key != "models"})


def main() -> None:
    """Run a section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("section", choices=["coverage", "speed", "reference"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path)
    options = parser.parse_args()
    if options.section == "coverage":
        coverage(options.repeats)
    elif options.section == "speed":
        speed(options.before, options.rounds)
    else:
        reference(*options.files)


if __name__ == "__main__":
    main()
