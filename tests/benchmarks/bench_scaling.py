"""How well the scaling fit recovers known laws, and how well it predicts runs it has not seen.

python -m tests.benchmarks.bench_scaling coverage python -m tests.benchmarks.bench_scaling over-training FOLDER      the
folder `models` of mlfoundations/scaling (JSON, one file a run) python -m tests.benchmarks.bench_scaling chinchilla
FILE.csv       svg_extracted_data.csv of epoch-research/analyzing-chinchilla python -m tests.benchmarks.bench_scaling
learning-rate FILE.txt    any text of a megabyte or more
"""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.scaling.fit import LawFit, fit_law
from backend.domain.scaling.laws import PUBLISHED, ScalingLaw, ScalingPoint
from backend.domain.scaling.shapes import count_without_embeddings
from backend.domain.statistics.estimates import Estimate
from jobs.modeling.build import build_network

TRIALS = 100
DESIGNS = {
    "3 budgets x 5 sizes, 1e17 to 1e19": (np.geomspace(1e17, 1e19, 3), 5),
    "4 budgets x 6 sizes, 1e17 to 1e20": (np.geomspace(1e17, 1e20, 4), 6),
}
NOISES = (0.003, 0.01, 0.03)


def draw_study(
    law: ScalingLaw, budgets: np.ndarray, sizes: int, noise: float, rng: np.random.Generator
) -> list[ScalingPoint]:
    """Return runs of a law: at each budget this many sizes up to four times either side of the best, losses off by
    exp(noise).
    """
    points = []
    for budget in budgets:
        for n in law.optimum(float(budget)).parameters * np.geomspace(0.25, 4, sizes):
            d = float(budget) / 6 / n
            points.append(ScalingPoint.of(float(n), d, law.loss(float(n), d) * math.exp(noise * rng.standard_normal())))
    return points


def holds(estimate: Estimate, value: float) -> bool:
    """Whether an interval has a value in it."""
    return estimate.low is not None and estimate.high is not None and estimate.low <= value <= estimate.high


def measure_coverage(law: ScalingLaw, budgets: np.ndarray, sizes: int, noise: float) -> dict[str, float]:
    """Return how often of 100 trials each interval held the truth, and the seconds of one fit."""
    rng = np.random.default_rng(0)
    hits: dict[str, float] = {}
    started = time.perf_counter()
    far = float(budgets[-1]) * 100
    target = law.optimum(far)
    for trial in range(TRIALS):
        fit = fit_law(draw_study(law, budgets, sizes, noise, rng), seed=trial)
        result = {name: holds(estimate, law.constants[name]) for name, estimate in fit.constants.items()}
        result["all five"] = all(result.values())
        result["exponent"] = holds(fit.parameter_exponent, law.parameter_exponent)
        result["loss at 100 x"] = holds(
            replace(fit.law, scatter=0).loss_estimate(target.parameters, target.tokens), target.loss
        )
        result["size at 100 x"] = holds(fit.law.parameters_estimate(far), target.parameters)
        for name, hit in result.items():
            hits[name] = hits.get(name, 0) + hit
    return {**hits, "seconds a fit": (time.perf_counter() - started) / TRIALS}


def coverage() -> None:
    """Print coverage for every design and noise as a Markdown table, for the law as Hoffmann et al. printed it."""
    for place, (design, (budgets, sizes)) in enumerate(DESIGNS.items()):
        for noise in NOISES:
            row = measure_coverage(PUBLISHED["hoffmann-2022"], budgets, sizes, noise)
            if not place and noise == NOISES[0]:
                print("| runs | noise |", " | ".join(row), "|")
            values = [f"{value:.2f}" if name == "seconds a fit" else f"{value:.0f}" for name, value in row.items()]
            print(f"| {design} | {noise:.1%} |", " | ".join(values), "|", flush=True)


def read_over_training(folder: Path) -> Iterator[ScalingPoint]:
    """Yield a point for each run: all parameters, training tokens, loss on C4's validation set."""
    for file in sorted(folder.glob("*.json")):
        data = json.loads(file.read_text())
        parameters, tokens = data["hyperparameters"]["params"], data["hyperparameters"]["tokens"]
        loss = next(r["loss"] for r in data["results"] if "/c4_val/" in r["val_data"][0])
        yield ScalingPoint.of(parameters, tokens, loss, label=data["name"])


def over_training(folder: Path) -> None:
    """Fit all runs, then only the small ones, and predict the others."""
    points = list(read_over_training(folder))
    show("all", fit_law(points))
    for word, limit in (("up to 412 M parameters", 5e8), ("up to 154 M parameters", 2e8)):
        small = [point for point in points if point.parameters < limit]
        fit = fit_law(small)
        show(word, fit)
        predict(fit, [point for point in points if point.parameters >= limit])
    usable = [point for point in points if point.tokens / point.parameters >= 10]
    fit = fit_law([point for point in usable if point.parameters < 5e8])
    show("up to 412 M, at least 10 tokens a parameter", fit)
    predict(fit, [point for point in usable if point.parameters >= 5e8])


def predict(fit: LawFit, unseen: list[ScalingPoint]) -> None:
    """Print the losses predicted of runs that the fit has not seen."""
    errors = []
    for point in unseen:
        result = fit.law.loss_estimate(point.parameters, point.tokens)
        errors.append(abs(result.value / point.loss - 1))
        inside = "in" if holds(result, point.loss) else "OUT OF"
        print(
            f"    {point.label}: {point.loss:.4f}, predicted {result.value:.4f} ({result.value / point.loss - 1:+.2%}),"
            f" {inside} [{result.low:.4f}, {result.high:.4f}]"
        )
    print(f"    mean error {np.mean(errors):.2%} over {len(errors)} runs")


def chinchilla(file: Path) -> None:
    """Fit the runs that Besiroglu et al. reconstructed, without the five highest losses, as they did."""
    with file.open() as text:
        rows = list(csv.DictReader(text))
    points = [
        ScalingPoint.of(
            float(row["Model Size"]), float(row["Training FLOP"]) / 6 / float(row["Model Size"]), float(row["loss"])
        )
        for row in rows
    ]
    points = sorted(points, key=lambda point: point.loss)[:-5]
    fit = fit_law(points, num_draws=4000)
    show("reconstructed Chinchilla runs", fit)
    for name, estimate in fit.constants.items():
        print(
            f"    {name}: published {PUBLISHED['besiroglu-2024'].constants[name]:.5g}, standard error here"
            f" {estimate.stderr:.3g}"
        )


def learning_rate(file: Path) -> None:
    """Train tiny networks on bytes at several peak learning rates and print their last losses beside what the rule asks
    for.
    """
    text = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).long()
    for width, layers, steps, seeds in ((32, 2, 300, 3), (64, 3, 300, 3), (128, 3, 300, 2), (64, 3, 1200, 2)):
        shape = ArchitectureConfig(
            width=width, num_layers=layers, num_heads=width // 16, context=64, vocab_size=256, feed_forward=3 * width
        )
        size, micro_batch = count_without_embeddings(shape), 8
        rule = 1.79 * size**-0.713 * (steps * micro_batch * 64) ** 0.307
        print(
            f"{size:,} parameters without embeddings, {steps} steps of {micro_batch} x 64 bytes; the rule says"
            f" {rule:.3f}"
        )
        for rate in (1e-3, 2e-3, 3e-3, 5e-3, 1e-2):
            losses = [
                train(shape, text, rate, steps=steps, micro_batch=micro_batch, seed=seed)
                for seed in range(1, seeds + 1)
            ]
            print(f"    {rate:g}: {np.mean(losses):.3f} ({', '.join(f'{loss:.3f}' for loss in losses)})", flush=True)


def train(
    shape: ArchitectureConfig, text: torch.Tensor, rate: float, *, steps: int, micro_batch: int, seed: int
) -> float:
    """Train with AdamW, a short warm-up and a cosine down to 1e-5, as a plan would, and return the mean loss of the
    last 30 steps.
    """
    network = build_network(shape, seed=seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    draw = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate_at_step(step, peak=rate, steps=steps)
        starts = torch.randint(len(text) - 65, (micro_batch,), generator=draw)
        ids = torch.stack([text[start : start + 64] for start in starts])
        loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-30:]))


def rate_at_step(step: int, *, peak: float, steps: int) -> float:
    """Return the learning rate of a step: a twentieth of the run upwards, then a cosine down."""
    warmup = steps // 20
    if step < warmup:
        return peak * (step + 1) / warmup
    return 1e-5 + (peak - 1e-5) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def show(word: str, fit: LawFit) -> None:
    """Print a fit."""
    constants = ", ".join(
        f"{name} {value.value:.4g} [{value.low:.4g}, {value.high:.4g}]" for name, value in fit.constants.items()
    )
    print(
        f"{word}: {fit.num_points} runs, typical error {fit.typical_error:.2%}, scatter {fit.law.scatter:.2%}\n   "
        f" {constants}"
    )
    a = fit.parameter_exponent
    best = fit.law.optimum(1e21)
    for text in fit.warnings:
        print(f"    ({text})")
    print(
        f"    N ~ C^{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]; at 1e21 FLOPs {best.tokens_per_parameter:.1f} tokens a"
        " parameter"
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["coverage"]:
            coverage()
        case ["over-training", folder]:
            over_training(Path(folder))
        case ["learning-rate", file]:
            learning_rate(Path(file))
        case ["chinchilla", file]:
            chinchilla(Path(file))
        case _:
            print(__doc__)
