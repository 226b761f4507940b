"""The contenders of `bench_pretraining.py`: one training process each, of the same shape, that reports its steps."""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from backend.domain.jobs.payloads import TrainPayload

CONTEXT = 256


VOCABULARY = 2048


ENDLESS = 1_000_000


SHAPES = {"2m": (4, 192, 6, 512, 16), "5m": (6, 256, 8, 688, 16), "26m": (8, 512, 8, 1360, 8)}
"""Layers, width, heads, feed-forward, sequences a step. A feed-forward of 8/3 widths has the weights of nanoGPT's, of 4
widths.
"""


def make_architecture(shape: str) -> Any:
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


def report_step(step: int, seconds: float) -> None:
    print(f"step {step} took {seconds * 1000:.2f} ms", flush=True)


class StepPrinter:
    """A reporter that writes its events to a file, as in a job, and tells how long steps took."""

    def __init__(self, folder: Path) -> None:
        from jobs.reporter import FileReporter

        self._file, self._last = FileReporter(folder / "events.jsonl", folder / "control"), time.perf_counter()

    def emit(self, event: Any) -> None:
        self._file.emit(event)
        if event.type == "metrics":
            now = time.perf_counter()
            report_step(event.step, now - self._last)
            self._last = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def make_spec(options: argparse.Namespace, *, compile_: str, steps: int, precision: Any = "auto") -> Any:
    """Write a dataset of made-up words and a tokenizer; return the job of a pretraining run on them."""
    import pyarrow as pa
    from pyarrow import parquet

    from backend.domain.training.config import RunConfig
    from jobs.modeling.tokenizers import train_bpe
    from jobs.reporter import JobSpec

    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(4000)]
    texts = [" ".join(draw.choices(words, k=120)) for _ in range(3000)]
    root = options.folder
    (root / "texts").mkdir(parents=True)
    parquet.write_table(pa.table({"text": texts}), root / "texts" / "train.parquet")
    train_bpe(texts[:500], vocab_size=VOCABULARY).save_pretrained(root / "tokenizer")
    architecture = make_architecture(options.shape)
    config = RunConfig(
        dataset="d",
        tokenizer="t",
        architecture=architecture,
        max_steps=steps,
        micro_batch=SHAPES[options.shape][4],
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
        "threads": 0,
    }
    folder = root / "jobs" / "job"
    folder.mkdir(parents=True)
    return JobSpec(
        id="job", attempt=1, payload=TrainPayload.read({"run_id": "run", **payload}), artifacts=root, folder=folder
    )


def run_roundhouse(options: argparse.Namespace) -> None:
    """A whole run: data from a dataset, batches, checkpoints, telemetry."""
    from jobs.training.run import run

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(options.folder / "compiled")
    way = os.environ["BENCH_WAY"]
    spec = make_spec(
        options,
        compile_="off" if way == "eager" else "on",
        steps=ENDLESS,
        precision="bf16" if way == "bf16" else "auto",
    )
    run(spec, StepPrinter(options.folder))


def run_trainer(options: argparse.Namespace) -> None:
    """transformers' Trainer with its defaults, on the same network."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from jobs.modeling.build import build_network

    class Tell(TrainerCallback):
        last = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            now = time.perf_counter()
            report_step(state.global_step, now - self.last)
            self.last = now

    windows = torch.randint(0, VOCABULARY, (4096, CONTEXT), generator=torch.Generator().manual_seed(1))
    rows = [{"input_ids": window, "labels": window} for window in windows]
    sizes = {"per_device_train_batch_size": SHAPES[options.shape][4], "max_steps": ENDLESS, "save_strategy": "no"}
    arguments = TrainingArguments(
        output_dir=str(options.folder), report_to=[], use_cpu=True, disable_tqdm=True, **sizes
    )
    Trainer(
        model=build_network(make_architecture(options.shape), seed=1),
        args=arguments,
        train_dataset=rows,
        callbacks=[Tell()],
    ).train()


def prepare_nanogpt(options: argparse.Namespace, folder: Path, *, compiled: bool) -> tuple[list[str], Path]:
    """Return the command of nanoGPT's train.py and where to run it: a copy, with random tokens as its data."""
    layers, width, heads, _, batch = SHAPES[options.shape]
    place = folder / "nanogpt"
    shutil.copytree(options.nanogpt, place, ignore=shutil.ignore_patterns(".git", "assets"))
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


def run_litgpt(options: argparse.Namespace) -> None:
    """LitGPT's own pretrain, on a Llama of the same shape."""
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.config import Config
    from litgpt.data import DataModule
    from litgpt.pretrain import setup
    from torch.utils.data import DataLoader

    layers, width, heads, inner, batch = SHAPES[options.shape]

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
    setup(
        "bench",
        config,
        options.folder / "out",
        "32-true",
        data=Random(),
        train=train,
        eval=checks,
        devices=1,
        logger_name="csv",
    )


CHILDREN = {"roundhouse": run_roundhouse, "trainer": run_trainer, "litgpt": run_litgpt}
