"""Seconds from a run's start to its first step, with and without the tokens of an earlier run.

    python -m tests.benchmarks.data.bench_tokens FILE [--home FOLDER] [--runs 3] [--steps 4] [--objective pretrain]

FILE holds rows as JSON lines. It is imported, a tokenizer of 8,192 entries is trained on its beginning, and a network
of two blocks is trained on it, each run in a process of its own, started as a worker starts it: the interpreter,
imports, tokens, network and step count. The first run begins while the tokens are made, and ends before they are; then
the rest is made, and the other runs find all of them. Prints a JSON line each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.data.import_options import ImportOptions
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.training.config import RunConfig
from jobs.batches.pretrain import TEXT
from jobs.batches.sft import CHAT
from jobs.batches.token_files import read_token_manifest
from jobs.batches.token_making import TokenSource, make_tokens
from jobs.data.importer import import_files
from jobs.environment import with_memory_reuse
from jobs.modeling.chat import teach_template
from jobs.modeling.dataset_files import iter_rows
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import train_bpe
from jobs.reporter import JobSpec
from tests.support.jobs import MemoryReporter
from tests.support.training_rooms import Rooms

VOCABULARY, TOKENIZER_ROWS = 8192, 4000
SHAPE = ArchitectureConfig(
    num_layers=2, width=64, num_heads=4, num_kv_heads=2, context=512, vocab_size=VOCABULARY, feed_forward=128
)


def prepare(home: Path, file: Path) -> dict[str, Any]:
    """Import the file and train a tokenizer, unless an earlier call did; return the version's record."""
    record = home / "prepared.json"
    if not record.exists():
        started = time.perf_counter()
        result = import_files(file, ImportOptions(), reporter=MemoryReporter(), out_root=home / "datasets")
        seconds = time.perf_counter() - started
        texts = [
            str(row.get("text") or row) for row in islice(iter_rows(Path(result.folder), split="train"), TOKENIZER_ROWS)
        ]
        tokenizer = train_bpe(texts, vocab_size=VOCABULARY)
        tokenizer.save_pretrained(home / "tokenizer")
        Rooms.save_base_of(home / "base", SHAPE, tokenizer)
        dataset = Path(result.folder).relative_to(home).as_posix()
        record.write_text(
            json.dumps({"dataset": dataset, "kind": result.kind, "rows": result.rows, "import_s": round(seconds, 1)})
        )
    values: dict[str, Any] = json.loads(record.read_text())
    return values


def measure(
    home: Path, version: dict[str, Any], *, name: str, objective: str, steps: int, threads: int
) -> dict[str, Any]:
    """Run one training job; return seconds to its first step and to its end, and the sums that two equal runs share."""
    fresh = objective == "pretrain"
    parts: dict[str, Any] = {"architecture": SHAPE, "tokenizer": "t"} if fresh else {"base": "b"}
    config = RunConfig.model_validate(
        {
            "objective": objective,
            "dataset": "d",
            "max_steps": steps,
            "context": SHAPE.context,
            "micro_batch": 8,
            "seed": 3,
            **parts,
        }
        | {"compile": "off", "sample_prompts": (), "checkpoint_every": steps, "eval_every": steps, "device": "cpu"}
    )
    payload = {
        "run_id": name,
        "config": config.model_dump(mode="json"),
        "architecture": SHAPE.model_dump(mode="json") if fresh else None,
        "tokenizer": "tokenizer" if fresh else None,
        "dataset": version["dataset"],
        "dataset_kind": version["kind"],
        "base": None if fresh else "base",
        "run_folder": f"runs/{name}",
        "threads": threads,
    }
    job = home / "jobs" / name
    attempt = job / "attempt-1"
    attempt.mkdir(parents=True)
    JobSpec(name, 1, TrainPayload.read(payload), home, job).write(attempt / "job.json", parent=os.getpid())
    environment = with_memory_reuse({**os.environ, "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"})
    started, wall = time.perf_counter(), time.time()
    with (attempt / "output.log").open("wb") as output:
        child = psutil.Popen(
            [sys.executable, "-m", "jobs.run", "--child", str(attempt)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    peak = 0
    while child.poll() is None:
        try:
            peak = max(peak, child.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.05)
    child.wait()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    lasted = time.perf_counter() - started
    events = [json.loads(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
    metrics = [event for event in events if event["type"] == "metrics" and "train_loss" in event["values"]]
    if not metrics:
        raise SystemExit(json.dumps(events[-3:], indent=1) + (attempt / "output.log").read_text()[-2000:])
    tokens = sum(path.stat().st_size for path in (home / "tokens").rglob("*") if path.is_file())
    return {
        "run": name,
        "first_step_s": round(metrics[0]["time"] - wall, 2),
        "seconds": round(lasted, 1),
        "peak_mb": round(peak / 1e6),
        "tokens_mb": round(tokens / 1e6),
        "losses": [event["values"]["train_loss"] for event in metrics],
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Prepare, then run one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--objective", default="pretrain")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    home = options.home or Path(tempfile.mkdtemp(prefix="bench-tokens-"))
    home.mkdir(parents=True, exist_ok=True)
    version = prepare(home, options.file)
    print(json.dumps({"home": str(home), **version}), flush=True)
    for number in range(options.runs):
        name = f"{options.objective}-{time.time_ns() % 10**10}-{number}"
        result = measure(
            home, version, name=name, objective=options.objective, steps=options.steps, threads=options.threads
        )
        print(json.dumps(result), flush=True)
        if number == 0:
            print(json.dumps(finish(home, version, objective=options.objective)), flush=True)


def finish(home: Path, version: dict[str, Any], *, objective: str) -> dict[str, Any]:
    """Make what is missing of the tokens; return its rows and seconds."""
    form = TEXT if objective == "pretrain" else CHAT
    tokenizer = load_tokenizer(home / "tokenizer")
    teach_template(tokenizer, chats=form.renders)
    source = TokenSource(home / version["dataset"], tokenizer, home / "tokens", MemoryReporter())
    started, cpu, rows = time.perf_counter(), time.process_time(), 0
    for split in ("train", "val"):
        folder = source.split_folder(form, split)
        known = read_token_manifest(folder.path)
        rows += folder.identity["rows"] - (0 if known is None else known.counts["rows"])
        make_tokens(source, folder)
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }


if __name__ == "__main__":
    main()
