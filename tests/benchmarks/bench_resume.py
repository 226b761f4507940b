"""Whether a run that is killed goes on to the last bit: `python -m tests.benchmarks.bench_resume [TRIALS] [FILE.json]`.

For each objective one run is left alone. Then, TRIALS times (20), the same run is killed with SIGKILL at a random
moment after a random step, in a process of its own, and resumed in another. Every loss, gradient norm and val_loss that
either process reports is held against the undisturbed run's with `==`, and so are the bytes of the final weights. The
runs go through their data several times, from a dataset of several row groups, and draw random numbers (dropout) in
every step.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.training_rooms import Rooms
from tests.support.workers.killed_runs import KilledRun, differences

STEPS, CHECKPOINT_EVERY, LATEST_S = 30, 4, 0.05
LORA = {"method": "lora", "lora": {"rank": 4, "dropout": 0.1}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain, dropout 0.1": ("pretrain", {"micro_batch": 8, "context": 64, "dropout": 0.1}),
    "pretrain, muon, average of the weights": (
        "pretrain",
        {"optimizer": "muon", "ema_decay": 0.99, "grad_accum_steps": 2},
    ),
    "sft, packed, LoRA with dropout 0.1": ("sft", {"context": 64, "learning_rate": 5e-3, **LORA}),
    "dpo, dropout 0.1": ("dpo", {"dropout": 0.1, "learning_rate": 1e-3}),
}


def split_into_row_groups(folder: Path) -> None:
    """Write a dataset's train split again in row groups of seven rows."""
    file = folder / "train.parquet"
    rows: pa.Table = pq.read_table(file)
    pq.write_table(rows, file, row_group_size=7)


def measure(name: str, trials: int, root: Path, draw: random.Random) -> dict[str, Any]:
    """Return what the trials of one case came to."""
    objective, more = CASES[name]
    rooms = Rooms(root)
    for dataset in ("texts", "chats", "pairs"):
        split_into_row_groups(root / dataset)
    values = {"max_steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY, "eval_every": 5, "sample_prompts": (), **more}
    quiet = KilledRun(rooms.training(objective, run="quiet", job="quiet", **values))
    assert quiet.attempt()
    expected, weights = quiet.reported(1), quiet.final_weights()
    exact, again, compared, kills = 0, 0, 0, []
    for trial in range(trials):
        run = KilledRun(rooms.training(objective, run=f"trial-{trial}", job=f"trial-{trial}", **values))
        step, delay = draw.randrange(1, STEPS), draw.uniform(0.0, LATEST_S)
        ended = run.attempt(kill_at=step, delay_s=delay)
        first = run.reported(1)
        kills.append(max(first["train_loss"]))
        if ended:  # it was done before the kill came: no trial
            continue
        assert run.attempt()
        second = run.reported(2)
        wrong = differences(first, expected) + differences(second, expected)
        whole = set(first["train_loss"]) | set(second["train_loss"]) == set(range(1, STEPS + 1))
        compared += sum(len(points) for values in (first, second) for points in values.values())
        again += len(set(first["train_loss"]) & set(second["train_loss"]))
        good = not wrong and whole and run.final_weights() == weights
        exact += good
        print(f"{name}: trial {trial + 1}, killed after step {kills[-1]}: {'exact' if good else wrong[:3]}", flush=True)
    return {
        "case": name,
        "trials": len(kills),
        "exact": exact,
        "killed_after": sorted(kills),
        "steps_done_again": again,
        "values": compared,
    }


def main(arguments: list[str]) -> None:
    """Measure all cases; print a table and keep the figures."""
    trials = int(arguments[0]) if arguments else 20
    draw, started, results = random.Random(20261125), time.time(), []
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, trials, Path(folder), draw))
    print("\n| run | exact | killed after step | values compared |\n|---|---|---|---|")
    for result in results:
        low, high = result["killed_after"][0], result["killed_after"][-1]
        print(
            f"| {result['case']} | {result['exact']} of {result['trials']} | {low} to {high} | {result['values']:,} |"
        )
    print(f"\n{time.time() - started:.0f} s")
    if len(arguments) > 1:
        Path(arguments[1]).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
