"""Engines side by side: `python -m tests.benchmarks.serving.bench_engines CHECKPOINT --peers PYTHON --gguf FILE
--ctranslate2 FOLDER`.

Each engine is a process of its own with one thread, and all take turns, so that what else the machine does falls on
all. Prompts are random token ids that share no beginning; answers are greedy and have a fixed length. `PYTHON` has
openvino-genai and ctranslate2, and `--node FOLDER` npm's node-llama-cpp, which the project doesn't need; `FILE` and
`FOLDER` are written with `{}` in the place of the precision ("f32", "f16", "q8_0"; "float32", "int8").
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.serving import engine_workers
from tests.benchmarks.serving.worker import Worker

LLAMA_CPP = Path(engine_workers.__file__).with_name("llama_cpp_worker.mjs")
BASELINE = "transformers batching float32"
Timings = dict[str, list[dict[str, float]]]


def start(program: str, *arguments: str, script: Path = Path(engine_workers.__file__)) -> Worker:
    """Return an engine that has answered once."""
    worker = Worker(
        [program, str(script), *arguments], environment={"PYTHONPATH": os.getcwd() if program == sys.executable else ""}
    )
    worker.ask({"users": 1, "prompt": 16, "new": 4, "seed": 99})
    return worker


def start_workers(arguments: argparse.Namespace) -> dict[str, Worker]:
    """Return the engines that this machine has."""
    ours = {
        BASELINE: ("batching", "float32"),
        "transformers generate float32": ("generate", "float32"),
        "ours float32": ("ours", "float32"),
        "ours bfloat16": ("ours", "bfloat16"),
        "ours int8": ("ours", "int8"),
    }
    workers = {
        name: start(sys.executable, kind, arguments.checkpoint, precision) for name, (kind, precision) in ours.items()
    }
    if arguments.peers and arguments.gguf:
        for precision in ("f16", "q8_0"):
            workers[f"OpenVINO {precision}"] = start(
                arguments.peers, "openvino", arguments.gguf.format(precision), precision
            )
    if arguments.peers and arguments.ctranslate2:
        for precision in ("float32", "int8"):
            folder = arguments.ctranslate2.format(precision)
            workers[f"CTranslate2 {precision}"] = start(arguments.peers, "ctranslate2", folder, precision)
    if arguments.node and arguments.gguf:
        for precision in ("f32", "f16", "q8_0"):
            workers[f"llama.cpp {precision}"] = start(
                "node", arguments.node, arguments.gguf.format(precision), script=LLAMA_CPP
            )
    return workers


def print_table(load: dict[str, int], timings: Timings) -> None:
    """Print medians, and each round's ratio to the baseline."""
    print(f"\n{load['users']} users, prompts of {load['prompt']} tokens, {load['new']} new", flush=True)
    for name, rounds in timings.items():
        ratios = [measured["decode"] / base["decode"] for measured, base in zip(rounds, timings[BASELINE], strict=True)]
        decode, first = (statistics.median(measured[key] for measured in rounds) for key in ("decode", "first_s"))
        best = max(measured["decode"] for measured in rounds)
        print(
            f"  {name:32} {decode:8.1f} tokens/s (best {best:.1f}), ratio {statistics.median(ratios):.2f}, first"
            f" {first:.2f} s",
            flush=True,
        )


def main() -> None:
    """Measure every load on every engine, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--peers")
    parser.add_argument("--gguf")
    parser.add_argument("--ctranslate2")
    parser.add_argument("--node", help="folder where node-llama-cpp is installed")
    parser.add_argument("--loads", default="1x64,8x64,1x2000", help="users x prompt tokens")
    parser.add_argument("--new", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"read rate {engine_workers.read_rate():.1f} GB/s, one thread", flush=True)
    workers = start_workers(arguments)
    began = time.monotonic()
    try:
        for users, prompt in (map(int, load.split("x")) for load in arguments.loads.split(",")):
            load: dict[str, Any] = {"users": users, "prompt": prompt, "new": arguments.new}
            timings: Timings = {name: [] for name in workers}
            for seed in range(arguments.rounds):
                for name, worker in workers.items():
                    timings[name].append(worker.ask({**load, "seed": seed}))
            print_table(load, timings)
    finally:
        for worker in workers.values():
            worker.close()
    print(f"{time.monotonic() - began:.0f} s; read rate {engine_workers.read_rate():.1f} GB/s", flush=True)


if __name__ == "__main__":
    main()
