"""Fine-tuning beside TRL's SFTTrainer: `python -m tests.benchmarks.bench_sft FILE.json --rows ROWS.json ROWS.jsonl
...`.

Same network, same weights, same rows, same number of threads, in turns, each turn a process of its own. A row's own
tokens are counted, padding is not. TRL runs twice: with its defaults, and with bf16 and activation recompute switched
off, which is what we do on a CPU. It is given rows of prompt and completion and a batch of 8 rows, its default; we are
given as many tokens a step. Before, every row's loss packed is held against its loss alone. Without `--rows` rows are
made up, with lengths as uneven as real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.events import Event, MetricsEvent
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.training.config import RunConfig
from jobs.batches.base import IGNORE, BatchSizes
from jobs.batches.sft import Example, PackedBatches, concatenate, load_examples
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import load_network, save_checkpoint
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import train_bpe
from jobs.reporter import JobSpec
from jobs.training import run as training
from jobs.training.network.packed_attention import attend_by_row
from tests.support.training_rooms import Recorder, source_of, write_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
CONTEXT, TRL_ROWS, SEED = 1024, 8, 5
WARM_UP = 2
TURNS = ("ours", "trl", "trl fp32")
Row = dict[str, str]


def read_rows(files: list[Path]) -> list[Row]:
    """Return rows of prompt and completion from files as they are shared: instructions, or conversations (their first
    two turns).
    """
    return [
        row
        for file in files
        for row in map(_row, _records(file))
        if row["prompt"].strip() and row["completion"].strip()
    ]


def _records(file: Path) -> list[dict[str, Any]]:
    text = file.read_text(encoding="utf-8")
    return (
        [json.loads(line) for line in text.splitlines() if line.strip()]
        if file.suffix == ".jsonl"
        else json.loads(text)
    )


def _row(record: dict[str, Any]) -> Row:
    turns = record.get("conversations") or record.get("messages")
    if turns:
        contents = [
            str(turn.get("value") or turn.get("content") or "") for turn in turns if turn.get("from") != "system"
        ]
        return {"prompt": contents[0], "completion": contents[1] if len(contents) > 1 else ""}
    inside = record["instances"][0] if record.get("instances") else record
    parts = [str(record.get("instruction") or ""), str(inside.get("input") or "")]
    return {"prompt": "\n".join(filter(None, parts)), "completion": str(inside.get("output") or "")}


def made_up_rows(count: int = 600) -> list[Row]:
    """Return rows whose lengths are lognormal, as those of instructions are."""
    draw = np.random.default_rng(SEED)
    words = ["the", "river", "turns", "a", "wheel", "slowly", "and", "nobody", "asks", "why", "it", "does"]
    sizes = np.clip(draw.lognormal(4.2, 1.0, size=(count, 2)), 3, 900).astype(int)
    return [
        {name: " ".join(draw.choice(words, size)) for name, size in zip(("prompt", "completion"), pair, strict=True)}
        for pair in sizes
    ]


def prepare(home: Path, rows: list[Row]) -> None:
    """Write base, tokenizer and dataset."""
    tokenizer = train_bpe([text for row in rows for text in row.values()], vocab_size=4096)
    shape = ArchitectureConfig(
        num_layers=4, width=256, num_heads=8, num_kv_heads=4, context=CONTEXT, vocab_size=len(tokenizer)
    )
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    save_checkpoint(home / "base", model=build_network(shape, seed=SEED, **ends), tokenizer=tokenizer, meta={})
    write_dataset(home / "rows", train=[dict(row) for row in rows])


def examples_in(home: Path) -> list[Example]:
    """Return the rows as the trainer sees them."""
    examples = load_examples(source_of(home / "rows", load_tokenizer(home / "base")), "train", context=CONTEXT)
    return [examples[index] for index in range(len(examples))]


def losses_apart(home: Path, examples: list[Example]) -> tuple[float, int]:
    """Return the largest difference between a row's mean loss packed and alone, and how many rows were held against
    each other.
    """
    network, worst = load_network(home / "base"), 0.0
    with torch.no_grad():  # weights with something in them: the network has learnt nothing
        for parameter in network.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)

    def mean_losses(rows: list[Example]) -> list[float]:
        batch = concatenate(rows)
        losses = F.cross_entropy(
            network(**batch.arguments).logits[0], batch.targets[0], ignore_index=IGNORE, reduction="none"
        )
        cut = torch.split(losses, [len(row.ids) - 1 for row in rows])
        return [float(part.sum()) / int((row.targets[1:] != IGNORE).sum()) for part, row in zip(cut, rows, strict=True)]

    with torch.inference_mode():
        chosen = examples[:: max(1, len(examples) // 200)]
        alone = [mean_losses([row])[0] for row in chosen]
        assert attend_by_row(network)
        for at in range(0, len(chosen), 12):
            together = mean_losses(chosen[at : at + 12])
            worst = max(worst, *(abs(a - b) for a, b in zip(together, alone[at : at + 12], strict=True)))
    return worst, len(chosen)


def our_micro_batch(examples: list[Example]) -> int:
    """Return how many sequences hold as many tokens as TRL's rows."""
    return max(1, round(TRL_ROWS * statistics.mean(len(example.ids) for example in examples) / CONTEXT))


class Clock(Recorder):
    """A reporter that notes when each step's metrics came."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[tuple[float, float]] = []

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, MetricsEvent) and "train_loss" in event.values:
            self.at.append((time.perf_counter(), time.process_time()))


def time_ours(home: Path, *, steps: int, threads: int) -> dict[str, float]:
    """Train as a run does, with all of its telemetry."""
    examples = examples_in(home)
    micro_batch = our_micro_batch(examples)
    config = RunConfig.model_validate(
        {
            "objective": "sft",
            "dataset": "d",
            "base": "b",
            "context": CONTEXT,
            "micro_batch": micro_batch,
            "max_steps": steps,
            "seed": SEED,
            "learning_rate": 2e-5,
            "eval_every": steps,
            "checkpoint_every": steps,
            "warmup_steps": 0,
            "sample_prompts": (),
            "device": "cpu",
        }
    )
    payload: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "architecture": None,
        "tokenizer": None,
        "dataset": "rows",
        "base": "base",
    }
    payload |= {"dataset_kind": "instruction", "run_folder": f"run-{time.time_ns()}", "threads": threads}
    folder = home / "job"
    folder.mkdir(exist_ok=True)
    clock = Clock()
    training.run(
        JobSpec(
            id="job", attempt=1, payload=TrainPayload.read({"run_id": "run", **payload}), artifacts=home, folder=folder
        ),
        clock,
    )
    batches = PackedBatches(
        examples,
        [],
        context=CONTEXT,
        sizes=BatchSizes(micro_batch=micro_batch, items_per_step=micro_batch, val_items=1, seed=SEED),
    )
    measured = range(WARM_UP + 1, steps)  # the last step saves
    micro = [batch for step in measured for batch in batches.at_step(step)]
    real = sum(batch.inputs.numel() + len(batch.row_ends if batch.row_ends is not None else ()) for batch in micro)
    wall, cpu = (ended - started for ended, started in zip(clock.at[steps - 2], clock.at[WARM_UP - 1], strict=True))
    return {
        "real_tokens": real,
        "positions": sum(batch.inputs.numel() for batch in micro),
        "seconds": wall,
        "cpu_seconds": cpu,
    }


def time_trl(home: Path, *, steps: int, threads: int, plain: bool) -> dict[str, float]:
    """Train with TRL's trainer; `plain` switches bf16 and activation recompute off."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(threads)
    seen: list[tuple[float, ...]] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append((counts[0], counts[1], time.perf_counter(), time.process_time()))

    off = {"bf16": False, "gradient_checkpointing": False} if plain else {}
    settings = SFTConfig(
        output_dir=str(home / "trl"),
        max_steps=steps,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        seed=SEED,
        disable_tqdm=True,
        **off,
    )
    rows = [
        {
            name: [{"role": role, "content": row[name]}]
            for name, role in (("prompt", "user"), ("completion", "assistant"))
        }
        for row in json.loads((home / "rows.json").read_text())
    ]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.float32),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(home / "base"),
        callbacks=[Watch()],
    )
    counts, collate = [0, 0], trainer.data_collator

    def counting(features: list[Any]) -> Any:
        batch = collate(features)
        counts[0] += int(batch["attention_mask"].sum())
        counts[1] += int(batch["attention_mask"].numel())
        return batch

    trainer.data_collator = counting
    trainer.train()
    real, positions, wall, cpu = (later - before for later, before in zip(seen[-1], seen[WARM_UP - 1], strict=True))
    return {"real_tokens": real, "positions": positions, "seconds": wall, "cpu_seconds": cpu}


def turns(home: Path, *, rounds: int, steps: int, threads: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield what each turn measured."""
    for _ in range(rounds):
        for turn in TURNS:
            command = [sys.executable, "-m", "tests.benchmarks.bench_sft", "--turn", turn, "--home", str(home)]
            command += ["--steps", str(steps), "--threads", str(threads)]
            answer = subprocess.run(
                command, cwd=REPOSITORY, check=True, capture_output=True, text=True
            ).stdout.splitlines()[-1]
            yield turn, json.loads(answer)


def compare(rows: list[Row], *, rounds: int, steps: int, threads: int, clock: str) -> dict[str, Any]:
    """Return everything that is worth writing down; `clock` says which seconds are counted."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        prepare(home, rows)
        (home / "rows.json").write_text(json.dumps(rows))
        examples = examples_in(home)
        lengths = [len(example.ids) for example in examples]
        worst, held = losses_apart(home, examples)
        measured: dict[str, list[dict[str, float]]] = {turn: [] for turn in TURNS}
        for turn, values in turns(home, rounds=rounds, steps=steps, threads=threads):
            measured[turn].append(values)
            print(
                f"{turn}: {values['real_tokens'] / values['cpu_seconds']:,.0f} real tokens per CPU second",
                file=sys.stderr,
            )
        rates = {turn: [each["real_tokens"] / each[clock] for each in values] for turn, values in measured.items()}
        return {
            "rows": len(lengths),
            "tokens_mean": statistics.mean(lengths),
            "tokens_median": statistics.median(lengths),
            "tokens_max": max(lengths),
            "micro_batch": our_micro_batch(examples),
            "context": CONTEXT,
            "parameters": load_network(home / "base").num_parameters(),
            "threads": threads,
            "steps": steps,
            "largest_difference_of_a_row's_loss": worst,
            "rows_held": held,
            "clock": clock,
            "real_tokens_per_s": rates,
            "text_share": {
                turn: values[0]["real_tokens"] / values[0]["positions"]
                for turn, values in measured.items()
                if turn != "ours"
            },
            "ratio": {turn: [a / b for a, b in zip(rates["ours"], rates[turn], strict=True)] for turn in TURNS[1:]},
        }


def main() -> None:
    """Measure, or do one turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--rows", nargs="+", type=Path, default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU seconds, with one thread: for a machine that others use"
    )
    parser.add_argument("--turn", choices=TURNS)
    parser.add_argument("--home", type=Path)
    arguments = parser.parse_args()
    if arguments.turn == "ours":
        print(json.dumps(time_ours(arguments.home, steps=arguments.steps, threads=arguments.threads)))
    elif arguments.turn:
        print(
            json.dumps(
                time_trl(
                    arguments.home, steps=arguments.steps, threads=arguments.threads, plain=arguments.turn == "trl fp32"
                )
            )
        )
    else:
        rows = read_rows(arguments.rows) or made_up_rows()
        clock = "cpu_seconds" if arguments.cpu_time else "seconds"
        result = compare(rows, rounds=arguments.rounds, steps=arguments.steps, threads=arguments.threads, clock=clock)
        text = json.dumps(result, indent=1)
        print(text)
        if arguments.file is not None:
            arguments.file.write_text(text + "\n")


if __name__ == "__main__":
    main()
