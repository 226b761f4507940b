"""What a store of artifacts costs: CPU time and seconds to send and to bring a folder of 1 GB, the same again, and the
steps of a run with and without uploads.

python -m tests.benchmarks.bench_store [PAIRS_OF_RUNS]. With `weed` on the PATH the store is SeaweedFS, else a folder.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from backend.bootstrap import build_context
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.states import Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.infra.store.folders import FolderStore
from backend.infra.store.objects import open_objects
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
STEPS, EVERY = 60, 20
FOLDER, FILES, FILE_BYTES = "bases/large", 4, 250_000_000


def say(what: str, act: Callable[[], object]) -> None:
    """Do something; print its seconds and this process's CPU time."""
    cpu, clock = time.process_time(), time.monotonic()
    act()
    print(f"{what}: {time.monotonic() - clock:.2f} s, {time.process_time() - cpu:.2f} s of CPU", flush=True)


def measure_folders(folder: Path, store: Store) -> None:
    """Print what a folder of 1 GB costs."""
    machines = []
    for name in ("sender", "reader"):
        (folder / name).mkdir()
        machines.append(FolderStore(folder / name, open_objects(store.url, store.keys), limit_bytes=10**12))
    sender, reader = machines
    (sender.root / FOLDER).mkdir(parents=True)
    for number in range(FILES):
        (sender.root / FOLDER / f"model-{number}.safetensors").write_bytes(os.urandom(FILE_BYTES))
    say("send 1 GB", lambda: sender.send(FOLDER))
    say("send it again", lambda: sender.send(FOLDER))
    say("bring 1 GB", lambda: reader.bring(FOLDER))
    read_so_far = reader.objects.bytes_read
    say("bring it again", lambda: reader.bring(FOLDER))
    print(f"bytes read the second time: {reader.objects.bytes_read - read_so_far}", flush=True)


def work(ctx: Context, job_id: str | None) -> None:
    """Do a job as a worker does."""
    claim = claim_job(ctx, str(job_id), owner="bench#1", host="bench")
    assert claim is not None
    execute(ctx, claim)
    assert get_job(ctx, str(job_id)).status is Status.FINISHED, get_job(ctx, str(job_id)).error


def seconds_of_steps(ctx: Context, name: str) -> float:
    """Train a run; return the seconds from its first to its last step, checkpoints included."""
    config = tiny_run(
        name, architecture=SHAPE, context=128, max_steps=STEPS, checkpoint_every=EVERY, eval_every=STEPS, keep_last=2
    )
    run = launch_run(ctx, config, person=LOCAL)
    work(ctx, run.job_id)
    (events,) = ctx.artifacts.job_folder(str(run.job_id)).glob("attempt-*/events.jsonl")
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    times = [line["time"] for line in lines if line["type"] == "metrics"]
    return float(times[-1] - times[0])


def measure_runs(folder: Path, store: Store, pairs: int) -> None:
    """Print the seconds of the same steps without and with a store, in turn."""
    keys = {"artifacts_key": store.keys.key, "artifacts_secret": store.keys.secret}
    plain = build_context(make_settings(folder / "plain"))
    shared = build_context(
        make_settings(folder / "shared", artifacts_url=store.url, artifacts_endpoint=store.keys.endpoint, **keys)
    )
    rows: list[dict[str, object]] = [{"text": f"Row {n}: {n % 7} engines wait for steam. " * 40} for n in range(300)]
    for ctx in (plain, shared):
        work(ctx, add_rows_dataset(ctx, name="lines", kind="text", rows=rows, person=LOCAL).job_id)
        work(
            ctx,
            train_tokenizer(
                ctx, name="bytes", dataset="lines", config=TokenizerConfig(kind="byte"), person=LOCAL
            ).job_id,
        )
    for number in range(pairs):
        without, beside = seconds_of_steps(plain, f"run {number}"), seconds_of_steps(shared, f"run {number}")
        print(f"{STEPS} steps: {without:.1f} s without, {beside:.1f} s with a store", flush=True)


def main() -> None:
    """Measure on the store that is here."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if weed_binary() is None:
            measure_folders(folder, folder_store(folder / "store"))
            measure_runs(folder, folder_store(folder / "store"), pairs)
            return
        with weed_store(folder / "weed") as store:
            measure_folders(folder, store)
            measure_runs(folder, store, pairs)


if __name__ == "__main__":
    main()
