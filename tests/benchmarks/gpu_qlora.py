"""QLoRA on one GPU: peak memory and tokens a second of fine-tuning a base in 4 bits.

    python -m tests.benchmarks.gpu_qlora BASE_FOLDER [--context 2048] [--micro-batch 1] [--steps 20] [--rank 16]

BASE_FOLDER is a Llama-3.1-8B (or any other base) as transformers saves it; rows are made up and packed to the context.
Prints one JSON document with the peak of what the allocator reserved, and whether it fits 24 GB. Needs an NVIDIA GPU.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from pathlib import Path

from backend.domain.jobs.results import TrainResult

FITS_BYTES = 24 * 2**30


def main() -> None:
    """Fine-tune for some steps and print what they took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rank", type=int, default=16)
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("This benchmark needs an NVIDIA GPU, and torch sees none here. Nothing was measured.")
    if not (arguments.base / "config.json").is_file():
        raise SystemExit(f"{arguments.base} holds no config.json. Give the folder of a base as transformers saves it.")
    with tempfile.TemporaryDirectory() as scratch:
        result = _tune(arguments, Path(scratch))
        lines = [json.loads(line) for line in (Path(scratch) / "events.jsonl").read_text().splitlines()]
    rates = [
        line["values"]["tok_per_sec"] for line in lines if line["type"] == "metrics" and "tok_per_sec" in line["values"]
    ][3:]
    peak = torch.cuda.max_memory_reserved()
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name(),
                "base": arguments.base.name,
                "context": arguments.context,
                "micro_batch": arguments.micro_batch,
                "rank": arguments.rank,
                "peak_bytes": peak,
                "allocated_bytes": torch.cuda.max_memory_allocated(),
                "fits_24_gb": peak < FITS_BYTES,
                "trained_tokens_per_s": round(statistics.median(rates)) if rates else None,
                "final_step": result.final_step,
            },
            indent=1,
        )
    )


def _tune(arguments: argparse.Namespace, root: Path) -> TrainResult:
    import pyarrow as pa
    from pyarrow import parquet

    from backend.domain.jobs.payloads import TrainPayload
    from backend.domain.training.config import RunConfig
    from jobs.reporter import FileReporter, JobSpec
    from jobs.training.run import run

    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    rows = [
        {"prompt": " ".join(draw.choices(words, k=40)), "completion": " ".join(draw.choices(words, k=200))}
        for _ in range(400)
    ]
    (root / "rows").mkdir()
    messages = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in rows
    ]
    parquet.write_table(pa.Table.from_pylist(messages), root / "rows" / "train.parquet")
    (root / "base").symlink_to(arguments.base.resolve(), target_is_directory=True)
    config = RunConfig(
        objective="sft",
        dataset="d",
        base="b",
        method="qlora",
        lora={"rank": arguments.rank, "bits": 4},
        max_steps=arguments.steps,
        recompute=True,
        micro_batch=arguments.micro_batch,
        context=arguments.context,
        learning_rate=2e-4,
        warmup_steps=2,
        eval_every=10**6,
        checkpoint_every=10**6,
        sample_prompts=(),
        precision="bf16",
        device="gpu",
    )
    payload = {
        "config": config.model_dump(mode="json"),
        "architecture": None,
        "tokenizer": None,
        "dataset": "rows",
        "dataset_kind": "chat",
        "base": "base",
        "run_folder": "run",
        "threads": None,
    }
    (root / "jobs").mkdir()
    spec = JobSpec(
        id="job",
        attempt=1,
        payload=TrainPayload.read({"run_id": "run", **payload}),
        artifacts=root,
        folder=root / "jobs",
    )
    return run(spec, FileReporter(root / "events.jsonl", root / "control"))


if __name__ == "__main__":
    main()
