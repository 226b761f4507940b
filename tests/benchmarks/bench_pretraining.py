"""Pretraining on a CPU beside transformers' Trainer, nanoGPT and LitGPT: whole runs of one shape in turns, as ratios.

    python tests/benchmarks/bench_pretraining.py [--shape 5m] [--rounds 24] [--slice 2.4] [--nanogpt FOLDER] [--litgpt FOLDER]

Each contender is a process of its own that trains without end. All are started and warmed up one after the other, then stopped, and
let run in short turns (SIGSTOP, SIGCONT), so that a machine whose speed drifts drifts for all: of a few steps each, and many. A rate is that of the
steps that began and ended in a turn; ratios are taken within a round. The rate of fp32 matrix products is measured in every round, too.

FOLDER is a checkout of karpathy/nanoGPT or Lightning-AI/litgpt (the latter needs its packages `lightning` and `torchmetrics`); their own
training scripts run, with their defaults except for the shape, the batch and what fp32 on a CPU asks for. Nothing of them is kept here.
`--telemetry` instead measures what reporting costs a run, by switching it off and on in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.domain.jobs.payloads import TrainPayload
from jobs.memory_reuse import keeping_memory

CONTEXT, VOCABULARY, ENDLESS = 256, 2048, 1_000_000
SHAPES = {"2m": (4, 192, 6, 512, 16), "5m": (6, 256, 8, 688, 16), "26m": (8, 512, 8, 1360, 8)}
"""Layers, width, heads, feed-forward, sequences a step. A feed-forward of 8/3 widths has the weights of nanoGPT's, of 4 widths."""

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
            found = STEP.search(line)
            if found:
                self.steps.append((time.time(), float(found[1]) / 1000))

    def signal(self, number: int) -> None:
        """Signal the process with all its children."""
        os.killpg(self.process.pid, number)


def main() -> None:
    """Run what was asked for."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # contenders that are stopped would stay
    if asked.child:
        CHILDREN[asked.child](asked)
    elif asked.telemetry:
        measure_telemetry(asked)
    else:
        compare(asked)


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


def compare(asked: argparse.Namespace) -> None:
    """Start all contenders, let them train in turns, print rates and ratios."""
    names = ["roundhouse", "roundhouse eager", "roundhouse bf16", "Trainer"]
    names += ["nanoGPT compiled", "nanoGPT eager"] if asked.nanogpt else []
    names += ["LitGPT"] if asked.litgpt else []
    names = [name for name in names if not asked.only or name in asked.only.split(",")]
    tokens = SHAPES[asked.shape][4] * CONTEXT
    with tempfile.TemporaryDirectory() as scratch:
        contenders: list[Contender] = []
        try:
            for name in names:
                contenders.append(_start(name, asked, Path(scratch) / name.replace(" ", "-")))
                _warm_up(contenders[-1])
            rates: dict[str, list[float]] = {name: [] for name in names}
            peaks: list[float] = []
            for turn in range(asked.rounds):
                ordered = contenders if turn % 2 == 0 else contenders[::-1]
                for contender in ordered:
                    rates[contender.name].append(tokens * _turn(contender, asked.slice))
                peaks.append(_matmul_flops())
                print(turn, {name: round(values[-1]) for name, values in rates.items()}, f"{peaks[-1] / 1e9:.0f} GFLOP/s", flush=True)
        finally:
            for contender in contenders:
                if contender.process.poll() is None:
                    contender.signal(signal.SIGKILL)
    _print(asked.shape, rates, peaks)


def _start(name: str, asked: argparse.Namespace, folder: Path) -> Contender:
    folder.mkdir()
    child, _, way = name.lower().partition(" ")
    command = [sys.executable, __file__, "--child", child, "--shape", asked.shape, "--folder", str(folder)]
    paths = [str(Path(__file__).parents[2]), *([str(asked.litgpt)] if child == "litgpt" else []), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "GOMP_SPINCOUNT": "10000",
        "BENCH_WAY": way,
    }
    if child == "roundhouse":
        environment = keeping_memory(environment)  # as a job's process has it
    if child == "nanogpt":
        command, folder = _nanogpt(asked, folder, compiled=way == "compiled")
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    contender = Contender(name, process)
    threading.Thread(target=contender.read, daemon=True).start()
    return contender


def _warm_up(contender: Contender) -> None:
    """Wait for a contender's first steps, then stop it."""
    began, process = time.time(), contender.process
    while len(contender.steps) < 4:
        if process.poll() is not None or time.time() - began > 900:
            raise SystemExit(f"{contender.name} did not start:\n" + "\n".join(contender.tail))
        time.sleep(0.2)
    contender.signal(signal.SIGSTOP)
    print(f"{contender.name}: four steps after {time.time() - began:.0f} s", flush=True)


def _turn(contender: Contender, seconds: float) -> float:
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
    from backend.domain.architectures.flops import count_flops

    per_token = count_flops(_architecture(shape), context=CONTEXT, micro_batch=SHAPES[shape][4]).training
    rows = {}
    for name, values in rates.items():
        against = {
            f"of {other}": round(statistics.median(a / b for a, b in zip(values, rates[other], strict=True)), 3)
            for other in rates
            if name.startswith("roundhouse") and other != name
        }
        share = statistics.median(rate * per_token / peak for rate, peak in zip(values, peaks, strict=True))
        told = {"tokens_per_s": round(statistics.median(values)), "best": round(max(values))}
        rows[name] = {**told, "share_of_matmul": round(share, 3), **against}
    print(
        json.dumps({"shape": shape, "rounds": len(peaks), "matmul_gflops": round(statistics.median(peaks) / 1e9), "rates": rows}, indent=1)
    )


def _architecture(shape: str) -> Any:
    from backend.domain.architectures.config import ArchitectureConfig

    layers, width, heads, inner, _ = SHAPES[shape]
    return ArchitectureConfig(
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=heads,
        context=CONTEXT,
        vocab_size=VOCABULARY,
        feed_forward=inner,
        tie_embeddings=True,
    )


def _told(step: int, seconds: float) -> None:
    print(f"step {step} took {seconds * 1000:.2f} ms", flush=True)


class Telling:
    """A reporter that writes its events to a file, as in a job, and tells how long steps took."""

    def __init__(self, folder: Path) -> None:
        from jobs.reporter import FileReporter

        self._file, self._last = FileReporter(folder / "events.jsonl", folder / "control"), time.perf_counter()

    def emit(self, event: Any) -> None:
        self._file.emit(event)
        if event.type == "metrics":
            now = time.perf_counter()
            _told(event.step, now - self._last)
            self._last = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _training_spec(asked: argparse.Namespace, *, compile_: str, steps: int, precision: Any = "auto") -> Any:
    """Write a dataset of made-up words and a tokenizer; return the job of a pretraining run on them."""
    import pyarrow as pa
    from pyarrow import parquet

    from backend.domain.training.config import RunConfig
    from jobs.modeling.tokenizers import train_bpe
    from jobs.reporter import JobSpec

    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(4000)]
    texts = [" ".join(draw.choices(words, k=120)) for _ in range(3000)]
    root = asked.folder
    (root / "texts").mkdir(parents=True)
    parquet.write_table(pa.table({"text": texts}), root / "texts" / "train.parquet")
    train_bpe(texts[:500], vocab_size=VOCABULARY).save_pretrained(root / "tokenizer")
    architecture = _architecture(asked.shape)
    config = RunConfig(
        dataset="d",
        tokenizer="t",
        architecture=architecture,
        max_steps=steps,
        micro_batch=SHAPES[asked.shape][4],
        context=CONTEXT,
        eval_every=ENDLESS,
        checkpoint_every=ENDLESS,
        sample_prompts=(),
        compile=compile_,
        device="cpu",
        precision=precision,
    )
    payload = {
        "config": config.model_dump(mode="json"),
        "architecture": architecture.model_dump(mode="json"),
        "tokenizer": "tokenizer",
        "dataset": "texts",
        "dataset_kind": "text",
        "base": None,
        "run_folder": "run",
        "threads": None,
    }
    folder = root / "jobs" / "job"
    folder.mkdir(parents=True)
    return JobSpec(id="job", attempt=1, payload=TrainPayload.read({"run_id": "run", **payload}), artifacts=root, folder=folder)


def _roundhouse(asked: argparse.Namespace) -> None:
    """A whole run: data from a dataset, batches, checkpoints, telemetry."""
    from jobs.training.run import run

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(asked.folder / "compiled")
    way = os.environ["BENCH_WAY"]
    spec = _training_spec(asked, compile_="off" if way == "eager" else "on", steps=ENDLESS, precision="bf16" if way == "bf16" else "auto")
    run(spec, Telling(asked.folder))


def _trainer(asked: argparse.Namespace) -> None:
    """transformers' Trainer with its defaults, on the same network."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from jobs.modeling.build import build_network

    class Tell(TrainerCallback):
        last = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            now = time.perf_counter()
            _told(state.global_step, now - self.last)
            self.last = now

    windows = torch.randint(0, VOCABULARY, (4096, CONTEXT), generator=torch.Generator().manual_seed(1))
    rows = [{"input_ids": window, "labels": window} for window in windows]
    sizes = {"per_device_train_batch_size": SHAPES[asked.shape][4], "max_steps": ENDLESS, "save_strategy": "no"}
    arguments = TrainingArguments(output_dir=str(asked.folder), report_to=[], use_cpu=True, disable_tqdm=True, **sizes)
    Trainer(model=build_network(_architecture(asked.shape), seed=1), args=arguments, train_dataset=rows, callbacks=[Tell()]).train()


def _nanogpt(asked: argparse.Namespace, folder: Path, *, compiled: bool) -> tuple[list[str], Path]:
    """Return the command of nanoGPT's train.py and where to run it: a copy, with random tokens as its data."""
    layers, width, heads, _, batch = SHAPES[asked.shape]
    place = folder / "nanogpt"
    shutil.copytree(asked.nanogpt, place, ignore=shutil.ignore_patterns(".git", "assets"))
    data = place / "data" / "bench"
    data.mkdir()
    for split in ("train", "val"):
        np.random.default_rng(1).integers(0, VOCABULARY, 2_000_000, dtype=np.uint16).tofile(data / f"{split}.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": VOCABULARY}))
    options = {
        "dataset": "bench",
        "device": "cpu",
        "dtype": "float32",
        "compile": compiled,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
        "block_size": CONTEXT,
        "batch_size": batch,
        "gradient_accumulation_steps": 1,
        "dropout": 0.0,
        "log_interval": 1,
        "eval_iters": 1,
        "eval_interval": ENDLESS,
        "max_iters": ENDLESS,
        "out_dir": str(folder / "out"),
    }
    return [sys.executable, "train.py", *(f"--{name}={value}" for name, value in options.items())], place


def _litgpt(asked: argparse.Namespace) -> None:
    """LitGPT's own pretrain, on a Llama of the same shape."""
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.config import Config
    from litgpt.data import DataModule
    from litgpt.pretrain import setup
    from torch.utils.data import DataLoader

    layers, width, heads, inner, batch = SHAPES[asked.shape]

    class Random(DataModule):
        def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
            self.rows = torch.randint(0, VOCABULARY, (4096, CONTEXT + 1), generator=torch.Generator().manual_seed(1))

        def train_dataloader(self) -> Any:
            return DataLoader(self.rows, batch_size=batch, shuffle=True, drop_last=True)

        def val_dataloader(self) -> Any:
            return DataLoader(self.rows[: 2 * batch], batch_size=batch)

    config = Config(
        name="bench",
        block_size=CONTEXT,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        n_query_groups=heads,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        intermediate_size=inner,
    )
    train = TrainArgs(
        save_interval=None,
        log_interval=1,
        global_batch_size=batch,
        micro_batch_size=batch,
        max_tokens=10**12,
        max_norm=1.0,
        min_lr=4e-5,
        lr_warmup_steps=2000,
        tie_embeddings=True,
    )
    checks = EvalArgs(interval=ENDLESS, max_iters=1, initial_validation=False, final_validation=False)
    setup("bench", config, asked.folder / "out", "32-true", data=Random(), train=train, eval=checks, devices=1, logger_name="csv")


def measure_telemetry(asked: argparse.Namespace) -> None:
    """Print what a run's reporting takes: blocks of steps with and without it in turns, and the time spent inside it."""
    from jobs.modeling.devices import set_threads
    from jobs.training.context import build_context
    from jobs.training.network.load import load_model
    from jobs.training.run import make_loop
    from tests.support.training_rooms import load_batches

    with tempfile.TemporaryDirectory() as scratch:
        asked.folder = Path(scratch)
        set_threads(None)
        spec = _training_spec(asked, compile_="off", steps=ENDLESS)
        ctx = build_context(spec, Telling(asked.folder)._file)
        ctx.meter.begin()
        model = load_model(ctx, resume_from=None)
        loop = make_loop(ctx, load_batches(ctx, model), model)
        model.train()
        step, inside, lasted = 0, 0.0, {True: [], False: []}
        for turn in range(2 * asked.rounds + 2):
            reports = bool(turn % 2)
            for _ in range(5):
                step += 1
                started = time.perf_counter()
                values = loop.update(step)
                told = time.perf_counter()
                if reports:
                    ctx.reporter.metrics(step, values)
                    ctx.reporter.progress(step, ENDLESS, rate=1.0)
                    ctx.reporter.should_stop()
                ended = time.perf_counter()
                if turn > 1:
                    lasted[reports].append(ended - started)
                    inside += ended - told if reports else 0.0
        on, off = (statistics.median(lasted[way]) for way in (True, False))
        print(
            json.dumps(
                {
                    "shape": asked.shape,
                    "steps_each": len(lasted[True]),
                    "step_s_on": round(on, 4),
                    "step_s_off": round(off, 4),
                    "ratio_of_medians": round(on / off, 4),
                    "time_inside": round(inside / sum(lasted[True]), 6),
                    "ms_inside_a_step": round(1000 * inside / len(lasted[True]), 3),
                }
            )
        )


CHILDREN = {"roundhouse": _roundhouse, "trainer": _trainer, "litgpt": _litgpt}

if __name__ == "__main__":
    main()
