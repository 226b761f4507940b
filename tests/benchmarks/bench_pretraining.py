"""Pretraining on a CPU beside transformers' Trainer, nanoGPT and LitGPT: whole runs of one shape in turns, as ratios.

    python -m tests.benchmarks.bench_pretraining [--shape 5m] [--rounds 24] [--slice 2.4] [--nanogpt FOLDER] [--litgpt
    FOLDER]

Each contender is a process of its own that trains without end. All are started and warmed up one after the other, then
stopped, and let run in short turns (SIGSTOP, SIGCONT), so that a machine whose speed drifts drifts for all: of a few
steps each, and many. A rate is that of the steps that began and ended in a turn; ratios are taken within a round. The
rate of fp32 matrix products is measured in every round, too.

FOLDER is a checkout of karpathy/nanoGPT or Lightning-AI/litgpt (the latter needs its packages `lightning` and
`torchmetrics`); their own training scripts run, with their defaults except for the shape, the batch and what fp32 on a
CPU asks for. Nothing of them is kept here. `--telemetry` instead measures what reporting costs a run, by switching it
off and on in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from jobs.environment import with_memory_reuse
from tests.benchmarks.pretraining_contenders import (
    CHILDREN,
    CONTEXT,
    ENDLESS,
    SHAPES,
    StepPrinter,
    make_architecture,
    make_spec,
    prepare_nanogpt,
)

STEP = re.compile(r"(?:^iter \d+: loss .*time|iter time:|^step \d+ took) ([\d.]+) ?ms")


@dataclass
class Contender:
    """A process that trains, and the ends and durations of its steps in seconds."""

    name: str
    process: subprocess.Popen[str]
    steps: list[tuple[float, float]] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Note steps as they are told."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.tail = [*self.tail[-20:], line.rstrip()]
            result = STEP.search(line)
            if result:
                self.steps.append((time.time(), float(result[1]) / 1000))

    def signal(self, number: int) -> None:
        """Signal the process with all its children."""
        os.killpg(self.process.pid, number)


def main() -> None:
    """Run what was options for."""
    options = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # contenders that are stopped would stay
    if options.child:
        CHILDREN[options.child](options)
    elif options.telemetry:
        measure_telemetry(options)
    else:
        compare(options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=sorted(SHAPES), default="5m")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--slice", type=float, default=2.4)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--litgpt", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--telemetry", action="store_true")
    parser.add_argument("--child", default="")
    parser.add_argument("--folder", type=Path)
    return parser.parse_args()


def compare(options: argparse.Namespace) -> None:
    """Start all contenders, let them train in turns, print rates and ratios."""
    names = ["roundhouse", "roundhouse eager", "roundhouse bf16", "Trainer"]
    names += ["nanoGPT compiled", "nanoGPT eager"] if options.nanogpt else []
    names += ["LitGPT"] if options.litgpt else []
    names = [name for name in names if not options.only or name in options.only.split(",")]
    tokens = SHAPES[options.shape][4] * CONTEXT
    with tempfile.TemporaryDirectory() as scratch:
        contenders: list[Contender] = []
        try:
            for name in names:
                contenders.append(_start(name, options, Path(scratch) / name.replace(" ", "-")))
                warm_up(contenders[-1])
            rates: dict[str, list[float]] = {name: [] for name in names}
            peaks: list[float] = []
            for turn in range(options.rounds):
                ordered = contenders if turn % 2 == 0 else contenders[::-1]
                for contender in ordered:
                    rates[contender.name].append(tokens * take_turn(contender, options.slice))
                peaks.append(_matmul_flops())
                print(
                    turn,
                    {name: round(values[-1]) for name, values in rates.items()},
                    f"{peaks[-1] / 1e9:.0f} GFLOP/s",
                    flush=True,
                )
        finally:
            for contender in contenders:
                if contender.process.poll() is None:
                    contender.signal(signal.SIGKILL)
    _print(options.shape, rates, peaks)


def _start(name: str, options: argparse.Namespace, folder: Path) -> Contender:
    folder.mkdir()
    child, _, way = name.lower().partition(" ")
    command = [sys.executable, __file__, "--child", child, "--shape", options.shape, "--folder", str(folder)]
    paths = [
        str(Path(__file__).parents[2]),
        *([str(options.litgpt)] if child == "litgpt" else []),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "GOMP_SPINCOUNT": "10000",
        "BENCH_WAY": way,
    }
    if child == "roundhouse":
        environment = with_memory_reuse(environment)  # as a job's process has it
    if child == "nanogpt":
        command, folder = prepare_nanogpt(options, folder, compiled=way == "compiled")
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    contender = Contender(name, process)
    threading.Thread(target=contender.read, daemon=True).start()
    return contender


def warm_up(contender: Contender) -> None:
    """Wait for a contender's first steps, then stop it."""
    began, process = time.time(), contender.process
    while len(contender.steps) < 4:
        if process.poll() is not None or time.time() - began > 900:
            raise SystemExit(f"{contender.name} did not start:\n" + "\n".join(contender.tail))
        time.sleep(0.2)
    contender.signal(signal.SIGSTOP)
    print(f"{contender.name}: four steps after {time.time() - began:.0f} s", flush=True)


def take_turn(contender: Contender, seconds: float) -> float:
    """Let a contender train for some seconds; return its steps a second, by those that began and ended meanwhile."""
    began = time.time()
    contender.signal(signal.SIGCONT)
    time.sleep(seconds)
    while not (whole := [lasted for ended, lasted in contender.steps if ended - lasted >= began]):
        time.sleep(0.2)
    contender.signal(signal.SIGSTOP)
    return len(whole) / sum(whole)


def _matmul_flops(side: int = 1024, seconds: float = 2.0) -> float:
    """Return the median rate of fp32 matrix products, in operations a second."""
    import torch

    left, right = torch.rand(side, side), torch.rand(side, side)
    rates, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds:
        started = time.perf_counter()
        torch.mm(left, right)
        rates.append(2 * side**3 / (time.perf_counter() - started))
    return statistics.median(rates)


def _print(shape: str, rates: dict[str, list[float]], peaks: list[float]) -> None:
    from backend.domain.architectures.cost import count_flops

    per_token = count_flops(make_architecture(shape), context=CONTEXT, micro_batch=SHAPES[shape][4]).training
    rows = {}
    for name, values in rates.items():
        against = {
            f"of {other}": round(statistics.median(a / b for a, b in zip(values, rates[other], strict=True)), 3)
            for other in rates
            if name.startswith("roundhouse") and other != name
        }
        share = statistics.median(rate * per_token / peak for rate, peak in zip(values, peaks, strict=True))
        speed = {"tokens_per_s": round(statistics.median(values)), "best": round(max(values))}
        rows[name] = {**speed, "share_of_matmul": round(share, 3), **against}
    print(
        json.dumps(
            {
                "shape": shape,
                "rounds": len(peaks),
                "matmul_gflops": round(statistics.median(peaks) / 1e9),
                "rates": rows,
            },
            indent=1,
        )
    )


def measure_telemetry(options: argparse.Namespace) -> None:
    """Print what a run's reporting takes: blocks of steps with and without it in turns, and the time spent inside
    it.
    """
    from jobs.modeling.devices import set_threads
    from jobs.training.context import read_training_context
    from jobs.training.network.load import load_model
    from jobs.training.run import make_loop
    from tests.support.training_rooms import load_batches

    with tempfile.TemporaryDirectory() as scratch:
        options.folder = Path(scratch)
        set_threads(None)
        spec = make_spec(options, compile_="off", steps=ENDLESS)
        ctx = read_training_context(spec, StepPrinter(options.folder)._file)
        ctx.meter.begin()
        model = load_model(ctx, resume_from=None)
        loop = make_loop(ctx, load_batches(ctx, model), model)
        model.train()
        step, inside, lasted = 0, 0.0, {True: [], False: []}
        for turn in range(2 * options.rounds + 2):
            reports = bool(turn % 2)
            for _ in range(5):
                step += 1
                started = time.perf_counter()
                values = loop.update(step)
                started_at = time.perf_counter()
                if reports:
                    ctx.reporter.metrics(step, values)
                    ctx.reporter.progress(step, ENDLESS, rate=1.0)
                    ctx.reporter.should_stop()
                ended = time.perf_counter()
                if turn > 1:
                    lasted[reports].append(ended - started)
                    inside += ended - started_at if reports else 0.0
        on, off = (statistics.median(lasted[way]) for way in (True, False))
        print(
            json.dumps(
                {
                    "shape": options.shape,
                    "steps_each": len(lasted[True]),
                    "step_s_on": round(on, 4),
                    "step_s_off": round(off, 4),
                    "ratio_of_medians": round(on / off, 4),
                    "time_inside": round(inside / sum(lasted[True]), 6),
                    "ms_inside_a_step": round(1000 * inside / len(lasted[True]), 3),
                }
            )
        )


if __name__ == "__main__":
    main()
