"""GPT-2 124M pretraining on one GPU: tokens a second and share of the bf16 peak, beside nanoGPT's train.py in turns.

    python -m tests.benchmarks.gpu_gpt2 [--nanogpt FOLDER] [--rounds 3] [--steps 60] [--micro-batch 32]

bf16 autocast, torch.compile, context 1024, vocabulary 50304, no dropout. FOLDER is a checkout of karpathy/nanoGPT,
whose own script runs with the same shape and batch. Runs alternate; the first ten steps of each are left out. Prints
one JSON document. Needs an NVIDIA GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT, VOCABULARY, WARM_UP = 1024, 50_304, 10
NANO_STEP = re.compile(r"^iter (\d+): loss .*time ([\d.]+)ms")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--child", type=Path)
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("This benchmark needs an NVIDIA GPU, and torch sees none here. Nothing was measured.")
    if arguments.child is not None:
        return _train(arguments)
    ours: list[float] = []
    theirs: list[float] = []
    shares: list[float] = []
    for _ in range(arguments.rounds):
        rates, share = _run_ours(arguments)
        ours.append(rates)
        shares += [] if share is None else [share]
        theirs += [_run_nanogpt(arguments)] if arguments.nanogpt else []
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "micro_batch": arguments.micro_batch,
        "tokens_per_s": round(statistics.median(ours)),
        "mfu": round(statistics.median(shares), 4) if shares else None,
    }
    if theirs:
        result |= {
            "nanogpt_tokens_per_s": round(statistics.median(theirs)),
            "ratio": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3),
        }
    print(json.dumps(result, indent=1))
    return None


def _run_ours(arguments: argparse.Namespace) -> tuple[float, float | None]:
    """Train in a process of its own; return (tokens a second, MFU), medians over the steps."""
    with tempfile.TemporaryDirectory() as scratch:
        size = ["--steps", str(arguments.steps), "--micro-batch", str(arguments.micro_batch)]
        command = [sys.executable, __file__, "--child", scratch, *size]
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
        lines = [json.loads(line) for line in (Path(scratch) / "events.jsonl").read_text().splitlines()]
    steps = [line["values"] for line in lines if line["type"] == "metrics" and "tok_per_sec" in line["values"]][
        WARM_UP:
    ]
    shares = [values["mfu"] for values in steps if "mfu" in values]
    return statistics.median(values["tok_per_sec"] for values in steps), statistics.median(shares) if shares else None


def _train(arguments: argparse.Namespace) -> None:
    """A whole run of the product: its data, batches, loop, telemetry and checkpoint."""
    import pyarrow as pa
    from pyarrow import parquet

    from backend.domain.architectures.config import ArchitectureConfig
    from backend.domain.jobs.payloads import TrainPayload
    from backend.domain.training.config import RunConfig
    from jobs.modeling.tokenizers import train_bpe
    from jobs.reporter import FileReporter, JobSpec
    from jobs.training.run import run

    root, draw = arguments.child, random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(20_000)]
    texts = [" ".join(draw.choices(words, k=400)) for _ in range(5000)]
    (root / "texts").mkdir()
    parquet.write_table(pa.table({"text": texts}), root / "texts" / "train.parquet")
    train_bpe(texts[:200], vocab_size=4096).save_pretrained(root / "tokenizer")
    architecture = ArchitectureConfig(
        family="gpt2", num_layers=12, width=768, num_heads=12, context=CONTEXT, vocab_size=VOCABULARY, feed_forward=3072
    )
    config = RunConfig(
        dataset="d",
        tokenizer="t",
        architecture=architecture,
        max_steps=arguments.steps,
        micro_batch=arguments.micro_batch,
        context=CONTEXT,
        learning_rate=6e-4,
        eval_every=10**6,
        checkpoint_every=10**6,
        sample_prompts=(),
        precision="bf16",
        compile="on",
        device="gpu",
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
    folder = root / "jobs"
    folder.mkdir()
    spec = JobSpec(
        id="job", attempt=1, payload=TrainPayload.read({"run_id": "run", **payload}), artifacts=root, folder=folder
    )
    run(spec, FileReporter(root / "events.jsonl", root / "control"))


def _run_nanogpt(arguments: argparse.Namespace) -> float:
    """Run nanoGPT's train.py on random tokens; return its tokens a second."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "nanogpt"
        shutil.copytree(arguments.nanogpt, place, ignore=shutil.ignore_patterns(".git", "assets"))
        data = place / "data" / "bench"
        data.mkdir()
        for split in ("train", "val"):
            np.random.default_rng(1).integers(0, 50_257, 5_000_000, dtype=np.uint16).tofile(data / f"{split}.bin")
        options = {
            "dataset": "bench",
            "dtype": "bfloat16",
            "compile": True,
            "batch_size": arguments.micro_batch,
            "gradient_accumulation_steps": 1,
            "block_size": CONTEXT,
            "dropout": 0.0,
            "log_interval": 1,
            "eval_iters": 1,
            "eval_interval": 10**6,
            "max_iters": arguments.steps,
            "out_dir": str(Path(scratch) / "out"),
        }
        command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in options.items())]
        output = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True).stdout
    step_times = [
        float(match[2]) / 1000
        for line in output.splitlines()
        if (match := NANO_STEP.match(line)) and int(match[1]) >= WARM_UP
    ]
    return arguments.micro_batch * CONTEXT / statistics.median(step_times)


if __name__ == "__main__":
    main()
