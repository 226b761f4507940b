"""Speculative decoding side by side: `python -m tests.benchmarks.serving.bench_drafts CHECKPOINT --draft DRAFT
--prompts FILE`.

Two processes with one thread each serve the checkpoint, one of them with the draft (in int8, as replicas have it), and
take turns, so that what else the machine does falls on both. `FILE` has a prompt a line. Every answer must be the same
with and without the draft.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.serving.engine_workers import read_rate
from tests.benchmarks.serving.worker import Worker


def serve(checkpoint: Path, draft: Path | None, precision: str) -> None:
    """Read loads as JSON lines; write each one's tokens per second behind the first token, its answers and the draft's
    counts.
    """
    import torch

    from backend.domain.serving.protocol import SamplingParams, TokenEvent
    from jobs.modeling.tokenizer_folders import load_tokenizer
    from jobs.serving.drafts import Draft
    from jobs.serving.native.library import compile_library
    from jobs.serving.prepared import load_own
    from jobs.serving.start import start_engine

    torch.set_num_threads(1)

    def load(folder: Path, precision: Any) -> Any:
        return load_own(folder, device=torch.device("cpu"), precision=precision, library=compile_library()).network

    tokenizer = load_tokenizer(checkpoint)
    engine = start_engine(
        load(checkpoint, precision),
        tokenizer,
        kind="batching",
        draft=None if draft is None else Draft(load(draft, "int8")),
    )
    for line in sys.stdin:
        asked = json.loads(line)
        before, firsts, ends, answers, began = engine.stats(), [], [], [], time.process_time()
        for number, prompt in enumerate(asked["prompts"]):
            end, ids = threading.Event(), []

            def on_event(
                event: Any, ids: list[int] = ids, end: threading.Event = end, firsts: list[float] = firsts
            ) -> None:
                if isinstance(event, TokenEvent):
                    if not ids:
                        firsts.append(time.perf_counter())
                    ids.extend(event.token_ids)
                else:
                    end.set()

            params = SamplingParams(
                max_tokens=asked["new"], temperature=asked["temperature"], seed=number, ignore_eos=True
            )
            engine.submit(tokenizer(prompt)["input_ids"], params, on_event)
            ends.append(end)
            answers.append(ids)
        for end in ends:
            end.wait()
        seconds, cpu_s, after = time.perf_counter() - max(firsts), time.process_time() - began, engine.stats()
        counts = {
            "drafted": (after.drafted_tokens or 0) - (before.drafted_tokens or 0),
            "accepted": (after.accepted_tokens or 0) - (before.accepted_tokens or 0),
        }
        rate = (asked["new"] - 1) * len(answers) / seconds
        cpu_ms = 1000 * cpu_s / (asked["new"] * len(answers))
        print(json.dumps({"rate": rate, "cpu_ms": cpu_ms, "answers": answers, **counts}), flush=True)


def measure(
    plain: Worker, drafted: Worker, load: dict[str, Any], prompts: list[str], *, users: int, rounds: int
) -> None:
    """Print a line for one load: medians of the rates and of each round's ratio, and the accepted share."""
    rates: list[tuple[float, float]] = []
    costs: list[tuple[float, float]] = []
    counts = {"drafted": 0, "accepted": 0}
    for number in range(rounds):
        chosen = [prompts[(number * users + user) % len(prompts)] for user in range(users)]
        pair = [worker.ask({**load, "prompts": chosen}) for worker in (plain, drafted)]
        if pair[0]["answers"] != pair[1]["answers"]:
            raise SystemExit(f"Answers differ: {chosen}")
        rates.append((pair[0]["rate"], pair[1]["rate"]))
        costs.append((pair[0]["cpu_ms"], pair[1]["cpu_ms"]))
        for name in counts:
            counts[name] += pair[1][name]
    without, with_draft = (statistics.median(side) for side in zip(*rates, strict=True))
    cpu, cpu_with_draft = (statistics.median(side) for side in zip(*costs, strict=True))
    ratios = sorted(fast / slow for slow, fast in rates)
    share = f"{counts['accepted'] / counts['drafted']:.0%}" if counts["drafted"] else "-"
    print(
        f"{users} users, temperature {load['temperature']}: {without:.1f} -> {with_draft:.1f} tokens/s, ratio"
        f" {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); {cpu:.1f} -> {cpu_with_draft:.1f} ms"
        f" of CPU a token; {counts['drafted']} drafted, {share} accepted",
        flush=True,
    )


def main() -> None:
    """Measure every load with and without the draft, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--users", default="1,2,4,8")
    parser.add_argument("--temperatures", default="0,1")
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--serve", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.checkpoint, arguments.draft, arguments.precision)
        return
    prompts = [line for line in arguments.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    print(f"read rate {read_rate():.1f} GB/s, load {os.getloadavg()[0]:.1f}, one thread", flush=True)
    served = [
        sys.executable,
        "-m",
        "tests.benchmarks.serving.bench_drafts",
        str(arguments.checkpoint),
        "--precision",
        arguments.precision,
        "--serve",
    ]
    plain, drafted = Worker(served), Worker([*served, "--draft", str(arguments.draft)])
    try:
        for worker in (plain, drafted):
            worker.ask({"prompts": prompts[:1], "new": 8, "temperature": 0})
        for users in map(int, arguments.users.split(",")):
            for temperature in map(float, arguments.temperatures.split(",")):
                load = {"new": arguments.new, "temperature": temperature}
                measure(plain, drafted, load, prompts, users=users, rounds=arguments.rounds)
    finally:
        plain.close()
        drafted.close()
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
