"""Uploads beside training: steps per second of the same run with a store and without one, in turn.

python tests/benchmarks/bench_store.py [repetitions]. With `weed` on the PATH the store is SeaweedFS, else a folder.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from backend.bootstrap import build_context
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.states import Status
from backend.services.context import LOCAL, Context
from backend.services.data.imports import add_rows_dataset
from backend.services.jobs.claims import claim_job
from backend.services.jobs.jobs import get_job
from backend.services.tokenizers.tokenizers import train_tokenizer
from backend.services.training.runs import launch_run
from jobs.runner import execute
from tests.support.run_world import tiny_run
from tests.support.settings import make_settings
from tests.support.stores import Store, folder_store, weed_binary, weed_store

SHAPE = ArchitectureConfig(
    num_layers=4, width=256, num_heads=4, num_kv_heads=4, context=128, vocab_size=320, feed_forward=1024
)
STEPS, EVERY = 240, 40


def work(ctx: Context, job_id: str | None) -> None:
    """Do a job as a worker does."""
    claim = claim_job(ctx, str(job_id), owner="bench#1", host="bench")
    assert claim is not None
    execute(ctx, claim)
    assert get_job(ctx, str(job_id)).status is Status.FINISHED, get_job(ctx, str(job_id)).error


def seconds_of_steps(ctx: Context, name: str) -> tuple[float, int]:
    """Train a run; return the seconds from its first to its last step, checkpoints included, and a checkpoint's
    bytes.
    """
    config = tiny_run(
        name, architecture=SHAPE, context=128, max_steps=STEPS, checkpoint_every=EVERY, eval_every=STEPS, keep_last=2
    )
    run = launch_run(ctx, config, person=LOCAL)
    work(ctx, run.job_id)
    (events,) = ctx.artifacts.job_folder(str(run.job_id)).glob("attempt-*/events.jsonl")
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    times = [line["time"] for line in lines if line["type"] == "metrics"]
    return times[-1] - times[0], max(line["bytes"] for line in lines if line["type"] == "checkpoint")


def measure(folder: Path, store: Store, repetitions: int) -> None:
    """Print the ratio of the seconds with and without a store."""
    keys = {"artifacts_key": store.keys.key, "artifacts_secret": store.keys.secret}
    plain = build_context(make_settings(folder / "plain"))
    shared = build_context(
        make_settings(folder / "shared", artifacts_url=store.url, artifacts_endpoint=store.keys.endpoint, **keys)
    )
    rows: list[dict[str, object]] = [{"text": f"Row {n}: {n % 7} engines wait for steam. " * 40} for n in range(300)]
    for ctx in (plain, shared):
        work(ctx, add_rows_dataset(ctx, name="lines", kind="text", rows=rows, person=LOCAL).job_id)
        work(ctx, train_tokenizer(ctx, name="bytes", dataset="lines", kind="byte", person=LOCAL).job_id)
    ratios = []
    for number in range(repetitions):
        without, _ = seconds_of_steps(plain, f"run {number}")
        with_store, size = seconds_of_steps(shared, f"run {number}")
        ratios.append(with_store / without)
        print(
            f"{STEPS} steps, a checkpoint of {size / 1e6:.0f} MB every {EVERY}: {without:.1f} s without,"
            f" {with_store:.1f} s with a store ({ratios[-1]:.3f})"
        )
    print(f"median ratio {statistics.median(ratios):.3f}")


def main() -> None:
    """Measure on the store that is here."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if weed_binary() is None:
            measure(folder, folder_store(folder / "store"), repetitions)
            return
        with weed_store(folder / "weed") as store:
            measure(folder, store, repetitions)


if __name__ == "__main__":
    main()
