"""Adapters beside a base, compiled and by operators in turns: `python -m tests.benchmarks.serving.bench_adapters
CHECKPOINT [--rank 16]`.

Adapters are random, of all seven products; one thread; random prompts of 64 tokens, 48 greedy tokens behind each.
Prints tokens per second after the last first token, the median of the rounds, and each as a share of the same engine's
without adapters.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from backend.domain.serving.protocol import SamplingParams
from jobs.modeling.checkpoints import load_network
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.serving.adapters import AdapterBank, LoadedAdapter
from jobs.serving.batching import BatchingEngine
from jobs.serving.engine import Choice, Engine
from jobs.serving.fused_layers import PROJECTIONS, fuse_layers
from jobs.serving.native.library import Library, compile_library
from jobs.serving.precision import quantise_and_check
from tests.support.networks.serving_networks import save_adapter

NEW_TOKENS, PROMPT = 48, 64
LOADS = ("1 base", "1 adapter", "8 base", "8 one adapter", "8 four adapters", "8 half base")


def build(
    folder: Path, adapters: list[Path], *, library: Library | None, is_int8: bool
) -> tuple[Engine, list[LoadedAdapter]]:
    """Return an engine with its adapters."""
    network = load_network(folder, dtype=torch.float32)
    fuse_layers(network, library=library)
    if is_int8:
        quantise_and_check(network, library=library)
    bank = AdapterBank(folder, network)
    return BatchingEngine(network, load_tokenizer(folder), bank=bank, max_running=8), [
        bank.load(path) for path in adapters
    ]


def choices(load: str, adapters: list[LoadedAdapter]) -> list[LoadedAdapter | None]:
    """Return each user's adapter."""
    several: dict[str, list[LoadedAdapter | None]] = {
        "1 base": [None],
        "1 adapter": [adapters[0]],
        "8 base": [None] * 8,
        "8 one adapter": [adapters[0]] * 8,
        "8 four adapters": [*adapters, *adapters],
        "8 half base": [adapters[0], None] * 4,
    }
    return several[load]


def measure(engine: Engine, users: list[LoadedAdapter | None], *, vocabulary: int) -> float:
    """Return tokens per second of all users between the last first token and the end."""
    firsts, ends = [threading.Event() for _ in users], [threading.Event() for _ in users]
    for user, adapter in enumerate(users):

        def take(event: Any, user: int = user) -> None:
            firsts[user].set()
            if event.type != "token":
                ends[user].set()

        ids = [random.randrange(vocabulary) for _ in range(PROMPT)]
        settings = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
        engine.submit(ids, settings, take, choice=Choice(adapter=adapter))
    for first in firsts:
        first.wait()
    began = time.perf_counter()
    for end in ends:
        end.wait()
    return len(users) * (NEW_TOKENS - 1) / (time.perf_counter() - began)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    targets = [name.rpartition(".")[2] for name in PROJECTIONS]
    library = compile_library()
    with tempfile.TemporaryDirectory() as folder:
        paths = [
            save_adapter(
                Path(folder) / str(seed),
                base=options.checkpoint.resolve(),
                targets=targets,
                seed=seed,
                rank=options.rank,
            )
            for seed in range(4)
        ]
        engines = {
            "float32, compiled": build(options.checkpoint, paths, library=library, is_int8=False),
            "float32, operators": build(options.checkpoint, paths, library=None, is_int8=False),
            "int8, compiled": build(options.checkpoint, paths, library=library, is_int8=True),
        }
        rates: dict[str, dict[str, list[float]]] = {name: {load: [] for load in LOADS} for name in engines}
        for _ in range(options.rounds):
            for load in LOADS:
                for name, (engine, adapters) in engines.items():
                    rates[name][load].append(measure(engine, choices(load, adapters), vocabulary=1000))
        for name, loads in rates.items():
            medians = {load: statistics.median(values) for load, values in loads.items()}
            shares = {load: rate / medians[f"{load[0]} base"] for load, rate in medians.items()}
            print(f"{name}: " + ", ".join(f"{load} {rate:.1f} ({shares[load]:.2f})" for load, rate in medians.items()))
        for engine, _ in engines.values():
            engine.close()


if __name__ == "__main__":
    main()
